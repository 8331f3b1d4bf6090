"""What the columns of a table mean: which form which field, which label which task; shorthand written out."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, cast, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from app.datasets.schemas import DatasetIn, FieldIn
from app.problems import Invalid
from mtl_core.errors import Fault, pointer_to
from mtl_core.preprocessing import ColumnSpec, FieldPlan, LabelSpec, infer_column
from mtl_core.specs import NAME_PATTERN

Description = Mapping[str, Any]
"""What an upload says of one column: name, dtype, shape, nulls, distinct …"""

_COLUMN: TypeAdapter[ColumnSpec] = TypeAdapter(ColumnSpec)
_OPTIONS = {
    model.model_fields["type"].default or get_args(model.model_fields["type"].annotation)[0]: set(
        model.model_fields
    )
    for model in get_args(get_args(ColumnSpec)[0])
}
_OWN_FIELD = ("text", "tensor", "sequence")
DEFAULT_FIELD = "features"


class Meaning(BaseModel):
    """What columns mean, nothing left to guess.

    Attributes:
        fields: Field → its columns, each with type and options.
        labels: Task → its column and what its values mean.
        weights: The column of the examples' weights.
    """

    fields: dict[str, FieldPlan]
    labels: dict[str, LabelSpec]
    weights: str | None = None

    @property
    def columns(self) -> list[str]:
        """Every column that is used, once."""
        used = [column.name for plan in self.fields.values() for column in plan.columns]
        used += [label.column for label in self.labels.values()]
        return list(dict.fromkeys([*used, *([self.weights] if self.weights else [])]))


def meaning_of(
    body: DatasetIn,
    described: Sequence[Description],
    rows: int,
    reserved: Sequence[str],
    encoders: Collection[str],
) -> tuple[Meaning, list[str]]:
    """Write out what a client says of the columns; guess what it leaves open.

    Args:
        body: What the client says.
        described: The upload's columns.
        rows: How many rows they have.
        reserved: Columns that deal rows to splits.
        encoders: Names of the sentence encoders that there are.

    Returns:
        The meaning, and warnings of columns that were left out because they look like no feature.

    Raises:
        Invalid: With a fault for every column that is unknown, or given options that its type does not have.
    """
    reader = _Reader(body, {column["name"]: column for column in described}, rows)
    labels = reader.labels()
    weights = body.weights.column if body.weights else None
    if weights is not None:
        reader.check_known(weights, "/weights/column")
    taken = {*(label.column for label in labels.values()), *reserved, *([weights] if weights else [])}
    fields = reader.fields(taken)
    for name, plan in fields.items():
        for encoder in sorted(plan.encoders - set(encoders)):
            detail = f"there is no sentence encoder '{encoder}'; there are {sorted(encoders)}"
            reader.faults.append(Fault(pointer_to("fields", name), detail))
    reader.refuse_faults()
    return Meaning(fields=fields, labels=labels, weights=weights), reader.warnings


class _Reader:
    def __init__(self, body: DatasetIn, known: Mapping[str, Description], rows: int) -> None:
        self._body = body
        self._known = known
        self._rows = rows
        self.faults: list[Fault] = []
        self.warnings: list[str] = []

    def refuse_faults(self) -> None:
        if self.faults:
            first, *others = self.faults
            more = f" (and {len(others)} more)" if others else ""
            raise Invalid(f"{first.pointer}: {first.detail}{more}", self.faults)

    def check_known(self, column: str, pointer: str) -> bool:
        if column in self._known:
            return True
        names = ", ".join(repr(name) for name in list(self._known)[:20])
        more = "" if len(self._known) <= 20 else f" and {len(self._known) - 20} more"
        self.faults.append(Fault(pointer, f"there is no column '{column}'; there are {names}{more}"))
        return False

    def labels(self) -> dict[str, LabelSpec]:
        labels: dict[str, LabelSpec] = {}
        for task, given in self._body.labels.items():
            label = LabelSpec(column=given) if isinstance(given, str) else given
            pointer = (
                pointer_to("labels", task) if isinstance(given, str) else pointer_to("labels", task, "column")
            )
            if self.check_known(label.column, pointer):
                # In integers, -1 stands for "not labelled", as it does everywhere.
                minus_one = (
                    [-1]
                    if self._known[label.column]["dtype"] == "int64" and not _names_minus_one(label)
                    else []
                )
                missing = list(dict.fromkeys([*self._body.missing, *label.missing, *minus_one]))
                labels[task] = label.model_copy(update={"missing": missing})
        return labels

    def fields(self, taken: set[str]) -> dict[str, FieldPlan]:
        if self._body.fields is None:
            return self._default_fields(taken)
        named = {
            name
            for field in self._body.fields.values()
            for name in ([field.tensor] if field.tensor else _names(field.columns))
        }
        plans: dict[str, FieldPlan] = {}
        for name, field in self._body.fields.items():
            columns = list(self._columns(name, field, taken, named))
            if field.columns == "*":
                columns = self._side_by_side(name, field, columns)
            if plan := self._plan(pointer_to("fields", name), columns):
                plans[name] = plan
        return plans

    def _side_by_side(self, name: str, field: FieldIn, columns: list[ColumnSpec]) -> list[ColumnSpec]:
        """Leave out what only looks like a field of its own where other columns are one together."""
        block = [column for column in columns if column.type not in _OWN_FIELD or column.name in field.types]
        if not block or field.type is not None:
            return columns
        for column in columns:
            if column not in block:
                self.warnings.append(
                    f"column '{column.name}' is left out of field '{name}': it looks like a {column.type},"
                    " which is a field of its own"
                )
        return block

    def _default_fields(self, taken: set[str]) -> dict[str, FieldPlan]:
        """Put all that looks like a feature into one field; texts and arrays are fields of their own names."""
        block: list[ColumnSpec] = []
        plans: dict[str, FieldPlan] = {}
        for column in self._rest(taken):
            spec = self._column("/fields", {"name": column, "missing": self._body.missing})
            if spec is None:
                continue
            if spec.type in _OWN_FIELD and re.match(NAME_PATTERN, column):
                plans[column] = FieldPlan(columns=[spec])
            else:
                block.append(spec)
        if block and (plan := self._plan("/fields", block)):
            plans = {DEFAULT_FIELD: plan} | plans
        if not plans and not self.faults:
            self.faults.append(
                Fault("/fields", "no column looks like a feature: name columns and their types")
            )
        return plans

    def _columns(self, name: str, field: FieldIn, taken: set[str], named: set[str]) -> Iterator[ColumnSpec]:
        at = pointer_to("fields", name)
        entries: list[tuple[str, dict[str, Any]]]
        if field.tensor is not None:
            entries = [(f"{at}/tensor", {"name": field.tensor, "type": "tensor"})]
        elif field.columns == "*":
            for column in field.exclude:
                self.check_known(column, f"{at}/exclude")
            rest = self._rest(taken | named | set(field.exclude))
            entries = [(f"{at}/columns", {"name": column}) for column in rest]
        else:
            entries = [
                (f"{at}/columns/{i}", {"name": entry} if isinstance(entry, str) else dict(entry))
                for i, entry in enumerate(field.columns or [])
            ]
        for column in field.types:
            self.check_known(column, f"{at}{pointer_to('types', column)}")
        shared = dict(field.model_extra or {})
        self._check_options(at, shared)
        for pointer, given in entries:
            column = given.get("name")
            if not isinstance(column, str):
                self.faults.append(Fault(pointer, "a column needs a name"))
                continue
            if not self.check_known(column, pointer):
                continue
            single = field.types.get(column, {})
            own = ({"type": single} if isinstance(single, str) else single) | given
            if field.type is not None:
                own = {"type": field.type} | own
            missing = [*self._body.missing, *_listed(shared.get("missing")), *_listed(own.get("missing"))]
            spec = self._column(pointer, own | {"missing": list(dict.fromkeys(missing))}, shared)
            if spec is not None:
                yield spec

    def _rest(self, used: set[str]) -> list[str]:
        return [column for column in self._known if column not in used]

    def _check_options(self, pointer: str, shared: Mapping[str, Any]) -> None:
        known = set[str]().union(*_OPTIONS.values())
        for option in shared:
            if option not in known:
                self.faults.append(Fault(f"{pointer}{pointer_to(option)}", "is not known here"))

    def _column(
        self, pointer: str, given: dict[str, Any], shared: Mapping[str, Any] | None = None
    ) -> ColumnSpec | None:
        """Return a column's spec: its own options, the field's that its type has, the rest as it looks."""
        described = self._known[given["name"]]
        guess = None
        if "type" not in given:
            guess = infer_column(
                described["name"], described["dtype"], described["shape"], self._rows, dict(described)
            )
            if guess is None:
                self.warnings.append(
                    f"column '{given['name']}' is left out: it looks like no feature"
                    " (all missing, or different in almost every row); give it a type to use it"
                )
                return None
        kind = given.get("type", guess.type if guess else None)
        options = {k: v for k, v in (shared or {}).items() if k in _OPTIONS.get(str(kind), ())}
        base = guess.model_dump(exclude_unset=True) if guess else {}
        try:
            return _COLUMN.validate_python(base | options | {"type": kind} | given)
        except ValidationError as error:
            for entry in error.errors():
                where = [part for part in entry["loc"] if part != kind]
                detail = entry["msg"].removeprefix("Value error, ")
                self.faults.append(Fault(pointer + (pointer_to(*where) if where else ""), detail))
            return None

    def _plan(self, pointer: str, columns: list[ColumnSpec]) -> FieldPlan | None:
        if not columns:
            if not self.faults:
                self.faults.append(Fault(pointer, "no column is left for this field"))
            return None
        try:
            return FieldPlan(columns=columns)
        except ValidationError as error:
            self.faults += [
                Fault(pointer, entry["msg"].removeprefix("Value error, ")) for entry in error.errors()
            ]
            return None


def _names_minus_one(label: LabelSpec) -> bool:
    positive = label.positive if isinstance(label.positive, list) else [label.positive]
    return any(str(value) == "-1" for value in (*(label.classes or []), *positive))


def _names(columns: Any) -> list[str]:
    entries = cast("list[Any]", columns) if isinstance(columns, list) else []
    return [entry if isinstance(entry, str) else str(entry.get("name")) for entry in entries]


def _listed(values: Any) -> list[Any]:
    return cast("list[Any]", values) if isinstance(values, list) else []
