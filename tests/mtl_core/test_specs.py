from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mtl_core import SpecError
from mtl_core.building.tasks import Limits, canonical_task, check_task
from mtl_core.modules import MODULES
from mtl_core.specs import FieldSpec, OperationSpec, TaskSpec

from .shapes import LINEAR_2_4, shape_spec


def test_the_contracts_example_is_a_spec_and_survives_json() -> None:
    spec = TaskSpec.model_validate(shape_spec(loss="cross_entropy", output="softmax", metrics=["accuracy"]))
    assert TaskSpec.model_validate_json(spec.model_dump_json()) == spec
    assert TaskSpec.model_validate(spec.model_dump(mode="json")) == spec
    assert spec.op_sequence[0].op_name == "base_mlp"


def test_what_a_spec_leaves_out_has_the_seeds_defaults() -> None:
    spec = TaskSpec.model_validate(shape_spec())
    assert (spec.loss, spec.output, spec.metrics) == ("cross_entropy", "softmax", ["accuracy"])


def test_the_canon_writes_defaults_out_and_survives_its_own_reading() -> None:
    short = TaskSpec.model_validate(shape_spec())
    long = TaskSpec.model_validate(
        shape_spec(
            loss={"type": "cross_entropy", "weight": None, "label_smoothing": 0}, output="softmax", inputs={}
        )
    )
    assert canonical_task(short) == canonical_task(long)
    assert canonical_task(TaskSpec.model_validate(canonical_task(short))) == canonical_task(short)
    other = shape_spec()
    other["module_pool"] = other["module_pool"] | {"base_mlp": LINEAR_2_4}
    assert canonical_task(TaskSpec.model_validate(other)) != canonical_task(short)


@pytest.mark.parametrize("name", ["", "a b", "-a", "a\n", "é", "a" * 129, "a/b", "__class__", 3, None, True])
def test_names_that_are_none_are_refused(name: Any) -> None:
    with pytest.raises(ValidationError):
        TaskSpec.model_validate(shape_spec(name=name))


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        "base_mlp",
        [3],
        [None],
        [True],
        [{}],
        [[]],
        [["a"]],
        [["a", 1, 2]],
        [["a", 1.5]],
        [["a", True]],
        [["a", None]],
        [["a", ["b"]]],
        [["a", 2**40]],
        ["a"] * 65,
        ["a" * 129],
    ],
)
def test_inputs_of_odd_types_are_refused(inputs: Any) -> None:
    with pytest.raises(ValidationError):
        OperationSpec.model_validate({"module_name": "m", "inputs": inputs})


@pytest.mark.parametrize(
    "field",
    [
        {"shape": [0]},
        {"shape": [-1]},
        {"shape": [True]},
        {"shape": ["2"]},
        {"shape": [2.5]},
        {"shape": [2**30]},
        {"shape": [1] * 9},
        {"shape": None},
        {"shape": [2], "dtype": "float64"},
        {"shape": [2], "size": 1},
        {},
    ],
)
def test_field_shapes_that_are_none_are_refused(field: Any) -> None:
    with pytest.raises(ValidationError):
        FieldSpec.model_validate(field)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
anything = st.recursive(
    scalars | st.sampled_from([*MODULES.entries, "_input_", "__class__", "softmax", "accuracy"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | st.just("type"), inner, max_size=4)
    ),
    max_leaves=12,
)
names = st.sampled_from(["base_mlp", "circle_head", "a", "_input_", "circle_data"])
arguments = (
    st.integers(-(2**33), 2**33)
    | st.sampled_from([0, 1, 2, 4])
    | st.lists(st.integers(-4, 2**31), max_size=4)
    | scalars
)


ARGUMENTS = {entry["type"]: sorted(entry["arguments"].get("properties", {})) for entry in MODULES.describe()}


PREDICATE = {"field": "a", "op": "==", "value": 1}
predicates = st.sampled_from([*PREDICATE, "and", "or", "not", "mask"]).flatmap(
    lambda key: st.builds(
        lambda value: (PREDICATE if key in PREDICATE else {}) | {key: value},
        anything | st.just("a") | st.just(PREDICATE) | st.just([PREDICATE]),
    )
)


@st.composite
def module_specs(draw: st.DrawFn) -> Any:
    """A module of some type with arguments of its own names and any values."""
    kind = draw(st.sampled_from(sorted(MODULES.entries)))
    known = ARGUMENTS[kind]
    given_names = draw(st.lists(st.sampled_from(known), unique=True)) if known else []
    layers = st.lists(st.just(LINEAR_2_4), min_size=1, max_size=2)
    return {"type": kind} | {name: draw(layers if name == "layers" else arguments) for name in given_names}


@st.composite
def hostile_specs(draw: st.DrawFn) -> Any:
    """The contract's example with any of its parts replaced by something else."""
    spec = shape_spec()
    for _ in range(draw(st.integers(1, 3))):
        parts = ["pool", "module", "inputs", "op", *spec, "loss", "output", "metrics", "slices", "predicates"]
        part = draw(st.sampled_from(parts))
        if part == "pool":
            spec["module_pool"] = draw(st.dictionaries(names, module_specs() | anything, max_size=3))
        elif part == "module" and isinstance(spec["module_pool"], dict):
            spec["module_pool"]["base_mlp"] = draw(module_specs())
        elif part == "inputs":
            spec["inputs"] = {
                "circle_data": {
                    "shape": draw(st.lists(st.integers(1, 5), max_size=4)),
                    "dtype": draw(st.sampled_from(["float32", "int64"])),
                }
            }
        elif part == "predicates":
            slices = st.fixed_dictionaries({"name": names, "where": predicates | anything})
            spec["slices"] = draw(st.lists(slices, min_size=1, max_size=3))
        elif part == "op":
            inputs = st.lists(names | st.tuples(names, names | st.integers(-2, 2)) | anything, max_size=3)
            spec["op_sequence"] = [{"module_name": draw(names), "inputs": draw(inputs)} for _ in range(2)]
        else:
            spec[part] = draw(anything)
    return spec


@settings(max_examples=400, deadline=None)
@given(anything | hostile_specs())
def test_whatever_json_comes_only_a_spec_error_leaves(document: Any) -> None:
    try:
        spec = TaskSpec.model_validate(document)
        report = check_task(spec, Limits())
    except (SpecError, ValidationError) as error:
        str(error).encode()
        return
    canonical_task(spec)
    assert sum(report.parameters.values()) <= Limits().max_parameters
