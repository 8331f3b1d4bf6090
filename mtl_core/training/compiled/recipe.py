"""Which trainings can be compiled: networks of known layers with losses and data of common forms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import cast

import torch
from torch import nn

from mtl_core.data import UNLABELLED, DictDataLoader
from mtl_core.losses.plain import LossKind, kind_of
from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.model.heads import Heads, has_hooks, linear_heads
from mtl_core.model.plan import FieldInput, NodeInput
from mtl_core.task import WEIGHTS
from mtl_core.training.balancing import BALANCERS
from mtl_core.training.balancing.loss_weightings import Sum
from mtl_core.training.compiled.layers import Affine, BatchNorm, Layer, layers_of
from mtl_core.training.config import TrainerConfig
from mtl_core.training.parameter_groups import ParameterGroup

Place = str | int
"""Where a value comes from: a field's name, or a node."""


@dataclass(frozen=True)
class Stage:
    """A node of the plan as layers.

    Attributes:
        node: The node.
        source: What it reads.
        layers: Its layers in order.
        widths: How many numbers each layer takes, and at the end how many the last one puts out.
    """

    node: int
    source: Place
    layers: list[Layer]
    widths: list[int]


@dataclass(frozen=True)
class TaskGroup:
    """Tasks whose losses are computed together: of one kind and width, and of one input where they have linear heads.

    Attributes:
        kind: Their loss.
        width: Outputs of each.
        source: What the heads read, or the outputs of a single task.
        tasks: The tasks.
        heads: Their heads; None where ``source`` has the outputs.
    """

    kind: LossKind
    width: int
    source: Place
    tasks: tuple[str, ...]
    heads: tuple[Affine, ...] | None

    def heads_of(self, tasks: Iterable[str]) -> list[Affine]:
        """Return the heads of some of the tasks, if they have any."""
        return [self._by_task[task] for task in tasks] if self.heads else []

    @cached_property
    def _by_task(self) -> dict[str, Affine]:
        return dict(zip(self.tasks, self.heads or (), strict=True))


