"""Allowlists: names that a JSON spec may use, each bound to a class whose signature gives its arguments.

A spec is a name or ``{"type": name, …arguments}``. Only what a catalogue lists can be reached from a spec;
every argument is checked against the type in the signature before the class is called.
"""

from __future__ import annotations

import builtins
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import (
    Annotated,
    Any,
    Generic,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from mtl_core.errors import MODULE_FAILURES, Fault, SpecError, first_line, pointer_to, suggestion

T = TypeVar("T")

_INT = Annotated[int, Field(strict=True, ge=-(2**31) + 1, le=2**31 - 1)]
# What float32 can hold: torch refuses more only when the layer is called.
_FLOAT = Annotated[float, Field(strict=True, ge=-3.4e38, le=3.4e38)]
_BOOL = Annotated[bool, Field(strict=True)]
_STR = Annotated[str, Field(strict=True, max_length=128)]
_SCALARS: dict[Any, Any] = {int: _INT, float: _FLOAT, bool: _BOOL, str: _STR, type(None): type(None)}
_MAX_ITEMS = 100_000
_MAX_DIMENSIONS = 16
_MAX_ARGUMENTS = 64

# Placement and precision belong to the run; in-place variants would break operations that share outputs.
_NEVER_ARGUMENTS = {"self", "args", "kwargs", "device", "dtype", "inplace", "sparse", "max_norm"}


class Catalogue(Generic[T]):
    """Named classes of one kind (losses, metrics …) that specs may choose from.

    Args:
        kind: What an entry is, for messages: ``"loss"``.
        entries: The class of each name. Its ``__init__`` annotations are the argument schema.
        annotations: For an entry, types that replace or add to those of its signature.
        common: Types for parameters of a name in whichever signature, where ``annotations`` has none.
    """

    def __init__(
        self,
        kind: str,
        entries: Mapping[str, Callable[..., T]],
        annotations: Mapping[str, Mapping[str, Any]] | None = None,
        common: Mapping[str, Any] | None = None,
    ) -> None:
        self.kind = kind
        self.entries = dict(entries)
        self._common = common or {}
        self._annotations = annotations or {}
        self._models: dict[str, type[BaseModel]] = {}

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def arguments(self, spec: object, pointer: str = "") -> tuple[str, dict[str, Any]]:
        """Check a spec and return its entry's name with all arguments, defaults filled in.

        Raises:
            SpecError: If the spec names no entry or an argument is missing, unknown or of the wrong type.
        """
        name, given = self._split(spec, pointer)
        if len(given) > _MAX_ARGUMENTS:
            raise SpecError.at(pointer, f"no {self.kind} has {len(given):,} arguments")
        try:
            checked = self._model(name).model_validate(given)
        except ValidationError as error:
            raise SpecError(_argument_faults(name, error, pointer)) from None
        return name, {key: getattr(checked, key) for key in type(checked).model_fields}

    def canonical(self, spec: object, pointer: str = "") -> dict[str, Any]:
        """Return a spec as JSON values with every default written out, so that equal specs compare equal.

        Raises:
            SpecError: As :meth:`arguments`.
        """
        name, arguments = self.arguments(spec, pointer)
        return {"type": name} | as_json(arguments)

    def build(self, spec: object, pointer: str = "") -> T:
        """Return the object that a spec describes.

        Raises:
            SpecError: As :meth:`arguments`, and if the class refuses the arguments' values.
        """
        name, arguments = self.arguments(spec, pointer)
        return self.call(name, arguments, pointer)

    def call(self, name: str, arguments: Mapping[str, Any], pointer: str = "") -> T:
        """Call an entry with checked arguments; its refusal becomes a :class:`SpecError` at ``pointer``."""
        try:
            return self.entries[name](**arguments)
        except MODULE_FAILURES as error:
            raise SpecError.at(pointer, f"{name}: {first_line(error)}") from error

    def describe(self) -> list[dict[str, Any]]:
        """Return each entry's name, first sentence of documentation and JSON Schema of its arguments."""
        return [
            {
                "type": name,
                "summary": _summary(entry),
                "arguments": self._model(name).model_json_schema(),
            }
            for name, entry in sorted(self.entries.items())
        ]

    def _split(self, spec: object, pointer: str) -> tuple[str, dict[str, Any]]:
        if isinstance(spec, str):
            name, given, at = spec, {}, pointer
        elif isinstance(spec, Mapping):
            given = dict(cast("Mapping[str, Any]", spec))
            name, at = given.pop("type", None), pointer + "/type"
        else:
            raise SpecError.at(pointer, f'a {self.kind} is a name or an object {{"type": name, …}}')
        if not isinstance(name, str):
            raise SpecError.at(at, f"the type of a {self.kind} is a string")
        if name not in self.entries:
            # What the client sent comes back in the message, so no more of it than a name may have.
            raise SpecError.at(at, f"{name[:64]!r} is no {self.kind}; {suggestion(name[:64], self.entries)}")
        return name, given

    def _model(self, name: str) -> type[BaseModel]:
        if name not in self._models:
            annotations = self._annotations.get(name, {})
            self._models[name] = _arguments_model(name, self.entries[name], annotations, self._common)
        return self._models[name]


def _arguments_model(
    name: str, entry: Callable[..., Any], extra: Mapping[str, Any], common: Mapping[str, Any]
) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for parameter, (annotation, default) in _signature(entry).items():
        accepted = extra.get(parameter) or common.get(parameter) or strict_type(annotation)
        if default is None and accepted is not None and not isinstance(accepted, tuple):
            accepted = Union[accepted, None]  # noqa: UP007 `accepted` is a type only at run time.
        if accepted is not None:
            fields[parameter] = (accepted, default)
    for argument, annotation in extra.items():
        # An annotation may carry its own default, which then replaces the signature's.
        if isinstance(annotation, tuple) or argument not in fields:
            fields[argument] = cast("Any", annotation if isinstance(annotation, tuple) else (annotation, ...))
    return create_model(name, __config__=ConfigDict(extra="forbid", protected_namespaces=()), **fields)


def _signature(entry: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Return annotation and default (``...`` for none) of each argument that a spec may give."""
    function: Any = cast("Any", entry).__init__ if inspect.isclass(entry) else entry
    if function is object.__init__:
        return {}
    hints = get_type_hints(function)
    return {
        name: (hints.get(name), ... if parameter.default is inspect.Parameter.empty else parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in _NEVER_ARGUMENTS and not name.startswith("_")
    }


def strict_type(annotation: Any) -> Any:
    """Return the checkable form of a signature's annotation, or None where JSON has no value of that type."""
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    arguments: Any = get_args(annotation)
    match get_origin(annotation):
        case typing.Literal:
            accepted = annotation
        case typing.Union | types.UnionType:
            members = [member for member in map(strict_type, arguments) if member is not None]
            accepted = Union[tuple(members)] if members else None  # noqa: UP007 as above
        case builtins.list:
            accepted = Annotated[list[strict_type(arguments[0])], Field(max_length=_MAX_ITEMS)]
        case builtins.tuple if arguments[-1] is Ellipsis:
            accepted = Annotated[tuple[strict_type(arguments[0]), ...], Field(max_length=_MAX_DIMENSIONS)]
        case builtins.tuple:
            accepted = tuple[tuple(strict_type(argument) for argument in arguments)]
        case _:
            accepted = None
    return accepted


def as_json(value: Any) -> Any:
    """Return a value as JSON gives it back: with lists for tuples."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, tuple | list):
        return [as_json(item) for item in cast("tuple[Any, ...]", value)]
    return value


def _summary(entry: Callable[..., Any]) -> str:
    """Return the first sentence of an entry's documentation, without reStructuredText and LaTeX marks."""
    paragraphs = (inspect.getdoc(entry) or "").split("\n\n")
    # The recurrent layers' documentation opens with their signature.
    prose = next(text for text in paragraphs if not text.startswith("__init__"))
    plain = re.sub(r":\w+:`\s*([^`]*?)\s*`", r"\1", " ".join(prose.split()))
    plain = re.sub(r"\\text\{(\w+)\}|\\(\w+)", r"\1\2", plain).replace("``", "")
    return re.split(r"(?<=\.)\s+(?=[A-Z])", plain)[0]


def _argument_faults(name: str, error: ValidationError, pointer: str) -> list[Fault]:
    """Gather messages by argument: a union argument yields one message for each of its members."""
    messages: dict[str, list[str]] = {}
    for entry in error.errors():
        where = pointer + pointer_to(*entry["loc"][:1])
        text = {"missing": "is required", "extra_forbidden": f"is no argument of {name}"}.get(
            entry["type"], entry["msg"].removeprefix("Value error, ")
        )
        messages.setdefault(where, []).append(text)
    return [Fault(where, "; or ".join(dict.fromkeys(texts))) for where, texts in messages.items()]
