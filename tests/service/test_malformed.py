"""Malformed requests by hand: each is answered with a 4xx problem that says what is wrong and where; no harm done."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.service.client import Api, check_problem
from tests.service.conftest import Service
from tests.service.shapes import Shapes, mlp

JSON = {"Content-Type": "application/json"}
DROP = object()


@dataclass
class Bad:
    """A malformed request and what its answer must say.

    Attributes:
        name: What is malformed.
        method: HTTP method.
        path: Path, ``{model}``, ``{task}``, ``{dataset}`` and ``{run}`` filled in.
        body: JSON value, or bytes sent as they are.
        status: The answer's status.
        pointer: Pointer or parameter of the first fault of a 422; None where any will do.
        headers: Sent in addition.
        says: What the detail of the answer contains.
    """

    name: str
    method: str
    path: str
    body: Any = None
    status: int = 422
    pointer: str | None = None
    headers: dict[str, str] = field(default_factory=dict[str, str])
    says: str = ""


TASK: dict[str, Any] = {
    "name": "bad-task",
    "module_pool": {"base": mlp(2, 8, 4), "head": {"type": "Linear", "in_features": 4, "out_features": 2}},
    "op_sequence": [
        {"name": "base", "module_name": "base", "inputs": [["_input_", "xy"]]},
        {"name": "head", "module_name": "head", "inputs": ["base"]},
    ],
}
SPLIT: dict[str, Any] = {
    "name": "bad-dataset",
    "split": "train",
    "X_dict": {"xy": [[0.1, 0.2], [0.3, 0.4]]},
    "Y_dict": {"bad-task": [0, 1]},
}


def changed(whole: dict[str, Any], pointer: str, value: Any) -> dict[str, Any]:
    """Return a body with the value at a pointer replaced, added or dropped."""
    whole = deepcopy(whole)
    *parents, last = pointer.removeprefix("/").split("/")
    at: Any = whole
    for part in parents:
        at = at[int(part) if isinstance(at, list) else part]
    key = int(last) if isinstance(at, list) else last
    if value is DROP:
        del at[key]
    else:
        at[key] = value
    return whole


def nested(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def raw(body: dict[str, Any], placeholder: str, text: str) -> bytes:
    """Return a body's JSON with a placeholder string replaced by a text that no JSON library would write."""
    return json.dumps(body).replace(f'"{placeholder}"', text).encode()


def task(name: str, pointer: str, value: Any, at: str | None = None, says: str = "") -> Bad:
    return Bad(
        f"task {name}", "POST", "/v1/tasks", changed(TASK, pointer, value), 422, at or pointer, says=says
    )


def module(name: str, spec: Any, at: str = "", says: str = "") -> Bad:
    return task(f"module {name}", "/module_pool/base", spec, f"/module_pool/base{at}", says)


def split(name: str, pointer: str, value: Any, at: str | None = None, says: str = "") -> Bad:
    return Bad(
        f"split {name}", "POST", "/v1/datasets", changed(SPLIT, pointer, value), 422, at or pointer, says=says
    )


def number(name: str, text: str, status: int = 422, pointer: str | None = "/X_dict/xy/1/0") -> Bad:
    body = raw(changed(SPLIT, "/X_dict/xy/1/0", "HERE"), "HERE", text)
    return Bad(f"number {name}", "POST", "/v1/datasets", body, status, pointer, JSON)


def trainer(name: str, setting: dict[str, Any], at: str | None = None) -> Bad:
    pointer = at or "/trainer/" + next(iter(setting))
    body = {"datasets": ["{dataset}"], "trainer": setting}
    return Bad(f"trainer {name}", "POST", "/v1/models/{model}/runs", body, 422, pointer)


def run(name: str, body: Any, pointer: str, path: str = "/v1/models/{model}/runs", status: int = 422) -> Bad:
    return Bad(f"run {name}", "POST", path, body, status, pointer)


def predict(name: str, body: Any, pointer: str | None, status: int = 422, **options: Any) -> Bad:
    return Bad(
        f"predict {name}", "POST", "/v1/models/{model}/tasks/{task}/predict", body, status, pointer, **options
    )


def several(name: str, body: Any, pointer: str | None, status: int = 422) -> Bad:
    return Bad(f"predict several, {name}", "POST", "/v1/models/{model}/predict", body, status, pointer)


def get(name: str, path: str, status: int = 422, pointer: str | None = None, **headers: str) -> Bad:
    return Bad(f"get {name}", "GET", path, None, status, pointer, headers=headers)


def content(name: str, body: bytes, status: int, path: str = "/v1/tasks", **headers: str) -> Bad:
    return Bad(f"content {name}", "POST", path, body, status, None, JSON | headers)


LINEAR = {"type": "Linear", "in_features": 2, "out_features": 4}
GOOD_INPUT = {"circle_data": [[0.1, 0.2]]}
DEEP_SEQUENTIAL: Any = LINEAR
for _ in range(100):
    DEEP_SEQUENTIAL = {"type": "Sequential", "layers": [DEEP_SEQUENTIAL]}

