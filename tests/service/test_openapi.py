"""The OpenAPI document: complete, its examples really work, and the server does what it says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.config import (
    GenerationConfig,
    ProjectConfig,
    ProjectsConfig,
    SchemathesisConfig,
)
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.service.client import PROBLEM_JSON, Api, check_problem
from tests.service.processes import ServerProcess, environment
from tests.service.shapes import ENDLESS

METHODS = ("get", "post", "put", "patch", "delete")
# Operations with boundary cases by the hundred; an upload starts a process, too.
COSTLY = (
    *("POST /v1/models", "POST /v1/models/{model}/runs", "POST /v1/tasks", "POST /v1/datasets"),
    "POST /v1/uploads",
)
# A stream ends with its run only, and a run that was made up may take a hundred thousand epochs.
STREAM = "/v1/runs/{run}/events"
IMPORT = "import_version"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("openapi")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    """A server that nobody has used yet, with its own worker."""
    server = ServerProcess(env=environment(folder / "data"), log=folder / "log")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def fresh(server: ServerProcess) -> Api:
    return Api(server.url())


@pytest.fixture(scope="module")
def unattended(server: ServerProcess, folder: Path) -> Iterator[Api]:
    """The same, but nobody does what is made up by the hundred: a worker would be busy with it for minutes."""
    server.stop()
    other = ServerProcess("--no-worker", env=environment(folder / "data"), log=folder / "log-unattended")
    yield Api(other.url())
    other.stop()


@pytest.fixture(scope="module")
def document(fresh: Api) -> dict[str, Any]:
    return fresh.get("/openapi.json")


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return operations by operation id, each with its method and path."""
    return {
        operation["operationId"]: operation | {"method": method, "path": path}
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    }


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Follow a schema's reference."""
    if "$ref" not in schema:
        return schema
    at: Any = document
    for part in schema["$ref"].removeprefix("#/").split("/"):
        at = at[part]
    return at | {key: value for key, value in schema.items() if key != "$ref"}


def example_of(document: dict[str, Any], operation: dict[str, Any]) -> Any:
    """Return the example that Swagger UI puts into an operation's body."""
    return next(iter(examples_of(document, operation).values()))


def examples_of(document: dict[str, Any], operation: dict[str, Any]) -> dict[str, Any]:
    """Return the examples that Swagger UI offers, by name; a file's is its text."""
    content = next(iter(operation["requestBody"]["content"].values()))
    if "examples" in content:
        return {name: example["value"] for name, example in content["examples"].items()}
    if "example" in content:
        return {"": content["example"]}
    return {"": resolved(document, content["schema"])["examples"][0]}


def test_every_operation_is_described(document: dict[str, Any]) -> None:
    listed = operations(document)
    assert len(listed) == sum(len(item.keys() & set(METHODS)) for item in document["paths"].values())
    components = document["components"]["schemas"]
    assert {"type", "title", "status", "detail", "instance"} <= set(components["ProblemOut"]["required"])
    for name, operation in listed.items():
        assert operation["tags"], name
        assert operation["summary"], name
        assert operation["description"], name
        codes = operation["responses"].keys()
        assert any(code.startswith("2") for code in codes), name
        for code, response in operation["responses"].items():
            if code[0] in "45":
                assert list(response["content"]) == [PROBLEM_JSON], (name, code)
        if "requestBody" in operation:
            assert {"400", "413", "415", "422"} <= codes, name
            # An archive is no text that could stand in a document.
            assert name == IMPORT or example_of(document, operation), name
        if "{" in operation["path"]:
            # What is imported makes its model.
            assert name == IMPORT or {"404", "422"} <= codes, name
        if any(parameter["name"] == "if-match" for parameter in operation.get("parameters", [])):
            assert "412" in codes, name


