"""Kinds of task by name: what each is judged by, and how many outputs its head has."""

from __future__ import annotations

from typing import Any

from mtl_core.catalogue import Catalogue
from mtl_core.losses import LOSSES
from mtl_core.outputs import OUTPUTS


class Kind:
    """What a task's labels are, from which follows how it is trained, predicted and scored."""

    def fields(self) -> dict[str, Any]:
        """Return members of a task spec, as JSON, that suit the kind: ``loss``, ``output``, ``metrics`` …

        The first metric is the one that sums the task up best.
        """
        raise NotImplementedError

    def n_outputs(self, labels: int | None = None) -> int:
        """Return how many numbers the task's last layer answers for one example.

        Args:
            labels: How many classes, labels or values there are to predict; default: what goes without saying.

        Raises:
            ValueError: If the kind needs to know, or cannot have so many.
        """
        raise NotImplementedError


class Multiclass(Kind):
    """One of several classes, numbered from 0.

    Args:
        label_smoothing: Share of each label spread over all classes; default 0, range [0, 1].
        class_weights: Factor on the loss of each class's examples; default: all 1.
        focal_gamma: How much examples are played down whose class is likely already; default: not at all.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weights: list[float] | None = None,
        focal_gamma: float | None = None,
    ) -> None:
        _check_focal(focal_gamma, label_smoothing)
        weight = {} if class_weights is None else {"weight": class_weights}
        self.loss = _checked(
            LOSSES,
            _focal("focal", focal_gamma, weight)
            or {"type": "cross_entropy", "label_smoothing": label_smoothing, **weight},
        )

    def fields(self) -> dict[str, Any]:
        """Return cross-entropy, or the focal loss, of a softmax."""
        return {"loss": self.loss, "output": "softmax", "metrics": ["accuracy", "f1_macro", "log_loss"]}

    def n_outputs(self, labels: int | None = None) -> int:
        """Return one output a class."""
        return _needed(labels, "classes", at_least=2)


class _OfTwo(Kind):
    """Labels of 0 and 1, one an example or several."""

    metrics: tuple[str, ...]

    def __init__(
        self,
        pos_weight: float | list[float] = 1.0,
        threshold: float = 0.5,
        label_smoothing: float = 0.0,
        focal_gamma: float | None = None,
    ) -> None:
        _check_focal(focal_gamma, label_smoothing)
        weight = {"pos_weight": pos_weight}
        self.loss = _checked(
            LOSSES,
            _focal("binary_focal", focal_gamma, weight)
            or {"type": "binary_cross_entropy", "label_smoothing": label_smoothing, **weight},
        )
        self.output = _checked(OUTPUTS, {"type": "sigmoid", "threshold": threshold})

    def fields(self) -> dict[str, Any]:
        """Return binary cross-entropy, or the binary focal loss, of a sigmoid."""
        return {"loss": self.loss, "output": self.output, "metrics": list(self.metrics)}


class Binary(_OfTwo):
    """Yes or no: labels 1 and 0.

    Args:
        pos_weight: Factor on the loss of positive labels; default 1, above 0.
        threshold: Probability above which the prediction is 1; default 0.5, range [0, 1].
        label_smoothing: Share of each label spread over 0 and 1; default 0, range [0, 1].
        focal_gamma: How much examples are played down whose label is likely already; default: not at all.
    """

    metrics = ("roc_auc", "average_precision", "f1", "accuracy")

    def __init__(
        self,
        pos_weight: float = 1.0,
        threshold: float = 0.5,
        label_smoothing: float = 0.0,
        focal_gamma: float | None = None,
    ) -> None:
        super().__init__(pos_weight, threshold, label_smoothing, focal_gamma)

    def n_outputs(self, labels: int | None = None) -> int:
        """Return 1, the logit of class 1 against class 0."""
        if labels not in (None, 2):
            raise ValueError(f"a binary task has 2 classes, not {labels}")
        return 1


class Multilabel(_OfTwo):
    """Several labels of yes or no, 1 and 0, that do not exclude one another; any of them may be missing.

    Args:
        pos_weight: Factor on the loss of positive labels, above 0; a list has one for each label. Default 1.
        threshold: Probability above which a prediction is 1; default 0.5, range [0, 1].
        label_smoothing: Share of each label spread over 0 and 1; default 0, range [0, 1].
        focal_gamma: How much labels are played down that are likely already; default: not at all.
    """

    metrics = ("roc_auc", "f1_macro", "f1_micro", "hamming_loss")

    def n_outputs(self, labels: int | None = None) -> int:
        """Return one output a label."""
        return _needed(labels, "labels", at_least=1)


class Ordinal(Kind):
    """One of several classes that have an order, numbered from 0 upwards; errors cost by how far they are off."""

    def fields(self) -> dict[str, Any]:
        """Return conditional ordinal regression."""
        kappa = {"type": "cohen_kappa", "weights": "quadratic"}
        return {"loss": "corn", "output": "ordinal", "metrics": [kappa, "mae", "accuracy"]}

    def n_outputs(self, labels: int | None = None) -> int:
        """Return one output for each step from a class to the next."""
        return _needed(labels, "classes", at_least=2) - 1


class Regression(Kind):
    """One number, or several, learnt on a scale of mean 0 and standard deviation 1 and predicted on their own.

    Args:
        huber_delta: Beyond how many standard deviations an error counts by its size rather than its square, so that
            single labels far off weigh less; default: none, above 0.
    """

    def __init__(self, huber_delta: float | None = None) -> None:
        robust = {"type": "huber", "delta": huber_delta}
        self.loss = "mse" if huber_delta is None else _checked(LOSSES, robust)

    def fields(self) -> dict[str, Any]:
        """Return squared error, or Huber's, of scaled values."""
        return {
            "loss": self.loss,
            "output": "identity",
            "metrics": ["rmse", "mae", "r2"],
            "target_scaling": "standard",
        }

    def n_outputs(self, labels: int | None = None) -> int:
        """Return one output a value; by default there is one."""
        return 1 if labels is None else _needed(labels, "values", at_least=1)


