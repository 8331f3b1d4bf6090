"""Model cards: what they say holds, and the page says nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest

from tests.service.client import Api
from tests.service.conftest import Services
from tests.service.shapes import SPLITS, Shapes
from tests.service.tables import People, people

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
HOSTILE = "</style><script>alert(1)</script>\"'&amp;<img src=x onerror=alert(1)>{{ 7 * 7 }}"
_VOID = {"meta", "br"}
_NUMBER = re.compile(r"\d[\d,.]*(?:e[+-]?\d+)?")


class Page(HTMLParser):
    """A page that was read: its elements nest, and its numbers and texts are taken out."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.numbers: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs)
        if tag not in _VOID:
            self._open.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tag, attributes = self._open[-1] if self._open else ("", {})
        if tag == "data":
            self.numbers.append((str(attributes["value"]), data))
        elif tag != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


def card_of(api: Api, model: str, version: str | int = "latest") -> dict[str, Any]:
    return api.get(f"/v1/models/{model}/versions/{version}/card")


def page_of(api: Api, model: str, version: str | int = "latest") -> tuple[str, Page]:
    path = f"/v1/models/{model}/versions/{version}/card"
    answer = api.call("GET", path, 200, headers={"Accept": BROWSER})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["vary"] == "Accept"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    return answer.text, Page(answer.text)


def leaves(document: Any) -> Iterator[Any]:
    if isinstance(document, dict):
        yield from document
        document = list(document.values())
    if isinstance(document, list):
        for value in document:
            yield from leaves(value)
    else:
        yield document


def check_numbers(page: Page, card: dict[str, Any]) -> None:
    """Check that all numbers of a page are the card's, and none is rounded but for the eye."""
    values = list(leaves(card))
    numbers = {value for value in values if isinstance(value, int | float)}
    assert len(page.numbers) > 10
    for exact, shown in page.numbers:
        assert float(exact) in numbers
        assert float(shown.replace(",", "")) == pytest.approx(float(exact), rel=1e-3)
    told = json.dumps(card, ensure_ascii=False)
    made = card["created_at"]
    for word in _NUMBER.findall(page.text.replace(f"{made[:10]} {made[11:16]} UTC", "")):
        assert word.strip(",.") in told


def test_a_card_tells_what_the_version_was_made_of(shapes: Shapes, api: Api) -> None:
    shapes.make("circle", "square", splits=tuple(SPLITS))
    datasets = [shapes.dataset("circle"), shapes.dataset("square")]
    first = api.train(shapes.model, datasets, n_epochs=2)
    body = {
        "datasets": datasets,
        "trainer": {"seed": 5, "n_epochs": 3, "lr": 0.03},
        "verdict": {"resamples": 100},
    }
    headers = {"X-Taskloom-Client": "ann"}
    run = api.post(f"/v1/models/{shapes.model}/runs", body, 202, **headers)["id"]
    ended = api.ended(run)
    card = card_of(api, shapes.model)
    version = api.get(f"/v1/models/{shapes.model}/versions/latest")
    same = ("model", "version", "aliases", "created_at", "parameters", "bytes", "sha256")
    assert {name: card[name] for name in same} == {name: version[name] for name in same}
    assert card == card_of(api, shapes.model, "default") == card_of(api, shapes.model, first + 1)

    assert card["made_by"] == {
        **{"run": run, "kind": "train", "client": "ann", "search": None, "init_from": first},
        **{name: ended[name] for name in ("started_at", "finished_at")},
    }
    (start,) = card["starts_from"]
    assert (start["version"], "base_mlp" in start["modules"]) == (first, True)
    assert (card["training"]["seed"], card["training"]["settings"]) == (5, ended["trainer"])

    circle = shapes.task("circle")
    used = [(part["dataset"], part["split"], part["used"]) for part in card["data"]]
    uses = {"train": "trained on", "valid": "watched", "test": "scored on"}
    assert sorted(used) == sorted((name, split, use) for name in datasets for split, use in uses.items())
    known = api.get(f"/v1/datasets/{datasets[0]}")["splits"]
    for split in known:
        (part,) = [p for p in card["data"] if (p["dataset"], p["split"]) == (datasets[0], split["split"])]
        assert (part["rows"], part["sha256"], part["version"]) == (64, split["sha256"], 3)
        assert part["labels"][circle] == {
            **{"labelled": 64, "unlabelled": 0},
            "counts": split["labels"][circle]["counts"],
        }

    assert [task["name"] for task in card["tasks"]] == [circle, shapes.task("square")]
    task = card["tasks"][0]
    assert [step["name"] for step in task["path"]] == ["base_mlp", "circle_head"]
    assert (task["fields"], task["slices"], task["worst_slice"]) == (["circle_data"], [], None)
    assert (task["own_parameters"], task["shared_parameters"]) == (10, 60)
    modules = {module["name"]: module for module in card["modules"]}
    assert modules["base_mlp"]["used_by"] == [circle, shapes.task("square")]
    assert sum(module["parameters"] for module in modules.values()) == card["parameters"]
    assert [(field["name"], field["shape"]) for field in card["fields"]] == [
        ("circle_data", [2]),
        ("square_data", [2]),
    ]

    # What compares with tasks trained alone stands in the verdict.
    scores = {
        f"{row['task']}/{row['dataset']}/{row['split']}/{row['metric']}": row["value"]
        for row in card["scores"]
    }
    all_scores = api.get(f"/v1/models/{shapes.model}/versions/latest/scores")
    assert scores == {key: value for key, value in all_scores.items() if ":" not in key}
    assert {row["run"] for row in card["scores"]} == {run}
    assert card["verdict"] == api.get(f"/v1/runs/{run}/verdict")

    _, page = page_of(api, shapes.model)
    check_numbers(page, card)
    assert card["verdict"]["summary"] in page.text
    for limit in card["limits"]:
        assert limit in page.text


