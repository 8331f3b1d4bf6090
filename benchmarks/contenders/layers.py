"""Layers of torch from a workload's arrays, and back."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.workloads import Layer


def linear_of(layer: Layer) -> nn.Linear:
    """Return the layer with these weights, copied."""
    weight, bias = layer
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weight))
        linear.bias.copy_(torch.from_numpy(bias))
    return linear


def trunk_of(layers: list[Layer]) -> nn.Sequential:
    """Return the layers, each followed by a ReLU."""
    return nn.Sequential(*(module for layer in layers for module in (linear_of(layer), nn.ReLU())))


def layers_of(module: nn.Module) -> list[Layer]:
    """Return weights and biases of the linear layers in a module, in order."""
    return [
        (linear.weight.numpy(force=True), linear.bias.numpy(force=True))
        for linear in module.modules()
        if isinstance(linear, nn.Linear)
    ]
