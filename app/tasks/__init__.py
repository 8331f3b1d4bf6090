"""Tasks: paths through a network, registered as JSON."""
