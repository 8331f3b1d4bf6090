"""Searches: trainings of a model with other settings, until the best of them becomes a version."""
