"""From specs to tasks: every check that needs no data, and modules built once for all tasks that name them."""
