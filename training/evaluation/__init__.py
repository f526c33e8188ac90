"""Models asked about rendered scenes and data sets, and what their answers are worth."""
