"""From what a client sends to splits: tables are read, rows dealt, columns given their meaning and summed up.

All of this happens before the request's transaction begins: nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from app.datasets import tensors
from app.datasets.meaning import Meaning, meaning_of
from app.datasets.parts import Part, PartSummary, store_assignment, store_summary
from app.datasets.profile import Profile
from app.datasets.schemas import ByColumn, DatasetIn, InlineAppendIn, RowsFrom, SplitIn
from app.datasets.splitting import Splitting, assign, check_shares
from app.problems import Invalid
from app.storage.artifacts import ArtifactStore
from app.storage.tables import Table, write_table
from mtl_core.data import XDict, YDict
from mtl_core.errors import Fault, pointer_to
from mtl_core.preprocessing import (
    ColumnError,
    FieldPlan,
    FittedLabel,
    LabelSpec,
    LabelSummariser,
    TensorColumn,
    class_names_of,
    fit_label,
)

_LABEL_COLUMN = "label:"
"""Begins the names of columns that hold a request's own labels, which no field's name can do."""


@dataclass(frozen=True)
class Source:
    """A table that rows come from.

    Attributes:
        table: Its artifact.
        columns: What its upload says of its columns.
        rows: How many rows it has.
        name: What errors call it.
        pointer: Where the client named it.
        split: The split that all of its rows belong to; None: they are dealt.
    """

    table: str
    columns: Sequence[Mapping[str, Any]]
    rows: int
    name: str
    pointer: str
    split: str | None


@dataclass(frozen=True)
class NewSplit:
    """A split, or what is added to one.

    Attributes:
        name: The split's name.
        meaning: What its columns mean.
        labels: How its labels become numbers.
        part: Its rows.
        summary: What was found in them.
        schema: The table's columns.
    """

    name: str
    meaning: Meaning
    labels: dict[str, FittedLabel]
    part: Part
    summary: PartSummary
    schema: pa.Schema


@dataclass(frozen=True)
class Ingested:
    """What a request comes to.

    Attributes:
        splits: New splits, or additions to those there are.
        splitting: The rule that dealt the rows; None where nothing was dealt.
        warnings: What usually hurts.
    """

    splits: list[NewSplit]
    splitting: Splitting | None
    warnings: list[str]


@dataclass(frozen=True)
class Known:
    """What a dataset's columns mean already: rows that are added mean the same."""

    meaning: Meaning
    labels: dict[str, FittedLabel]
    splitting: Splitting | None


def ingest_inline(store: ArtifactStore, body: SplitIn | InlineAppendIn) -> Ingested:
    """Make a split of the examples in a request.

    Raises:
        Invalid: If values are no numbers, or lengths differ.
    """
    X_dict = {
        name: tensors.tensor_from_json(values, pointer_to("X_dict", name))
        for name, values in body.X_dict.items()
    }
    Y_dict = {
        name: tensors.labels_from_json(values, pointer_to("Y_dict", name))
        for name, values in body.Y_dict.items()
    }
    _check_lengths(X_dict, Y_dict)
    labels = {
        task: LabelSpec(column=_LABEL_COLUMN + task, type="number" if values.is_floating_point() else "index")
        for task, values in Y_dict.items()
    }
    columns = {name: tensors.column_of(values) for name, values in X_dict.items()}
    columns |= {labels[task].column: tensors.column_of(values) for task, values in Y_dict.items()}
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    with store.scratch() as folder:
        write_table(folder / "table.arrow", batch.schema, [batch])
        sha256 = store.put_file(folder / "table.arrow").sha256
    fields = {name: FieldPlan(columns=[TensorColumn(type="tensor", name=name)]) for name in X_dict}
    source = Source(sha256, [], batch.num_rows, "the request", "", body.split)
    fitted = {task: fit_label(label, None) for task, label in labels.items()}
    splits, _ = _profiled(store, [source], Meaning(fields=fields, labels=labels), fitted, None)
    return Ingested(splits, None, [])


def ingest_source(
    store: ArtifactStore,
    body: RowsFrom,
    sources: Sequence[Source],
    known: Known | None,
    encoders: Collection[str] = (),
) -> Ingested:
    """Make splits of the rows of uploads.

    Args:
        store: Where tables are.
        body: What the client asked.
        sources: The uploads that it names.
        known: What the columns mean in the dataset that the rows are added to; None: the client says, the rest is
            guessed.
        encoders: Names of the sentence encoders that there are.

    Raises:
        Invalid: If the client's words or the rows do not make sense; names field, column and row.
    """
    splitting = _splitting(body, known)
    _check_columns_to_deal_by(splitting, sources)
    warnings: list[str] = []
    if isinstance(body, DatasetIn) and (known is None or body.fields is not None or body.labels):
        meaning, warnings = meaning_of(
            body, sources[0].columns, sources[0].rows, splitting.columns if splitting else [], encoders
        )
    else:
        assert known is not None
        meaning = known.meaning
    for source in sources:
        _check_has(source, meaning)
    # What is said of a task's labels as it was before keeps the names of classes that there are.
    specs = known.meaning.labels if known else {}
    same = {task for task, spec in meaning.labels.items() if specs.get(task) == spec}
    labels = {task: known.labels[task] for task in same} if known else {}
    try:
        labels |= _fit_labels(store, sources, {t: s for t, s in meaning.labels.items() if t not in same})
        splits, profile = _profiled(
            store, sources, meaning, {task: labels[task] for task in meaning.labels}, splitting
        )
    except ColumnError as error:
        raise _located(error, meaning, sources) from None
    return Ingested(splits, splitting, list(dict.fromkeys([*warnings, *profile.warnings()])))


