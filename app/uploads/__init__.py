"""Clients' files: streamed to storage, read once into tables, and described."""
