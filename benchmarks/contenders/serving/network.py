"""The network that every server predicts with, from the weights that Taskloom trained."""

from __future__ import annotations

import os

import torch
from safetensors.torch import load_file
from torch import nn


def load(task: str) -> nn.Module:
    """Return the path of one task, in evaluation mode.

    The file that ``BENCH_WEIGHTS`` names has Taskloom's names: ``trunk/<layer>.<parameter>`` and
    ``head_<task>/<parameter>``.
    """
    torch.set_num_threads(1)
    tensors = load_file(os.environ["BENCH_WEIGHTS"])
    trunk: dict[str, torch.Tensor] = {}
    head: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        module, _, parameter = name.partition("/")
        if module == "trunk":
            trunk[parameter] = tensor
        elif module == f"head_{task}":
            head[parameter] = tensor
    layers: list[nn.Module] = []
    numbers = sorted({int(name.split(".")[0]) for name in trunk})
    for number in numbers:
        weight = trunk[f"{number}.weight"]
        layers += [nn.Linear(weight.shape[1], weight.shape[0]), nn.ReLU()]
    layers.append(nn.Linear(head["weight"].shape[1], head["weight"].shape[0]))
    network = nn.Sequential(*layers)
    with torch.no_grad():
        for place, number in enumerate(numbers):
            linear = network[2 * place]
            assert isinstance(linear, nn.Linear)
            linear.weight.copy_(trunk[f"{number}.weight"])
            linear.bias.copy_(trunk[f"{number}.bias"])
        last = network[-1]
        assert isinstance(last, nn.Linear)
        last.weight.copy_(head["weight"])
        last.bias.copy_(head["bias"])
    return network.eval()
