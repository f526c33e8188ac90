"""The live page and its server: see it, ask it, correct it; and the same for programs."""
