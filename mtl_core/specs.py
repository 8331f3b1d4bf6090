"""The JSON form of a task: what a client writes, checked for shape but not yet built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StringConstraints,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from mtl_core.documented import Documented
from mtl_core.errors import SpecError
from mtl_core.kinds import KINDS
from mtl_core.scaling import TargetScale

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


class _Spec(Documented):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FieldSpec(_Spec):
    """What one example of a field looks like."""

    shape: Annotated[
        list[Annotated[int, Field(strict=True, ge=1, le=2**24)]], Field(max_length=8, examples=[[1, 8, 8]])
    ]
    """Shape of one example, without the batch dimension; `[]` for a single number."""
    dtype: DType = "float32"
    """Type of its numbers: float32, or int64 for indices into an embedding."""


class OperationSpec(_Spec):
    """One step of a task's path: a module and where its inputs come from."""

    name: Name | None = Field(default=None, examples=["circle_head"])
    """The operation's name within its task; default: the module's name."""
    module_name: Annotated[Name, Field(examples=["circle_head_module"])]
    """A module of the task's pool."""
    inputs: Annotated[
        list[OperationInput],
        Field(min_length=1, max_length=64, examples=[["base_mlp", ["_input_", "circle_data"], ["lstm", 0]]]),
    ]
    """In the order of the module's arguments."""

    @property
    def op_name(self) -> str:
        """The operation's name, the default filled in."""
        return self.name or self.module_name


_Number = (
    Annotated[StrictInt, Field(ge=-(2**63), le=2**63 - 1)]
    | Annotated[StrictFloat, Field(allow_inf_nan=False)]
)
Scalar = StrictBool | _Number | Annotated[str, StringConstraints(strict=True, max_length=1024)]
"""What a field of one example is compared with: a number, true or false, or a text."""

_FieldName = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=256)]
_ORDERINGS = ("<", "<=", ">", ">=")
_MAX_DEPTH = 8
_MAX_NODES = 64


def kind_of(value: Scalar) -> Literal["boolean", "number", "text"]:
    """Say what kind a value is; numbers compare with numbers only, and so on."""
    return "boolean" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


class _Predicate(_Spec):
    # `and`, `or` and `not` are no names in Python, so their fields go by an alias in both directions.
    model_config = ConfigDict(serialize_by_alias=True)


class Comparison(_Predicate):
    """Holds where a field's value compares as asked; never where the value is missing, but for ``is_null``."""

    field: Annotated[_FieldName, Field(examples=["age"])]
    """The field, or column, that is looked at."""
    op: Annotated[Literal["==", "!=", "<", "<=", ">", ">=", "in", "not_in", "is_null"], Field(examples=[">"])]
    """How it is compared. Orderings are of numbers; `is_null` holds where the value is missing."""
    value: Scalar | Annotated[list[Scalar], Field(min_length=1, max_length=256)] | None = Field(
        default=None, examples=[60]
    )
    """What it is compared with: a list for `in` and `not_in`, nothing for `is_null`, else one value."""
    index: Annotated[int, Field(strict=True, ge=0, lt=2**24)] | None = Field(default=None, examples=[0])
    """Which number of a field that has several; none where it has one."""

    @model_validator(mode="after")
    def _value_suits_op(self) -> Comparison:
        if self.op == "is_null":
            if self.value is not None:
                raise ValueError("is_null takes no value")
        elif self.op in {"in", "not_in"}:
            if not isinstance(self.value, list):
                raise ValueError(f"{self.op} needs a list of values")
            if len(kinds := sorted({kind_of(value) for value in self.value})) > 1:
                raise ValueError(
                    f"the values of {self.op} are {' and '.join(kinds)}: they must be of one kind"
                )
        elif self.value is None or isinstance(self.value, list):
            raise ValueError(f"{self.op} needs one value; where a value is missing says is_null")
        elif self.op in _ORDERINGS and kind_of(self.value) != "number":
            raise ValueError(f"{self.op} compares numbers, not a {kind_of(self.value)}")
        return self


class MaskField(_Predicate):
    """Holds where a field of booleans, or of 0 and 1, is true."""

    mask: Annotated[_FieldName, Field(examples=["is_hard"])]
    """The field."""


class AllOf(_Predicate):
    """Holds where every one of some predicates does."""

    all_of: Annotated[
        list[Predicate],
        Field(
            alias="and",
            min_length=1,
            max_length=_MAX_NODES,
            examples=[[{"mask": "is_hard"}, {"field": "age", "op": "<", "value": 18}]],
        ),
    ]
    """The predicates."""


class AnyOf(_Predicate):
    """Holds where at least one of some predicates does."""

    any_of: Annotated[
        list[Predicate],
        Field(
            alias="or",
            min_length=1,
            max_length=_MAX_NODES,
            examples=[[{"mask": "is_hard"}, {"field": "age", "op": "<", "value": 18}]],
        ),
    ]
    """The predicates."""


class Negation(_Predicate):
    """Holds where a predicate does not: also where the value that it looks at is missing."""

    negated: Annotated[Predicate, Field(alias="not", examples=[{"mask": "is_hard"}])]
    """The predicate."""


_FORMS = {
    "and": AllOf,
    "or": AnyOf,
    "not": Negation,
    "mask": MaskField,
    "field": Comparison,
    "op": Comparison,
}


def _form(value: object) -> str | None:
    """Tell the form of a predicate by its keys; the answer is never a key, so no pointer takes it for one."""
    if isinstance(value, Mapping):
        found = (form for key, form in _FORMS.items() if key in cast("Mapping[object, object]", value))
        return next((form.__name__ for form in found), None)
    return type(value).__name__


