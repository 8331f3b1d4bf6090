"""Layers whose backward pass is written by hand: each says what to call on which buffers.

All values are float32 ``[n, d]``. Calls are bound to their tensors beforehand: a step is nothing but making them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from mtl_core.model.heads import has_hooks
from mtl_core.training.compiled.buffers import Buffers
from mtl_core.training.compiled.flat_parameters import Gradients

Call = Callable[[], object]

_aten: Any = torch.ops.aten


@dataclass(frozen=True)
class Backward:
    """Where a layer's backward pass finds what it reads, and puts what it computes.

    Attributes:
        x: Input, if the layer ``reads_input``.
        y: Output, if it ``reads_output``.
        dy: The output's gradient.
        dx: Where the input's gradient belongs; the output's itself, if that is allowed; None if none is wanted.
        buffers: Memory for more, as in the forward pass.
        gradients: Where those of parameters belong.
    """

    x: torch.Tensor
    y: torch.Tensor
    dy: torch.Tensor
    dx: torch.Tensor | None
    buffers: Buffers
    gradients: Gradients


class Layer:
    """One layer of a network.

    Attributes:
        in_place: Whether the output may take the input's memory, and so do the gradients.
        reads_input: Whether the backward pass reads the input.
        reads_output: Whether it reads the output.
    """

    in_place = True
    reads_input = False
    reads_output = True

    def width(self, width: int) -> int | None:
        """Return how many numbers it puts out for an example of ``width``; None where it takes no such."""
        return width

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield its parameters."""
        yield from ()

    def forward(self, x: torch.Tensor, y: torch.Tensor, buffers: Buffers) -> Iterator[Call]:
        """Yield what computes the output.

        Args:
            x: Input ``[n, d]``.
            y: Output ``[n, e]``; the input itself, if that is allowed.
            buffers: Memory for more.
        """
        raise NotImplementedError

    def backward(self, at: Backward) -> Iterator[Call]:
        """Yield what computes the gradients."""
        raise NotImplementedError


class Affine(Layer):
    """``nn.Linear``."""

    in_place = False
    reads_input = True
    reads_output = False

    def __init__(self, module: nn.Linear) -> None:
        self.weight = cast("nn.Parameter", module.weight)
        self.bias = cast("nn.Parameter | None", module.bias)

    def width(self, width: int) -> int | None:
        """Return the number of outputs."""
        return len(self.weight) if width == self.weight.shape[1] else None

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield weight and bias."""
        yield self.weight
        if self.bias is not None:
            yield self.bias

    def forward(self, x: torch.Tensor, y: torch.Tensor, buffers: Buffers) -> Iterator[Call]:
        """Yield one product."""
        yield product(x, self.weight.detach(), None if self.bias is None else self.bias.detach(), y)

    def backward(self, at: Backward) -> Iterator[Call]:
        """Yield the products for weight, bias and input."""
        gradients = at.gradients
        if self.weight in gradients:
            yield weight_gradient(at.x, at.dy, gradients.of([self.weight]), gradients.beta(self.weight))
        if self.bias is not None and self.bias in gradients:
            beta = gradients.beta(self.bias)
            yield bias_gradient(at.dy, gradients.of([self.bias]), at.buffers.ones(len(at.dy)), beta)
        if at.dx is not None:
            yield partial(torch.mm, at.dy, self.weight.detach(), out=at.dx)


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, y: torch.Tensor) -> Call:
    """Return what puts ``x [n, d] · weightᵀ + bias`` into ``y [n, e]``."""
    if bias is None:
        return partial(torch.mm, x, weight.t(), out=y)
    return partial(torch.addmm, bias, x, weight.t(), out=y)


def weight_gradient(x: torch.Tensor, dy: torch.Tensor, place: torch.Tensor, beta: int) -> Call:
    """Return what puts ``dyᵀ · x`` into a place, or adds it."""
    if beta:
        return partial(torch.addmm, place, dy.t(), x, out=place)
    return partial(torch.mm, dy.t(), x, out=place)


def bias_gradient(dy: torch.Tensor, place: torch.Tensor, ones: torch.Tensor, beta: int) -> Call:
    """Return what puts the sum of ``dy [n, e]`` over examples into a place ``[e]``, or adds it."""
    # A product with ones takes half the time of a sum.
    if beta:
        return partial(torch.addmv, place, dy.t(), ones, out=place)
    return partial(torch.mv, dy.t(), ones, out=place)


class Activation(Layer):
    """A function of single numbers.

    Args:
        forward: ``(x, y)`` → what to call.
        backward: ``(x or y, dy, dx)`` → what to call.
        reads_input: Whether the backward pass reads the input rather than the output.
    """

    def __init__(
        self,
        forward: Callable[[torch.Tensor, torch.Tensor], Call],
        backward: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Call],
        *,
        reads_input: bool = False,
    ) -> None:
        self._forward = forward
        self._backward = backward
        self.reads_input = reads_input
        self.reads_output = self.in_place = not reads_input

    def forward(self, x: torch.Tensor, y: torch.Tensor, buffers: Buffers) -> Iterator[Call]:
        """Yield the function."""
        yield self._forward(x, y)

    def backward(self, at: Backward) -> Iterator[Call]:
        """Yield the function's derivative times the gradient."""
        if at.dx is not None:
            yield self._backward(at.x if self.reads_input else at.y, at.dy, at.dx)


