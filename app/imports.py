"""How a process imports what takes seconds and stays for as long as it lives, torch above all."""

from __future__ import annotations

import gc
from importlib import import_module


def import_for_good(*modules: str) -> None:
    """Import modules with the garbage collector out of the way, for then and for ever after.

    It would look through the hundreds of thousands of objects that come with torch again and again, and find nothing;
    in a process that is forked from this one it would write to each of them too, so that pages which all of them share
    would be copied.

    Args:
        modules: Their names.

    Raises:
        ImportError: If one cannot be imported.
    """
    gc.disable()
    try:
        for module in modules:
            import_module(module)
        gc.freeze()
    finally:
        gc.enable()
