from __future__ import annotations

from typing import Any

import pytest
import torch

from mtl_core import (
    DictDataLoader,
    DictDataset,
    ModuleConflictError,
    MultitaskClassifier,
    SpecError,
    Trainer,
    module_weights,
)
from mtl_core.building.fields import FieldShape
from mtl_core.building.tasks import (
    Limits,
    build_tasks,
    check_budget,
    check_shared_modules,
    check_task,
    plan_of,
    shared_fields,
)
from mtl_core.specs import FieldSpec, TaskSpec

from ..shapes import LINEAR_2_4, SHAPES, shape_loaders, shape_spec

EMBEDDING = {"type": "Embedding", "num_embeddings": 10, "embedding_dim": 4}
CONV = {"type": "Conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": 3}


def spec_of(document: dict[str, Any] | None = None, **changes: Any) -> TaskSpec:
    return TaskSpec.model_validate((document or shape_spec()) | changes)


def one_module(module: dict[str, Any], *, name: str = "t", field: str = "x", **changes: Any) -> TaskSpec:
    """A task of one module on one field, whose outputs are values."""
    operation = {"module_name": "m", "inputs": [["_input_", field]]}
    document = {"name": name, "module_pool": {"m": module}, "op_sequence": [operation]}
    return TaskSpec.model_validate(
        document | {"loss": "mse", "output": "identity", "metrics": ["mse"]} | changes
    )


def declared(shape: list[int], dtype: str = "float32") -> dict[str, Any]:
    return {"x": {"shape": shape, "dtype": dtype}}


def faults_of(spec: TaskSpec, limits: Limits | None = None, **kwargs: Any) -> list[tuple[str, str]]:
    with pytest.raises(SpecError) as caught:
        check_task(spec, limits or Limits(), **kwargs)
    return [(fault.pointer, fault.detail) for fault in caught.value.faults]


