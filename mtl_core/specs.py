"""The JSON form of a task: what a client writes, checked for shape but not yet built."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""A task's, module's, field's … name."""

DType = Literal["float32", "int64"]

ModuleSpec = Annotated[
    dict[str, Any],
    Field(
        description='`{"type": T, …arguments}`: T is a layer from the catalogue at `/v1/modules`.',
        json_schema_extra={"required": ["type"], "properties": {"type": {"type": "string"}}},
    ),
]
_Text = Annotated[str, StringConstraints(max_length=128)]
_Index = Annotated[int, Field(strict=True, ge=-(2**31), le=2**31 - 1)]
CatalogueSpec = Annotated[
    _Text | dict[str, Any],
    Field(description='A name from the catalogue at `/v1/modules`, or `{"type": name, …arguments}`.'),
]
OperationInput = Annotated[
    _Text | tuple[_Text, _Text | _Index],
    Field(
        description='An earlier operation\'s name, `["_input_", field]`, or `[operation, index]` where its'
        " module answers a tuple or dict."
    ),
]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class FieldSpec(_Spec):
    """What one example of a field looks like."""

    shape: Annotated[list[Annotated[int, Field(strict=True, ge=1, le=2**24)]], Field(max_length=8)]
    """Shape of one example, without the batch dimension; `[]` for a single number."""
    dtype: DType = "float32"
    """Type of its numbers: float32, or int64 for indices into an embedding."""


class OperationSpec(_Spec):
    """One step of a task's path: a module and where its inputs come from."""

    name: Name | None = None
    """The operation's name within its task; default: the module's name."""
    module_name: Name
    """A module of the task's pool."""
    inputs: Annotated[list[OperationInput], Field(min_length=1, max_length=64)]
    """In the order of the module's arguments."""

    @property
    def op_name(self) -> str:
        """The operation's name, the default filled in."""
        return self.name or self.module_name


class TaskSpec(_Spec):
    """A task as a path through a network: modules, the operations that chain them, how to judge the end."""

    name: Name
    """The task's name, to which datasets bind their labels."""
    module_pool: Annotated[dict[Name, ModuleSpec], Field(min_length=1, max_length=256)]
    """The modules that the task uses, by name. In a model, modules of one name are one module."""
    op_sequence: Annotated[list[OperationSpec], Field(min_length=1, max_length=256)]
    """The operations in order; the last one's output is the task's."""
    loss: CatalogueSpec = "cross_entropy"
    output: CatalogueSpec = "softmax"
    metrics: Annotated[list[CatalogueSpec], Field(min_length=1, max_length=32)] = ["accuracy"]
    """What to measure after training and while it runs."""
    inputs: dict[Name, FieldSpec] | None = None
    """Shapes of the fields that the task reads; needed where the first layer does not tell (convolutions)."""

    def written_out(self) -> dict[str, Any]:
        """Return the spec as JSON values, every operation with its name."""
        ops = [op.model_dump(mode="json") | {"name": op.op_name} for op in self.op_sequence]
        return self.model_dump(mode="json") | {"op_sequence": ops}
