from __future__ import annotations

import pytest
import torch
from torch import nn

from mtl_core import TaskloomError
from mtl_core.training.precision import Precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("float32", torch.float32), ("auto", torch.float32), ("bfloat16", torch.bfloat16)],
)
def test_a_forward_pass_on_the_cpu_computes_in_it(precision: str, expected: torch.dtype) -> None:
    chosen = Precision(precision, CPU)
    layer = nn.Linear(2, 2)
    with chosen.autocast():
        assert layer(torch.ones(1, 2)).dtype == expected
    assert chosen.dtype == expected
    assert layer.weight.dtype == torch.float32


def test_float16_needs_a_gpu() -> None:
    with pytest.raises(TaskloomError, match="'float16' needs a GPU, but the model is on 'cpu'"):
        Precision("float16", CPU)


def test_without_float16_losses_and_steps_pass_through_the_scaler() -> None:
    chosen = Precision("bfloat16", CPU)
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    loss = parameter.sum()
    assert chosen.scaler.scale(loss) is loss
    loss.backward()
    chosen.scaler.unscale_(optimizer)
    chosen.scaler.step(optimizer)
    chosen.scaler.update()
    assert parameter.item() == 0.5
    assert not chosen.may_overflow


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_float16_on_a_gpu_scales_what_it_computes() -> None:
    chosen = Precision("float16", torch.device("cuda:0"))
    layer = nn.Linear(2, 2, device="cuda:0")
    with chosen.autocast():
        outputs = layer(torch.ones(1, 2, device="cuda:0"))
    assert outputs.dtype == torch.float16
    loss = outputs.float().sum()
    assert chosen.scaler.scale(loss).item() > abs(loss.item())
    assert chosen.may_overflow
