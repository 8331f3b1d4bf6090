from __future__ import annotations

from mtl_core import SpecError, TaskloomError
from mtl_core.errors import Fault, first_line


def test_faults_move_below_a_prefix() -> None:
    error = SpecError([Fault("/a", "is wrong"), Fault("", "is odd")]).under("/tasks/0")
    assert error.faults == [Fault("/tasks/0/a", "is wrong"), Fault("/tasks/0", "is odd")]
    assert str(error) == "/tasks/0/a: is wrong; /tasks/0: is odd"


def test_errors_are_one_tree_and_value_errors() -> None:
    assert issubclass(SpecError, TaskloomError)
    assert issubclass(TaskloomError, ValueError)


def test_an_error_without_words_has_its_types_name() -> None:
    assert first_line(KeyError()) == "KeyError"
    assert first_line(ValueError("one\ntwo")) == "one"
