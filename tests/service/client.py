"""An HTTP client that expects a status of every answer, and names that no other test uses."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import httpx

from tests.service.processes import until

PROBLEM_JSON = "application/problem+json"
OVER = ("succeeded", "failed", "cancelled")


def unique(name: str) -> str:
    """Return a name that nothing else on the server has."""
    return f"{name}-{uuid4().hex[:10]}"


class Api:
    """The service's API at an address."""

    def __init__(self, url: str) -> None:
        self.url = url
        # No certificate is asked for, and to load all that are trusted takes a while.
        self.http = httpx.Client(base_url=url, timeout=60, verify=False)

    def call(self, method: str, path: str, status: int | tuple[int, ...], **options: Any) -> httpx.Response:
        """Send a request and check the status of its answer; a problem must be a whole one."""
        response = self.http.request(method, path, **options)
        wanted = (status,) if isinstance(status, int) else status
        assert response.status_code in wanted, f"{method} {path}: {response.status_code} {response.text}"
        if response.is_error:
            check_problem(response)
        return response

    def get(self, path: str, status: int = 200, **params: Any) -> Any:
        """Return what a GET answers."""
        # httpx would take empty parameters for "no query".
        return self.call("GET", path, status, params=params or None).json()

    def post(self, path: str, body: Any = None, status: int = 201, **headers: str) -> Any:
        """Return what a POST answers."""
        sent = {} if body is None else {"json": body}
        return self.call("POST", path, status, headers=headers, **sent).json()

    def delete(self, path: str, status: int = 204, **headers: str) -> httpx.Response:
        """Remove a resource."""
        return self.call("DELETE", path, status, headers=headers)

    def start(
        self, model: str, datasets: list[str], init_from: str | int | None = "latest", **trainer: Any
    ) -> str:
        """Start a training and return the run's id."""
        body = {"datasets": datasets, "trainer": {"seed": 1} | trainer, "init_from": init_from}
        return self.post(f"/v1/models/{model}/runs", body, 202)["id"]

    def run(self, run: str) -> dict[str, Any]:
        """Return a run."""
        return self.get(f"/v1/runs/{run}")

    def ended(self, run: str, status: str = "succeeded") -> dict[str, Any]:
        """Wait until a run is over, check how it ended, and return it."""
        until(lambda: self.run(run)["status"] in OVER, f"run {run} to be over")
        answer = self.run(run)
        assert answer["status"] == status, answer
        return answer

    def train(
        self, model: str, datasets: list[str], init_from: str | int | None = "latest", **trainer: Any
    ) -> int:
        """Train to the end and return the version's number."""
        return self.ended(self.start(model, datasets, init_from, **trainer))["model_version"]

    def training(self, run: str) -> dict[str, Any]:
        """Wait until a run has trained on some batches, and return it."""

        def under_way() -> dict[str, Any] | None:
            answer = self.run(run)
            assert answer["status"] not in OVER, answer
            return answer if answer["status"] == "running" and answer["progress"] else None

        answer = until(under_way, f"run {run} to train")
        assert answer is not None
        return answer

    def result(self, run: str) -> dict[str, Any]:
        """Return all that a training came to; of what it logged, all but by which attempt."""
        ended = self.run(run)
        version = f"/v1/models/{ended['model']}/versions/{ended['model_version']}"
        series = self.get(f"/v1/runs/{run}/metrics")["series"]
        return {
            "weights": self.get(version)["sha256"],
            "scores": self.get(f"{version}/scores"),
            "series": {
                key: [{name: point[name] for name in ("epoch", "step", "value")} for point in points]
                for key, points in series.items()
            },
        }

    def events(self, run: str, after: int | None = None) -> list[dict[str, Any]]:
        """Follow a run's event stream to its end."""
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        with self.http.stream("GET", f"/v1/runs/{run}/events", headers=headers) as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            return parse_events(response.read().decode())


def parse_events(text: str) -> list[dict[str, Any]]:
    """Return the events of a stream as ``{id, event, data}``."""
    events: list[dict[str, Any]] = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if fields:
            events.append(
                {"id": int(fields["id"]), "event": fields["event"], "data": json.loads(fields["data"])}
            )
    return events


def check_problem(response: httpx.Response) -> dict[str, Any]:
    """Check that an answer is problem+json with all that belongs to it, and return it."""
    assert response.headers["content-type"] == PROBLEM_JSON, response.text
    problem = response.json()
    assert {"type", "title", "status", "detail", "instance", "request_id"} <= problem.keys(), problem
    assert problem["status"] == response.status_code
    assert problem["request_id"] == response.headers["x-request-id"]
    assert all(isinstance(problem[name], str) for name in ("type", "title", "detail", "instance"))
    assert "Traceback" not in response.text
    if response.status_code == 422:
        assert problem["errors"], problem
        assert all(e["detail"] and ("pointer" in e) != ("parameter" in e) for e in problem["errors"]), problem
    return problem
