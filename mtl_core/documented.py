"""Models whose fields are described by the docstrings below them, which are read only when someone asks."""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic_core import CoreSchema


class Documented(BaseModel):
    """A model whose JSON Schema describes each field by the docstring below it.

    Pydantic's ``use_attribute_docstrings`` shows the same, but looks for the sources when a class is made, which takes
    a good part of the time of an import.

    Example:
        >>> from mtl_core import TrainerConfig
        >>> TrainerConfig.model_json_schema()["properties"]["lr"]["description"]
        'Learning rate.'
    """

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> Any:
        """Add the descriptions to what pydantic makes."""
        schema = handler(core_schema)
        properties: dict[str, Any] = handler.resolve_ref_schema(schema).get("properties", {})
        docstrings = attribute_docstrings(cls)
        for name, shown_as in _aliases(core_schema).items():
            if name in docstrings and shown_as in properties:
                properties[shown_as].setdefault("description", docstrings[name])
        return schema


@cache
def attribute_docstrings(cls: type) -> dict[str, str]:
    """Return the docstrings below a class's annotated attributes, its bases' included, by name."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base is not BaseModel and issubclass(base, BaseModel):
            found |= _own_docstrings(base)
    return found


def _aliases(schema: Any) -> dict[str, str]:
    """Return under which name each field of a model is shown."""
    while schema and "fields" not in schema:
        # What validates the model as a whole lies around its fields.
        schema = schema.get("schema")
    fields: dict[str, Any] = schema["fields"] if schema else {}
    return {name: str(field.get("serialization_alias") or name) for name, field in fields.items()}


def _own_docstrings(cls: type) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, SyntaxError):
        # A class that was made at run time has no source.
        return {}
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef))
    return {
        attribute.target.id: inspect.cleandoc(text.value.value)
        for attribute, text in pairwise(body)
        if isinstance(attribute, ast.AnnAssign)
        and isinstance(attribute.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }
