from __future__ import annotations

import pytest
import torch

from mtl_core import TaskloomError
from mtl_core.slicing import SliceCombinerModule


def logits(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities]).log()


def outputs(**slices: tuple[torch.Tensor, torch.Tensor, float]) -> dict[str, torch.Tensor]:
    """What slices say of one example: indicator and predictor logits, and a representation of one number."""
    said: dict[str, torch.Tensor] = {}
    for name, (ind, pred, feature) in slices.items():
        said |= {
            f"t_slice:{name}_ind_head": ind,
            f"t_slice:{name}_pred_head": pred,
            f"t_slice:{name}_pred_transform": torch.tensor([[feature]]),
        }
    return said


def test_slices_weigh_by_indicator_times_confidence() -> None:
    said = outputs(
        a=(logits(0.1, 0.9), logits(0.2, 0.8), 1.0),
        b=(logits(0.5, 0.5), logits(0.9, 0.1), 0.0),
    )
    expected = torch.tensor([0.9 * 0.8, 0.5 * 0.1]).softmax(dim=0)[0]
    assert SliceCombinerModule()(said).item() == pytest.approx(expected.item())
    expected = (torch.tensor([0.9 * 0.8, 0.5 * 0.1]) / 0.1).softmax(dim=0)[0]
    assert SliceCombinerModule(temperature=0.1)(said).item() == pytest.approx(expected.item())


def test_with_more_than_two_classes_the_likeliest_tells_the_confidence() -> None:
    said = outputs(
        a=(logits(0.1, 0.9), logits(0.1, 0.2, 0.7), 1.0),
        b=(logits(0.5, 0.5), logits(0.5, 0.3, 0.2), 0.0),
    )
    expected = torch.tensor([0.9 * 0.7, 0.5 * 0.5]).softmax(dim=0)[0]
    assert SliceCombinerModule()(said).item() == pytest.approx(expected.item())


def test_slices_that_say_the_same_are_averaged() -> None:
    batch, width = 4, 20
    said: dict[str, torch.Tensor] = {}
    for i in range(100):
        said[f"t_slice:{i}_ind_head"] = torch.zeros(batch, 2)
        said[f"t_slice:{i}_pred_head"] = torch.full((batch, 2), 5.0 if i % 2 else -5.0)
        said[f"t_slice:{i}_pred_transform"] = torch.full((batch, width), 4.0 if i % 2 else 2.0)
    assert torch.allclose(SliceCombinerModule()(said), torch.full((batch, width), 3.0))


def test_outputs_are_paired_by_slice_where_names_begin_alike() -> None:
    # Sorted as whole names, a_ind_head comes before a_k_ind_head, but a_k_pred_head before a_pred_head.
    said = outputs(
        a=(logits(0.01, 0.99), logits(0.01, 0.99), 1.0),
        a_k=(logits(0.99, 0.01), logits(0.01, 0.99), 0.0),
    )
    expected = torch.tensor([0.99 * 0.99, 0.01 * 0.99]).softmax(dim=0)[0]
    for order in (said, dict(reversed(said.items()))):
        assert SliceCombinerModule()(order).item() == pytest.approx(expected.item())


def test_what_is_no_slices_output_is_passed_over_and_other_ends_can_be_named() -> None:
    said = outputs(a=(logits(0.5, 0.5), logits(0.5, 0.5), 7.0))
    alone = SliceCombinerModule()(said)
    more = said | {"gender_pred_head": torch.zeros(1, 2), "body_ind_head": torch.zeros(1, 9), "_input_": {}}
    assert torch.equal(SliceCombinerModule()(more), alone)
    renamed = {
        name.replace("_head", "_top").replace("_transform", "_feat"): out for name, out in said.items()
    }
    assert torch.equal(SliceCombinerModule("_ind_top", "_pred_top", "_pred_feat")(renamed), alone)


def test_what_cannot_be_combined_is_refused() -> None:
    combiner = SliceCombinerModule()
    with pytest.raises(
        TaskloomError, match=r"no slice has outputs that end in _ind_head, _pred_head, _pred_tr.*: x"
    ):
        combiner({"x": torch.zeros(1, 2)})
    one_class = outputs(a=(logits(0.5, 0.5), torch.zeros(1, 1), 1.0))
    with pytest.raises(TaskloomError, match=r"at least two classes, not \[1\]"):
        combiner(one_class)
    with pytest.raises(TaskloomError, match="temperature must be above 0"):
        SliceCombinerModule(temperature=0)