def test_slices_stand_apart_with_the_worst_of_them(services: Services) -> None:
    world = People(services.start("sqlite").api)
    rows = people(300)
    world.register(rows, splits={"train": 0.6, "valid": 0.2, "test": 0.2})
    old = {"field": "age", "op": ">", "value": 60}
    world.make_model(
        "sick",
        slices=[{"name": "old", "where": old}, {"name": "smokers", "where": {"mask": "smokes"}}],
        metrics=["f1", "accuracy"],
    )
    world.api.train(world.model, [world.dataset], n_epochs=3)
    card = card_of(world.api, world.model)
    (task,) = card["tasks"]
    assert [part["name"] for part in task["slices"]] == ["old", "smokers", "base"]
    assert [part["where"] for part in task["slices"]] == [old, {"mask": "smokes"}, None]
    assert {row["task"] for row in card["scores"]} == {task["name"]}
    scored = world.api.get(f"/v1/models/{world.model}/versions/latest/scores")
    ends = {"answers": "", "membership": "_ind", "slice head": "_pred"}
    told = {
        f"{task['name']}_slice:{part['name']}{ends[row['of']]}/{row['dataset']}/{row['split']}/{row['metric']}": row
        for part in task["slices"]
        for row in part["scores"]
    }
    assert {key: row["value"] for key, row in told.items()} == {
        key: value for key, value in scored.items() if "_slice:" in key
    }
    on_test = {
        name: scored[f"{task['name']}_slice:{name}/{world.dataset}/test/f1"] for name in ("old", "smokers")
    }
    worst = task["worst_slice"]
    assert worst["slice"] == min(on_test, key=lambda name: on_test[name])
    assert (worst["value"], worst["metric"], worst["split"]) == (min(on_test.values()), "f1", "test")
    assert worst["whole"] == scored[f"{task['name']}/{world.dataset}/test/f1"]

    # Raw columns, how they are encoded, and what labels are called.
    (field,) = card["fields"]
    assert [column["column"] for column in field["columns"]] == ["age", "job", "smokes", "joined"]
    by_name = {column["column"]: column for column in field["columns"]}
    assert by_name["job"]["fitted"]["values"] == 3
    assert task["class_names"] == ["no", "yes"]
    train = next(part for part in card["data"] if part["used"] == "trained on")
    labels = train["labels"][task["name"]]
    assert labels["labelled"] + labels["unlabelled"] == train["rows"]
    assert sum(labels["counts"].values()) == labels["labelled"]
    _, page = page_of(world.api, world.model)
    check_numbers(page, card)
    assert f"It answers worst on slice {worst['slice']}" in page.text


