"""Model cards: what a version is, what it was made of and how good it is, in one document."""
