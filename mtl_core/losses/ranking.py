"""Losses of how a task's scores order its examples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F  # noqa: N812

from mtl_core.data import is_given
from mtl_core.losses.loss import LabelForm, Loss

# So that a batch of any size takes bounded memory beyond what its gradient needs.
_PAIRS_AT_ONCE = 2**22


class RankNet(Loss):
    """Pairwise ranking: scores ``[n]`` or ``[n, 1]`` against relevances ``[n]``, or groups and relevances ``[n, 2]``.

    Of two examples of one group, the batch being one group where labels name none, the loss is
    ``log(1 + exp(-d))`` with ``d`` how far the more relevant one's score is above the other's. Pairs of equal
    relevance, and of different groups, do not count; a pair's weight is the product of its examples'. A batch without
    any pair has loss and gradient 0.

    Source: Burges et al., Learning to Rank using Gradient Descent, 2005.

    Args:
        max_partners: With how many others of its group an example is paired at most on either side, drawn at random but
            alike for every batch of one size; so that large groups take no quadratic time. Default 256, range 1 to
            4,096: of groups with up to that many examples and one more, every pair counts.
    """

    def __init__(self, max_partners: int = 256) -> None:
        if not 1 <= max_partners <= 4096:
            raise ValueError("max_partners must be between 1 and 4,096")
        self.max_partners = max_partners

    def __call__(
        self, outputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean over all pairs that differ in relevance."""
        if outputs.ndim == 2 and outputs.shape[1] == 1:
            outputs = outputs.squeeze(1)
        n = len(outputs)
        if outputs.ndim != 1 or labels.shape not in {(n,), (n, 2)}:
            raise ValueError("outputs must be [n] or [n, 1], labels [n] or, as group and relevance, [n, 2]")
        groups, relevances = labels.unbind(1) if labels.ndim == 2 else (torch.zeros_like(labels), labels)
        weights = outputs.new_ones(n) if weights is None else weights.to(outputs)
        # What lacks its group or relevance is in no pair that weighs anything.
        weights = weights * (is_given(groups) & is_given(relevances))
        relevances = torch.where(is_given(relevances), relevances, 0)
        order = _by_group(groups)
        scores, groups, relevances, weights = (
            values[order] for values in (outputs, groups, relevances, weights)
        )
        loss, total = scores.sum() * 0, weights.new_zeros(())
        reach = min(self.max_partners, n - 1)
        step = max(1, _PAIRS_AT_ONCE // max(n, 1))
        for first in range(1, reach + 1, step):
            further = torch.arange(first, min(first + step, reach + 1), device=outputs.device)
            here = torch.arange(n, device=outputs.device).unsqueeze(1)
            there = (here + further).clamp(max=n - 1)
            above = relevances.unsqueeze(1) - relevances[there]
            paired = (here + further < n) & (groups.unsqueeze(1) == groups[there]) & (above != 0)
            paired_weights = torch.where(paired, weights.unsqueeze(1) * weights[there], 0)
            gaps = (scores.unsqueeze(1) - scores[there]) * above.sign().to(scores.dtype)
            loss = loss + (F.softplus(-torch.where(paired, gaps, 0)) * paired_weights).sum()
            total = total + paired_weights.sum()
        return loss / torch.where(total > 0, total, 1)

    def label_form(self, output_shape: Sequence[int]) -> LabelForm:
        """Return one relevance."""
        return LabelForm([], torch.float32)


def _by_group(groups: torch.Tensor) -> torch.Tensor:
    """Return an order of examples by their groups, at random within each but always the same."""
    shuffled = torch.randperm(len(groups), generator=torch.Generator().manual_seed(0)).to(groups.device)
    return shuffled[groups[shuffled].argsort(stable=True)]
