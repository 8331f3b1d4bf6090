"""Versions exported and imported over HTTP: what leaves answers as what stays, and so does what comes back."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime  # pyright: ignore[reportMissingTypeStubs]
import pytest
import torch

from mtl_core import read_bundle
from tests.service.client import unique
from tests.service.conftest import Service, Services, on_sqlite_alone
from tests.service.shapes import Shapes
from tests.service.tables import People, people


@pytest.fixture(scope="module")
def world(service: Service) -> People:
    world = People(service.api)
    world.register(people(200))
    world.make_model("sick", "mood")
    service.api.train(world.model, [world.dataset], n_epochs=2)
    return world


def exported(world: People, **body: Any) -> tuple[dict[str, Any], bytes]:
    """Return the run of an export, and its file."""
    run = world.api.post(f"/v1/models/{world.model}/versions/1/exports", body, 202)["id"]
    ended = world.api.ended(run)
    return ended, world.api.call("GET", ended["result"]["url"], 200).content


def files_of(content: bytes, folder: Path) -> set[str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(folder)
        return set(archive.namelist())


def imported(world: People, content: bytes, model: str, status: int = 201) -> dict[str, Any]:
    headers = {"Content-Type": "application/zip"}
    return world.api.call(
        "POST", f"/v1/models/{model}/versions", status, content=content, headers=headers
    ).json()


def test_a_version_comes_back_as_it_left(world: People) -> None:
    run, content = exported(world)
    assert (run["kind"], run["model_version"]) == ("export", 1)
    assert run["result"]["filename"] == f"{world.model}-1-bundle.zip"
    came = imported(world, content, world.model)
    assert (came["kind"], came["status"], came["model_version"]) == ("import", "succeeded", 2)
    path = f"/v1/models/{world.model}/versions"
    first, second = world.api.get(f"{path}/1"), world.api.get(f"{path}/2")
    assert (second["sha256"], second["tasks"]) == (first["sha256"], first["tasks"])
    assert second["run"] == came["id"]
    record = {"age": 38, "job": "cook", "smokes": True, "joined": "2015-02-11"}
    answers = [
        world.api.post(f"/v1/models/{world.model}/predict", {"records": [record], "version": number}, 200)
        for number in (1, 2)
    ]
    assert answers[0]["predictions"] == answers[1]["predictions"]
    # It can be scored and trained further like any other.
    body = {"datasets": [world.dataset]}
    world.api.ended(world.api.post(f"{path}/2/scores", body, 202)["id"])
    assert world.api.get(f"{path}/2/scores") == world.api.get(f"{path}/1/scores")
    assert world.api.train(world.model, [world.dataset], init_from=2, n_epochs=1) == 3


@on_sqlite_alone
def test_another_service_makes_a_model_of_a_bundle(world: People, services: Services) -> None:
    _, content = exported(world, tasks=[world.task("mood")])
    there = People(services.start("postgresql").api)
    run = imported(there, content, "brought")
    assert there.api.get("/v1/models/brought")["tasks"] == [world.task("mood")]
    assert run["data"] == []
    record = {"age": None, "job": "pilot", "smokes": False, "joined": "2015-02-11"}
    path = f"tasks/{world.task('mood')}/predict"
    theirs = there.api.post(f"/v1/models/brought/{path}", {"records": [record]}, 200)
    ours = world.api.post(f"/v1/models/{world.model}/{path}", {"records": [record], "version": 1}, 200)
    for name in ("preds", "classes", "class_names"):
        assert theirs[name] == ours[name]
    np.testing.assert_allclose(theirs["probs"], ours["probs"], atol=1e-6)


@on_sqlite_alone
def test_programs_and_onnx_files_answer_as_the_service_does(world: People, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    shapes = Shapes(world.api)
    shapes.add("circle")
    world.api.post("/v1/models", {"name": shapes.model, "tasks": [shapes.task("circle")]})
    world.api.train(shapes.model, [shapes.dataset("circle")], n_epochs=1)
    task = shapes.task("circle")
    asked = {"inputs": {"circle_data": rows.tolist()}, "return": ["probs", "logits", "preds"]}
    ours = world.api.post(f"/v1/models/{shapes.model}/tasks/{task}/predict", asked, 200)
    path = f"/v1/models/{shapes.model}/versions/1/exports"
    for form, file in (("program", "model.pt2"), ("onnx", "model.onnx")):
        run = world.api.ended(world.api.post(path, {"format": form}, 202)["id"])
        content = world.api.call("GET", run["result"]["url"], 200).content
        folder = tmp_path / form
        assert files_of(content, folder) == {file, "README.md", "preprocessing.json"}
        if form == "program":
            answered = torch.export.load(folder / file).module()({"circle_data": torch.from_numpy(rows)})
            theirs: dict[str, Any] = {
                kind: answered[f"{task}.{kind}"].numpy() for kind in ("probs", "logits", "preds")
            }
        else:
            session = onnxruntime.InferenceSession(folder / file)
            names = [f"{task}.{kind}" for kind in ("probs", "logits", "preds")]
            found: list[Any] = cast("list[Any]", session.run(names, {"circle_data": rows}))
            theirs = dict(zip(("probs", "logits", "preds"), found, strict=True))
            logged = [e["data"]["message"] for e in world.api.events(run["id"]) if e["event"] == "log"]
            assert any("onnxruntime answers as the model does" in line for line in logged)
        for kind, values in theirs.items():
            np.testing.assert_allclose(values, ours[kind], atol=1e-5)


@on_sqlite_alone
def test_an_export_of_some_tasks_has_just_what_they_need(world: People, tmp_path: Path) -> None:
    _, content = exported(world, tasks=[world.task("sick")])
    (tmp_path / "bundle.zip").write_bytes(content)
    bundle = read_bundle(tmp_path / "bundle.zip")
    assert [spec.name for spec in bundle.specs] == [world.task("sick")]
    assert {key.partition("/")[0] for key in bundle.weights} == {"trunk", "sick_head"}
    assert set(json.loads(bundle.preprocessing or "")["class_names"]) == {world.task("sick")}


@on_sqlite_alone
def test_what_cannot_be_exported_is_refused(world: People) -> None:
    path = f"/v1/models/{world.model}/versions"
    problem = world.api.post(f"{path}/1/exports", {"tasks": ["none"]}, 422)
    assert problem["errors"][0]["pointer"] == "/tasks/0"
    assert world.api.post(f"{path}/1/exports", {"format": "pickle"}, 422)
    assert world.api.post(f"{path}/99/exports", {}, 404)


@on_sqlite_alone
def test_what_is_no_bundle_is_refused_and_leaves_nothing(world: People) -> None:
    _, content = exported(world)
    name = unique("m")

    def detail(content: bytes) -> str:
        return imported(world, content, name, 422)["detail"]

    assert "no zip archive" in detail(b"PK\x03\x04 and then nothing")
    assert "damaged" in detail(content[: len(content) // 2])

    def changed(of: str, change: Callable[[bytes], bytes]) -> bytes:
        made = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
            for entry in old.namelist():
                data = old.read(entry)
                new.writestr(entry, change(data) if entry == of else data)
        return made.getvalue()

    def without_end(data: bytes) -> bytes:
        return data[:-8]

    def with_names(data: bytes) -> bytes:
        known = json.loads(data)
        known["class_names"][world.task("mood")] = ["good", "bad", "none at all"]
        return json.dumps(known).encode()

    def with_evil_module(data: bytes) -> bytes:
        return data.replace(b'"Linear"', b'"os.system"')

    assert "names of 3" in detail(changed("preprocessing.json", with_names))
    assert "os.system" in detail(changed("spec.json", with_evil_module))
    assert "weights.safetensors" in detail(changed("weights.safetensors", without_end))
    world.api.get(f"/v1/models/{name}", 404)
    other = Shapes(world.api)
    other.add("circle")
    world.api.post("/v1/models", {"name": other.model, "tasks": [other.task("circle")]})
    assert "none of the bundle's tasks" in imported(world, content, other.model, 409)["detail"]
    # The tasks are registered here without the sizes that came with the data.
    assert f"make model '{name}'" in imported(world, content, name, 409)["detail"]
