"""Training examples: their format, the readers of other data sets, and what the model sees."""
