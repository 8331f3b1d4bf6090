"""Predictions of whole tables: runs that end with a file."""
