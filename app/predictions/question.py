"""What is asked of a version, whatever the rows are: which tasks, and what of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from app.predictions.schemas import PredictManyIn

_TOP_K, _OPERATION = "top_k:", "operation:"

DEFAULT_RETURNS = tuple(cast("list[str]", PredictManyIn.model_fields["returns"].default))
"""What is answered where nothing is said of it."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prediction's request without its rows.

    Attributes:
        tasks: Names of tasks; None for all of the version's.
        returns: What to answer of each, as the client named it.
        version: A version's number, ``latest``, ``default`` or an alias.
    """

    tasks: tuple[str, ...] | None = None
    returns: tuple[str, ...] = DEFAULT_RETURNS
    version: str | int = "default"

    @property
    def top_k(self) -> int | None:
        """How many of the likeliest classes are wanted; None for none."""
        return next(
            (int(wanted[len(_TOP_K) :]) for wanted in self.returns if wanted.startswith(_TOP_K)), None
        )

    @property
    def operations(self) -> tuple[str, ...]:
        """Names of the operations whose outputs are wanted."""
        return tuple(wanted[len(_OPERATION) :] for wanted in self.returns if wanted.startswith(_OPERATION))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which of ``logits``, ``probs`` and ``preds`` must be computed."""
        kinds = [kind for kind in ("logits", "probs", "preds") if kind in self.returns]
        if "classes" in self.returns and "preds" not in kinds:
            kinds.append("preds")
        if self.top_k is not None and "probs" not in kinds:
            kinds.append("probs")
        return tuple(kinds)