def test_the_examples_work_one_after_the_other(fresh: Api, document: dict[str, Any]) -> None:
    listed = operations(document)
    filled = {"model": "shapes", "task": "circle_task", "version": "latest", "alias": "default"}

    pressed: set[str] = set()

    def press(name: str, status: int, which: int = 0, query: str = "") -> Any:
        operation = listed[name]
        path = operation["path"].format(**filled) + query
        body = {}
        if "requestBody" in operation:
            pressed.add(name)
            example = list(examples_of(document, operation).values())[which]
            body = {"content": example} if isinstance(example, str) else {"json": example}
        answer = fresh.call(operation["method"].upper(), path, status, **body)
        return answer.json() if answer.headers["content-type"] == "application/json" else answer.content

    press("register_task", 201)
    upload = press("upload_file", 201, query="?filename=people.csv")
    assert press("upload_from", 201)["sha256"] == upload["sha256"]
    for which in (0, 1):
        press("register_dataset", 201, which)
        filled |= {"dataset": ("circleDataset", "people")[which]}
        assert press("append_rows", 201, which)["version"] == 2
    press("create_model", 201)
    press("put_task", 200)
    run = press("start_run", 202)
    assert fresh.ended(run["id"])["model_version"] == 1
    search = press("start_search", 202)
    assert fresh.ended(search["id"])["model_version"] == 2
    assert len(press("predict_task", 200)["preds"]) == 2
    assert press("predict_tasks", 200)["predictions"].keys() == {"circle_task"}
    for name in ("infer", "infer_by_version"):
        assert [output["name"] for output in press(name, 200)["outputs"]] == [
            "circle_task.preds",
            "circle_task.probs",
        ]
    assert press("change_model", 200)["serving"]["max_delay_ms"] == 2
    press("put_alias", 201)
    fresh.ended(press("start_scoring", 202)["id"])
    predicted = fresh.ended(press("start_prediction", 202)["id"])
    exported = fresh.ended(press("start_export", 202)["id"])
    calibrated = fresh.ended(press("start_calibration", 202)["id"])
    assert calibrated["model_version"] == 3
    bundle = fresh.call("GET", exported["result"]["url"], 200).content
    sent = {"content": bundle, "headers": {"Content-Type": "application/zip"}}
    assert fresh.call("POST", "/v1/models/shapes/versions", 201, **sent).json()["model_version"] == 4
    endless = fresh.start("shapes", ["circleDataset"], **ENDLESS)
    fresh.training(endless)
    for status, resumed in (("cancelled", True), ("cancelled", False)):
        fresh.post(f"/v1/runs/{endless}/cancel", status=202)
        fresh.ended(endless, status)
        filled |= {"run": endless}
        if resumed:
            assert press("resume_run", 202)["limits"]["seconds"] == 3600
    assert {name for name, operation in listed.items() if "requestBody" in operation} == {*pressed, IMPORT}
    filled |= {"dataset": "circleDataset", "split": "train", "run": run["id"], "upload": upload["id"]}
    for name, operation in listed.items():
        if operation["method"] == "get" and operation["path"] not in (STREAM, "/metrics"):
            of_its_own = {"get_search": search, "get_run_result": predicted, "get_calibration": calibrated}
            filled["run"] = of_its_own.get(name, run)["id"]
            # The example trains one task, which nothing is shared with.
            press(name, 404 if name == "get_run_verdict" else 200)


def map_path_parameters(_context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Point half of the requests at what is there."""
    known = {"model": "shapes", "task": "circle_task", "dataset": "circleDataset", "split": "train"}
    if not path_parameters or len(str(sorted(path_parameters.items()))) % 2:
        return path_parameters
    return {
        name: known.get(name, "1" if name == "version" else value) for name, value in path_parameters.items()
    }


@schemathesis.serializer(
    "text/csv",
    "application/x-ndjson",
    "application/vnd.apache.parquet",
    "application/vnd.apache.arrow.file",
    "application/zip",
)
def as_file(_context: Any, value: Any) -> bytes:
    """Send any value as the bytes of a file."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


def abridged(document: dict[str, Any]) -> dict[str, Any]:
    """Leave out of the bodies' shapes what would only make more of the same requests, and those by the thousand.

    Predicates hold no further ones; a search's training is tried as that of a run; of the architectures, which are
    much alike, two are left.
    """
    shapes = document["components"]["schemas"]
    forms = {
        f"#/components/schemas/{name}" for name in shapes if name.startswith(("AllOf", "AnyOf", "Negation"))
    }
    for form in forms:
        (member,) = resolved(document, {"$ref": form})["properties"].values()
        holder = member.get("items", member)
        holder["oneOf"] = [inner for inner in holder["oneOf"] if inner["$ref"] not in forms]
    shapes["SearchIn"]["properties"]["train"] = {"type": "object"}
    architecture, _ = shapes["ModelIn"]["properties"]["architecture"]["anyOf"]
    kept = {"mmoe", "attention_pooling"}
    mapping = architecture["discriminator"]["mapping"]
    architecture["discriminator"]["mapping"] = {name: mapping[name] for name in kept}
    architecture["oneOf"] = [{"$ref": mapping[name]} for name in sorted(kept)]
    return document


@pytest.fixture(scope="module")
def schema(document: dict[str, Any]) -> BaseSchema:
    """What requests are made of. It takes seconds, so no process does it that only collects tests."""
    generation = GenerationConfig(deterministic=True)
    project = ProjectConfig(generation=generation, request_timeout=60)
    config = SchemathesisConfig(projects=ProjectsConfig(default=project))
    schema = schemathesis.openapi.from_dict(abridged(deepcopy(document)), config=config)
    schema.hook(map_path_parameters)
    return schema


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    """One connection for all requests, and no look for proxies at each."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


def is_passed_over(case: schemathesis.Case) -> bool:
    """Say whether a request is not sent: of the boundary cases of the costly operations, a third is."""
    is_costly = case.operation.label in COSTLY and case.meta.phase.name == "coverage"
    return is_costly and crc32(repr((case.query, case.body)).encode()) % 3 > 0


@schemathesis.pytest.from_fixture("schema").exclude(path=STREAM).parametrize()
@settings(
    max_examples=5,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_server_does_what_the_document_says(
    unattended: Api, session: requests.Session, case: schemathesis.Case
) -> None:
    if is_passed_over(case):
        return
    response = case.call(base_url=unattended.url, session=session)
    checks = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_schema_conformance,
    ]
    case.validate_response(response, checks=checks)


def test_afterwards_the_server_is_well(unattended: Api) -> None:
    assert unattended.get("/readyz")["status"] == "ready"
    check_problem(unattended.http.get("/v1/nothing"))
