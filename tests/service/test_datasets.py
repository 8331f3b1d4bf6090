"""From a file to named answers, over HTTP."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.service.client import check_problem
from tests.service.conftest import Service, Services
from tests.service.tables import People, as_csv, people

TRAINER: dict[str, Any] = {"n_epochs": 30, "lr": 0.02, "batch_size": 32}


@pytest.fixture
def world(services: Services) -> People:
    """One service is enough: what the databases do for datasets is held by the tests that ask for each service."""
    return People(services.start("sqlite").api)


def splits_of(dataset: dict[str, Any]) -> dict[str, Any]:
    return {split["split"]: split for split in dataset["splits"]}


def test_a_file_is_learnt_from_and_raw_rows_are_answered_by_name(service: Service) -> None:
    world = People(service.api)
    rows = people(600)
    world.register(rows)
    world.make_model("sick", "mood")
    version = world.api.train(world.model, [world.dataset], **TRAINER)

    scores = world.api.get(f"/v1/models/{world.model}/versions/{version}/scores")
    assert {key.split("/")[0] for key in scores} == {world.task("sick"), world.task("mood")}
    assert min(scores.values()) > 0.85, scores

    asked = [
        {"age": 88, "job": "pilot", "smokes": True, "joined": "2015-05-05"},
        {"age": 19, "job": "nurse", "smokes": False, "joined": "2015-05-05"},
        {"age": None, "job": "an unheard-of job", "smokes": None, "joined": None},
    ]
    answer = world.api.post(f"/v1/models/{world.model}/predict", {"records": asked}, 200)["predictions"]
    sick, mood = answer[world.task("sick")], answer[world.task("mood")]
    assert sick["classes"][:2] == ["yes", "no"]
    assert mood["classes"][:2] == ["bad", "good"]
    assert (sick["class_names"], mood["class_names"]) == (["no", "yes"], ["bad", "good"])
    for name in (sick, mood):
        assert np.allclose(np.sum(name["probs"], axis=1), 1)
        assert name["classes"] == [name["class_names"][pred] for pred in name["preds"]]

    by_column = {column: [row[column] for row in asked] for column in asked[0]}
    assert (
        world.api.post(f"/v1/models/{world.model}/predict", {"columns": by_column}, 200)["predictions"]
        == answer
    )


def test_rows_alone_are_answered_as_in_a_batch(world: People) -> None:
    rows = people(200)
    world.register(rows)
    world.make_model("sick")
    world.api.train(world.model, [world.dataset], n_epochs=1)
    path = f"/v1/models/{world.model}/tasks/{world.task('sick')}/predict"
    asked = [{k: row[k] for k in ("age", "job", "smokes", "joined")} for row in rows[:20]]
    whole = world.api.post(path, {"records": asked}, 200)["probs"]
    alone = [world.api.post(path, {"records": [record]}, 200)["probs"][0] for record in asked]
    assert np.allclose(alone, whole, atol=1e-6)


def test_a_row_that_lacks_one_label_still_trains_the_other(world: People) -> None:
    rows = people(100)
    dataset = world.register(rows)
    for split in dataset["splits"]:
        (pair,) = split["overlap"]
        sick, mood = (split["labels"][world.task(name)] for name in ("sick", "mood"))
        assert pair["tasks"] == [world.task("sick"), world.task("mood")]
        assert 0 < pair["rows"] < min(sick["labelled"], mood["labelled"]) < split["rows"]
        assert sum(sick["counts"].values()) == sick["labelled"]
    sick = [row["sick"] for row in rows]
    counted = [splits_of(dataset)[name]["labels"][world.task("sick")]["counts"] for name in ("train", "test")]
    assert {name: sum(c.get(name, 0) for c in counted) for name in ("yes", "no")} == {
        name: sick.count(name) for name in ("yes", "no")
    }


def test_what_was_fitted_knows_the_train_split_alone(world: People) -> None:
    rows = [
        {"x": 1.0, "c": "seen", "part": "train", "y": "a"},
        {"x": 3.0, "c": "seen", "part": "train", "y": "b"},
    ]
    rows += [{"x": 1000.0, "c": "only in test", "part": "test", "y": "a"}]
    dataset = world.register(
        rows,
        fields={"person": {"columns": ["x", "c"]}},
        labels={world.task("sick"): "y"},
        splits={"by_column": "part"},
    )
    assert [split["fields"]["person"]["shape"] for split in dataset["splits"]] == [[1 + 3], [1 + 3]]
    assert splits_of(dataset)["train"]["columns"]["x"]["mean"] == 2.0
    world.make_model("sick")
    world.api.train(world.model, [world.dataset], n_epochs=1)
    path = f"/v1/models/{world.model}/tasks/{world.task('sick')}/predict"
    raw = world.api.post(path, {"records": [{"x": 4.0, "c": "only in test"}], "return": ["logits"]}, 200)
    # Mean 2 and deviation 1 of the train split; the category is unknown.
    encoded = world.api.post(path, {"inputs": {"person": [[2.0, 1.0, 0.0, 0.0]]}, "return": ["logits"]}, 200)
    assert raw["logits"] == encoded["logits"]


def test_one_table_for_many_tasks_and_many_tables_for_one(world: People) -> None:
    world.register(people(200))
    other = People(world.api)
    body = other.body(people(200, seed=1), name=other.dataset, labels={world.task("sick"): "sick"})
    world.api.post("/v1/datasets", body)
    world.make_model("sick", "mood")
    version = world.api.train(world.model, [world.dataset, other.dataset], **TRAINER | {"n_epochs": 2})
    scores = world.api.get(f"/v1/models/{world.model}/versions/{version}/scores")
    assert {tuple(key.split("/")[:2]) for key in scores} == {
        (world.task("sick"), world.dataset),
        (world.task("mood"), world.dataset),
        (world.task("sick"), other.dataset),
    }


def test_an_appended_upload_is_a_new_version_that_runs_can_tell_apart(service: Service) -> None:
    world = People(service.api)
    first = world.register(people(200), group_by="joined")
    upload = world.upload(as_csv(people(100, seed=1)))["id"]
    second = world.api.post(f"/v1/datasets/{world.dataset}/append", {"source": {"upload": upload}})
    assert (second["version"], second["parent"], second["versions"]) == (2, 1, [1, 2])
    assert second["sha256"] != first["sha256"]
    rows = [sum(split["rows"] for split in dataset["splits"]) for dataset in (first, second)]
    assert rows == [200, 300]
    assert world.api.get(f"/v1/datasets/{world.dataset}", version=1)["splits"] == first["splits"]

    days = {
        split: set(
            world.api.get(f"/v1/datasets/{world.dataset}/{split}/rows", limit=1000)["X_dict"]["joined"]
        )
        for split in ("train", "test")
    }
    assert not days["train"] & days["test"], "a group straddles splits"

    world.make_model("sick")
    for wanted, version in ((world.dataset, 2), (f"{world.dataset}@1", 1)):
        run = world.api.run(world.api.start(world.model, [wanted], n_epochs=1))
        world.api.ended(run["id"])
        pinned = world.api.get(f"/v1/datasets/{world.dataset}", version=version)["splits"]
        assert [(d["version"], d["split"], d["rows"], d["sha256"]) for d in run["data"]] == [
            (version, split["split"], split["rows"], split["sha256"]) for split in pinned
        ]


def test_a_run_keeps_its_versions_encoding_unless_it_is_to_be_fitted_anew(world: People) -> None:
    world.register(people(100))
    world.make_model("sick")
    world.api.train(world.model, [world.dataset], n_epochs=1)
    rows = [row | {"job": "astronaut"} for row in people(50, seed=2)]
    upload = world.upload(as_csv(rows))["id"]
    world.api.post(f"/v1/datasets/{world.dataset}/append", {"source": {"upload": upload}})

    sizes = {}
    for how in ("keep", "refit"):
        body = {"datasets": [world.dataset], "trainer": {"n_epochs": 1}, "preprocessing": how}
        run = world.api.ended(world.api.post(f"/v1/models/{world.model}/runs", body, 202)["id"])
        version = world.api.get(f"/v1/models/{world.model}/versions/{run['model_version']}")
        sizes[how] = version["parameters"]
    assert sizes["refit"] == sizes["keep"] + 16, "a further category is a further column of the first layer"


def test_a_version_scores_later_data_by_its_own_encoding(world: People) -> None:
    world.register(people(300))
    world.make_model("sick")
    version = world.api.train(world.model, [world.dataset], **TRAINER)
    later = People(world.api)
    rows = [row for row in people(100, seed=3) if row["sick"] != "no"]
    body = later.body(
        rows, name=later.dataset, labels={world.task("sick"): "sick"}, splits=None, split="test"
    )
    world.api.post("/v1/datasets", body)
    scoring = {"datasets": [later.dataset]}
    run = world.api.post(f"/v1/models/{world.model}/versions/{version}/scores", scoring, 202)
    world.api.ended(run["id"])
    scores = world.api.get(f"/v1/models/{world.model}/versions/{version}/scores")
    # All of them are sick: class 1 of the version, though the only class of the later data.
    assert scores[f"{world.task('sick')}/{later.dataset}/test/accuracy"] > 0.85


def test_files_for_splits_share_their_classes_and_further_splits_join(world: People) -> None:
    everyone = people(90)
    with_label = [row for row in everyone if row["sick"]]
    only_sick = [row for row in with_label if row["sick"] == "yes"]
    uploads = {
        split: world.upload(as_csv(rows))["id"]
        for split, rows in (("train", with_label), ("valid", only_sick))
    }
    labels = {world.task("sick"): "sick"}
    first = world.register(everyone, source={"splits": uploads}, splits=None, labels=labels)
    assert [label["class_names"] for split in first["splits"] for label in split["labels"].values()] == [
        ["no", "yes"],
        ["no", "yes"],
    ]
    assert any("'no'" in warning and "'valid'" in warning for warning in first["warnings"])
    more = {
        "name": world.dataset,
        "source": {"upload": world.upload(as_csv(only_sick[:9]))["id"]},
        "split": "test",
    }
    second = world.api.post("/v1/datasets", more)
    assert list(splits_of(second)) == ["train", "valid", "test"]
    assert splits_of(second)["test"]["labels"][world.task("sick")]["counts"] == {"yes": 9}
    world.api.post("/v1/datasets", more, 200)


def test_the_same_again_is_found_and_other_content_is_a_conflict(service: Service) -> None:
    world = People(service.api)
    body = world.body(people(50))
    first = world.api.post("/v1/datasets", body)
    assert world.api.post("/v1/datasets", body, 200) == first
    world.api.post("/v1/datasets", body | {"seed": 5}, 409)
    positive = {world.task("sick"): {"column": "sick", "positive": "no"}}
    world.api.post("/v1/datasets", body | {"labels": body["labels"] | positive}, 409)
    world.api.post("/v1/datasets", body | {"fields": {"person": {"columns": ["age"]}}}, 409)
    world.api.post("/v1/datasets", body | {"weights": {"column": "weight"}}, 409)
    world.api.post("/v1/datasets", world.body(people(51)), 409)


def test_example_weights_count_in_the_losses(world: People) -> None:
    rows = [{"x": 0.0, "w": 1.0, "y": "a"}, {"x": 0.0, "w": 9.0, "y": "b"}] * 50
    world.register(
        rows, fields={"person": {"columns": ["x"]}}, labels={world.task("sick"): "y"}, weights={"column": "w"}
    )
    world.make_model("sick")
    world.api.train(world.model, [world.dataset], n_epochs=40, lr=0.05)
    path = f"/v1/models/{world.model}/tasks/{world.task('sick')}/predict"
    (probs,) = world.api.post(path, {"records": [{"x": 0.0}]}, 200)["probs"]
    assert probs[1] == pytest.approx(0.9, abs=0.03)


def test_indices_meet_an_embedding_as_large_as_their_vocabulary(world: People) -> None:
    world.register(
        people(300),
        fields={
            "codes": {"columns": ["job", "smokes"], "type": "categorical", "encode": "index"},
            "words": {"columns": [{"name": "note", "type": "text", "max_length": 12}]},
        },
    )
    layers = [{"type": "LazyEmbedding", "embedding_dim": 4}, {"type": "Flatten"}]
    spec = world.spec("mood") | {
        "module_pool": {
            "codes": {"type": "Sequential", "layers": layers},
            "words": {"type": "Sequential", "layers": layers},
            "join": {"type": "Concat"},
            "head": {"type": "LazyLinear", "out_features": 2},
        },
        "op_sequence": [
            {"module_name": "codes", "inputs": [["_input_", "codes"]]},
            {"module_name": "words", "inputs": [["_input_", "words"]]},
            {"module_name": "join", "inputs": ["codes", "words"]},
            {"module_name": "head", "inputs": ["join"]},
        ],
    }
    world.api.post("/v1/tasks", spec)
    world.api.post("/v1/models", {"name": world.model, "tasks": [world.task("mood")]})
    world.api.train(world.model, [world.dataset], **TRAINER)
    path = f"/v1/models/{world.model}/tasks/{world.task('mood')}/predict"
    asked = [
        {"job": "pilot", "smokes": False, "note": "likes pilot work"},
        {"job": "cook", "smokes": True, "note": None},
    ]
    assert world.api.post(path, {"records": asked}, 200)["classes"] == ["bad", "good"]


def test_what_usually_hurts_is_said(world: People) -> None:
    rows = [
        row | {"same": 7, "empty": None, "leak": row["sick"], "id": f"row {i:05}"}
        for i, row in enumerate(people(200))
    ]
    rows = [row for row in rows if row["sick"]]
    rows[0]["mood"] = "ecstatic"
    rows += rows[:40]
    fields = {"person": {"columns": "*"}, "leaks": {"columns": ["mood"]}}
    dataset = world.register(rows, fields=fields, seed=3)
    said = "\n".join(dataset["warnings"])
    for part in (
        "column 'same' in split 'train' has one value only",
        "column 'leak' tells the label of",
        "column 'mood' tells the label of",
        "class 'ecstatic' of task",
        "have the same inputs as a row of split 'train'",
        "column 'empty' is left out",
        "column 'note' is left out of field 'person': it looks like a text",
    ):
        assert part in said, said


def test_a_wide_guess_is_shown_and_can_be_overridden(world: People) -> None:
    rows = people(120)
    guessed = world.register(rows, fields=None, seed=1)
    fields = splits_of(guessed)["train"]["fields"]
    types = {column["name"]: column["type"] for column in fields["features"]["columns"]}
    assert types == {
        "age": "number",
        "job": "categorical",
        "smokes": "boolean",
        "joined": "datetime",
        "weight": "number",
        "part": "categorical",
    }
    assert [column["type"] for column in fields["note"]["columns"]] == ["text"]
    other = People(world.api)
    stated = other.register(
        rows,
        fields={"person": {"columns": "*", "exclude": ["note", "part"], "types": {"age": "categorical"}}},
    )
    columns = splits_of(stated)["train"]["fields"]["person"]["columns"]
    assert {"name": "age", "type": "categorical"}.items() <= columns[0].items()


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("unknown upload", {"source": {"upload": "upl_none"}}, "/source/upload", "no upload"),
    ("both sources", {"source": {"upload": "a", "splits": {"b": "c"}}}, "/source", "either"),
    ("no rule", {"splits": None}, "/splits", "say to which split"),
    ("too much", {"splits": {"train": 0.9, "test": 0.2}}, "/splits", "add up to 1.1"),
    (
        "unknown column",
        {"fields": {"person": {"columns": ["age", "agee"]}}},
        "/fields/person/columns/1",
        "no column 'agee'",
    ),
    ("unknown label", {"labels": {"t": "sickk"}}, "/labels/t", "no column 'sickk'"),
    (
        "not numbers",
        {"fields": {"person": {"columns": ["job"], "type": "number"}}},
        "/fields/person",
        "column 'job', row",
    ),
    (
        "unknown option",
        {"fields": {"person": {"columns": ["age"], "skale": "log"}}},
        "/fields/person/skale",
        "not known",
    ),
    (
        "wrong option",
        {"fields": {"person": {"columns": [{"name": "age", "type": "number", "scale": "x"}]}}},
        "/fields/person/columns/0/scale",
        "standard",
    ),
    (
        "unknown type",
        {"fields": {"person": {"columns": ["age"], "type": "numeric"}}},
        "/fields/person/columns/0",
        "number",
    ),
    (
        "two kinds",
        {"fields": {"person": {"columns": ["age", "note"], "types": {"note": "text"}}}},
        "/fields/person",
        "note",
    ),
    ("twice", {"fields": {"person": {"columns": ["age", "age"]}}}, "/fields/person", "twice|2 times"),
    ("a class beyond", {"labels": {"t": {"column": "sick", "classes": ["no"]}}}, "/labels/t", "yes"),
    ("no weight", {"weights": {"column": "job"}}, "/weights", "number"),
    ("no key", {"group_by": "jobb"}, "/group_by", "no column 'jobb'"),
    ("no split column", {"splits": {"by_column": "partt"}}, "/splits/by_column", "no column"),
    ("no name", {"name": "a b"}, "/name", "match"),
]


@pytest.mark.parametrize(
    ("changes", "pointer", "detail"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_what_makes_no_sense_is_refused_with_its_place(
    world: People, changes: dict[str, Any], pointer: str, detail: str
) -> None:
    body = world.body(people(40), **changes)
    response = world.api.call("POST", "/v1/datasets", 422, json=body)
    faults = {error["pointer"]: error["detail"] for error in check_problem(response)["errors"]}
    assert pointer in faults, faults
    assert any(part in faults[pointer] for part in detail.split("|")), faults
    world.api.get(f"/v1/datasets/{world.dataset}", 404)


RAW_REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("a lacking column", {"records": [{"age": 1, "job": "cook", "smokes": True}]}, "/records/0", "joined"),
    (
        "an unknown column",
        {"records": [{"age": 1, "job": "cook", "smokes": True, "joined": None, "x": 1}]},
        "/records/0/x",
        "no column",
    ),
    (
        "no number",
        {"columns": {"age": [1, "old"], "job": [None, None], "smokes": [None, None], "joined": [None, None]}},
        "/columns/age/1",
        "old",
    ),
    (
        "no date",
        {"records": [{"age": 1, "job": "cook", "smokes": True, "joined": "yesterday"}]},
        "/records/0/joined",
        "yesterday",
    ),
    (
        "unlike lengths",
        {"columns": {"age": [1], "job": [None, None], "smokes": [None, None], "joined": [None, None]}},
        "/columns",
        "",
    ),
    ("two forms", {"records": [{}], "inputs": {"person": [[1]]}}, "", "either"),
    ("none", {}, "", "either"),
]


def test_raw_rows_that_make_no_sense_are_refused_with_their_place(world: People) -> None:
    world.register(people(60))
    world.make_model("sick")
    world.api.train(world.model, [world.dataset], n_epochs=1)
    for name, body, pointer, detail in RAW_REFUSED:
        response = world.api.call("POST", f"/v1/models/{world.model}/predict", 422, json=body)
        faults = {error["pointer"]: error["detail"] for error in check_problem(response)["errors"]}
        assert any(at.startswith(pointer) and detail in text for at, text in faults.items()), (name, faults)


def test_a_run_is_refused_where_data_and_tasks_do_not_fit(world: People) -> None:
    world.register(people(60))
    world.api.post("/v1/tasks", world.spec("sick", n_classes=3))
    world.api.post("/v1/tasks", world.spec("mood", field_name="nobody"))
    for name, detail in (("sick", "3 classes, but its labels have 2"), ("mood", "lacks the field 'nobody'")):
        model = {"name": f"{world.model}-{name}", "tasks": [world.task(name)]}
        world.api.post("/v1/models", model)
        response = world.api.call(
            "POST", f"/v1/models/{model['name']}/runs", 422, json={"datasets": [world.dataset]}
        )
        assert detail in json.dumps(check_problem(response)["errors"])


def test_rows_come_back_as_they_were_sent(world: People) -> None:
    rows = people(70)
    world.register(rows, splits=None, split="train")
    got = [world.api.get(f"/v1/datasets/{world.dataset}/train/rows", offset=o, limit=30) for o in (0, 30, 60)]
    for column in ("age", "job", "smokes", "joined"):
        assert [v for page in got for v in page["X_dict"][column]] == [row[column] for row in rows]
    named = {None: -1, "no": 0, "yes": 1}
    assert [v for page in got for v in page["Y_dict"][world.task("sick")]] == [
        named[row["sick"]] for row in rows
    ]
