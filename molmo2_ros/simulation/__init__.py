"""A robot's table rendered without GL, with ground truth: scenes, clips, sprites, a camera."""
