"""The module that joins what a task's slices say into one representation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mtl_core.errors import TaskloomError
from mtl_core.slicing.names import IND_HEAD, PRED_HEAD, PRED_TRANSFORM


class SliceCombinerModule(nn.Module):
    """Averages the slices' representations, each weighted by how likely and how sure its slice is.

    The weights are ``softmax(indicator · confidence / temperature)`` over the slices. The indicator is the probability
    that the example is in the slice. The confidence is, with two classes, the predictor's probability of class 1; with
    more, that of its likeliest class.

    An operation without inputs hands it the outputs of all earlier ones. Which belong together is told by their names:
    those of a slice's three operations are alike but for their ends.

    Args:
        slice_ind_key: What the names of indicator operations end in; default ``"_ind_head"``.
        slice_pred_key: What the names of predictor operations end in; default ``"_pred_head"``.
        slice_pred_feat_key: What the names of the predictors' representations end in; default ``"_pred_transform"``.
        temperature: Above 0; the larger, the more even the weights. Default 1.

    Raises:
        TaskloomError: If the temperature is not above 0.

    Source: Chen et al., "Slice-based Learning" (NeurIPS 2019), https://arxiv.org/abs/1909.06349, section 3.2.

    Example:
        >>> logits, features = torch.zeros(1, 2), torch.ones(1, 3)
        >>> said = {"a_ind_head": logits, "a_pred_head": logits, "a_pred_transform": features}
        >>> SliceCombinerModule()(said)
        tensor([[1., 1., 1.]])
    """

    def __init__(
        self,
        slice_ind_key: str = IND_HEAD,
        slice_pred_key: str = PRED_HEAD,
        slice_pred_feat_key: str = PRED_TRANSFORM,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise TaskloomError(f"the temperature must be above 0, not {temperature}")
        self.slice_ind_key = slice_ind_key
        self.slice_pred_key = slice_pred_key
        self.slice_pred_feat_key = slice_pred_feat_key
        self.temperature = temperature

    def forward(self, output_dict: Mapping[str, Any]) -> torch.Tensor:
        """Combine the representations of all slices. Shapes: B batch, S slices, K classes, H features.

        Args:
            output_dict: Outputs by operation name; for each slice its indicator's logits ``[B, 2]``, its predictor's
                logits ``[B, K]`` and its representation ``[B, H]``. Other entries are passed over.

        Returns:
            The weighted average ``[B, H]``.

        Raises:
            TaskloomError: If no slice has all three outputs, or a predictor has fewer than two classes or more than
                one dimension of them.
        """
        ind_BS2, pred_BSK, feat_BSH = self._gathered(output_dict)
        if pred_BSK.ndim != 3 or pred_BSK.shape[-1] < 2:
            shape = list(pred_BSK.shape[2:])
            raise TaskloomError(f"predictors need one number for each of at least two classes, not {shape}")
        ind_BS = ind_BS2.softmax(dim=-1)[..., 1]
        probs_BSK = pred_BSK.softmax(dim=-1)
        confidence_BS = probs_BSK[..., 1] if probs_BSK.shape[-1] == 2 else probs_BSK.amax(dim=-1)
        weights_BS = (ind_BS * confidence_BS / self.temperature).softmax(dim=1)
        return torch.einsum("bs,bsh->bh", weights_BS, feat_BSH)

    def _gathered(self, output_dict: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Stack the three outputs of all slices, in the order of the slices' names."""
        keys = (self.slice_ind_key, self.slice_pred_key, self.slice_pred_feat_key)
        stems = sorted(name.removesuffix(keys[0]) for name in output_dict if name.endswith(keys[0]))
        slices = [stem for stem in stems if all(stem + key in output_dict for key in keys)]
        if not slices:
            known = ", ".join(map(str, output_dict))
            raise TaskloomError(f"no slice has outputs that end in {', '.join(keys)}; there are: {known}")
        ind, pred, feat = (torch.stack([output_dict[stem + key] for stem in slices], dim=1) for key in keys)
        return ind, pred, feat

    def extra_repr(self) -> str:
        """Return the temperature, for the module's representation."""
        return f"temperature={self.temperature}"
