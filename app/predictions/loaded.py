"""Versions in memory, ready to predict: loaded when they are first asked for, and kept as memory allows."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from cachetools import LRUCache
from numpy.typing import NDArray

from app.db.tables import Version
from app.predictions.question import Question
from app.problems import Invalid, missing
from app.runs.preprocessing import Preprocessing, load_preprocessing
from app.storage.artifacts import ArtifactStore
from app.storage.encoders import SentenceEncoders
from mtl_core import MultitaskClassifier, TaskPaths, load_module_weights
from mtl_core.building.fields import TORCH_DTYPES, FieldShape
from mtl_core.building.tasks import Limits, build_tasks, check_task
from mtl_core.errors import TaskloomError
from mtl_core.model.inference import KINDS
from mtl_core.specs import TaskSpec

VersionKey = tuple[str, int, str]
"""Model, number and checksums: a model that was removed and made again is not taken for the old one."""

_WARM_ROWS = (1, 64)


@dataclass(frozen=True)
class Recipe:
    """What a question wants of one task.

    Attributes:
        task: Its name.
        arrays: Each kind that is answered, and under which name; of the kind ``preds``, ``classes`` are the names.
        has_classes: Whether the task has classes.
        names: The names of its classes, to be picked by number; None where they have none.
        class_names: The same, as they travel.
    """

    task: str
    arrays: tuple[tuple[str, str], ...]
    has_classes: bool
    names: NDArray[Any] | None
    class_names: list[bool | int | str] | None


@dataclass(frozen=True)
class Route:
    """The compiled path of one question through a version.

    Attributes:
        question: What is asked.
        tasks: The tasks' names, each once.
        fields: The fields that they read.
        paths: Their paths.
        recipes: What is wanted of each task.
        top_k: How many of the likeliest classes are wanted; None for none.
    """

    question: Question
    tasks: tuple[str, ...]
    fields: tuple[str, ...]
    paths: TaskPaths
    recipes: tuple[Recipe, ...]
    top_k: int | None


@dataclass(frozen=True)
class LoadedVersion:
    """A version ready to predict.

    Attributes:
        model: The model's name.
        number: The version's number.
        tasks: The tasks that can be asked for; the network has more where tasks have slices.
        classifier: The network, in evaluation mode.
        fields: Shape and dtype of one example of each field.
        preprocessing: How raw columns become fields, and what classes are called.
        encoders: Sentence encoders for columns of text.
        activations: Numbers that one example takes on its way through all tasks together.
        bytes: Size of the weights.
    """

    model: str
    number: int
    tasks: list[str]
    classifier: MultitaskClassifier
    fields: dict[str, FieldShape]
    preprocessing: Preprocessing
    encoders: SentenceEncoders
    activations: int
    bytes: int
    _routes: LRUCache[tuple[tuple[str, ...] | None, tuple[str, ...]], Route] = field(
        default_factory=lambda: LRUCache[tuple[tuple[str, ...] | None, tuple[str, ...]], Route](256)
    )

    def are_raw(self, names: Collection[str]) -> bool:
        """Say whether names are those of raw columns, and not all of them of fields."""
        return not self._raw_columns.isdisjoint(names)

    @cached_property
    def _raw_columns(self) -> set[str]:
        """The columns that fields are made of, but for those that are called as a field."""
        columns = {name for field in self.preprocessing.fields.values() for name in field.column_names}
        return columns - self.fields.keys()

    def route(self, question: Question) -> Route:
        """Return the path of a question.

        Raises:
            NotFound: If the version lacks a task.
            Invalid: If no task has an operation that is wanted.
        """
        key = (question.tasks, question.returns)
        route = self._routes.get(key)
        if route is None:
            route = self._routes[key] = self._route(question)
        return route

    def _route(self, question: Question) -> Route:
        tasks = tuple(self.tasks if question.tasks is None else dict.fromkeys(question.tasks))
        for name in tasks:
            if name not in self.tasks:
                raise missing(f"task of version {self.number} of model '{self.model}' named", name)
        try:
            paths = TaskPaths(self.classifier, tasks, question.kinds, question.operations)
        except TaskloomError as error:
            raise Invalid.at("/return", str(error)) from None
        fields = tuple(dict.fromkeys(f for name in tasks for f in self.classifier.tasks[name].fields))
        recipes = tuple(self._recipe(question, name) for name in tasks)
        return Route(question, tasks, fields, paths, recipes, question.top_k)

    def _recipe(self, question: Question, task: str) -> Recipe:
        output = self.classifier.tasks[task].output_func
        has_classes = output.has_classes
        names = self.preprocessing.class_names.get(task) if has_classes else None
        return Recipe(
            task=task,
            arrays=tuple(
                ("preds", "classes") if wanted == "classes" else (wanted, output.called(wanted))
                for wanted in question.returns
                if wanted in KINDS or (wanted == "classes" and names is not None)
            ),
            has_classes=has_classes,
            names=None if names is None else np.array(names, dtype=object),
            class_names=names,
        )

    def warm_up(self) -> WarmUp:
        """Answer a few rows of made-up values, so that the first caller does not wait for what torch does once."""
        route = self.route(Question(returns=KINDS))
        seconds: list[float] = []
        try:
            for rows in _WARM_ROWS:
                route.paths(self._made_up(route, rows))
                started = time.perf_counter()
                route.paths(self._made_up(route, rows))
                seconds.append(time.perf_counter() - started)
            keeps_rows_apart = route.paths.keeps_rows_apart(self._made_up(route, 3))
            answers = route.paths(self._made_up(route, 1))
        except TaskloomError:
            # A field of unknown shape, or indices of unknown range: the first caller warms the path up, in a thread.
            return WarmUp(keeps_rows_apart=False, seconds=1.0, seconds_per_row=0.0, outputs={})
        per_row = max(0.0, (seconds[1] - seconds[0]) / (_WARM_ROWS[1] - _WARM_ROWS[0]))
        outputs = {
            f"{recipe.task}.{name}": answers[recipe.task][kind].numpy()
            for recipe in route.recipes
            for kind, name in recipe.arrays
            if isinstance(answers[recipe.task][kind], torch.Tensor)
        }
        return WarmUp(keeps_rows_apart, seconds[0], per_row, outputs)

    def _made_up(self, route: Route, rows: int) -> dict[str, torch.Tensor]:
        """Return rows that differ, within the ranges that the fields are known to have."""
        generator = torch.Generator().manual_seed(0)
        made: dict[str, torch.Tensor] = {}
        for name in route.fields:
            known = self.fields[name]
            shape = (rows, *(known.shape or []))
            made[name] = (
                torch.randn(shape, generator=generator)
                if known.dtype == "float32"
                else torch.randint(known.vocabulary or 1, shape, generator=generator)
            ).to(TORCH_DTYPES[known.dtype])
        return made


@dataclass(frozen=True)
class WarmUp:
    """What a version's first forward passes told.

    Attributes:
        keeps_rows_apart: Whether rows of several requests may be computed together.
        seconds: What one row took.
        seconds_per_row: What each further row took.
        outputs: Made-up answers ``[1, …]`` by task and name, for their shapes and dtypes.
    """

    keeps_rows_apart: bool
    seconds: float
    seconds_per_row: float
    outputs: dict[str, NDArray[Any]]


def shapes_of(version: Version) -> dict[str, FieldShape]:
    """Return shape and dtype of one example of each of a version's fields."""
    return {
        name: FieldShape(known["shape"], known["dtype"], vocabulary=known.get("vocabulary"))
        for name, known in version.fields.items()
    }


