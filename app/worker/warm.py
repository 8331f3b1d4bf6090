"""What a worker's server process imports, once, so that what is forked from it, trainings above all, starts at once."""

from importlib.util import find_spec

from app.imports import import_for_good

# Where pandas is installed, pyarrow imports it as soon as it turns values into NumPy arrays: in each training anew.
_FOR_PYARROW = ("pandas",) if find_spec("pandas") else ()

import_for_good("app.worker.supervisor", "app.worker.execution", "app.worker.chores", *_FOR_PYARROW)
