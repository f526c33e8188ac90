"""Checkpoint to engine: graphs, export and the embedded molmo2-nano."""
