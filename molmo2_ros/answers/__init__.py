"""Tokens to typed points."""
