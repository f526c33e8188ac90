"""A model on a server: the same questions and answers over an OpenAI-compatible interface."""
