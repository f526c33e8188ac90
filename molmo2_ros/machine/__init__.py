"""What a machine has, what of the models it can run, and how fast arithmetic lets it."""
