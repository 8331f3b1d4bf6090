"""Datasets: named splits of fields and labels, bound to tasks by name."""
