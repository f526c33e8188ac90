"""The `molmo2` command."""
