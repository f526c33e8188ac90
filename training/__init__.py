"""Scenes and logs to a better model: the Molmo2-specific training."""
