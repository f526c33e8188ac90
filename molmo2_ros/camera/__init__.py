"""Light to clip: frames, image encodings, the sliding clip, and sources of frames."""
