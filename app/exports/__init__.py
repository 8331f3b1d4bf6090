"""Versions taken elsewhere, and brought back from there."""
