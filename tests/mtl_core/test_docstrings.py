"""The examples in the docstrings are run and answer what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import mtl_core

MODULES = sorted(module.name for module in pkgutil.walk_packages(mtl_core.__path__, "mtl_core."))


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_public_names_are_there_and_documented() -> None:
    assert sorted(mtl_core.__all__) == mtl_core.__all__
    for name in mtl_core.__all__:
        assert getattr(mtl_core, name).__doc__