class Dropout(Layer):
    """``nn.Dropout`` in training; its mask is drawn as torch draws it, so that both drop the same."""

    reads_output = False

    def __init__(self, p: float) -> None:
        self._p = p

    def _mask(self, like: torch.Tensor, buffers: Buffers) -> torch.Tensor:
        return buffers.rows((self, "mask"), len(like), like.shape[1:])

    def forward(self, x: torch.Tensor, y: torch.Tensor, buffers: Buffers) -> Iterator[Call]:
        """Yield the drawing of a mask, and its product with the input."""
        mask = self._mask(x, buffers)
        yield partial(mask.bernoulli_, 1 - self._p)
        yield partial(mask.div_, 1 - self._p)
        yield partial(torch.mul, x, mask, out=y)

    def backward(self, at: Backward) -> Iterator[Call]:
        """Yield the product of mask and gradient."""
        if at.dx is not None:
            yield partial(torch.mul, at.dy, self._mask(at.dy, at.buffers), out=at.dx)


class Normalization(Layer):
    """What layer and batch normalization have in common: a factor and a shift for each of ``d`` numbers."""

    in_place = False
    reads_input = True
    reads_output = False

    def __init__(self, module: nn.LayerNorm | nn.BatchNorm1d, width: int) -> None:
        self.weight = cast("nn.Parameter | None", module.weight)
        self.bias = cast("nn.Parameter | None", module.bias)
        self._width = width

    def width(self, width: int) -> int | None:
        """Return the same width, if it is the one that it normalizes."""
        return width if width == self._width else None

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield factors and shifts."""
        yield from (parameter for parameter in (self.weight, self.bias) if parameter is not None)

    def _affine(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        weight, bias = self.weight, self.bias
        return (None if weight is None else weight.detach(), None if bias is None else bias.detach())

    def backward(self, at: Backward) -> Iterator[Call]:
        """Yield all three gradients at once."""
        gradients = at.gradients
        places: list[torch.Tensor | None] = [at.dx]
        betas = [0]
        for parameter in (self.weight, self.bias):
            wanted = parameter is not None and parameter in gradients
            places.append(gradients.of([parameter]) if parameter is not None and wanted else None)
            betas.append(gradients.beta(parameter) if parameter is not None and wanted else 0)
        wanted = [place is not None for place in places]
        if any(wanted):
            backward = self._gradients(at.x, at.dy, wanted, at.buffers)

            def call() -> None:
                for place, gradient, beta in zip(places, backward(), betas, strict=True):
                    if place is not None:
                        _ = place.add_(gradient) if beta else place.copy_(gradient)

            yield call

    def _gradients(
        self, x: torch.Tensor, dy: torch.Tensor, wanted: list[bool], buffers: Buffers
    ) -> Callable[[], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Return what computes the gradients of the input, the factors and the shifts."""
        raise NotImplementedError


