"""The projector of UPGrad and DualProj, without a solver of quadratic programs."""

from __future__ import annotations

import numpy as np
import torch
from torchjd.linalg import DualConeProjector, PSDMatrix

from mtl_core.training.balancing.solvers import non_negative_least_squares, root


class NonNegativeProjector(DualConeProjector):
    """Projects onto the dual cone of some gradients: the nearest vector that none of them is against.

    With ``v = u + x`` the program ``min vᵀGv, v ≥ u`` is ``min ‖Rᵀx + Rᵀu‖², x ≥ 0`` for any root ``G = RRᵀ``, which
    is non-negative least squares.

    Source:
        Quinton and Rey, Jacobian Descent for Multi-Objective Optimization, 2024, https://arxiv.org/abs/2406.16232,
        proposition 1; Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23.

    Example:
        >>> gramian = torch.tensor([[1.0, -1.0], [-1.0, 2.0]], dtype=torch.float64)
        >>> NonNegativeProjector()(torch.tensor([1.0, 0.0]), gramian).round(decimals=4)
        tensor([1.0000, 0.5000])
    """

    def __call__(self, U: torch.Tensor, G: PSDMatrix) -> torch.Tensor:
        """Return the weights of the projections.

        Args:
            U: The weights of what is projected, ``[…, m]``.
            G: The Gramian, ``[m, m]``, with a positive diagonal.

        Returns:
            Weights of the shape and dtype of ``U``, each at least as large as there.
        """
        transposed = root(G.detach().cpu().double().numpy()).T
        least = U.detach().cpu().double().numpy()
        added = [non_negative_least_squares(transposed, -transposed @ u) for u in least.reshape(-1, len(G))]
        return torch.as_tensor(least + np.reshape(added, least.shape)).to(U)
