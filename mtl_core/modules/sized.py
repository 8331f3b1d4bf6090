"""What modules have in common whose parameters' shapes follow from the size of their first input.

Each has a lazy twin, which leaves that size open until it sees an input, as torch's own lazy layers do.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter


class Sized(nn.Module):
    """A module with parameters for each feature of its first input; see :class:`OpenSize` for its lazy twin.

    A subclass calls :meth:`make_parameters` once its arguments are set.

    Args:
        in_features: Size of the first input's last dimension; 0: open.
    """

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.in_features = in_features

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the module's parameters by their names."""

    @abstractmethod
    def reset_parameters(self) -> None:
        """Draw initial values for the module's parameters."""

    def make_parameters(self) -> None:
        """Give the module its parameters, without a shape where its input's size is open."""
        for name, shape in self.shapes().items():
            value: Any = nn.Parameter(torch.empty(shape)) if self.in_features else UninitializedParameter()
            self.register_parameter(name, value)
        if self.in_features:
            self.reset_parameters()

    def check_input(self, x: torch.Tensor, ndim: int | None = None) -> None:
        """Refuse a first input that the module cannot work on.

        Args:
            x: The input.
            ndim: How many dimensions it must have; default: any number.

        Raises:
            ValueError: If the input's dtype, its last dimension or their number is wrong.
        """
        if not x.is_floating_point():
            raise ValueError(f"{type(self).__name__} works on float32, not {str(x.dtype)[6:]}")
        if x.ndim < 2 or x.shape[-1] != self.in_features or ndim not in (None, x.ndim):
            between = {None: ", …", 3: ", steps"}.get(ndim, "")
            raise ValueError(
                f"{type(self).__name__} works on [batch{between}, {self.in_features}], not {list(x.shape)}"
            )

    def extra_repr(self) -> str:
        """See :meth:`torch.nn.Module.extra_repr`."""
        hidden = ("_", "training")
        return ", ".join(
            f"{name}={value}" for name, value in vars(self).items() if not name.startswith(hidden)
        )


if TYPE_CHECKING:
    _Base = Sized
else:
    _Base = object


class OpenSize(LazyModuleMixin, _Base):
    """Makes a :class:`Sized` module lazy: stands before it among the bases, and is given no size.

    The first input tells the size, and with it the module becomes the plain one.
    """

    def __init__(self, *arguments: Any) -> None:
        cast("Any", super()).__init__(0, *arguments)

    def initialize_parameters(self, x: torch.Tensor, *others: torch.Tensor) -> None:
        """Take the size of ``x [B, …, in_features]``, and give the parameters their shapes and values."""
        self.in_features = x.shape[-1]
        for name, shape in self.shapes().items():
            cast("UninitializedParameter", getattr(self, name)).materialize(shape)
        self.reset_parameters()
