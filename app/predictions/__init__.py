"""Predictions: inputs routed along tasks' paths through a loaded version."""
