"""Prompt to tokens: engines, the feature cache and decoding."""