CASES = [
    # What is no JSON, or not declared as JSON.
    content("empty", b"", 422),
    content("text", b"hello", 400),
    content("half", json.dumps(TASK).encode()[:-20], 400),
    content("trailing", json.dumps(TASK).encode() + b"}", 400),
    content("single quotes", b"{'name': 'x'}", 400),
    content("comment", b'{"name": "x" /* why not */}', 400),
    content("trailing comma", b'{"name": "x",}', 400),
    content("byte order mark", b"\xef\xbb\xbf" + json.dumps(TASK).encode(), 400),
    content("utf-16", json.dumps(TASK).encode("utf-16"), 400),
    content("invalid utf-8", b'{"name": "\xff\xfe"}', 400),
    content("lone surrogate", b'{"name": "\\ud800"}', 400),
    content("control character", b'{"name": "a\x00b"}', 400),
    content("NaN", raw(changed(TASK, "/loss", "HERE"), "HERE", "NaN"), 400),
    content("Infinity", raw(changed(TASK, "/loss", "HERE"), "HERE", "-Infinity"), 400),
    content("leading zero", raw(changed(TASK, "/loss", "HERE"), "HERE", "007"), 400),
    content("plus sign", raw(changed(TASK, "/loss", "HERE"), "HERE", "+1"), 400),
    content("hexadecimal", raw(changed(TASK, "/loss", "HERE"), "HERE", "0x10"), 400),
    content("100,000 brackets", b"[" * 100_000, 400),
    content("100,000 nested lists", b"[" * 100_000 + b"]" * 100_000, 400),
    content("100,000 nested objects", b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 400),
    content("null", b"null", 422),
    content("a list", b"[]", 422),
    content("a string", b'"circle_task"', 422),
    content("a number", b"1", 422),
    content("an empty object", b"{}", 422),
    content("duplicate keys, the last one wrong", b'{"name": "a", "name": 1}', 422),
    content("idempotency key too long", json.dumps(TASK).encode(), 422, **{"Idempotency-Key": "k" * 256}),
    content("idempotency key empty", json.dumps(TASK).encode(), 422, **{"Idempotency-Key": ""}),
    *(
        Bad(f"media type {kind!r}", "POST", "/v1/tasks", b"name=x", 415, None, {"Content-Type": kind})
        for kind in (
            *("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ";"),
            *("application/xml", "application/jsonp", "application/octet-stream", "json", "text/json"),
        )
    ),
    Bad("media type none", "POST", "/v1/tasks", b"{}", 415),
    # Task specs.
    *(task(f"without {name}", f"/{name}", DROP) for name in ("name", "module_pool", "op_sequence")),
    task("name number", "/name", 1),
    task("name null", "/name", None),
    task("name empty", "/name", ""),
    task("name path traversal", "/name", "../../etc/passwd"),
    task("name with slash", "/name", "a/b"),
    task("name with NUL", "/name", "a\0b"),
    task("name with newline at the end", "/name", "a\n"),
    task("name with space", "/name", "a b"),
    task("name unicode", "/name", "größe"),
    task("name with dot first", "/name", ".hidden"),
    task("name of 129 characters", "/name", "a" * 129),
    task("unknown field", "/colour", "blue"),
    task("module pool a list", "/module_pool", []),
    task("module pool empty", "/module_pool", {}),
    task("module pool with a bad name", "/module_pool/__class__", LINEAR, "/module_pool/__class__"),
    task("module pool with null", "/module_pool/base", None),
    task("module pool with a string", "/module_pool/base", "Linear"),
    task("operations an object", "/op_sequence", {}),
    task("operations empty", "/op_sequence", []),
    task("operations of strings", "/op_sequence/0", "base"),
    task("operation unknown field", "/op_sequence/0/colour", 1),
    task("operation without module", "/op_sequence/0/module_name", DROP),
    task("operation of unknown module", "/op_sequence/1/module_name", "tail", says="'tail'"),
    task("operation inputs missing", "/op_sequence/0/inputs", DROP),
    task("operation inputs empty", "/op_sequence/0/inputs", []),
    task("operation inputs a string", "/op_sequence/0/inputs", "xy"),
    task("operation input number", "/op_sequence/0/inputs/0", 5),
    task("operation input of three", "/op_sequence/0/inputs/0", ["_input_", "xy", "z"]),
    task("operation input of one", "/op_sequence/0/inputs/0", ["_input_"]),
    task("operation input null index", "/op_sequence/1/inputs/0", ["base", None], "/op_sequence/1/inputs/0"),
    task("operation input float index", "/op_sequence/1/inputs/0", ["base", 0.5], "/op_sequence/1/inputs/0"),
    task("operation input huge index", "/op_sequence/1/inputs/0", ["base", 2**40], "/op_sequence/1/inputs/0"),
    task("operation input field number", "/op_sequence/0/inputs/0", ["_input_", 0]),
    task("operation input unknown", "/op_sequence/1/inputs/0", "nothing", says="'nothing'"),
    task("operation reads itself", "/op_sequence/1/inputs/0", "head"),
    task("operation index of a tensor by name", "/op_sequence/1/inputs/0", ["base", "key"], "/op_sequence/1"),
    task("operations of one name", "/op_sequence/1/name", "base"),
    task("no field read", "/op_sequence/0/inputs/0", "head", "/op_sequence/0/inputs/0"),
    task(
        "sizes that do not meet",
        "/module_pool/head/in_features",
        8,
        "/op_sequence/1",
        says="operation 'head'",
    ),
    task("loss unknown", "/loss", "hope", says="'hope'"),
    task("loss number", "/loss", 3),
    task("loss null", "/loss", None),
    task("loss without type", "/loss", {"label_smoothing": 0.1}, "/loss/type"),
    task("loss unknown argument", "/loss", {"type": "cross_entropy", "x": 1}, "/loss/x"),
    task("loss bad argument", "/loss", {"type": "cross_entropy", "label_smoothing": 7}, "/loss"),
    task(
        "loss boolean argument",
        "/loss",
        {"type": "cross_entropy", "label_smoothing": True},
        "/loss/label_smoothing",
    ),
    task("loss dunder", "/loss", "__init__"),
    task("output unknown", "/output", "guess"),
    task("metrics empty", "/metrics", []),
    task("metrics a string", "/metrics", "accuracy"),
    task("metric unknown", "/metrics", ["luck"], "/metrics/0"),
    task("metric twice", "/metrics", ["accuracy", "accuracy"], "/metrics/1"),
    task("metrics 1,000", "/metrics", ["accuracy"] * 1000),
    task("input shapes a list", "/inputs", []),
    task("input shape of unread field", "/inputs", {"other": {"shape": [2]}}, "/inputs/other"),
    task("input shape negative", "/inputs", {"xy": {"shape": [-2]}}, "/inputs/xy/shape/0"),
    task("input shape zero", "/inputs", {"xy": {"shape": [0]}}, "/inputs/xy/shape/0"),
    task("input shape huge", "/inputs", {"xy": {"shape": [10**30]}}, "/inputs/xy/shape/0"),
    task("input shape boolean", "/inputs", {"xy": {"shape": [True]}}, "/inputs/xy/shape/0"),
    task("input shape of 9 dimensions", "/inputs", {"xy": {"shape": [1] * 9}}, "/inputs/xy/shape"),
    task(
        "input shape that does not suit", "/inputs", {"xy": {"shape": [3]}}, "/op_sequence/0", says="'base'"
    ),
    task("input dtype unknown", "/inputs", {"xy": {"shape": [2], "dtype": "complex64"}}, "/inputs/xy/dtype"),
    # Module specs.
    module("without type", {"in_features": 2}, "/type"),
    module("type number", {"type": 1}, "/type"),
    module("type unknown", {"type": "Lniear", "in_features": 2, "out_features": 4}, "/type", "Linear"),
    module("type of torch, not listed", {"type": "Module"}, "/type"),
    module("type dunder", {"type": "__import__"}, "/type"),
    module("type dotted", {"type": "os.system", "command": "true"}, "/type"),
    module("type of 1 MiB", {"type": "x" * 2**20}, "/type"),
    module("argument missing", {"type": "Linear", "in_features": 2}, "/out_features"),
    module("argument unknown", LINEAR | {"colour": 1}, "/colour"),
    module("argument dunder", LINEAR | {"__class__": "x"}, "/__class__"),
    module("argument device", LINEAR | {"device": "cuda"}, "/device"),
    module("argument string", LINEAR | {"in_features": "2"}, "/in_features"),
    module("argument float", LINEAR | {"in_features": 2.5}, "/in_features"),
    module("argument boolean", LINEAR | {"in_features": True}, "/in_features"),
    module("argument null", LINEAR | {"in_features": None}, "/in_features"),
    module("argument list", LINEAR | {"in_features": [2]}, "/in_features"),
    module("argument 10^30", LINEAR | {"in_features": 10**30}, "/in_features"),
    module("negative size", LINEAR | {"out_features": -4}, "/out_features"),
    module("2^31 by 2^31", {"type": "Linear", "in_features": 2**31, "out_features": 2**31}, "/in_features"),
    module("too many parameters", {"type": "Linear", "in_features": 2**31 - 1, "out_features": 2**31 - 1}),
    module("embedding of 10^9 rows", {"type": "Embedding", "num_embeddings": 10**9, "embedding_dim": 1000}),
    module("dropout of 2", {"type": "Dropout", "p": 2}),
    module("sequential without layers", {"type": "Sequential"}, "/layers"),
    module("sequential of an object", {"type": "Sequential", "layers": {"a": LINEAR}}, "/layers"),
    module("sequential of strings", {"type": "Sequential", "layers": ["Linear", 3]}, "/layers"),
    module(
        "sequential with a wrong layer",
        {"type": "Sequential", "layers": [LINEAR, {"type": "Nope"}]},
        "/layers/1/type",
    ),
    Bad(
        "module nested 100 deep",
        "POST",
        "/v1/tasks",
        changed(TASK, "/module_pool/base", DEEP_SEQUENTIAL),
        422,
    ),
    Bad(
        "module of 10,000 layers",
        "POST",
        "/v1/tasks",
        changed(TASK, "/module_pool/base", {"type": "Sequential", "layers": [{"type": "ReLU"}] * 10_000}),
        422,
        "/module_pool/base",
    ),
    module(
        "transformer of 10^6 layers",
        {
            "type": "TransformerEncoder",
            "encoder_layer": {"type": "TransformerEncoderLayer", "d_model": 2, "nhead": 1},
            "num_layers": 10**6,
        },
        "/num_layers",
    ),
    # Splits of datasets.
    *(split(f"without {name}", f"/{name}", DROP) for name in ("name", "split", "X_dict")),
    split("name path traversal", "/name", "../../x"),
    split("split empty", "/split", ""),
    split("split with slash", "/split", "a/b"),
    split("unknown field", "/sources", {"upload": "upl_x"}),
    split("X a list", "/X_dict", [[1, 2]]),
    split("X empty", "/X_dict", {}),
    split("X null", "/X_dict", None),
    split("field with a bad name", "/X_dict/a b", [1, 2], "/X_dict/a b"),
    split("values a number", "/X_dict/xy", 5),
    split("values a string", "/X_dict/xy", "0.1"),
    split("values an object", "/X_dict/xy", {"0": [1, 2]}),
    split("values empty", "/X_dict/xy", []),
    split("value null", "/X_dict/xy/1/0", None),
    split("value a string", "/X_dict/xy/1/0", "0.5"),
    split("value a string of 10 MB", "/X_dict/xy/1/0", "x" * 10**7),
    split("value an object", "/X_dict/xy/1/0", {"a": 1}),
    split("value a list", "/X_dict/xy/1/0", [1]),
    split("first value a string", "/X_dict/xy/0/0", "0.5"),
    split("row a number", "/X_dict/xy/1", 1),
    split("row empty", "/X_dict/xy/1", []),
    split("all rows empty", "/X_dict/xy", [[], []], "/X_dict/xy/0"),
    split("row too short", "/X_dict/xy/1", [1]),
    split("row too long", "/X_dict/xy/1", [1, 2, 3]),
    split("row null", "/X_dict/xy/1", None),
    split("ragged deep inside", "/X_dict/xy", [[[1, 2], [3, 4]], [[1, 2], [3]]], "/X_dict/xy/1/1"),
    split("nested 9 deep", "/X_dict/xy", nested(1.0, 10), "/X_dict/xy"),
    Bad("split nested 500 deep", "POST", "/v1/datasets", changed(SPLIT, "/X_dict/xy", nested(1.0, 500)), 422),
    split("10^39, above float32", "/X_dict/xy/1/0", 10**39),
    split("labels of another length", "/Y_dict/bad-task", [0]),
    split("labels empty", "/Y_dict/bad-task", []),
    split("labels a number", "/Y_dict/bad-task", 1),
    split("labels of strings", "/Y_dict/bad-task", ["yes", "no"], "/Y_dict/bad-task/0"),
    split("label a string", "/Y_dict/bad-task/1", "1"),
    split("labels ragged", "/Y_dict/bad-task", [[0, 1], [0]], "/Y_dict/bad-task/1"),
    split("labels nested 1,000 deep", "/Y_dict/bad-task", nested(0, 200), "/Y_dict/bad-task"),
    split("labels a list", "/Y_dict", [0, 1]),
    split("labels of a bad task", "/Y_dict/..", [0, 1], "/Y_dict/.."),
    number("NaN", "NaN", 400),
    number("Infinity", "Infinity", 400),
    number("1e400", "1e400", 400),
    number("1e39, above float32", "1e39"),
    number("10^400 written out", "1" + "0" * 400, 400),
    number("octal", "0o7", 400),
    number("minus alone", "-", 400),
    number("true among fractions as a string", '"true"'),
    # Models.
    Bad("model without tasks", "POST", "/v1/models", {"name": "m"}, 422, "/tasks"),
    Bad("model of no task", "POST", "/v1/models", {"name": "m", "tasks": []}, 422, "/tasks"),
    Bad(
        "model of an unknown task",
        "POST",
        "/v1/models",
        {"name": "m", "tasks": ["{task}", "nope"]},
        422,
        "/tasks/1",
    ),
    Bad(
        "model of a task twice",
        "POST",
        "/v1/models",
        {"name": "m", "tasks": ["{task}", "{task}"]},
        422,
        "/tasks/1",
    ),
    Bad("model tasks a string", "POST", "/v1/models", {"name": "m", "tasks": "{task}"}, 422, "/tasks"),
    Bad("model tasks of numbers", "POST", "/v1/models", {"name": "m", "tasks": [1]}, 422, "/tasks/0"),
    Bad("model of 5,000 tasks", "POST", "/v1/models", {"name": "m", "tasks": ["a"] * 5000}, 422, "/tasks"),
    Bad("model unknown field", "POST", "/v1/models", {"name": "m", "tasks": ["{task}"], "x": 1}, 422, "/x"),
    Bad("model takes an unknown task", "POST", "/v1/models/{model}/tasks", {"task": "nope"}, 422, "/task"),
    Bad("model takes a number", "POST", "/v1/models/{model}/tasks", {"task": 7}, 422, "/task"),
    Bad("unknown model takes a task", "POST", "/v1/models/nope/tasks", {"task": "{task}"}, 404),
    Bad("take the only task off", "DELETE", "/v1/models/{model}/tasks/{task}", None, 409),
    Bad("take an unknown task off", "DELETE", "/v1/models/{model}/tasks/nope", None, 404),
    Bad("alias without version", "PUT", "/v1/models/{model}/aliases/best", {}, 422, "/version"),
    Bad("alias of version 0", "PUT", "/v1/models/{model}/aliases/best", {"version": 0}, 422, "/version"),
    Bad(
        "alias of an unknown version",
        "PUT",
        "/v1/models/{model}/aliases/best",
        {"version": 99},
        422,
        "/version",
    ),
    Bad(
        "alias of version 2^63", "PUT", "/v1/models/{model}/aliases/best", {"version": 2**63}, 422, "/version"
    ),
    Bad("alias of a fraction", "PUT", "/v1/models/{model}/aliases/best", {"version": 1.5}, 422, "/version"),
    Bad("alias latest", "PUT", "/v1/models/{model}/aliases/latest", {"version": 1}, 409),
    Bad("alias that reads as a number", "PUT", "/v1/models/{model}/aliases/7", {"version": 1}, 409),
    Bad("remove an unknown alias", "DELETE", "/v1/models/{model}/aliases/best", None, 404),
    # Runs.
    run("without datasets", {}, "/datasets"),
    run("of no dataset", {"datasets": []}, "/datasets"),
    run("datasets a string", {"datasets": "{dataset}"}, "/datasets"),
    run("of an unknown dataset", {"datasets": ["{dataset}", "nope"]}, "/datasets/1"),
    run("of a dataset twice", {"datasets": ["{dataset}", "{dataset}"]}, "/datasets/1"),
    run("from version 0", {"datasets": ["{dataset}"], "init_from": 0}, "/init_from"),
    run("from version 99", {"datasets": ["{dataset}"], "init_from": 99}, "/init_from"),
    run("from an unknown alias", {"datasets": ["{dataset}"], "init_from": "best"}, "/init_from"),
    run("from a list", {"datasets": ["{dataset}"], "init_from": [1]}, "/init_from"),
    run("unknown field", {"datasets": ["{dataset}"], "gpu": True}, "/gpu"),
    run("of an unknown model", {"datasets": ["{dataset}"]}, "", "/v1/models/nope/runs", 404),
    run("of a model with a bad name", {"datasets": ["{dataset}"]}, "model", "/v1/models/a%20b/runs"),
    Bad("scoring without datasets", "POST", "/v1/models/{model}/versions/1/scores", {}, 422, "/datasets"),
    Bad(
        "scoring of an unknown version",
        "POST",
        "/v1/models/{model}/versions/99/scores",
        {"datasets": ["{dataset}"]},
        404,
    ),
    Bad("cancel an unknown run", "POST", "/v1/runs/run_01KD8Z6Y0000000000000000AB/cancel", None, 404),
    Bad("cancel what is no run", "POST", "/v1/runs/nope/cancel", None, 404),
    Bad("cancel a run that is over", "POST", "/v1/runs/{run}/cancel", None, 409),
    Bad("resume a run that succeeded", "POST", "/v1/runs/{run}/resume", None, 409),
    trainer("null", {"lr": None}),
    trainer("negative lr", {"lr": -0.1}),
    trainer("lr of 0", {"lr": 0}),
    trainer("lr a string", {"lr": "0.1"}),
    trainer("lr a boolean", {"lr": True}),
    trainer("no epoch", {"n_epochs": 0}),
    trainer("10^9 epochs", {"n_epochs": 10**9}),
    trainer("half an epoch", {"n_epochs": 0.5}),
    trainer("seed negative", {"seed": -1}),
    trainer("seed of 2^70", {"seed": 2**70}),
    trainer("batch of 0", {"batch_size": 0}),
    trainer("batch of 10^9", {"batch_size": 10**9}),
    trainer("unknown optimizer", {"optimizer": "hope"}),
    trainer("unknown scheduler", {"lr_scheduler": "cosmic"}),
    trainer("unknown setting", {"learning_rate": 0.1}),
    trainer(
        "unknown setting within",
        {"optimizer_config": {"adam_config": {"x": 1}}},
        "/trainer/optimizer_config/adam_config/x",
    ),
    trainer(
        "betas of one",
        {"optimizer_config": {"adam_config": {"betas": [0.9]}}},
        "/trainer/optimizer_config/adam_config/betas/1",
    ),
    trainer(
        "beta of 1",
        {"optimizer_config": {"adam_config": {"betas": [0.9, 1]}}},
        "/trainer/optimizer_config/adam_config/betas/1",
    ),
    trainer("negative clip", {"grad_clip": -1}),
    trainer("split a number", {"train_split": 1}),
    trainer("split of no dataset", {"train_split": "nope"}, "/datasets"),
    # Predictions.
    predict("without inputs", {}, ""),
    predict("inputs a list", {"inputs": [[1, 2]]}, "/inputs"),
    predict("inputs empty", {"inputs": {}}, "/inputs"),
    predict("no row", {"inputs": {"circle_data": []}}, "/inputs/circle_data"),
    predict("field missing", {"inputs": {"other": [[1, 2]]}}, "/inputs", says="circle_data"),
    predict("field unknown", {"inputs": GOOD_INPUT | {"other": [[1, 2]]}}, "/inputs/other"),
    predict("rows too wide", {"inputs": {"circle_data": [[1, 2, 3]]}}, "/inputs/circle_data"),
    predict("rows of numbers", {"inputs": {"circle_data": [1, 2]}}, "/inputs/circle_data"),
    predict("rows too deep", {"inputs": {"circle_data": [[[1, 2]]]}}, "/inputs/circle_data"),
    predict("rows ragged", {"inputs": {"circle_data": [[1, 2], [1]]}}, "/inputs/circle_data/1"),
    predict("null", {"inputs": {"circle_data": [[1, None]]}}, "/inputs/circle_data/0/1"),
    predict("string", {"inputs": {"circle_data": [[1, "2"]]}}, "/inputs/circle_data/0/1"),
    predict("above float32", {"inputs": {"circle_data": [[1, 1e39]]}}, "/inputs/circle_data/0/1"),
    predict("10^39", {"inputs": {"circle_data": [[1, 10**39]]}}, "/inputs/circle_data/0/1"),
    predict("nested 500 deep", {"inputs": {"circle_data": nested(1, 500)}}, None),
    predict("unknown version", {"inputs": GOOD_INPUT, "version": 99}, None, 404),
    predict("unknown alias", {"inputs": GOOD_INPUT, "version": "best"}, None, 404),
    predict("version of 30 digits", {"inputs": GOOD_INPUT, "version": "1" * 30}, None, 404),
    predict("version 0", {"inputs": GOOD_INPUT, "version": 0}, "/version"),
    predict("version 2^64", {"inputs": GOOD_INPUT, "version": 2**64}, "/version"),
    predict("version null", {"inputs": GOOD_INPUT, "version": None}, "/version"),
    predict("version boolean", {"inputs": GOOD_INPUT, "version": True}, "/version"),
    predict("version with a slash", {"inputs": GOOD_INPUT, "version": "../1"}, "/version"),
    predict("return unknown", {"inputs": GOOD_INPUT, "return": ["gradients"]}, "/return/0"),
    predict("return empty", {"inputs": GOOD_INPUT, "return": []}, "/return"),
    predict("return a string", {"inputs": GOOD_INPUT, "return": "preds"}, "/return"),
    predict("unknown setting", {"inputs": GOOD_INPUT, "temperature": 1}, "/temperature"),
    several("task unknown", {"inputs": GOOD_INPUT, "tasks": ["nope"]}, None, 404),
    several("tasks empty", {"inputs": GOOD_INPUT, "tasks": []}, "/tasks"),
    several("tasks a string", {"inputs": GOOD_INPUT, "tasks": "{task}"}, "/tasks"),
    several("tasks of null", {"inputs": GOOD_INPUT, "tasks": [None]}, "/tasks/0"),
    Bad(
        "predict for an unknown task",
        "POST",
        "/v1/models/{model}/tasks/nope/predict",
        {"inputs": GOOD_INPUT},
        404,
    ),
    Bad("predict for an unknown model", "POST", "/v1/models/nope/predict", {"inputs": GOOD_INPUT}, 404),
    # Paths, queries, headers, methods.
    get("unknown route", "/v1/nothing", 404),
    get("unknown route below", "/v1/tasks/a/b/c", 404),
    get("another version of the API", "/v9/tasks", 404),
    get("unknown task", "/v1/tasks/nope", 404),
    get("unknown dataset", "/v1/datasets/nope", 404),
    get("unknown split", "/v1/datasets/{dataset}/nope/rows", 404),
    get("unknown model", "/v1/models/nope", 404),
    get("unknown version", "/v1/models/{model}/versions/99", 404),
    get("version of 40 digits", "/v1/models/{model}/versions/" + "9" * 40, 404),
    get("version in other digits", "/v1/models/{model}/versions/%D9%A1", 422, "version"),
    get("path traversal", "/v1/tasks/..%2f..%2fetc%2fpasswd", 404),
    get("path traversal in a name", "/v1/tasks/..", 404),
    get("dots encoded", "/v1/tasks/%2e%2e%2e", 422, "task"),
    get("NUL in a path", "/v1/tasks/a%00b", 422, "task"),
    get("newline in a path", "/v1/tasks/a%0A", 422, "task"),
    get("invalid utf-8 in a path", "/v1/tasks/%ff%fe", 422, "task"),
    get("unicode in a path", "/v1/tasks/gr%C3%B6%C3%9Fe", 422, "task"),
    get("name of 129 characters", "/v1/models/" + "a" * 129, 422, "model"),
    get("run that is none", "/v1/runs/run_1", 404),
    get("run in small letters", "/v1/runs/run_01kd8z6y0000000000000000ab", 404),
    get("unknown run", "/v1/runs/run_01KD8Z6Y0000000000000000AB", 404),
    get("metrics of an unknown run", "/v1/runs/run_01KD8Z6Y0000000000000000AB/metrics", 404),
    get("events of an unknown run", "/v1/runs/run_01KD8Z6Y0000000000000000AB/events", 404),
    get("events after nonsense", "/v1/runs/{run}/events", 422, "last-event-id", **{"Last-Event-ID": "abc"}),
    get("events after -1", "/v1/runs/{run}/events", 422, "last-event-id", **{"Last-Event-ID": "-1"}),
    get(
        "events after 10^30",
        "/v1/runs/{run}/events",
        422,
        "last-event-id",
        **{"Last-Event-ID": "1" + "0" * 30},
    ),
    get("limit of 0", "/v1/tasks?limit=0", 422, "limit"),
    get("limit of 1001", "/v1/models?limit=1001", 422, "limit"),
    get("limit negative", "/v1/runs?limit=-5", 422, "limit"),
    get("limit a word", "/v1/scores?limit=many", 422, "limit"),
    get("limit of 10^30", "/v1/datasets?limit=1" + "0" * 30, 422, "limit"),
    get("limit with NUL", "/v1/tasks?limit=1%00", 422, "limit"),
    get("cursor nonsense", "/v1/tasks?cursor=%21%21", 422, "cursor"),
    get("cursor empty", "/v1/tasks?cursor=", 422, "cursor"),
    get("cursor of bad utf-8", "/v1/tasks?cursor=_____w", 422, "cursor"),
    get("cursor with NUL", "/v1/tasks?cursor=YQBi", 422, "cursor"),
    get("cursor unicode", "/v1/models?cursor=%C3%A9", 422, "cursor"),
    get("cursor too long", "/v1/models?cursor=" + "a" * 300, 422, "cursor"),
    get("cursor of another list", "/v1/scores?cursor=YWJj", 422, "cursor"),
    get("cursor beyond 64 bits", "/v1/scores?cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5", 422, "cursor"),
    get("scores of a bad version", "/v1/scores?version=first", 422, "version"),
    get("scores of version 2^40", f"/v1/scores?version={2**40}", 422, "version"),
    get("scores of a bad name", "/v1/scores?task=a%00b", 422, "task"),
    get("runs of a bad name", "/v1/runs?model=a%00b", 422, "model"),
    get("runs of a bad status", "/v1/runs?status=done", 422, "status"),
    get("rows before the first", "/v1/datasets/{dataset}/train/rows?offset=-1", 422, "offset"),
    get("rows after 10^30", "/v1/datasets/{dataset}/train/rows?offset=1" + "0" * 30, 422, "offset"),
    Bad("delete of another state", "DELETE", "/v1/tasks/{task}", None, 412, headers={"If-Match": '"0123"'}),
    Bad(
        "delete of a tag that is none", "DELETE", "/v1/models/{model}", None, 412, headers={"If-Match": ",,;"}
    ),
    Bad("delete of an empty tag", "DELETE", "/v1/datasets/{dataset}", None, 412, headers={"If-Match": ""}),
    Bad("delete a task in use", "DELETE", "/v1/tasks/{task}", None, 409),
    Bad("delete an unknown task", "DELETE", "/v1/tasks/nope", None, 404),
    Bad("delete an unknown split", "DELETE", "/v1/datasets/{dataset}/nope", None, 404),
    Bad("delete all tasks", "DELETE", "/v1/tasks", None, 405),
    Bad("put a task", "PUT", "/v1/tasks/{task}", TASK, 405),
    Bad("patch a model with nothing", "PATCH", "/v1/models/{model}", {}, 422, "/serving"),
    Bad(
        "batches of no row",
        "PATCH",
        "/v1/models/{model}",
        {"serving": {"max_batch_rows": 0}},
        422,
        "/serving/max_batch_rows",
    ),
    Bad(
        "delay below 0",
        "PATCH",
        "/v1/models/{model}",
        {"serving": {"max_delay_ms": -1}},
        422,
        "/serving/max_delay_ms",
    ),
    Bad("patch a model's name", "PATCH", "/v1/models/{model}", {"name": "x", "serving": {}}, 422, "/name"),
    Bad("post to scores", "POST", "/v1/scores", {}, 405),
    Bad("post to health", "POST", "/healthz", {}, 405),
    Bad("method of WebDAV", "LOCK", "/v1/tasks", None, 405),
]


@dataclass
class Target:
    """A service with one trained model, and the names that cases refer to."""

    service: Service
    names: dict[str, str]

    @property
    def api(self) -> Api:
        return self.service.api

    def fill(self, text: str) -> str:
        """Put the names in."""
        for name, known in self.names.items():
            text = text.replace(f"{{{name}}}", known)
        return text

    def memory_mib(self) -> float:
        """Return the memory that the server holds."""
        status = Path(f"/proc/{self.service.server.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@pytest.fixture(scope="module")
def target(service: Service) -> Iterator[Target]:
    shapes = Shapes(service.api).make("circle", n=16)
    run_id = service.api.start(shapes.model, [shapes.dataset("circle")])
    service.api.ended(run_id)
    names = {
        "model": shapes.model,
        "task": shapes.task("circle"),
        "dataset": shapes.dataset("circle"),
        "run": run_id,
    }
    target = Target(service, names)
    before = target.memory_mib()
    yield target
    # All is as it was: nothing half-made, no error logged, no memory kept.
    for path in ("/v1/tasks/bad-task", "/v1/datasets/bad-dataset", "/v1/models/m"):
        service.api.get(path, 404)
    assert service.api.get(f"/v1/models/{shapes.model}")["versions"] == [1]
    assert [r["id"] for r in service.api.get("/v1/runs", model=shapes.model)["items"]] == [run_id]
    assert service.server.lines("request failed") == []
    assert target.memory_mib() - before < 400
    assert service.api.get("/readyz")["status"] == "ready"


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_malformed_request_is_answered_with_a_problem(target: Target, case: Bad) -> None:
    headers, content = dict(case.headers), case.body
    if case.body is not None and not isinstance(case.body, bytes):
        content = target.fill(json.dumps(case.body)).encode()
        headers |= JSON
    # httpx would tidy the path up.
    url = httpx.URL(target.api.url).copy_with(raw_path=target.fill(case.path).encode())
    response = target.api.http.request(case.method, url, headers=headers, content=content)
    assert response.status_code == case.status, response.text[:2000]
    problem = check_problem(response)
    assert len(response.content) < 20_000
    if case.says:
        assert case.says in problem["detail"]
    if case.status == 422:
        first = problem["errors"][0]
        assert case.pointer in (None, first.get("pointer", first.get("parameter")))
        for error in problem["errors"]:
            if "pointer" in error:
                check_pointer(content or b"null", error["pointer"])


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 120
    assert len({case.name for case in CASES}) == len(CASES)


def test_a_body_that_is_too_large_is_refused(target: Target) -> None:
    before = target.memory_mib()
    body = b" " * (65 * 2**20)
    response = target.api.http.post("/v1/datasets", content=body, headers=JSON)
    assert response.status_code == 413
    check_problem(response)

    def chunks() -> Iterator[bytes]:
        for _ in range(65):
            yield b" " * 2**20

    response = target.api.http.post("/v1/datasets", content=chunks(), headers=JSON)
    assert response.status_code == 413
    check_problem(response)
    assert target.memory_mib() - before < 300


def test_a_chunked_body_is_read_like_any_other(target: Target) -> None:
    parts = [json.dumps({"task": "nope"})[i : i + 3].encode() for i in range(0, 16, 3)]
    response = target.api.http.post(
        f"/v1/models/{target.names['model']}/tasks", content=iter(parts), headers=JSON
    )
    assert check_problem(response)["errors"][0]["pointer"] == "/task"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GARBAGE\r\n\r\n",
        b"GET /v1/tasks HTTP/1.1\r\nHost: a\r\nContent-Length: nonsense\r\n\r\n",
        b"POST /v1/tasks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /v1/tasks\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=["garbage", "content length", "chunk size", "NUL", "long line"],
)
def test_what_is_no_http_is_turned_away(target: Target, request_bytes: bytes) -> None:
    address = urlsplit(target.api.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(request_bytes)
        answer = connection.recv(65536)
    assert not answer or answer.split()[1].startswith(b"4")
    assert target.api.get("/healthz") == {"status": "ok"}


def test_a_negative_zero_is_a_number(target: Target) -> None:
    body = raw({"inputs": {"circle_data": [["HERE", 1e-320]]}}, "HERE", "-0.0")
    path = f"/v1/models/{target.names['model']}/tasks/{target.names['task']}/predict"
    response = target.api.http.post(path, content=body, headers=JSON)
    assert response.status_code == 200
    assert len(response.json()["preds"]) == 1


def check_pointer(content: bytes, pointer: str) -> None:
    """Check that a pointer leads to a place in the body, or to a key that its object lacks."""
    body: Any = json.loads(content)
    assert pointer == "" or pointer.startswith("/"), pointer
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    for i, part in enumerate(parts):
        is_last = i == len(parts) - 1
        if isinstance(body, dict):
            assert part in body or is_last, pointer
            body = body.get(part)
        elif isinstance(body, list):
            assert int(part) < len(body) or is_last, pointer
            body = body[int(part)] if int(part) < len(body) else None
        else:
            raise AssertionError(f"{pointer} leads nowhere")
