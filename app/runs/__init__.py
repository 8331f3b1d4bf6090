"""Runs: one training or scoring of one model, from the queue to its result."""
