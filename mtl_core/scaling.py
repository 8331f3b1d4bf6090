"""Values learnt on a scale of their own, and predicted, scored and labelled in their own units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import ConfigDict, Field, model_validator

from mtl_core.data import UNLABELLED, is_given
from mtl_core.documented import Documented
from mtl_core.errors import TaskloomError
from mtl_core.losses.loss import LabelForm, Loss
from mtl_core.outputs import Output, Quantiles

_LEAST, _LARGEST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
_Number = Annotated[float, Field(allow_inf_nan=False, ge=-_LARGEST, le=_LARGEST)]
_Positive = Annotated[float, Field(allow_inf_nan=False, ge=_LEAST, le=_LARGEST)]

# Next to what stands for "not labelled", as near as float32 comes.
_BESIDE_UNLABELLED = torch.nextafter(torch.tensor(float(UNLABELLED)), torch.tensor(0.0)).item()


class TargetScale(Documented):
    """Where a task's values lie: they are learnt less their mean, in standard deviations."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: Annotated[list[_Number], Field(min_length=1, max_length=65_536, examples=[[50_000.0]])]
    """The mean of each value of a label, or one for all."""
    std: Annotated[list[_Positive], Field(min_length=1, max_length=65_536, examples=[[12_000.0]])]
    """Their standard deviations, 1 where all are equal."""

    @model_validator(mode="after")
    def _lengths_agree(self) -> TargetScale:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} numbers, but std has {len(self.std)}")
        return self

    @classmethod
    def of(cls, means: Sequence[float], deviations: Sequence[float]) -> TargetScale:
        """Return the scale of values by their means and standard deviations; 0 is that of values that are all equal."""
        return cls(mean=list(means), std=[std if std >= _LEAST else 1.0 for std in deviations])


def fit_target_scale(labels: torch.Tensor) -> TargetScale:
    """Return the scale of labels that are values.

    Args:
        labels: ``[n]`` or ``[n, …]``, integer or floating; -1 and NaN are no labels.

    Raises:
        TaskloomError: If a value has no label at all, or one is beyond what float32 holds.

    Example:
        >>> fit_target_scale(torch.tensor([10.0, 30.0, float("nan")]))
        TargetScale(mean=[20.0], std=[10.0])
    """
    columns = labels.flatten(start_dim=1) if labels.ndim > 1 else labels[:, None]
    given = is_given(columns)
    counts = given.sum(dim=0)
    if not bool(counts.all()):
        raise TaskloomError("there is no label to tell the scale of the targets")
    values = torch.where(given, columns, 0).double()
    if bool((values.abs() > _LARGEST).any()):
        raise TaskloomError("labels must be finite, and no larger than float32 holds")
    means = values.sum(dim=0) / counts
    deviations = (torch.where(given, values - means, 0).square().sum(dim=0) / counts).sqrt()
    lowest = torch.where(given, values, torch.inf).amin(dim=0)
    highest = torch.where(given, values, -torch.inf).amax(dim=0)
    # Rounding errors of the mean make no scale.
    deviations = torch.where(highest > lowest, deviations, 0)
    return TargetScale.of([float(mean) for mean in means], [float(std) for std in deviations])


class ScaledLoss(Loss):
    """A loss of outputs against labels in standard deviations from their mean.

    Args:
        loss: The loss on that scale, which is also the scale of what it answers.
        scale: Of the labels.
    """

    def __init__(self, loss: Loss, scale: TargetScale) -> None:
        self.loss = loss
        self.scale = scale
        self.reduction = loss.reduction

    def __call__(
        self, outputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss of outputs ``[n, …]`` against labels ``[n, …]`` in their own units.

        Raises:
            ValueError: If the labels have not as many values as the scale, or the shapes do not match.
        """
        return self.loss(outputs, self.scaled(labels), weights)

    def scaled(self, labels: torch.Tensor) -> torch.Tensor:
        """Return labels ``[n, …]`` on the scale, float32, NaN where they are not given.

        Raises:
            ValueError: If they have not as many values as the scale.
        """
        mean, std = (_beside(numbers, labels) for numbers in (self.scale.mean, self.scale.std))
        scaled = ((labels.double() - mean) / std).float()
        # A value that comes to stand where "not labelled" does must not be taken for it.
        scaled = torch.where(scaled == UNLABELLED, _BESIDE_UNLABELLED, scaled)
        return scaled.where(is_given(labels), torch.nan)

    def label_form(self, output_shape: Sequence[int]) -> LabelForm:
        """Return the form that the loss asks for."""
        return self.loss.label_form(output_shape)


class ScaledOutput(Output):
    """An output function whose values are put back into their own units.

    Args:
        output: Answers values, in standard deviations from their mean.
        scale: Of the labels.
    """

    has_classes = False

    def __init__(self, output: Output, scale: TargetScale) -> None:
        self.output = output
        self.scale = scale

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Return values ``[n, …]`` of raw outputs ``[n, …]``."""
        values = self.output(logits)
        # Of several quantiles of several values, the quantiles come last.
        is_by_value = isinstance(self.output, Quantiles) and len(self.scale.mean) > 1
        like = values[..., 0] if is_by_value else values
        mean, std = (_beside(numbers, like) for numbers in (self.scale.mean, self.scale.std))
        if is_by_value:
            mean, std = mean[..., None], std[..., None]
        return (values * std + mean).to(values.dtype)

    def preds(self, probs: torch.Tensor) -> torch.Tensor:
        """Return predictions of values ``[n, …]`` in their own units."""
        return self.output.preds(probs)


def _beside(numbers: Sequence[float], values: torch.Tensor) -> torch.Tensor:
    """Return numbers so that they meet values ``[n, …]``, one for each of an example's or one for all."""
    tensor = torch.tensor(numbers, dtype=torch.float64, device=values.device)
    shape = values.shape[1:]
    if len(numbers) > 1 and shape.numel() != len(numbers):
        raise ValueError(
            f"the targets' scale has {len(numbers)} values, but a label's shape is {list(shape)}"
        )
    return tensor if len(numbers) == 1 else tensor.reshape(shape)