class Quantile(Kind):
    """One number, of which several quantiles are predicted.

    Args:
        quantiles: Their probabilities, rising, each above 0 and below 1; default 0.1, 0.5 and 0.9.
    """

    def __init__(self, quantiles: list[float] = [0.1, 0.5, 0.9]) -> None:  # noqa: B006 It is only read.
        self.loss = _checked(LOSSES, {"type": "pinball", "quantiles": quantiles})
        self.quantiles = quantiles

    def fields(self) -> dict[str, Any]:
        """Return the pinball loss of scaled values."""
        several = {"quantiles": self.quantiles}
        return {
            "loss": self.loss,
            "output": {"type": "quantiles", **several},
            "metrics": [{"type": "pinball", **several}, "interval_coverage", "mae"],
            "target_scaling": "standard",
        }

    def n_outputs(self, labels: int | None = None) -> int:
        """Return one output a quantile."""
        return _only_one(labels, "quantile") * len(self.quantiles)


class Count(Kind):
    """How often something happens: whole numbers from 0, taken as of a Poisson distribution."""

    def fields(self) -> dict[str, Any]:
        """Return the Poisson loss of the logarithm of a rate."""
        return {"loss": "poisson", "output": "exp", "metrics": ["poisson_deviance", "mae", "rmse"]}

    def n_outputs(self, labels: int | None = None) -> int:
        """Return one output a count; by default there is one."""
        return 1 if labels is None else _needed(labels, "counts", at_least=1)


class Ranking(Kind):
    """A score by which examples are put in order, learnt from pairs; labels are relevances, or groups with them.

    A label is a number that is higher for what should come first, or the pair of a group's number and that number:
    then only examples of one group are compared.
    """

    def fields(self) -> dict[str, Any]:
        """Return the pairwise loss of RankNet."""
        return {"loss": "ranknet", "output": "identity", "metrics": ["ndcg"]}

    def n_outputs(self, labels: int | None = None) -> int:
        """Return 1, the score."""
        return _only_one(labels, "ranking")


def _checked(catalogue: Catalogue[Any], spec: dict[str, Any]) -> dict[str, Any]:
    """Return a spec that what it describes takes, so that a wrong argument is refused where the client wrote it."""
    name, arguments = catalogue.arguments(spec)
    catalogue.entries[name](**arguments)
    return spec


def _check_focal(focal_gamma: float | None, label_smoothing: float) -> None:
    if focal_gamma is not None and label_smoothing:
        raise ValueError("either label_smoothing or focal_gamma, not both")


def _focal(loss: str, gamma: float | None, weight: dict[str, Any]) -> dict[str, Any] | None:
    return None if gamma is None else {"type": loss, "gamma": gamma, **weight}


def _needed(labels: int | None, what: str, *, at_least: int) -> int:
    if labels is None or labels < at_least:
        found = "" if labels is None else f", not {labels}"
        raise ValueError(f"labels must say how many {what} there are, {at_least} or more{found}")
    return labels


def _only_one(labels: int | None, kind: str) -> int:
    if labels not in (None, 1):
        raise ValueError(f"a {kind} task predicts one value, not {labels}")
    return 1


KINDS: Catalogue[Kind] = Catalogue(
    "kind",
    {
        "multiclass": Multiclass,
        "binary": Binary,
        "multilabel": Multilabel,
        "ordinal": Ordinal,
        "regression": Regression,
        "quantile": Quantile,
        "count": Count,
        "ranking": Ranking,
    },
)