def test_whatever_clients_wrote_is_text_on_the_page(services: Services) -> None:
    world = People(services.start("sqlite").api)
    rows = [
        {"age": i % 7, HOSTILE: ["a", HOSTILE][i % 2], "sick": ["no", HOSTILE][i % 3 % 2]} for i in range(60)
    ]
    world.register(
        rows,
        fields={"person": {"columns": ["age", HOSTILE]}},
        labels={world.task("sick"): {"column": "sick"}},
        splits={"train": 1.0},
    )
    where = {"field": HOSTILE, "op": "==", "value": HOSTILE}
    world.make_model("sick", slices=[{"name": "s", "where": where}])
    world.api.train(world.model, [world.dataset], n_epochs=1)
    card = card_of(world.api, world.model)
    assert sorted(card["tasks"][0]["class_names"]) == sorted(["no", HOSTILE])
    assert card["tasks"][0]["slices"][0]["where"] == where
    text, page = page_of(world.api, world.model)
    assert not page.elements & {"script", "img", "link", "iframe"}
    assert HOSTILE in page.text
    assert "<script" not in text
    assert "http:" not in text
    assert "https:" not in text


def test_what_is_gone_is_said_to_be_missing(shapes: Shapes, api: Api) -> None:
    shapes.make("circle", splits=("train", "test"))
    name, task = shapes.dataset("circle"), shapes.task("circle")
    api.train(shapes.model, [name], n_epochs=1)
    before = card_of(api, shapes.model)
    api.delete(f"/v1/datasets/{name}")
    gone = card_of(api, shapes.model)
    assert {part["missing"] for part in gone["data"]} == {"it was removed since"}
    assert [part["labels"] for part in gone["data"]] == [None, None]
    kept = ("rows", "sha256", "split", "used", "version")
    assert [{name: part[name] for name in kept} for part in gone["data"]] == [
        {name: part[name] for name in kept} for part in before["data"]
    ]
    assert f"How {name}@2, split train, is labelled: it was removed since." in gone["limits"]
    # Another dataset takes the name.
    api.post("/v1/datasets", shapes.split("circle", "train", 64, seed=99))
    api.post("/v1/datasets", shapes.split("circle", "other", 16, seed=98))
    other = {part["split"]: part["missing"] for part in card_of(api, shapes.model)["data"]}
    assert other == {"train": "the data of that name is another now", "test": "it was removed since"}

    # Scored later, on data of that name, by a run of its own.
    scoring = api.post(f"/v1/models/{shapes.model}/versions/1/scores", {"datasets": [f"{name}@2"]}, 202)["id"]
    api.ended(scoring)
    card = card_of(api, shapes.model, 1)
    found = {row["split"]: (row["run"], row["dataset_version"]) for row in card["scores"]}
    assert found["other"] == (scoring, 2)
    assert found["test"] == (card["made_by"]["run"], 2)
    assert ("other", "scored on", scoring) in {
        (part["split"], part["used"], part["run"]) for part in card["data"]
    }
    _, page = page_of(api, shapes.model)
    check_numbers(page, card)
    assert f"task {task} is worse than on the whole" in page.text


def test_json_is_the_form_unless_a_page_is_preferred(shapes: Shapes, api: Api) -> None:
    shapes.make("circle", n=8)
    api.train(shapes.model, [shapes.dataset("circle")], n_epochs=1)
    path = f"/v1/models/{shapes.model}/versions/1/card"
    for accept in ("*/*", "application/json", "text/html;q=0.5, application/json", "image/png"):
        answer = api.call("GET", path, 200, headers={"Accept": accept})
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["vary"] == "Accept"
    api.call("GET", path, 304, headers={"If-None-Match": answer.headers["etag"]})


def test_there_is_no_card_of_what_is_not_there(shapes: Shapes, api: Api) -> None:
    shapes.make("circle", n=8)
    for path in (f"{shapes.model}/versions/1", f"{shapes.model}/versions/champion", "nobody/versions/1"):
        for accept in ("*/*", BROWSER):
            api.call("GET", f"/v1/models/{path}/card", 404, headers={"Accept": accept})
