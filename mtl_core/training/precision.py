"""Mixed precision: what the forward pass computes in, and how small gradients survive it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from mtl_core.errors import TaskloomError


class Precision:
    """The precision of a training on one device.

    Args:
        precision: ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"`` for bfloat16 on a GPU that computes in
            it natively and float32 elsewhere.
        device: Where the model is.

    Attributes:
        dtype: What the forward pass computes in where torch deems it safe.
        scaler: Scales losses and gradients with float16, whose smallest number is too large for some of them; with
            the other dtypes it passes them through, so that one loop serves all.

    Raises:
        TaskloomError: If float16 is asked for on a device that is no GPU.

    Source:
        Micikevicius et al., Mixed Precision Training, 2018.

    Example:
        >>> Precision("auto", torch.device("cpu")).dtype
        torch.float32
    """

    def __init__(self, precision: str, device: torch.device) -> None:
        self._device = device
        self.dtype = _dtype(precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)  # pyright: ignore[reportPrivateImportUsage]

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of the forward pass and the loss."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self.dtype)

    @property
    def may_overflow(self) -> bool:
        """Whether a gradient that is not finite may be due to the scale, which is lowered then, not to the model."""
        return self.scaler.is_enabled() and self.scaler.get_scale() > 1


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    match precision:
        case "auto":
            native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
            return torch.bfloat16 if native else torch.float32
        case "bfloat16":
            return torch.bfloat16
        case "float16":
            if device.type != "cuda":
                raise TaskloomError(
                    f"precision 'float16' needs a GPU, but the model is on '{device.type}': 'bfloat16' runs there"
                )
            return torch.float16
        case _:
            return torch.float32
