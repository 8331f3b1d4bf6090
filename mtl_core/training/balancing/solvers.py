"""Small quadratic programs over the tasks, solved exactly with non-negative least squares.

All of them are given by the Gramian of the tasks' gradients, and none looks at more of these.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np

# Gramians of float32 gradients are exact to about this share.
_NOISE = 1e-7


def min_norm_weights(gramian: np.ndarray) -> np.ndarray:
    """Return the weights of the shortest vector in the convex hull of some gradients.

    The minimum of ``‖Rᵀv‖² + (Σv - 1)²`` over ``v ≥ 0`` points the same way, whatever its length.

    Args:
        gramian: Of the gradients, ``[m, m]``, float64.

    Returns:
        Weights of at least 0 that add up to 1, ``[m]``.

    Example:
        >>> min_norm_weights(np.diag([1.0, 3.0])).round(6)
        array([0.75, 0.25])
    """
    n = len(gramian)
    # At the size of the shortest gradient both terms count.
    scale = math.sqrt(gramian.diagonal().min()) or 1.0
    stacked = np.vstack([root(gramian).T / scale, np.ones(n)])
    weights = non_negative_least_squares(stacked, np.append(np.zeros(len(stacked) - 1), 1.0))
    return weights / weights.sum()


def conflict_averse_weights(gramian: np.ndarray, c: float) -> np.ndarray:
    """Return the weights by which CAGrad combines gradients: ``g₀ + c‖g₀‖ g_w / ‖g_w‖``.

    Here ``g₀`` is the mean gradient, and ``w`` minimises ``g_w·g₀ + c‖g₀‖‖g_w‖`` over the simplex. For a given length
    ``t`` of ``g_w`` that is the shortest vector in the hull of the gradients shifted along ``g₀``, and the length of
    what is found falls below ``t`` at one ``t`` only, because the program is convex in both: so ``t`` is bracketed.

    Args:
        gramian: Of the gradients, ``[m, m]``, float64.
        c: The radius around ``g₀`` as a share of its length, at least 0.

    Returns:
        Weights of at least 0, ``[m]``. Where ``g_w`` is 0, no direction near ``g₀`` is better for all: then those of
        ``g₀``, or 0 where the radius allows it, that is where ``c`` is at least 1.

    Source:
        Liu et al., Conflict-Averse Gradient Descent for Multi-task Learning, 2021, https://arxiv.org/abs/2110.14048,
        algorithm 1.
    """
    n = len(gramian)
    mean = np.full(n, 1 / n)
    along = gramian @ mean
    radius = c * math.sqrt(max(mean @ along, 0.0))
    longest = math.sqrt(gramian.diagonal().max())
    if radius <= _NOISE * longest:
        return mean

    def weights_at(length: float) -> np.ndarray:
        shift = length / radius
        cross = np.add.outer(along, along)
        return min_norm_weights(gramian + shift * cross + shift**2 * (mean @ along))

    def excess(length: float) -> float:
        w = weights_at(length)
        return math.sqrt(max(w @ gramian @ w, 0.0)) - length

    shortest = 1e-3 * longest
    if excess(shortest) <= 0:
        return mean if c < 1 else np.zeros(n)
    length = float(_optimize().brentq(excess, shortest, longest * (1 + 1e-6), rtol=1e-6))
    return mean + radius / length * weights_at(length)


def root(gramian: np.ndarray) -> np.ndarray:
    """Return ``R`` with ``RRᵀ`` a Gramian, ``[m, m]``, but for what is lost in noise.

    Gradients are brought to length 1 meanwhile, so that the noise of a large one does not drown a small one.
    """
    lengths = np.sqrt(gramian.diagonal())
    lengths = np.where(lengths > 0, lengths, 1.0)
    values, vectors = np.linalg.eigh(gramian / np.outer(lengths, lengths))
    return lengths[:, None] * vectors * np.sqrt(np.maximum(values, _NOISE * values[-1]))


def non_negative_least_squares(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the ``x`` of at least 0 that minimises ``‖Ax - b‖``, ``[n]`` for ``A [k, n]`` and ``b [k]``."""
    # The solver's tolerance is one for all columns.
    sizes = np.linalg.norm(matrix, axis=0)
    solution, _ = _optimize().nnls(matrix / sizes, target, maxiter=50 * len(target))
    return solution / sizes


def _optimize() -> Any:
    """Return ``scipy.optimize``, which takes a while to load."""
    return importlib.import_module("scipy.optimize")
