"""What a robot recorded becomes training data: bags in, clips with labels out."""
