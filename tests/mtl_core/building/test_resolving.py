from __future__ import annotations

from typing import Any

import pytest
import torch

from mtl_core import ModuleConflictError, MultitaskClassifier, SpecError
from mtl_core.building.fields import FieldShape
from mtl_core.building.tasks import Limits, build_tasks, check_shared_modules, check_task, resolve_task
from mtl_core.specs import FieldSpec, TaskSpec

LAZY_LINEAR: dict[str, Any] = {"type": "LazyLinear", "out_features": 3}
LAZY_EMBEDDING: dict[str, Any] = {"type": "LazyEmbedding", "embedding_dim": 4}
NUMBERS = FieldShape([5], "float32")
INDICES = FieldShape([2], "int64", vocabulary=7)


def chain(*layers: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequential", "layers": list(layers)}


def task(pool: dict[str, Any], *path: tuple[str, Any], name: str = "t", **changes: Any) -> TaskSpec:
    """A task that is a path of (module, inputs), each operation named by its position."""
    ops = [
        {"name": f"o{i}", "module_name": module, "inputs": inputs} for i, (module, inputs) in enumerate(path)
    ]
    document = {"name": name, "module_pool": pool, "op_sequence": ops}
    return TaskSpec.model_validate(
        document | {"loss": "mse", "output": "identity", "metrics": ["mse"]} | changes
    )


def alone(module: dict[str, Any], **changes: Any) -> TaskSpec:
    return task({"m": module}, ("m", [["_input_", "x"]]), **changes)


def mixed() -> TaskSpec:
    return task(
        {
            "words": chain(LAZY_EMBEDDING, {"type": "Flatten"}),
            "numbers": chain({"type": "LazyBatchNorm1d"}, LAZY_LINEAR, {"type": "ReLU"}),
            "join": {"type": "Concat"},
            "head": {"type": "LazyLinear", "out_features": 2, "bias": False},
        },
        ("words", [["_input_", "words"]]),
        ("numbers", [["_input_", "numbers"]]),
        ("join", ["o0", "o1"]),
        ("head", ["o2"]),
    )


MIXED_FIELDS = {"words": INDICES, "numbers": NUMBERS}


def faults_of(spec: TaskSpec, fields: dict[str, FieldShape]) -> list[tuple[str, str]]:
    with pytest.raises(SpecError) as caught:
        resolve_task(spec, fields, Limits())
    return [(fault.pointer, fault.detail) for fault in caught.value.faults]


def faults_of_check(spec: TaskSpec, fields: dict[str, FieldShape]) -> list[tuple[str, str]]:
    with pytest.raises(SpecError) as caught:
        check_task(spec, Limits(), fields)
    return [(fault.pointer, fault.detail) for fault in caught.value.faults]


class TestResolveTask:
    def test_sizes_come_from_the_fields_and_flow_along_the_path(self) -> None:
        resolved = resolve_task(mixed(), MIXED_FIELDS, Limits()).module_pool
        embedding, _ = resolved["words"]["layers"]
        assert (embedding["type"], embedding["num_embeddings"], embedding["embedding_dim"]) == (
            "Embedding",
            7,
            4,
        )
        norm, linear, _ = resolved["numbers"]["layers"]
        assert (norm["type"], norm["num_features"], norm["eps"]) == ("BatchNorm1d", 5, 1e-5)
        assert linear == {"type": "Linear", "in_features": 5, "out_features": 3, "bias": True}
        assert resolved["head"] == {"type": "Linear", "in_features": 11, "out_features": 2, "bias": False}

    def test_a_resolved_task_is_checked_built_and_trained_like_any_other(self) -> None:
        resolved = resolve_task(mixed(), MIXED_FIELDS, Limits())
        assert resolve_task(resolved, {}, Limits()) is resolved
        report = check_task(resolved, Limits(), MIXED_FIELDS)
        assert report.parameters == {"words": 28, "numbers": 5 * 4 + 1 + 18, "join": 0, "head": 22}
        assert report.output_shape == [2]
        model = MultitaskClassifier(build_tasks([resolved], seed=1), device="cpu")
        X_dict = {"words": torch.randint(0, 7, (6, 2)), "numbers": torch.randn(6, 5)}
        losses, _ = model.calculate_loss(X_dict, {"t": torch.rand(6, 2)})
        losses["t"].backward()
        assert all(parameter.grad is not None for parameter in model.parameters())

    @pytest.mark.parametrize(
        ("lazy", "plain", "shape"),
        [
            (LAZY_LINEAR, {"type": "Linear", "in_features": 6, "out_features": 3}, [4, 6]),
            (
                {"type": "LazyConv1d", "out_channels": 2, "kernel_size": 3, "padding": "same"},
                {"type": "Conv1d", "in_channels": 4, "out_channels": 2, "kernel_size": 3, "padding": "same"},
                [4, 6],
            ),
            (
                {"type": "LazyConv2d", "out_channels": 2, "kernel_size": [3, 2], "stride": 2},
                {"type": "Conv2d", "in_channels": 4, "out_channels": 2, "kernel_size": [3, 2], "stride": 2},
                [4, 6, 6],
            ),
            (
                {"type": "LazyBatchNorm1d", "momentum": 0.2, "affine": False},
                {"type": "BatchNorm1d", "num_features": 4, "momentum": 0.2, "affine": False},
                [4, 6],
            ),
        ],
        ids=lambda value: value["type"] if isinstance(value, dict) else None,
    )
    def test_a_lazy_layer_becomes_the_plain_one_of_its_arguments(
        self, lazy: dict[str, Any], plain: dict[str, Any], shape: list[int]
    ) -> None:
        fields = {"x": FieldShape(shape, "float32")}
        resolved = resolve_task(alone(lazy), fields, Limits())
        check_shared_modules([resolved, alone(plain, name="u")])
        assert check_task(alone(lazy), Limits(), fields) == check_task(alone(plain), Limits(), fields)

    def test_a_declared_shape_is_as_good_as_a_given_one(self) -> None:
        spec = alone(LAZY_LINEAR, inputs={"x": FieldSpec(shape=[9]).model_dump()})
        assert resolve_task(spec, {}, Limits()).module_pool["m"]["in_features"] == 9
        assert check_task(spec, Limits()).parameters == {"m": 30}

    def test_a_vocabulary_alone_settles_a_task_that_waits_for_nothing_else(self) -> None:
        fields = {"x": FieldShape(None, "int64", vocabulary=3)}
        assert resolve_task(alone(LAZY_EMBEDDING), fields, Limits()).module_pool["m"]["num_embeddings"] == 3

    def test_one_module_may_be_used_twice_where_the_sizes_agree(self) -> None:
        twice = task({"m": {**LAZY_LINEAR, "out_features": 5}}, ("m", [["_input_", "x"]]), ("m", ["o0"]))
        assert resolve_task(twice, {"x": NUMBERS}, Limits()).module_pool["m"]["in_features"] == 5

    def test_modules_that_tasks_share_conflict_only_where_their_fields_differ(self) -> None:
        first, second = (task({"m": LAZY_LINEAR}, ("m", [["_input_", n]]), name=n) for n in ("a", "b"))
        check_shared_modules([first, second])
        fields = {"a": NUMBERS, "b": FieldShape([6], "float32")}
        with pytest.raises(ModuleConflictError, match="in_features is 5 in one and 6 in the other"):
            check_shared_modules([resolve_task(spec, fields, Limits()) for spec in (first, second)])

    @pytest.mark.parametrize(
        ("fields", "faults"),
        [
            (
                {"numbers": NUMBERS},
                {"/inputs/words": "shape of field 'words'", "/op_sequence/0/inputs/0": "vocab"},
            ),
            ({"words": INDICES}, {"/inputs/numbers": "the shape of field 'numbers' is not known"}),
            (
                {"numbers": NUMBERS, "words": FieldShape([2], "int64")},
                {"/op_sequence/0/inputs/0": "the vocabulary of field 'words' is not known"},
            ),
        ],
    )
    def test_what_is_not_known_of_a_field_is_told(
        self, fields: dict[str, FieldShape], faults: dict[str, str]
    ) -> None:
        found = dict(faults_of(mixed(), fields))
        assert found.keys() == faults.keys()
        for pointer, text in faults.items():
            assert text in found[pointer]

    def test_a_layer_that_nothing_reaches_is_refused(self) -> None:
        spec = task(
            {"m": LAZY_LINEAR, "aside": chain(LAZY_LINEAR), "unused": LAZY_LINEAR},
            ("aside", [["_input_", "x"]]),
            ("m", [["_input_", "x"]]),
        )
        faults = faults_of(spec, {"x": NUMBERS})
        assert [pointer for pointer, _ in faults] == ["/module_pool/aside/layers/0", "/module_pool/unused"]
        with pytest.raises(SpecError, match="does not depend on module 'unused'"):
            check_task(spec, Limits())

    @pytest.mark.parametrize(
        ("module", "pointer"),
        [
            (chain({"type": "Flatten"}, LAZY_EMBEDDING), "/module_pool/m/layers/1"),
            (chain(chain({"type": "ReLU"}, LAZY_EMBEDDING)), "/module_pool/m/layers/0/layers/1"),
            ({"type": "Residual", "layers": [LAZY_EMBEDDING]}, "/module_pool/m/layers/0"),
        ],
    )
    def test_a_lazy_embedding_comes_first_in_its_module(self, module: dict[str, Any], pointer: str) -> None:
        assert [at for at, _ in faults_of(alone(module), {"x": INDICES})] == [pointer]

    def test_a_lazy_embedding_is_fed_by_a_field(self) -> None:
        spec = task(
            {"i": {"type": "Identity"}, "m": LAZY_EMBEDDING}, ("i", [["_input_", "x"]]), ("m", ["o0"])
        )
        ((pointer, detail),) = faults_of(spec, {"x": INDICES})
        assert pointer == "/op_sequence/1/inputs/0"
        assert "operation 'o1' must read one field" in detail

    def test_two_uses_that_differ_in_size_are_refused_at_the_second(self) -> None:
        twice = task({"m": LAZY_LINEAR}, ("m", [["_input_", "x"]]), ("m", ["o0"]))
        ((pointer, detail),) = faults_of(twice, {"x": NUMBERS})
        assert pointer == "/op_sequence/1"
        assert "cannot take an input of shape [batch, 3]" in detail
        two_fields = task(
            {"m": LAZY_EMBEDDING, "add": {"type": "Add"}},
            ("m", [["_input_", "x"]]),
            ("m", [["_input_", "y"]]),
            ("add", ["o0", "o1"]),
        )
        fields = {"x": INDICES, "y": FieldShape([2], "int64", vocabulary=9)}
        ((pointer, detail),) = faults_of(two_fields, fields)
        assert pointer == "/op_sequence/1"
        assert "a vocabulary of 9, but module 'm' has 7 rows" in detail

    @pytest.mark.parametrize(
        ("module", "field", "message"),
        [
            (LAZY_LINEAR, FieldShape([], "float32"), "it works on [batch, …, features]"),
            (LAZY_LINEAR, FieldShape([3], "int64"), "it works on float32"),
            (
                {"type": "LazyConv2d", "out_channels": 2, "kernel_size": 3},
                FieldShape([5, 5], "float32"),
                "it works on [batch, channels] and 2 further dimensions",
            ),
            ({"type": "LazyBatchNorm1d"}, FieldShape([2, 3, 4], "float32"), "expected 2D or 3D input"),
            (chain(LAZY_LINEAR, LAZY_LINEAR, {"type": "Take", "index": 5}), NUMBERS, "out of range"),
        ],
    )
    def test_an_input_that_does_not_suit_is_refused_at_the_operation(
        self, module: dict[str, Any], field: FieldShape, message: str
    ) -> None:
        for find in (resolve_task, lambda spec, fields, limits: check_task(spec, limits, fields)):
            with pytest.raises(SpecError) as caught:
                find(alone(module), {"x": field}, Limits())
            (fault,) = caught.value.faults
            assert fault.pointer == "/op_sequence/0"
            assert message in fault.detail

    def test_making_parameters_counts_neither_as_steps_nor_as_activations(self) -> None:
        deep = chain(*[{"type": "LazyLinear", "out_features": 5}] * 500)
        report = check_task(alone(deep), Limits(), {"x": NUMBERS})
        assert report.activations == 2500

    @pytest.mark.parametrize(
        ("module", "field"),
        [
            ({"type": "LazyLinear", "out_features": 2**31 - 1}, FieldShape([2**24], "float32")),
            ({"type": "LazyLinear", "out_features": 10_000}, FieldShape([20_000], "float32")),
            (LAZY_EMBEDDING, FieldShape([1], "int64", vocabulary=10**8)),
            (LAZY_EMBEDDING, FieldShape([1], "int64", vocabulary=10**30)),
        ],
    )
    def test_monsters_are_refused(self, module: dict[str, Any], field: FieldShape) -> None:
        with pytest.raises(SpecError):
            check_task(alone(module), Limits(), {"x": field})


class TestCheckTask:
    def test_with_fields_unknown_everything_else_is_checked(self) -> None:
        report = check_task(mixed(), Limits())
        assert report.parameters == {"words": 0, "numbers": 0, "join": 0, "head": 0}
        assert report.fields == {"words": FieldShape(None, "int64"), "numbers": FieldShape(None, "float32")}
        assert (report.output_shape, report.activations) == (None, None)
        wrong = alone(chain(LAZY_LINEAR, {"type": "Linear", "in_features": "3", "out_features": 1}))
        with pytest.raises(SpecError) as caught:
            check_task(wrong, Limits())
        assert [fault.pointer for fault in caught.value.faults] == ["/module_pool/m/layers/1/in_features"]

    def test_known_layers_of_an_unresolved_task_count_against_the_limits(self) -> None:
        spec = alone(chain(LAZY_LINEAR, {"type": "Linear", "in_features": 3, "out_features": 10}))
        assert check_task(spec, Limits()).parameters == {"m": 40}
        with pytest.raises(SpecError, match="40 parameters in all"):
            check_task(spec, Limits(max_parameters=39))

    def test_with_fields_known_the_resolved_task_is_checked(self) -> None:
        resolved = resolve_task(mixed(), MIXED_FIELDS, Limits())
        assert check_task(mixed(), Limits(), MIXED_FIELDS) == check_task(resolved, Limits(), MIXED_FIELDS)
        with pytest.raises(SpecError, match="/loss"):
            check_task(mixed(), Limits(), MIXED_FIELDS, FieldSpec(shape=[3]))

    def test_a_resolved_embedding_reads_indices_alone(self) -> None:
        ((pointer, detail),) = faults_of_check(
            alone(LAZY_EMBEDDING), {"x": FieldShape([2], "float32", vocabulary=7)}
        )
        assert pointer == "/op_sequence/0"
        assert "cannot take an input of shape [batch, 2] float32" in detail

    @pytest.mark.parametrize("vocabulary", [10, 11])
    @pytest.mark.parametrize("kind", ["Embedding", "EmbeddingBag"])
    def test_an_embedding_has_a_row_for_each_index_of_its_field(self, kind: str, vocabulary: int) -> None:
        embedding = {"type": kind, "num_embeddings": 10, "embedding_dim": 2}
        fields = {"x": FieldShape([3], "int64", vocabulary=vocabulary)}
        for module in (embedding, chain({"type": "Flatten"}, embedding)):
            if vocabulary == 10:
                check_task(alone(module), Limits(), fields)
                continue
            ((pointer, detail),) = faults_of_check(alone(module), fields)
            assert pointer == "/op_sequence/0"
            assert detail == f"operation 'o0': its {kind} has 10 rows, but field 'x' has a vocabulary of 11"


def test_an_unresolved_task_is_not_built() -> None:
    with pytest.raises(SpecError, match="resolve the task first") as caught:
        build_tasks([mixed()])
    assert [fault.pointer for fault in caught.value.faults] == [
        "/module_pool/words/layers/0",
        "/module_pool/numbers/layers/0",
        "/module_pool/numbers/layers/1",
        "/module_pool/head",
    ]