@dataclass
class Recipe:
    """What a compiled training computes.

    Attributes:
        stages: All nodes but linear heads, by node, in order.
        groups: The tasks that have labels.
        widths: Numbers of an example by place.
        schedules: The nodes of each task's path.
        outside: Whether autograd computes all but heads: there are no stages then.
        others: Tasks whose loss autograd computes, too.
        reason: Why autograd does.
        fields_outside: The fields that autograd's operations read; empty if they may read any.
    """

    stages: dict[int, Stage] = field(default_factory=dict[int, Stage])
    groups: list[TaskGroup] = field(default_factory=list[TaskGroup])
    widths: dict[Place, int] = field(default_factory=dict[Place, int])
    schedules: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    outside: bool = False
    others: tuple[str, ...] = ()
    reason: str = ""
    fields_outside: set[str] = field(default_factory=set[str])

    def sources_of(self, tasks: Collection[str]) -> set[Place]:
        """Return what the stages and heads of some tasks read."""
        nodes = {node for task in tasks for node in self.schedules[task]}
        of_stages = {self.stages[node].source for node in nodes if node in self.stages}
        return of_stages | {group.source for group in self.groups if not set(tasks).isdisjoint(group.tasks)}

    def parameters_of_tasks(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters on each task's path, those of layers and heads."""
        of_stages = {
            node: [p for layer in stage.layers for p in layer.parameters()]
            for node, stage in self.stages.items()
        }
        found = {
            task: list(chain(*(of_stages.get(node, ()) for node in nodes)))
            for task, nodes in self.schedules.items()
        }
        for group in self.groups:
            for task, head in zip(group.tasks, group.heads or (), strict=False):
                found[task] += head.parameters()
        return found

    def in_order(self, groups: Iterable[ParameterGroup]) -> list[ParameterGroup]:
        """Return groups of parameters, those of each in the order of :meth:`parameters`, others after them."""
        places = {id(parameter): place for place, parameter in enumerate(self.parameters())}
        last = len(places)
        return [
            group | {"params": sorted(group["params"], key=lambda named: places.get(id(named[1]), last))}
            for group in groups
        ]

    def parameters(self) -> list[nn.Parameter]:
        """Return all parameters in the order in which they are to lie in memory, heads of a group side by side."""
        of_stages = (layer.parameters() for stage in self.stages.values() for layer in stage.layers)
        of_heads: list[Iterable[nn.Parameter]] = []
        for group in self.groups:
            heads = group.heads or ()
            of_heads += [
                [head.weight for head in heads],
                [head.bias for head in heads if head.bias is not None],
            ]
        return list(dict.fromkeys(chain(*of_stages, *of_heads)))


class NotCompiledError(Exception):
    """A training cannot be compiled; says why."""


def check_settings(config: TrainerConfig, model: MultitaskClassifier, n_loaders: int) -> None:
    """Check that a training's settings leave each step to one batch, one sum of losses and float32.

    Raises:
        NotCompiledError: If they do not.
    """
    kind = type(model)
    if kind.calculate_loss is not MultitaskClassifier.calculate_loss or has_hooks(model):
        raise NotCompiledError("the model has a loss of its own")
    if model.device.type != "cpu":
        raise NotCompiledError("the model is on another device than the CPU")
    if type(BALANCERS.build(config.balancing)) is not Sum:
        raise NotCompiledError("balancing is not 'sum'")
    if config.precision not in ("auto", "float32"):
        raise NotCompiledError("precision is not 'float32'")
    if config.accumulate_batches > 1:
        raise NotCompiledError("accumulate_batches is above 1")
    if config.batch_scheduler == "joint" and n_loaders > 1:
        raise NotCompiledError("batch_scheduler is 'joint'")
    if config.early_stopping and config.early_stopping_config.per_task:
        raise NotCompiledError("early stopping is per task")


def recipe_for(
    model: MultitaskClassifier, loaders: Sequence[DictDataLoader], rates: dict[str, float]
) -> Recipe:
    """Return what a training computes, for a model that is in training mode already.

    Where an operation is not among the known ones, linear heads at least are computed so.

    Args:
        model: The model.
        loaders: What it is trained on.
        rates: Learning rates by module, of those that have one of their own.

    Raises:
        NotCompiledError: If no head can be computed so, or loaders or data are in the way.
    """
    tasks = [name for name in model.tasks if any(name in loader.dataset.Y_dict for loader in loaders)]
    widths: dict[Place, int] = {}
    for loader in loaders:
        _check_fields(loader, widths)
    heads = linear_heads(model, tasks)
    schedules = {task: model.plan.schedule([task]) for task in tasks}
    try:
        recipe = Recipe(widths=dict(widths), schedules=schedules)
        in_groups = {node for siblings in heads for node in siblings.nodes}
        for node in model.plan.schedule(tasks, without=in_groups):
            recipe.stages[node] = stage = _stage(model, node, recipe)
            recipe.widths[node] = stage.widths[-1]
        _add_groups(recipe, model, heads, rates, loaders)
        left = [task for task in tasks if all(task not in group.tasks for group in recipe.groups)]
        recipe.groups += [_alone(model, task, recipe, loaders) for task in left]
        ends = Counter(group.source for group in recipe.groups if group.heads is None)
        if any(n > 1 for n in ends.values()):
            raise NotCompiledError("two tasks have the outputs of one operation")
        if not any(parameter.requires_grad for parameter in recipe.parameters()):
            raise NotCompiledError("no layer that is known is trained")
        _check_parameters(recipe, model.device)
        _check_batch_sizes(loaders, recipe)
    except NotCompiledError as reason:
        recipe = Recipe(widths=widths, schedules=schedules, outside=True, reason=str(reason))
        _add_groups(recipe, model, heads, rates, loaders)
        grouped = {task for group in recipe.groups for task in group.tasks}
        recipe.others = tuple(task for task in tasks if task not in grouped)
        if not any(parameter.requires_grad for parameter in recipe.parameters()):
            raise
        _check_parameters(recipe, model.device)
        _check_own(recipe, model)
        recipe.fields_outside = _fields_read(model, tasks)
    return recipe


def _check_fields(loader: DictDataLoader, widths: dict[Place, int]) -> None:
    data = loader.dataset
    if loader.collates_because:
        raise NotCompiledError(f"the loader of '{data.name}' collates examples: {loader.collates_because}")
    if WEIGHTS in data.X_dict:
        raise NotCompiledError(f"the examples of '{data.name}' have weights")
    for name, values in data.X_dict.items():
        if values.ndim == 2 and values.dtype == torch.float32:
            width = widths.setdefault(name, values.shape[1])
            if width != values.shape[1]:
                raise NotCompiledError(f"field '{name}' has another shape in '{data.name}' than elsewhere")


def _stage(model: MultitaskClassifier, index: int, recipe: Recipe) -> Stage:
    node = model.plan.nodes[index]
    module = model.module_pool[node.module_name]
    where = f"module '{node.module_name}'"
    layers = layers_of(module)
    if layers is None or len(node.sources) != 1 or getattr(_first(module), "inplace", False):
        raise NotCompiledError(f"{where} has more than plain layers of one input")
    source = _place(node.sources[0], where)
    widths = [_width(source, recipe, where)]
    for layer in layers:
        width = layer.width(widths[-1])
        if width is None:
            raise NotCompiledError(f"{where} does not fit its input")
        widths.append(width)
    return Stage(index, source, layers, widths)


def _first(module: nn.Module) -> nn.Module:
    while isinstance(module, nn.Sequential) and len(module):
        module = module[0]
    return module


def _place(source: object, where: str) -> Place:
    match source:
        case FieldInput(str() as name):
            return name
        case NodeInput(node, None):
            return node
        case _:
            raise NotCompiledError(f"{where} reads something else than a field or an operation's output")


def _width(place: Place, recipe: Recipe, where: str) -> int:
    if place not in recipe.widths:
        raise NotCompiledError(f"{where} reads field '{place}', which is not float32 [n, d]")
    return recipe.widths[place]


def _add_groups(
    recipe: Recipe,
    model: MultitaskClassifier,
    heads: Iterable[Heads],
    rates: dict[str, float],
    loaders: Sequence[DictDataLoader],
) -> None:
    """Add siblings by what sets them apart in training, those that have a known loss and labels."""
    for siblings in heads:
        source = _place(siblings.source, f"module '{siblings.modules[0]}'")
        apart: dict[tuple[LossKind, object, object], list[tuple[str, Affine]]] = {}
        for task, name in zip(siblings.tasks, siblings.modules, strict=True):
            head = Affine(cast("nn.Linear", model.module_pool[name]))
            kind = kind_of(model.tasks[task].loss_func)
            if recipe.outside and isinstance(source, int):
                recipe.widths.setdefault(source, head.weight.shape[1])
            fits = head.width(recipe.widths.get(source, -1)) is not None
            if kind and fits and not _faults(task, kind, siblings.width, loaders):
                trained = tuple(parameter.requires_grad for parameter in head.parameters())
                apart.setdefault((kind, trained, rates.get(name)), []).append((task, head))
        for (kind, *_), found in apart.items():
            tasks, of_tasks = zip(*found, strict=True)
            recipe.groups.append(TaskGroup(kind, siblings.width, source, tasks, of_tasks))


def _alone(
    model: MultitaskClassifier, task: str, recipe: Recipe, loaders: Sequence[DictDataLoader]
) -> TaskGroup:
    node = model.plan.output_node(task)
    kind = kind_of(model.tasks[task].loss_func)
    if kind is None:
        raise NotCompiledError(f"the loss of task '{task}' is none of plain cross-entropy, BCE and MSE")
    if node not in recipe.stages:
        raise NotCompiledError(f"the labels or the input of task '{task}' do not fit its head")
    width = recipe.widths[node]
    if fault := _faults(task, kind, width, loaders):
        raise NotCompiledError(f"the labels of task '{task}' {fault}")
    return TaskGroup(kind, width, node, (task,), None)


def _check_parameters(recipe: Recipe, device: torch.device) -> None:
    parameters = recipe.parameters()
    if any(p.dtype != torch.float32 or p.device != device for p in parameters):
        raise NotCompiledError("a parameter is not float32, or on another device")
    if len({p.untyped_storage().data_ptr() for p in parameters}) != len(parameters):
        raise NotCompiledError("two parameters share memory")
    heads = [id(p) for group in recipe.groups for head in group.heads or () for p in head.parameters()]
    of_stages = {
        id(p) for stage in recipe.stages.values() for layer in stage.layers for p in layer.parameters()
    }
    if len(set(heads)) != len(heads) or of_stages & set(heads):
        raise NotCompiledError("a head shares a parameter with another module")


def _fields_read(model: MultitaskClassifier, tasks: Sequence[str]) -> set[str]:
    """Return the fields that operations of tasks read; none if one reads all there are."""
    sources = [source for node in model.plan.schedule(tasks) for source in model.plan.nodes[node].sources]
    names = {source.name for source in sources if isinstance(source, FieldInput)}
    by_name = None not in names and all(isinstance(source, FieldInput | NodeInput) for source in sources)
    return {str(name) for name in names} if by_name else set()


def _check_own(recipe: Recipe, model: MultitaskClassifier) -> None:
    """Check that heads share no parameter with what autograd looks at."""
    heads = {id(parameter) for parameter in recipe.parameters()}
    uses = Counter(id(p) for module in model.module_pool.values() for p in module.parameters())
    if any(uses[parameter] > 1 for parameter in heads):
        raise NotCompiledError("a head shares a parameter with another module")


def _check_batch_sizes(loaders: Sequence[DictDataLoader], recipe: Recipe) -> None:
    layers = [layer for stage in recipe.stages.values() for layer in stage.layers]
    if not any(isinstance(layer, BatchNorm) and layer.by_batch for layer in layers):
        return
    for loader in loaders:
        size, n = loader.batch_size or 0, len(loader.dataset)
        if size < 2 or (n % size == 1 and not loader.drop_last):
            raise NotCompiledError(
                f"a batch of '{loader.dataset.name}' may have one example, of which there are no statistics"
            )


def _faults(task: str, kind: LossKind, width: int, loaders: Iterable[DictDataLoader]) -> str | None:
    """Say why the labels of a task are none that its loss takes; None if they are."""
    for loader in loaders:
        labels = loader.dataset.Y_dict.get(task)
        if labels is None:
            continue
        if not kind.fits(labels, width):
            return "are of a form that the loss does not take"
        if kind.name == "cross_entropy" and len(labels):
            least, most = (int(of) for of in labels.aminmax())
            if least < UNLABELLED or most >= width:
                return f"are not all classes from 0 to {width - 1}"
    return None
