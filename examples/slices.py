"""A rare slice that a plain model gives up, and that a slice-aware one of the same trunk learns.

Run it with ``python examples/slices.py``. Points of a square belong to class 1 above its diagonal, but for a disc on
the diagonal, a tenth of all points, where it is the other way round. For each of ten seeds, a plain model and a
slice-aware one are trained on the same points, for as many epochs, from trunks of the same shape; what is printed is
their F1 on points that neither has seen, in the disc and overall.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from mtl_core import DictDataLoader, DictDataset, MultitaskClassifier, Operation, Scorer, Task, Trainer
from mtl_core.slicing import SFApplier, SliceAwareClassifier, slicing_function

N_TRAIN, N_TEST = 1000, 4000
WIDTH = 8
SEEDS = range(10)


def in_disc(points: torch.Tensor) -> torch.Tensor:
    """Say which of some points ``[..., 2]`` are in the disc, as booleans ``[...]``."""
    return (points - torch.tensor([0.5, -0.5])).norm(dim=-1) < 0.35


@slicing_function()
def disc(point: torch.Tensor) -> bool:
    """Say whether a point is in the disc."""
    return bool(in_disc(point))


@dataclass(frozen=True)
class F1:
    """F1 of both models in the disc, and of both overall."""

    plain_slice: float
    aware_slice: float
    plain: float
    aware: float

    @property
    def rises(self) -> bool:
        """Whether the slice-aware model is the better one in the disc."""
        return self.aware_slice > self.plain_slice


def make_points(n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw ``n`` points uniformly from the square [-1, 1]², float32 ``[n, 2]``, and their classes, int64 ``[n]``."""
    points = torch.rand(n, 2, generator=generator) * 2 - 1
    return points, ((points.sum(dim=1) > 0) ^ in_disc(points)).long()


def make_trunk() -> nn.Module:
    """Return the small network that both models have below their heads: ``[n, 2]`` → ``[n, WIDTH]``."""
    return nn.Sequential(nn.Linear(2, WIDTH), nn.ReLU())


def compare(seed: int) -> F1:
    """Train both models on the same points and score them on others."""
    generator = torch.Generator().manual_seed(seed)
    points, classes = make_points(N_TRAIN, generator)
    test_points, test_classes = make_points(N_TEST, generator)
    members = in_disc(test_points)
    tests = [
        DictDataset("all", "test", {"point": test_points}, {"task": test_classes}),
        DictDataset("disc", "test", {"point": test_points[members]}, {"task": test_classes[members]}),
    ]
    test_loaders = [DictDataLoader(dataset, batch_size=1000) for dataset in tests]

    def train_and_score(model: MultitaskClassifier, train_loader: DictDataLoader) -> tuple[float, float]:
        trainer = Trainer(seed=seed, n_epochs=60, lr=0.03, progress_bar=False)
        trainer.fit(model, [train_loader])
        scores = model.score(test_loaders)
        return scores["task/disc/test/f1"], scores["task/all/test/f1"]

    # The plain model: a trunk and a head.
    torch.manual_seed(seed)
    task = Task(
        name="task",
        module_pool={"trunk": make_trunk(), "head": nn.Linear(WIDTH, 2)},
        op_sequence=[Operation("trunk", [("_input_", "point")]), Operation("head", ["trunk"])],
        scorer=Scorer(metrics=["f1"]),
    )
    dataset = DictDataset("points", "train", {"point": points}, {"task": classes})
    plain_loader = DictDataLoader(dataset, batch_size=128, shuffle=True)
    plain_slice, plain = train_and_score(MultitaskClassifier([task], device="cpu"), plain_loader)

    # The slice-aware one: the same, and an indicator and a predictor for the disc. Only training points are sliced:
    # of a new point the model tells by itself whether it is in the disc.
    torch.manual_seed(seed)
    model = SliceAwareClassifier(
        make_trunk(),
        head_dim=WIDTH,
        slice_names=["disc"],
        input_data_key="point",
        scorer=Scorer(metrics=["f1"]),
        device="cpu",
    )
    memberships = SFApplier([disc]).apply(points, progress_bar=False)
    dataset = DictDataset("points", "train", {"point": points}, {"task": classes})
    aware_loader = model.make_slice_dataloader(dataset, memberships, batch_size=128, shuffle=True)
    aware_slice, aware = train_and_score(model, aware_loader)
    return F1(plain_slice, aware_slice, plain, aware)


def main(seeds: Iterable[int] = SEEDS) -> list[F1]:
    """Compare the models for some seeds, print what comes out and return it."""
    results: list[F1] = []
    for seed in seeds:
        found = compare(seed)
        results.append(found)
        print(
            f"seed {seed}: F1 on the slice {found.plain_slice:.3f} → {found.aware_slice:.3f},"
            f" overall {found.plain:.3f} → {found.aware:.3f}"
        )
    print(f"rises in {sum(found.rises for found in results)} of {len(results)}")
    return results


if __name__ == "__main__":
    # More threads would only wait for one another on layers this small.
    torch.set_num_threads(1)
    main()
