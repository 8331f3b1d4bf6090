"""Scores: what each version's tasks reached on each split."""