class TestCheckTask:
    def test_reports_sizes_and_shapes(self) -> None:
        report = check_task(spec_of(), Limits())
        assert report.parameters == {"base_mlp": 12, "circle_head": 10}
        assert report.fields == {"circle_data": FieldShape([2], "float32")}
        assert report.output_shape == [2]
        # Four numbers out of the linear layer, four out of the ReLU, two logits.
        assert report.activations == 10

    def test_without_a_fields_shape_the_end_of_the_path_is_unknown(self) -> None:
        report = check_task(one_module(CONV), Limits())
        assert report.fields == {"x": FieldShape(None, "float32")}
        assert (report.output_shape, report.activations) == (None, None)

    @pytest.mark.parametrize(
        ("module", "field"),
        [
            (LINEAR_2_4, FieldShape([2], "float32")),
            ({"type": "Sequential", "layers": [{"type": "Dropout"}, LINEAR_2_4]}, FieldShape([2], "float32")),
            (
                {"type": "Residual", "layers": [{"type": "LayerNorm", "normalized_shape": [3, 2]}]},
                FieldShape([3, 2], "float32"),
            ),
            (EMBEDDING, FieldShape(None, "int64")),
            ({"type": "Sequential", "layers": [CONV]}, FieldShape(None, "float32")),
            ({"type": "TransformerEncoderLayer", "d_model": 4, "nhead": 2}, FieldShape(None, "float32")),
            ({"type": "Identity"}, FieldShape(None, "float32")),
        ],
    )
    def test_the_first_layer_tells_a_fields_form(self, module: dict[str, Any], field: FieldShape) -> None:
        assert check_task(one_module(module), Limits()).fields == {"x": field}

    def test_a_declared_form_goes_before_an_inferred_one(self) -> None:
        report = check_task(one_module(LINEAR_2_4, inputs=declared([5, 2])), Limits())
        assert report.fields == {"x": FieldShape([5, 2], "float32", declared=True)}
        assert report.output_shape == [5, 4]

    def test_a_datasets_form_goes_before_an_inferred_one_but_not_against_a_declared_one(self) -> None:
        fields = {"x": FieldSpec(shape=[5, 2])}
        assert check_task(one_module(LINEAR_2_4), Limits(), fields).output_shape == [5, 4]
        assert check_task(one_module(CONV), Limits(), {"x": FieldSpec(shape=[1, 5, 5])}).output_shape == [
            2,
            3,
            3,
        ]
        ((pointer, detail),) = faults_of(one_module(LINEAR_2_4, inputs=declared([2])), fields=fields)
        assert pointer == "/inputs/x"
        assert "declared with shape [2], but has [5, 2]" in detail

    def test_sizes_that_do_not_meet_are_refused_at_the_operation_that_is_named(self) -> None:
        document = shape_spec()
        document["module_pool"]["circle_head"] = {"type": "Linear", "in_features": 8, "out_features": 2}
        ((pointer, detail),) = faults_of(spec_of(document))
        assert pointer == "/op_sequence/1"
        assert detail.startswith(
            "operation 'circle_head': Linear(in_features=8, out_features=2, bias=True) cannot take an input of"
            " shape [batch, 4] float32: a and b must have same reduction dim, but got [batch, 4] X [8, 2]"
        )

    def test_the_layer_inside_a_module_is_named(self) -> None:
        wrong = {
            "type": "Sequential",
            "layers": [
                LINEAR_2_4,
                {"type": "Residual", "layers": [{**LINEAR_2_4, "in_features": 4, "out_features": 3}]},
            ],
        }
        ((_, detail),) = faults_of(one_module(wrong))
        assert (
            "Residual() cannot take an input of shape [batch, 4] float32: Residual needs one shape" in detail
        )

    @pytest.mark.parametrize(
        ("changes", "pointers"),
        [
            (
                {"loss": "hinge", "output": "argmax", "metrics": ["acc", "accuracy", "accuracy"]},
                ["/loss", "/output", "/metrics/0", "/metrics/2"],
            ),
            ({"inputs": {"square_data": {"shape": [2]}}}, ["/inputs/square_data"]),
            (
                {"op_sequence": [{"module_name": "tail", "inputs": [["_input_", "x"]]}]},
                ["/op_sequence/0/module_name"],
            ),
            (
                {"op_sequence": [{"module_name": "base_mlp", "inputs": ["base_mlp"]}]},
                ["/op_sequence/0/inputs/0", "/op_sequence"],
            ),
            (
                {"op_sequence": [{"module_name": "base_mlp", "inputs": ["_input_"]}]},
                ["/op_sequence/0/inputs/0", "/op_sequence"],
            ),
            (
                {"op_sequence": [{"module_name": "base_mlp", "inputs": [["_input_", 0]]}]},
                ["/op_sequence/0/inputs/0"],
            ),
            (
                {"op_sequence": [{"module_name": "base_mlp", "inputs": [["_input_", "x"]]}] * 2},
                ["/op_sequence/1/name"],
            ),
            ({"loss": {"type": "cross_entropy", "weight": [1, 2, 3]}}, ["/loss"]),
            ({"loss": "mse", "output": "softmax", "metrics": ["mse"]}, []),
        ],
    )
    def test_every_fault_is_told_with_its_place(self, changes: dict[str, Any], pointers: list[str]) -> None:
        if pointers:
            assert [pointer for pointer, _ in faults_of(spec_of(**changes))] == pointers
        else:
            check_task(spec_of(**changes), Limits())

    def test_wrong_modules_are_all_told(self) -> None:
        document = shape_spec()
        document["module_pool"] = {
            "base_mlp": {"type": "Lin"},
            "circle_head": {"type": "Linear", "in_features": 2},
        }
        assert [pointer for pointer, _ in faults_of(spec_of(document))] == [
            "/module_pool/base_mlp/type",
            "/module_pool/circle_head/out_features",
        ]

    @pytest.mark.parametrize(
        ("labels", "fits"),
        [
            (FieldSpec(shape=[], dtype="int64"), True),
            (FieldSpec(shape=[2], dtype="float32"), True),
            (FieldSpec(shape=[], dtype="float32"), False),
            (FieldSpec(shape=[3], dtype="float32"), False),
            (FieldSpec(shape=[2], dtype="int64"), False),
        ],
    )
    def test_a_datasets_labels_are_held_against_the_loss(self, labels: FieldSpec, fits: bool) -> None:
        if fits:
            check_task(spec_of(), Limits(), None, labels)
        else:
            ((pointer, detail),) = faults_of(spec_of(), labels=labels)
            assert pointer == "/loss"
            assert "labels of shape" in detail

    @pytest.mark.parametrize(
        ("module", "inputs", "message"),
        [
            (EMBEDDING, declared([3], "float32"), "cannot take an input of shape [batch, 3] float32"),
            (LINEAR_2_4, declared([2], "int64"), "it works on float32"),
            ({"type": "Flatten", "start_dim": -2}, declared([4]), "dimension -2 is the batch"),
            ({"type": "Softmax", "dim": -2}, declared([4]), "dimension -2 is the batch"),
            ({"type": "Softmax", "dim": 3}, declared([4]), "dimension 3 is the batch or beyond the last"),
            ({"type": "Softmax2d"}, declared([4, 4]), "it works on images"),
            ({"type": "GRU", "input_size": 4, "hidden_size": 2}, declared([4]), "it works on sequences"),
            (
                {"type": "TransformerEncoderLayer", "d_model": 4, "nhead": 2},
                declared([4]),
                "it works on sequences",
            ),
            ({"type": "GRU", "input_size": 4, "hidden_size": 2}, declared([3, 4]), "answers tuple"),
            ({"type": "Unfold", "kernel_size": 2}, declared([3, 3]), "the batch dimension is lost"),
            ({"type": "Identity"}, declared([3], "int64"), "answers int64"),
            (
                {"type": "ConvTranspose1d", "in_channels": 3, "out_channels": 1, "kernel_size": 1},
                declared([4, 4]),
                "it works on [batch, 3]",
            ),
            ({**CONV, "padding": [1, 1, 1]}, declared([1, 4, 4]), "padding must have 2 numbers"),
            (
                {
                    "type": "ConvTranspose1d",
                    "in_channels": 4,
                    "out_channels": 1,
                    "kernel_size": 1,
                    "output_padding": 1,
                },
                declared([4, 4]),
                "output_padding",
            ),
        ],
    )
    def test_what_torch_would_let_pass_is_refused(
        self, module: dict[str, Any], inputs: Any, message: str
    ) -> None:
        ((pointer, detail),) = faults_of(one_module(module, inputs=inputs))
        assert pointer == "/op_sequence/0"
        assert message in detail

    def test_norms_run_on_declared_shapes(self) -> None:
        for module in (
            {"type": "LayerNorm", "normalized_shape": [4, 2]},
            {"type": "BatchNorm1d", "num_features": 4},
        ):
            assert check_task(one_module(module, inputs=declared([4, 2])), Limits()).output_shape == [4, 2]

    def test_attention_reads_one_operation_three_times_and_its_first_output_is_used(self) -> None:
        spec = TaskSpec.model_validate(
            {
                "name": "attending",
                "module_pool": {
                    "embed": EMBEDDING,
                    "attn": {"type": "MultiheadAttention", "embed_dim": 4, "num_heads": 2},
                    "head": {
                        "type": "Sequential",
                        "layers": [{"type": "Mean"}, {"type": "Linear", "in_features": 4, "out_features": 2}],
                    },
                },
                "op_sequence": [
                    {"name": "x", "module_name": "embed", "inputs": [["_input_", "tokens"]]},
                    {"module_name": "attn", "inputs": ["x", "x", "x"]},
                    {"module_name": "head", "inputs": [["attn", 0]]},
                ],
                "inputs": {"tokens": {"shape": [6], "dtype": "int64"}},
            }
        )
        assert check_task(spec, Limits()).output_shape == [2]
        (task,) = build_tasks([spec], seed=0)
        model = MultitaskClassifier([task], device="cpu")
        tokens, labels = torch.randint(0, 10, (12, 6)), torch.randint(0, 2, (12,))
        data = DictDataset("d", "train", {"tokens": tokens}, {"attending": labels})
        Trainer(progress_bar=False).fit(model, [DictDataLoader(data, batch_size=4)])
        assert model.infer({"tokens": tokens}, ["attending"])["attending"]["probs"].shape == (12, 2)

    def test_recurrent_layers_count_every_step_without_running_it(self) -> None:
        def activations(n_steps: int) -> int:
            document = {
                "name": "t",
                "module_pool": {
                    "lstm": {"type": "LSTM", "input_size": 2, "hidden_size": 3},
                    "last": {"type": "Take", "index": -1},
                },
                "op_sequence": [
                    {"module_name": "lstm", "inputs": [["_input_", "x"]]},
                    {"module_name": "last", "inputs": [["lstm", 0]]},
                ],
                "inputs": declared([n_steps, 2]),
                "loss": "mse",
                "output": "identity",
            }
            report = check_task(TaskSpec.model_validate(document), Limits())
            assert report.output_shape == [3]
            assert report.activations is not None
            return report.activations

        assert activations(20_000) == pytest.approx(20_000 * activations(1), rel=0.1)