class LayerNorm(Normalization):
    """``nn.LayerNorm`` over the numbers of one example."""

    def __init__(self, module: nn.LayerNorm) -> None:
        super().__init__(module, module.normalized_shape[0])
        self._eps = module.eps

    def _statistics(self, n: int, buffers: Buffers) -> tuple[torch.Tensor, torch.Tensor]:
        return buffers.rows((self, "mean"), n, [1]), buffers.rows((self, "rstd"), n, [1])

    def forward(self, x: torch.Tensor, y: torch.Tensor, buffers: Buffers) -> Iterator[Call]:
        """Yield the normalization."""
        mean, rstd = self._statistics(len(x), buffers)
        yield partial(
            _aten.native_layer_norm.out,
            *(x, [self._width], *self._affine(), self._eps),
            out0=y,
            out1=mean,
            out2=rstd,
        )

    def _gradients(
        self, x: torch.Tensor, dy: torch.Tensor, wanted: list[bool], buffers: Buffers
    ) -> Callable[[], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        statistics = self._statistics(len(x), buffers)
        return partial(
            _aten.native_layer_norm_backward, dy, x, [self._width], *statistics, *self._affine(), wanted
        )


class BatchNorm(Normalization):
    """``nn.BatchNorm1d``; one in evaluation mode goes by its running statistics."""

    def __init__(self, module: nn.BatchNorm1d) -> None:
        super().__init__(module, module.num_features)
        self._module = module
        self.by_batch = module.training or module.running_mean is None

    def _statistics(self, buffers: Buffers) -> tuple[torch.Tensor, torch.Tensor]:
        return buffers.fixed((self, "mean"), [self._width]), buffers.fixed((self, "invstd"), [self._width])

    def forward(self, x: torch.Tensor, y: torch.Tensor, buffers: Buffers) -> Iterator[Call]:
        """Yield the count of batches and the normalization."""
        module = self._module
        mean, invstd = self._statistics(buffers) if self.by_batch else (torch.empty(0), torch.empty(0))
        counted = module.num_batches_tracked if module.training else None
        if counted is not None:
            yield partial(counted.add_, 1)
        momentum = 0.0 if module.momentum is None else module.momentum
        normalize = partial(
            _aten.native_batch_norm.out,
            *(x, *self._affine(), module.running_mean, module.running_var, self.by_batch),
            eps=module.eps,
            out=y,
            save_mean=mean,
            save_invstd=invstd,
        )
        if module.momentum is None and counted is not None:
            # A running mean over all batches.
            yield lambda: normalize(momentum=1 / counted.item())
        else:
            yield partial(normalize, momentum=momentum)

    def _gradients(
        self, x: torch.Tensor, dy: torch.Tensor, wanted: list[bool], buffers: Buffers
    ) -> Callable[[], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        module = self._module
        statistics = self._statistics(buffers) if self.by_batch else (None, None)
        running = (module.running_mean, module.running_var)
        weight, _ = self._affine()
        return partial(
            _aten.native_batch_norm_backward,
            *(dy, x, weight, *running, *statistics, self.by_batch, module.eps, wanted),
        )


def _relu(x: torch.Tensor, y: torch.Tensor) -> Call:
    return x.relu_ if x is y else partial(torch.clamp_min, x, 0, out=y)


def _relu_backward(y: torch.Tensor, dy: torch.Tensor, dx: torch.Tensor) -> Call:
    return partial(_aten.threshold_backward.grad_input, dy, y, 0, grad_input=dx)


def _unary(function: str) -> Callable[[torch.Tensor, torch.Tensor], Call]:
    return lambda x, y: partial(getattr(torch, function), x, out=y)


def _backward(function: str, *arguments: Any) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Call]:
    overload = getattr(_aten, function).grad_input
    return lambda read, dy, dx: partial(overload, dy, read, *arguments, grad_input=dx)


_RELU = Activation(_relu, _relu_backward)
_TANH = Activation(_unary("tanh"), _backward("tanh_backward"))
_SIGMOID = Activation(_unary("sigmoid"), _backward("sigmoid_backward"))
_SILU = Activation(
    lambda x, y: partial(_aten.silu.out, x, out=y), _backward("silu_backward"), reads_input=True
)


def _gelu(approximate: str) -> Activation:
    overload = _aten.gelu_backward.grad_input
    return Activation(
        lambda x, y: partial(_aten.gelu.out, x, approximate=approximate, out=y),
        lambda x, dy, dx: partial(overload, dy, x, approximate=approximate, grad_input=dx),
        reads_input=True,
    )


def _leaky_relu(slope: float) -> Activation:
    return Activation(
        lambda x, y: partial(_aten.leaky_relu.out, x, slope, out=y),
        _backward("leaky_relu_backward", slope, False),
        reads_input=True,
    )


def layers_of(module: nn.Module) -> list[Layer] | None:
    """Return a module's layers in order; None where one of them is not among those known here."""
    # Only these classes themselves: one derived from them may compute something else.
    if has_hooks(module):
        return None
    if type(module) is nn.Sequential:
        parts = [layers_of(part) for part in module]
        return None if None in parts else [layer for part in parts for layer in part or ()]
    make = _LAYERS.get(type(module))
    layer = make(module) if make else None
    return None if layer is None else [layer][: not isinstance(layer, _Nothing)]


class _Nothing(Layer):
    """What hands its input on as it is."""


def _dropout(module: nn.Dropout) -> Layer | None:
    if module.p == 1:
        return None
    return Dropout(module.p) if module.training and module.p else _Nothing()


_LAYERS: dict[type[nn.Module], Callable[[Any], Layer | None]] = {
    nn.Identity: lambda _: _Nothing(),
    nn.Linear: Affine,
    nn.Dropout: _dropout,
    nn.LayerNorm: lambda module: LayerNorm(module) if len(module.normalized_shape) == 1 else None,
    nn.BatchNorm1d: BatchNorm,
    nn.ReLU: lambda _: _RELU,
    nn.Tanh: lambda _: _TANH,
    nn.Sigmoid: lambda _: _SIGMOID,
    nn.SiLU: lambda _: _SILU,
    nn.GELU: lambda module: _gelu(module.approximate),
    nn.LeakyReLU: lambda module: _leaky_relu(module.negative_slope),
}