Predicate = Annotated[
    Annotated[Comparison, Tag("Comparison")]
    | Annotated[MaskField, Tag("MaskField")]
    | Annotated[AllOf, Tag("AllOf")]
    | Annotated[AnyOf, Tag("AnyOf")]
    | Annotated[Negation, Tag("Negation")],
    Discriminator(
        _form,
        custom_error_type="predicate",
        custom_error_message='a predicate is {"field", "op", "value"}, {"mask"}, {"and"}, {"or"} or {"not"}',
    ),
]
"""Which examples belong to a slice, told by their fields."""


def _within_bounds(predicate: object) -> object:
    """Refuse what is nested too deep, or too large, before anything walks it by recursion."""
    frontier: list[tuple[object, int]] = [(predicate, 1)]
    nodes = 0
    while frontier:
        node, depth = frontier.pop()
        if not isinstance(node, Mapping):
            continue
        nodes += 1
        if depth > _MAX_DEPTH or nodes > _MAX_NODES:
            raise ValueError(f"a predicate is at most {_MAX_DEPTH} deep and of at most {_MAX_NODES} parts")
        for key in ("and", "or", "not"):
            inner = cast("Mapping[object, object]", node).get(key)
            parts = cast("list[object]", inner) if isinstance(inner, list) else [inner]
            frontier += [(part, depth + 1) for part in parts]
    return predicate


class SliceSpec(_Spec):
    """A named part of the data that matters: the task gets an indicator and a predictor for it."""

    name: Annotated[Name, Field(examples=["older"])]
    """The slice's name, unique in its task: not `base`, and not ending in `_ind` or `_pred`."""
    where: Annotated[
        Predicate,
        BeforeValidator(_within_bounds),
        Field(examples=[{"field": "age", "op": ">", "value": 60}]),
    ]
    """Which examples belong to it."""

    @field_validator("name")
    @classmethod
    def _name_is_free(cls, name: str) -> str:
        if name == "base":
            raise ValueError("every example belongs to the slice 'base', which each task with slices has")
        if name.endswith(("_ind", "_pred")):
            raise ValueError("a slice's name cannot end in _ind or _pred, as those of its tasks do")
        return name


class TaskSpec(_Spec):
    """A task as a path through a network: modules, the operations that chain them, how to judge the end."""

    name: Annotated[Name, Field(examples=["circle_task"])]
    """The task's name, to which datasets bind their labels."""
    module_pool: Annotated[
        dict[Name, ModuleSpec],
        Field(
            min_length=1,
            max_length=256,
            examples=[{"head": {"type": "Linear", "in_features": 4, "out_features": 2}}],
        ),
    ]
    """The modules that the task uses, by name. In a model, modules of one name are one module."""
    op_sequence: Annotated[
        list[OperationSpec],
        Field(
            min_length=1, max_length=256, examples=[[{"module_name": "head", "inputs": [["_input_", "x"]]}]]
        ),
    ]
    """The operations in order; the last one's output is the task's."""
    kind: CatalogueSpec | None = Field(default=None, examples=["binary"])
    """What the labels are, a kind of the catalogue: it stands for a loss, an output function, metrics and, for values,
    the scaling of targets, of which each may be given too; default: none, and then those have defaults of their own."""
    loss: CatalogueSpec = "cross_entropy"
    """What is minimised: a loss of the catalogue."""
    output: CatalogueSpec = "softmax"
    """How outputs become probabilities or values, and those predictions: an output function of the catalogue."""
    metrics: list[CatalogueSpec] = Field(default=["accuracy"], min_length=1, max_length=32)
    """What to measure after training and while it runs."""
    target_scaling: Literal["standard"] | TargetScale | None = Field(default=None, examples=["standard"])
    """The scale on which values are learnt: that of the training labels, which a training fills in, or a stated one;
    what is predicted is in the labels' own units. Default: none, values are learnt as they are."""
    inputs: dict[Name, FieldSpec] | None = Field(
        default=None, examples=[{"image": {"shape": [1, 8, 8], "dtype": "float32"}}]
    )
    """Shapes of the fields that the task reads; needed where the first layer does not tell (convolutions)."""
    slices: list[SliceSpec] = Field(
        default=[],
        max_length=64,
        examples=[[{"name": "older", "where": {"field": "age", "op": ">", "value": 60}}]],
    )
    """Parts of the data that matter more than their size: each adds an indicator and a predictor to the task, and a
    combiner re-weighs what they say (Chen et al., 2019)."""

    @model_validator(mode="before")
    @classmethod
    def _kind_fills_in(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        members = cast("Mapping[str, Any]", given)
        if (kind := members.get("kind")) is None:
            return members
        try:
            return KINDS.build(kind).fields() | dict(members)
        except SpecError as error:
            # As pydantic reports it, so that the fault is found at the argument.
            raise ValidationError.from_exception_data(
                cls.__name__,
                [
                    InitErrorDetails(
                        type=PydanticCustomError("kind", "{detail}", {"detail": fault.detail}),
                        loc=("kind", *fault.pointer.split("/")[1:]),
                        input=kind,
                    )
                    for fault in error.faults
                ],
            ) from None

    @field_validator("slices")
    @classmethod
    def _slices_have_names_of_their_own(cls, slices: list[SliceSpec]) -> list[SliceSpec]:
        names = [part.name for part in slices]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two slices are named '{twice[0]}'")
        return slices

    def written_out(self) -> dict[str, Any]:
        """Return the spec as JSON values, every operation with its name."""
        ops = [op.model_dump(mode="json") | {"name": op.op_name} for op in self.op_sequence]
        return self.model_dump(mode="json") | {"op_sequence": ops}
