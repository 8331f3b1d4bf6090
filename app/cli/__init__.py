"""The ``taskloom`` command."""
