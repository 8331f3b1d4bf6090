"""Calibrations: versions whose probabilities are as sure as they are right."""
