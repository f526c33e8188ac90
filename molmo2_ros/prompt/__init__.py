"""Clip and question to what Molmo2 reads; equal to Hugging Face's processor."""