class TestLimits:
    BIG = 2**31 - 1

    def test_too_many_parameters_are_refused_at_the_largest_module(self) -> None:
        document = shape_spec()
        document["module_pool"]["circle_head"] = {
            "type": "Linear",
            "in_features": 4,
            "out_features": 100_000_000,
        }
        ((pointer, detail),) = faults_of(spec_of(document))
        assert pointer == "/module_pool/circle_head"
        assert "500,000,012 parameters in all, 500,000,000 of them here; at most 100,000,000" in detail

    def test_a_models_modules_count_together(self) -> None:
        check_budget({"a": 60, "b": 40}, Limits(max_parameters=100))
        with pytest.raises(SpecError, match="/module_pool/a"):
            check_budget({"a": 60, "b": 41}, Limits(max_parameters=100))

    def test_too_many_activations_are_refused(self) -> None:
        ((pointer, detail),) = faults_of(spec_of(), Limits(max_activations=9))
        assert pointer == "/op_sequence/1"
        assert "one example takes more than 9 numbers up to here" in detail
        ((pointer, _),) = faults_of(one_module({"type": "Identity"}, inputs=declared([2**24] * 8)))
        assert pointer == "/inputs/x"

    @pytest.mark.parametrize(
        ("module", "shape"),
        [
            ({"type": "Linear", "in_features": BIG, "out_features": BIG}, [2]),
            ({"type": "Embedding", "num_embeddings": BIG, "embedding_dim": BIG}, [2]),
            ({"type": "Bilinear", "in1_features": 1, "in2_features": 1, "out_features": BIG}, [1]),
            ({**CONV, "out_channels": BIG}, [1, 4, 4]),
            ({**CONV, "kernel_size": BIG}, [1, 4, 4]),
            ({**CONV, "stride": BIG}, [1, 4, 4]),
            ({**CONV, "stride": 0}, [1, 4, 4]),
            ({**CONV, "padding": BIG}, [1, 4, 4]),
            ({**CONV, "padding": -1}, [1, 4, 4]),
            ({**CONV, "dilation": BIG}, [1, 4, 4]),
            ({"type": "AdaptiveAvgPool2d", "output_size": [BIG, BIG]}, [1, 4, 4]),
            ({"type": "AdaptiveMaxPool2d", "output_size": 0}, [1, 4, 4]),
            ({"type": "Upsample", "scale_factor": 1e30}, [1, 4, 4]),
            ({"type": "Upsample", "size": BIG}, [1, 4, 4]),
            ({"type": "Unflatten", "dim": 1, "unflattened_size": [BIG, BIG, BIG]}, [4]),
            ({"type": "ConstantPad3d", "padding": BIG, "value": 0}, [1, 1, 1, 1]),
            ({"type": "ConstantPad1d", "padding": -BIG, "value": 0}, [1, 4]),
            ({"type": "PixelUnshuffle", "downscale_factor": 0}, [1, 4, 4]),
            ({"type": "ChannelShuffle", "groups": 0}, [1, 4, 4]),
            ({"type": "LayerNorm", "normalized_shape": [1] * 100_000}, [1]),
            ({"type": "Permute", "dims": list(range(1, 90_000))}, [4]),
            ({"type": "ReLU"} | {f"a{i}": 0 for i in range(100_000)}, [4]),
            ({"type": "L" * 1_000_000}, [4]),
            ({"type": "Sequential", "layers": [LINEAR_2_4] * 512}, [2]),
            (
                {
                    "type": "Sequential",
                    "layers": [{"type": "Sequential", "layers": [{"type": "ReLU"}] * 1024}] * 1024,
                },
                [2],
            ),
            (
                {
                    "type": "TransformerEncoder",
                    "num_layers": 64,
                    "encoder_layer": {"type": "TransformerEncoderLayer", "d_model": 4096, "nhead": 8},
                },
                [4, 4096],
            ),
            ({"type": "LSTM", "input_size": BIG, "hidden_size": BIG, "num_layers": 64}, [4, 4]),
        ],
    )
    def test_monsters_are_refused(self, module: dict[str, Any], shape: list[int]) -> None:
        dtype = "int64" if module["type"] == "Embedding" else "float32"
        assert faults_of(one_module(module, inputs=declared(shape, dtype)))

    def test_a_short_path_that_computes_without_end_is_refused(self) -> None:
        layers = {"type": "Sequential", "layers": [{"type": "ReLU"}] * 500}
        path = [{"name": "o0", "module_name": "m", "inputs": [["_input_", "x"]]}]
        path += [{"name": f"o{i}", "module_name": "m", "inputs": [f"o{i - 1}"]} for i in range(1, 256)]
        ((_, detail),) = faults_of(one_module(layers, op_sequence=path, inputs=declared([1])))
        assert "the path takes more than 2,500 steps of computation" in detail

    def test_a_path_that_grows_with_every_operation_is_refused(self) -> None:
        path = [{"name": "o0", "module_name": "m", "inputs": [["_input_", "x"]] * 64}]
        path += [{"name": f"o{i}", "module_name": "m", "inputs": [f"o{i - 1}"] * 64} for i in range(1, 256)]
        ((_, detail),) = faults_of(one_module({"type": "Concat"}, op_sequence=path, inputs=declared([1])))
        assert "one example takes more than" in detail

    def test_attention_over_a_long_sequence_counts_its_square(self) -> None:
        attention = {"type": "MultiheadAttention", "embed_dim": 4, "num_heads": 4}
        path = [
            {"module_name": "m", "inputs": [["_input_", "x"]] * 3},
            {"module_name": "out", "inputs": [["m", 0]]},
        ]
        pool = {"m": attention, "out": {"type": "Identity"}}
        ((_, detail),) = faults_of(
            one_module(attention, module_pool=pool, op_sequence=path, inputs=declared([100_000, 4]))
        )
        assert "one example takes more than" in detail


