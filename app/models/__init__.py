"""Models: sets of tasks that share modules by name, and the versions that runs make of them."""
