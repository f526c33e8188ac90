"""How molmo2-nano is trained from nothing: its scenes, its dense heads, its schedule."""