class TestSharedModules:
    def test_equal_specs_are_one_module_however_they_are_written(self) -> None:
        other = shape_spec("square")
        other["module_pool"]["base_mlp"]["layers"][0] = {**LINEAR_2_4, "bias": True}
        check_shared_modules([spec_of(), spec_of(other)])

    def test_different_specs_of_one_name_are_refused_with_both_tasks(self) -> None:
        other = shape_spec("square")
        other["module_pool"]["base_mlp"] = {
            "type": "Sequential",
            "layers": [{**LINEAR_2_4, "bias": False}, {"type": "ReLU"}],
        }
        for check in (check_shared_modules, build_tasks):
            with pytest.raises(
                ModuleConflictError, match=r"layers\.0\.bias is True in one and False in the other"
            ) as caught:
                check([spec_of(), spec_of(other)])
            assert (caught.value.module_name, caught.value.first_task, caught.value.second_task) == (
                "base_mlp",
                "circle_task",
                "square_task",
            )


class TestSharedFields:
    @staticmethod
    def shared(*specs: TaskSpec) -> dict[str, FieldShape]:
        return shared_fields({spec.name: check_task(spec, Limits()) for spec in specs})

    def test_fields_of_all_tasks_are_gathered(self) -> None:
        assert self.shared(spec_of(), spec_of(shape_spec("square"))) == {
            f"{shape}_data": FieldShape([2], "float32") for shape in SHAPES
        }

    @pytest.mark.parametrize("swapped", [False, True])
    def test_a_declared_shape_goes_before_an_inferred_one_and_any_before_none(self, swapped: bool) -> None:
        inferred = one_module(LINEAR_2_4, name="a")
        unknown = one_module({"type": "Identity"}, name="b")
        told = one_module(LINEAR_2_4, name="c", inputs=declared([5, 2]))
        order = [inferred, unknown, told]
        assert self.shared(*(order[::-1] if swapped else order)) == {
            "x": FieldShape([5, 2], "float32", declared=True)
        }
        assert self.shared(*([unknown, inferred] if swapped else [inferred, unknown])) == {
            "x": FieldShape([2], "float32")
        }

    @pytest.mark.parametrize(
        ("first", "second", "message"),
        [
            (
                one_module(EMBEDDING, name="a"),
                one_module(LINEAR_2_4, name="b"),
                "is int64 for task 'a' and float32 for task 'b'",
            ),
            (
                one_module({"type": "Identity"}, name="a", inputs=declared([2])),
                one_module({"type": "Identity"}, name="b", inputs=declared([3])),
                r"is \[2\] for task 'a' and \[3\] for task 'b'",
            ),
            (
                one_module(LINEAR_2_4, name="a"),
                one_module({**LINEAR_2_4, "in_features": 3}, name="b"),
                r"is \[2\] for task 'a' and \[3\] for task 'b'",
            ),
        ],
    )
    def test_tasks_that_need_one_field_in_two_forms_are_refused(
        self, first: TaskSpec, second: TaskSpec, message: str
    ) -> None:
        with pytest.raises(SpecError, match="field 'x' " + message) as caught:
            self.shared(first, second)
        assert caught.value.faults[0].pointer == "/inputs/x"