def _splitting(body: RowsFrom, known: Known | None) -> Splitting | None:
    """Return the rule that deals the rows; None where every source is one split."""
    said = [name for name in ("split", "splits") if getattr(body, name) is not None]
    if body.source.splits is not None:
        if said:
            raise Invalid.at(f"/{said[0]}", "the source names its splits already")
        return None
    if len(said) == 2:
        raise Invalid.at("/splits", "name either one split for all rows, or how to deal them to several")
    if body.split is not None:
        return None
    if isinstance(body.splits, ByColumn):
        return Splitting(by_column=body.splits.by_column)
    if body.splits is not None:
        check_shares(body.splits)
        stratify_by = body.stratify_by
        if isinstance(body, DatasetIn) and stratify_by in body.labels:
            label = body.labels[stratify_by]
            stratify_by = label if isinstance(label, str) else label.column
        if stratify_by and body.group_by:
            raise Invalid.at("/stratify_by", "rows are dealt either by groups or by shares of each value")
        return Splitting(shares=body.splits, seed=body.seed, stratify_by=stratify_by, group_by=body.group_by)
    if known is None or known.splitting is None:
        raise Invalid.at("/splits", "say to which split the rows belong, or how to deal them to several")
    return known.splitting


def _check_columns_to_deal_by(splitting: Splitting | None, sources: Sequence[Source]) -> None:
    if splitting is None:
        return
    there = {column["name"] for column in sources[0].columns}
    for member, pointer in (
        ("by_column", "/splits/by_column"),
        ("stratify_by", "/stratify_by"),
        ("group_by", "/group_by"),
    ):
        column = getattr(splitting, member)
        if column is not None and column not in there:
            raise Invalid.at(pointer, f"{sources[0].name} has no column '{column}'")


def _check_has(source: Source, meaning: Meaning) -> None:
    there = {column["name"] for column in source.columns}
    lacking = [column for column in meaning.columns if column not in there]
    if lacking:
        more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
        raise Invalid.at(
            source.pointer, f"{source.name} has no column '{lacking[0]}'{more}, which the dataset needs"
        )


def _fit_labels(
    store: ArtifactStore, sources: Sequence[Source], specs: Mapping[str, LabelSpec]
) -> dict[str, FittedLabel]:
    """Find the names of classes: those of all rows, whichever split they are in."""
    if not specs:
        return {}
    summarisers = {task: LabelSummariser(spec) for task, spec in specs.items()}
    columns = list(dict.fromkeys(spec.column for spec in specs.values()))
    for source in sources:
        for start, batch in Table(store.path(source.table)).batches(columns):
            for task, summariser in summarisers.items():
                summariser.add(batch.column(specs[task].column), start)
    return {
        task: fit_label(spec, class_names_of(spec, summarisers[task].finish()))
        for task, spec in specs.items()
    }


def _profiled(
    store: ArtifactStore,
    sources: Sequence[Source],
    meaning: Meaning,
    labels: dict[str, FittedLabel],
    splitting: Splitting | None,
) -> tuple[list[NewSplit], Profile]:
    """Deal the sources' rows to splits and find out what is in each."""
    profile = Profile(meaning, labels)
    placed: dict[str, tuple[Table, Source, str | None, int, int]] = {}
    for source in sources:
        table = Table(store.path(source.table, verify=False))
        if source.split is not None:
            profile.add(table, [source.split], None)
            placed[source.split] = (table, source, None, 0, table.rows)
            continue
        assert splitting is not None
        names, assignment = assign(splitting, table)
        profile.add(table, names, assignment)
        where = store_assignment(store, assignment)
        for number, name in enumerate(names):
            placed[name] = (table, source, where, number, int((assignment == number).sum()))
    splits: list[NewSplit] = []
    for name, summary in profile.summaries.items():
        table, source, where, number, rows = placed[name]
        part = Part(
            table=source.table,
            assignment=where,
            number=number,
            rows=rows,
            summary=store_summary(store, summary),
        )
        splits.append(NewSplit(name, meaning, labels, part, summary, table.schema))
    return splits, profile


def _located(error: ColumnError, meaning: Meaning, sources: Sequence[Source]) -> Invalid:
    """Return the problem that points to where the client gave the column its meaning."""
    pointer = sources[0].pointer
    for task, label in meaning.labels.items():
        if label.column == error.column:
            pointer = pointer_to("labels", task)
    for field, plan in meaning.fields.items():
        if any(column.name == error.column for column in plan.columns):
            pointer = pointer_to("fields", field)
    if meaning.weights == error.column:
        pointer = "/weights"
    names = " or ".join(source.name for source in sources[:3])
    return Invalid.at(pointer, f"{names}: {error}")


def _check_lengths(X_dict: XDict, Y_dict: YDict) -> None:
    named = [(pointer_to("X_dict", name), len(values)) for name, values in X_dict.items()]
    named += [(pointer_to("Y_dict", name), len(values)) for name, values in Y_dict.items()]
    (first, rows), *others = named
    faults = [
        Fault(where, f"{length} values where {first} has {rows}")
        for where, length in others
        if length != rows
    ]
    if faults:
        raise Invalid(f"{faults[0].pointer}: {faults[0].detail}", faults)
