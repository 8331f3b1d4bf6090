"""The examples that the API's documentation shows are what the service would really take or answer."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from app.datasets import schemas as datasets
from app.models import schemas as models
from app.predictions import schemas as predictions
from app.runs import schemas as runs
from app.scores import schemas as scores
from app.tasks import schemas as tasks


def shown() -> Iterator[Any]:
    for feature in (tasks, datasets, models, runs, scores, predictions):
        for name, shape in inspect.getmembers(feature, inspect.isclass):
            if issubclass(shape, BaseModel) and shape.__module__ == feature.__name__:
                for example in shape.model_json_schema().get("examples", []):
                    yield pytest.param(shape, example, id=f"{feature.__name__.split('.')[1]}-{name}")


@pytest.mark.parametrize(("shape", "example"), shown())
def test_an_example_is_of_the_shape_that_it_is_shown_for(
    shape: type[BaseModel], example: dict[str, Any]
) -> None:
    answered = shape.model_validate(example).model_dump(mode="json", by_alias=True)
    # An answer's shape passes over what it does not know, and an example must hold no such thing.
    assert example.keys() <= answered.keys()