class TestBuildTasks:
    def test_specs_train_and_score_like_tasks_made_by_hand(self) -> None:
        model = MultitaskClassifier(
            build_tasks([spec_of(shape_spec(s)) for s in SHAPES], seed=3), device="cpu"
        )
        assert list(model.module_pool) == ["base_mlp", "circle_head", "square_head"]
        loaders = shape_loaders()
        Trainer(n_epochs=80, lr=0.05, seed=3, progress_bar=False).fit(model, loaders)
        assert list(model.score(loaders)) == [f"{s}_task/{s}Dataset/train/accuracy" for s in SHAPES]
        assert min(model.score(loaders).values()) > 0.85

    def test_modules_that_tasks_share_are_one_object(self) -> None:
        circle, square = build_tasks([spec_of(shape_spec(s)) for s in SHAPES])
        assert circle.module_pool["base_mlp"] is square.module_pool["base_mlp"]

    def test_a_seeded_modules_weights_depend_on_its_name_and_the_seed_alone(self) -> None:
        def weights(*shapes: str, seed: int = 1) -> dict[str, torch.Tensor]:
            tasks = build_tasks([spec_of(shape_spec(s)) for s in shapes], seed)
            return module_weights(MultitaskClassifier(tasks, device="cpu"))

        alone, together, swapped = weights("circle"), weights("circle", "square"), weights("square", "circle")
        assert all(
            torch.equal(alone[key], together[key]) and torch.equal(alone[key], swapped[key]) for key in alone
        )
        assert not torch.equal(alone["base_mlp/0.weight"], weights("circle", seed=2)["base_mlp/0.weight"])
        assert not torch.equal(together["circle_head/weight"], together["square_head/weight"])

    def test_seeding_leaves_the_callers_generator_alone(self) -> None:
        state = torch.get_rng_state()
        build_tasks([spec_of()], seed=1)
        assert torch.equal(torch.get_rng_state(), state)

    def test_the_plan_of_specs_is_that_of_their_model(self) -> None:
        specs = [spec_of(shape_spec(s)) for s in SHAPES]
        plan = MultitaskClassifier(build_tasks(specs), device="cpu").plan
        assert plan_of(specs).nodes == plan.nodes
        assert plan_of(specs).operations == plan.operations


def test_an_entry_of_a_tensor_is_refused_because_it_would_pick_one_example() -> None:
    head = {"type": "Linear", "in_features": 4, "out_features": 2}
    spec = spec_of(
        {
            "name": "t",
            "module_pool": {"trunk": LINEAR_2_4, "head": head},
            "op_sequence": [
                {"module_name": "trunk", "inputs": [["_input_", "x"]]},
                {"module_name": "head", "inputs": [["trunk", 0]]},
            ],
        }
    )
    ((pointer, detail),) = faults_of(spec)
    assert pointer == "/op_sequence/1"
    assert "only tuples and dicts have entries" in detail
