"""The package's public names: each imported when it is asked for, and no other."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import mtl_core


def test_each_name_is_that_of_its_home() -> None:
    for name in mtl_core.__all__:
        value = getattr(mtl_core, name)
        assert value is getattr(import_module(value.__module__), name)
    assert set(mtl_core.__all__) <= set(dir(mtl_core))


def test_a_name_that_is_not_there_is_refused() -> None:
    with pytest.raises(AttributeError, match="'Trainr'"):
        _ = mtl_core.Trainr  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="Trainr"):
        exec("from mtl_core import Trainr")


def test_what_needs_no_torch_comes_without_it_and_collecting_goes_on() -> None:
    program = """
import gc, sys
from mtl_core import SpecError
print("torch" in sys.modules)
from mtl_core import Task
print("torch" in sys.modules, gc.isenabled())
gc.disable()
from mtl_core import Trainer
print(gc.isenabled())
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "True", "True", "False"]
