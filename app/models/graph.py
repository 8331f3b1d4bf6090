"""The graph of a model's operations, as a client may draw it."""

from __future__ import annotations

from collections.abc import Iterable

from app.models.schemas import GraphOut, NodeOut, SourceOut
from mtl_core.building.tasks import plan_of
from mtl_core.model.plan import EverythingInput, FieldInput, NodeInput, Source
from mtl_core.specs import TaskSpec


def graph_of(specs: Iterable[TaskSpec]) -> GraphOut:
    """Return the distinct operations of some tasks, and which tasks' operations each stands for."""
    plan = plan_of(specs)
    operations: dict[int, list[str]] = {}
    for task, nodes in plan.operations.items():
        for op, node in nodes.items():
            operations.setdefault(node, []).append(f"{task}/{op}")
    return GraphOut(
        nodes=[
            NodeOut(
                id=i,
                module=node.module_name,
                inputs=[out for source in node.sources for out in _sources(source)],
                operations=operations[i],
            )
            for i, node in enumerate(plan.nodes)
        ],
        outputs={task: plan.output_node(task) for task in plan.operations},
    )


def _sources(source: Source) -> list[SourceOut]:
    match source:
        case FieldInput(name):
            return [SourceOut(field=str(name))]
        case NodeInput(node, key):
            return [SourceOut(node=node, index=key)]
        case EverythingInput(operations):
            return [SourceOut(node=node) for _, node in operations]