class Loader:
    """Loads versions from the artifact store.

    Args:
        store: Where weights are.
        limits: What a spec may ask for.
        encoders: Sentence encoders for columns of text.
    """

    def __init__(self, store: ArtifactStore, limits: Limits, encoders: SentenceEncoders) -> None:
        self._store = store
        self._limits = limits
        self._encoders = encoders

    def load(self, version: Version) -> LoadedVersion:
        """Return a version's network with its weights.

        Raises:
            DamagedArtifactError: If its weights are not what they should be.
        """
        specs = [TaskSpec.model_validate(spec) for spec in version.tasks]
        fields = shapes_of(version)
        preprocessing = load_preprocessing(self._store, version.preprocessing)
        self._encoders.check(preprocessing.fields)
        classifier = MultitaskClassifier(build_tasks(specs), name=version.model)
        load_module_weights(classifier, self._store.load_tensors(version.sha256))
        classifier.eval()
        reports = [check_task(spec, self._limits, fields) for spec in specs]
        return LoadedVersion(
            model=version.model,
            number=version.number,
            tasks=[spec.name for spec in specs],
            classifier=classifier,
            fields=fields,
            preprocessing=preprocessing,
            encoders=self._encoders,
            activations=sum(report.activations or 0 for report in reports),
            bytes=version.bytes,
        )
