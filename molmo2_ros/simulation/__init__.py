"""A robot's table rendered without GL, with ground truth: scenes, clips, sprites, a camera."""

# What demonstrations ask about it, in the words of standing queries.
TABLE_QUERIES = ("point: the red mug", "count: mugs", "track: the lemon")
