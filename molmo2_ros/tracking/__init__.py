"""Answered frame to now: flow, identity and depth."""
