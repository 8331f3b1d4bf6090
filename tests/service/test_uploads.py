"""Uploads over HTTP: streamed, described, safely repeated, and read from where the operator allows."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.service.client import Api, check_problem, unique
from tests.service.conftest import Service, Services
from tests.service.processes import ServerProcess, environment, until


def people() -> bytes:
    """Return a file that no other test uploads."""
    return f"age,name\n38,{unique('ann')}\n52,\n".encode()


def upload(api: Api, content: bytes, status: int = 201, headers: Any = None, **query: Any) -> dict[str, Any]:
    return api.call("POST", "/v1/uploads", status, content=content, params=query, headers=headers).json()


class Sources:
    """A server with a folder of files that clients may name."""

    def __init__(self, folder: Path) -> None:
        self.allowed = folder / "allowed"
        self.allowed.mkdir(parents=True)
        self.outside = folder / "allowed-not" / "secret.csv"
        self.outside.parent.mkdir()
        self.outside.write_bytes(b"a,b\n1,2\n")
        sources = json.dumps([f"file://{self.allowed}/", "s3://bucket/data/"])
        env = environment(
            folder / "data", None, TASKLOOM_UPLOAD_SOURCES=sources, TASKLOOM_MAX_UPLOAD_MIB="80"
        )
        self.server = ServerProcess("--no-worker", env=env, log=folder / "log")
        self.artifacts = folder / "data" / "artifacts"
        self.api = Api(self.server.url())

    def stored(self) -> set[Path]:
        return {path for path in self.artifacts.rglob("*") if path.is_file()}

    def memory_mib(self) -> float:
        status = Path(f"/proc/{self.server.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@pytest.fixture(scope="module")
def api(services: Services) -> Api:
    """One service is enough: what the databases do for uploads is held by the tests that ask for each service."""
    return services.start("sqlite").api


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sources]:
    sources = Sources(tmp_path_factory.mktemp("sources"))
    yield sources
    sources.server.stop()


def test_a_file_is_described_listed_read_and_removed(service: Service) -> None:
    api = service.api
    content = people()
    made = upload(api, content, filename="people.csv")
    assert made["sha256"] == hashlib.sha256(content).hexdigest()
    assert (made["bytes"], made["rows"], made["format"]) == (len(content), 2, "csv")
    assert [(c["name"], c["dtype"], c["nulls"]) for c in made["columns"]] == [
        ("age", "int64", 0),
        ("name", "string", 1),
    ]
    assert made["columns"][0] | {"min": 38, "max": 52, "mean": 45.0, "distinct": 2} == made["columns"][0]
    assert made["preview"][1] == {"age": 52, "name": None}
    path = f"/v1/uploads/{made['id']}"
    assert api.get(path) == made
    assert api.get("/v1/uploads", limit=1)["items"] == [made]
    assert api.get(f"{path}/rows", offset=1, limit=5) == {
        "offset": 1,
        "rows": 2,
        "records": [{"age": 52, "name": None}],
    }
    assert api.get(f"{path}/rows", offset=10)["records"] == []
    api.delete(path, 412, **{"If-Match": '"other"'})
    api.delete(path)
    api.get(path, 404)
    api.get(f"{path}/rows", 404)


def test_the_same_file_read_the_same_way_is_one_upload(service: Service) -> None:
    api = service.api
    content = people()
    first = upload(api, content)
    again = api.call("POST", "/v1/uploads", 200, content=content)
    assert again.json() == first
    assert again.headers["location"] == f"/v1/uploads/{first['id']}"
    assert upload(api, content, header=False)["id"] != first["id"]
    otherwise = api.post("/v1/uploads/from", {"upload": first["id"], "null_values": ["38"]})
    assert otherwise["sha256"] == first["sha256"]
    assert otherwise["preview"][0]["age"] is None
    api.post("/v1/uploads/from", {"upload": first["id"]}, 200)
    api.post("/v1/uploads/from", {"upload": "upl_none"}, 404)


def test_an_idempotency_key_stands_for_one_file(api: Api) -> None:
    content, headers = people(), {"Idempotency-Key": unique("key")}
    first = upload(api, content, headers=headers)
    replayed = api.call("POST", "/v1/uploads", 201, content=content, headers=headers)
    assert replayed.headers["idempotent-replayed"] == "true"
    assert replayed.json() == first
    upload(api, people(), 422, headers=headers)
    upload(api, content, 422, headers=headers, header=False)


def test_a_digest_is_held_against_the_file(api: Api) -> None:
    content = people()
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    upload(api, content[:-1], 422, headers={"Content-Digest": f"sha-256=:{digest}:"})
    upload(api, content, 422, headers={"Content-Digest": "sha-256=:AAA:"})
    upload(api, content, headers={"Content-Digest": f"sha-512=:AAAA:, sha-256=:{digest}:"})


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ({"format": "xlsx"}, "format"),
        ({"compression": "rar"}, "compression"),
        ({"delimiter": "::"}, "delimiter"),
        ({"delimiter": "\n"}, "delimiter"),
        ({"encoding": "../../etc"}, "encoding"),
        ({"header": "perhaps"}, "header"),
        ({"filename": "a\0b"}, "filename"),
        ({"filename": "x" * 300}, "filename"),
        ({"separator": ","}, "separator"),
    ],
)
def test_bad_options_are_refused(api: Api, query: dict[str, str], parameter: str) -> None:
    response = api.call("POST", "/v1/uploads", 422, content=people(), params=query)
    assert response.json()["errors"][0]["parameter"] == parameter


def test_what_is_no_file_is_refused(api: Api) -> None:
    upload(api, b"", 422)
    response = api.call("POST", "/v1/uploads", 415, files={"file": people()})
    assert "multipart" in response.json()["detail"]


def test_the_name_may_come_in_a_header(api: Api) -> None:
    made = upload(api, people(), headers={"Content-Disposition": 'attachment; filename="dir/p.csv"'})
    assert made["filename"] == "p.csv"


def test_a_client_that_goes_away_leaves_nothing(sources: Sources) -> None:
    before = sources.stored()
    address = urlsplit(sources.api.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        head = f"POST /v1/uploads HTTP/1.1\r\nHost: x\r\nContent-Length: {2**26}\r\n\r\n"
        connection.sendall(head.encode() + b"a,b\n" + b"1,2\n" * 2**20)
        until(lambda: sources.stored() != before, "the server to receive")
    until(lambda: sources.stored() == before, "the server to tidy up")
    assert sources.server.lines("request failed") == []


def test_a_large_file_passes_through_little_memory(sources: Sources) -> None:
    upload(sources.api, people())
    before = sources.memory_mib()
    row = b"1," + b"x" * 1000 + b"\n"

    def chunks() -> Iterator[bytes]:
        yield b"a,b\n"
        for _ in range(64):
            yield row * 1000

    made = sources.api.call("POST", "/v1/uploads", 201, content=chunks(), timeout=120).json()
    assert made["rows"] == 64_000
    assert sources.memory_mib() - before < 60


def test_a_file_that_is_too_large_is_refused(sources: Sources) -> None:
    before = sources.stored()
    address = urlsplit(sources.api.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(
            f"POST /v1/uploads HTTP/1.1\r\nHost: x\r\nContent-Length: {2**40}\r\n\r\n".encode()
        )
        # It is answered before anything was sent.
        assert b" 413 " in connection.recv(65536)

    def chunks() -> Iterator[bytes]:
        for _ in range(81):
            yield b"1" * 2**20

    check_problem(sources.api.call("POST", "/v1/uploads", 413, content=chunks()))
    until(lambda: sources.stored() == before, "the server to tidy up")


def test_files_where_the_operator_allows_are_read(sources: Sources) -> None:
    folder = sources.allowed / "more data"
    folder.mkdir()
    (folder / "a*b.csv").write_bytes(people())
    (sources.allowed / "link.csv").symlink_to(folder / "a*b.csv")
    made = sources.api.post("/v1/uploads/from", {"url": f"file://{sources.allowed}/more%20data/a*b.csv"})
    assert made["filename"] == "a*b.csv"
    assert sources.api.post("/v1/uploads/from", {"url": f"file://{sources.allowed}/link.csv"}, 200) == made


@pytest.mark.parametrize(
    "url",
    [
        "file://{outside}",
        "file://{allowed}",
        "file://{allowed}/",
        "file://{allowed}-not/secret.csv",
        "file://{allowed}/../allowed-not/secret.csv",
        "file://{allowed}/%2e%2e/allowed-not/secret.csv",
        "file://{allowed}/..%2fallowed-not/secret.csv",
        "file://{allowed}//secret.csv",
        "file://{allowed}/./link-out.csv",
        "file://{allowed}/link-out.csv",
        "file://{allowed}/folder-out/secret.csv",
        "file://{allowed}/pipe",
        "file://{allowed}/missing.csv",
        "file://{allowed}/a%00b",
        "file://localhost{allowed}/good.csv",
        "file://user@{allowed}/good.csv",
        "file://{allowed}/good.csv?x=1",
        "file://{allowed}/good.csv#x",
        "file://{allowed}/good.csv::file://{outside}",
        "simplecache::file://{allowed}/good.csv",
        "zip://a.csv::file://{allowed}/good.zip",
        "FILE://{allowed}/good.csv",
        "{allowed}/good.csv",
        "local://{allowed}/good.csv",
        "http://127.0.0.1/good.csv",
        "s3://bucket/other/good.csv",
        "s3://bucket/data/../other/good.csv",
        "s3://bucket.evil/data/good.csv",
        "memory://good.csv",
        "reference://good.csv",
        "",
        "file://[",
    ],
)
def test_no_other_file_is_ever_read(sources: Sources, url: str) -> None:
    good = sources.allowed / "good.csv"
    if not good.exists():
        good.write_bytes(b"a,b\n1,2\n")
        (sources.allowed / "link-out.csv").symlink_to(sources.outside)
        (sources.allowed / "folder-out").symlink_to(sources.outside.parent)
        os.mkfifo(sources.allowed / "pipe")
    before = sources.stored()
    body = {"url": url.format(allowed=sources.allowed, outside=sources.outside)}
    response = sources.api.call("POST", "/v1/uploads/from", 422, json=body)
    assert check_problem(response)["errors"][0]["pointer"] == "/url"
    assert sources.stored() == before


def test_where_nothing_is_allowed_no_url_is_read(api: Api, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(people())
    answer = api.post("/v1/uploads/from", {"url": f"file://{tmp_path}/a.csv"}, 422)
    assert "allow" in answer["detail"]
    for body in ({}, {"url": "file:///a", "upload": "upl_1"}):
        api.post("/v1/uploads/from", body, 422)


def test_tensors_are_answered_in_their_shape(api: Api, tmp_path: Path) -> None:
    images = np.random.default_rng().integers(0, 256, (3, 2, 2), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, label=np.arange(3))
    made = upload(api, (tmp_path / "a.npz").read_bytes(), filename="a.npz")
    assert [(c["dtype"], c["shape"]) for c in made["columns"]] == [("uint8", [2, 2]), ("int64", [])]
    rows = api.get(f"/v1/uploads/{made['id']}/rows", offset=1)["records"]
    assert [row["images"] for row in rows] == images[1:].tolist()


def test_a_reading_that_takes_too_long_ends(tmp_path: Path) -> None:
    env = environment(tmp_path / "data", None, TASKLOOM_READING_SECONDS="1")
    server = ServerProcess("--no-worker", env=env, log=tmp_path / "log")
    try:
        api = Api(server.url())
        # Little to send, and some seconds to read on any machine.
        content = gzip.compress(b'{"a": 1, "b": "x"}\n' * 10_000_000, 1)
        started = time.monotonic()
        problem = upload(api, content, 422)
        assert "1 seconds" in problem["detail"]
        assert time.monotonic() - started < 20
    finally:
        server.stop()
