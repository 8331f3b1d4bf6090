"""Bundles: what is written is read bit for bit, and what is wrong, or hostile, is refused in words."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtl_core import BundleError, module_weights
from mtl_core.building.budget import Limits
from mtl_core.building.fields import FieldShape
from mtl_core.export import read_bundle, write_beside, write_bundle
from mtl_core.preprocessing import FieldPlan, NumberColumn, Summariser, fit_field
from mtl_core.specs import TaskSpec

from ..shapes import shape_spec
from .models import MODELS, RIGHT, Exported, built, of_outputs

EVERY_MODEL = pytest.mark.parametrize("name", MODELS)
Files = dict[str, bytes]


def preprocessing_of(name: str, width: int) -> str:
    """Columns of numbers, as many as a field has."""
    columns = [NumberColumn(name=f"c{i}", indicator=False) for i in range(width)]
    summaries = {}
    for i, column in enumerate(columns):
        summariser = Summariser(column)
        summariser.add(pa.array([1.0 * i, 2.5, 7.0]), 0)
        summaries[column.name] = summariser.finish()
    field = fit_field(FieldPlan(columns=[*columns]), summaries)
    return json.dumps({"fields": {name: field.model_dump(mode="json")}, "class_names": {"t": ["no", "yes"]}})


def write(exported: Exported, path: Path, preprocessing: str | None = None) -> None:
    write_bundle(path, exported.specs, module_weights(exported.model), exported.fields, preprocessing)


@pytest.fixture(scope="module")
def small() -> Exported:
    return built([shape_spec("circle"), shape_spec("square")])


@pytest.fixture
def files(small: Exported, tmp_path: Path) -> Files:
    """A bundle's files by name, to be tampered with."""
    write(small, tmp_path / "whole", preprocessing_of("circle_data", 2))
    return {file.name: file.read_bytes() for file in (tmp_path / "whole").iterdir()}


def zipped(files: Files, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@EVERY_MODEL
@pytest.mark.parametrize("place", ["folder", "archive.zip"])
def test_what_is_written_is_read_and_predicts_bit_for_bit(name: str, place: str, tmp_path: Path) -> None:
    exported = MODELS[name]()
    write(exported, tmp_path / place)
    bundle = read_bundle(tmp_path / place)
    assert [spec.written_out() for spec in bundle.specs] == [spec.written_out() for spec in exported.specs]
    assert {name: (field.shape, field.dtype, field.vocabulary) for name, field in bundle.fields.items()} == {
        name: (field.shape, field.dtype, field.vocabulary) for name, field in exported.fields.items()
    }
    weights = module_weights(exported.model)
    assert safetensors.torch.save(bundle.weights) == safetensors.torch.save(weights)
    batch, again = exported.batch(7), bundle.classifier("again")
    assert again.name == "again"
    assert not again.training
    ours, theirs = (model.infer(batch, exported.tasks) for model in (exported.model, again))
    assert all(torch.equal(ours[task][kind], theirs[task][kind]) for task in ours for kind in ours[task])


def test_equal_bundles_are_equal_files_and_are_written_again_alike(small: Exported, tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        write(small, tmp_path / name, preprocessing_of("circle_data", 2))
    bundle = read_bundle(tmp_path / "a.zip")
    write_bundle(tmp_path / "c.zip", bundle.specs, bundle.weights, bundle.fields, bundle.preprocessing)
    assert len({(tmp_path / name).read_bytes() for name in ("a.zip", "b.zip", "c.zip")}) == 1
    assert {file.name for file in tmp_path.iterdir()} == {"a.zip", "b.zip", "c.zip"}


def test_preprocessing_comes_along_as_it_was_and_its_note_says_what_to_do(
    files: Files, tmp_path: Path
) -> None:
    preprocessing = preprocessing_of("circle_data", 2)
    assert files["preprocessing.json"] == preprocessing.encode()
    assert read_bundle(zipped(files, tmp_path / "b.zip")).preprocessing == preprocessing
    assert "## Field `circle_data`" in files["README.md"].decode()
    assert "column `c1`" in files["README.md"].decode()


def changed(member: str, *path: str | int, to: Any) -> Callable[[Files], None]:
    """What puts another value at a place of one of the JSON files."""

    def change(files: Files) -> None:
        document = place = json.loads(files[member])
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to
        files[member] = json.dumps(document).encode()

    return change


def replaced(member: str, content: bytes | None) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        files.pop(member, None)
        if content is not None:
            files[member] = content

    return change


def tensors(**changes: torch.Tensor | None) -> Callable[[Files], None]:
    """What puts other tensors among the weights; a name's slash is written ``__`` and its dot ``_dot_``."""

    def change(files: Files) -> None:
        weights = safetensors.torch.load(files["weights.safetensors"])
        for name, tensor in changes.items():
            key = name.replace("__", "/").replace("_dot_", ".")
            weights.pop(key, None)
            if tensor is not None:
                weights[key] = tensor
        files["weights.safetensors"] = safetensors.torch.save(weights)

    return change


NUMBER = {"type": "number", "name": "a", "log": False, "fill": 0, "center": 0, "scale": 1, "indicator": False}
BUCKETS = {"type": "index", "name": "b", "hash_buckets": 3}
HEAD = ("tasks", 0, "module_pool", "circle_head")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced("spec.json", None), r"^'spec\.json' is missing$"),
        (replaced("weights.safetensors", None), r"^'weights\.safetensors' is missing$"),
        (replaced("../../etc/passwd", b"x"), r"^a bundle has no file '\.\./\.\./etc/passwd'$"),
        (replaced("/spec.json", b"x"), r"^a bundle has no file '/spec\.json'$"),
        (replaced("model.pkl", b"x"), r"^a bundle has no file 'model\.pkl'$"),
        (replaced("spec.json", b"{"), r"^'spec\.json': .*Invalid JSON"),
        (replaced("spec.json", b"[" * 100_000), r"^'spec\.json': .*Invalid JSON"),
        (replaced("spec.json", b"\xff\xfe"), r"^'spec\.json': .*Invalid JSON"),
        (replaced("spec.json", b"[]"), r"^'spec\.json': "),
        (changed("spec.json", "version", to=2), r"^'spec\.json': /version: "),
        (changed("spec.json", "more", to=2), r"^'spec\.json': /more: Extra inputs"),
        (changed("spec.json", "tasks", to=[]), r"^'spec\.json': /tasks: "),
        (changed("spec.json", "tasks", 0, "name", to="../up"), r"^'spec\.json': /tasks/0/name: "),
        (
            changed("spec.json", "tasks", 1, "name", to="circle_task"),
            r"^'spec\.json': two tasks have one name$",
        ),
        (changed("spec.json", *HEAD, "type", to="Evil"), r"^'spec\.json': /module_pool/circle_head/type: "),
        (
            changed("spec.json", *HEAD, to={"type": "LazyLinear", "out_features": 2}),
            r"^'spec\.json': .*resolve",
        ),
        (changed("spec.json", *HEAD, "out_features", to=10**9), r"^'spec\.json': .* parameters in all"),
        (changed("spec.json", *HEAD, "in_features", to=5), r"^'spec\.json': .*cannot take an input of shape"),
        (
            changed("spec.json", *HEAD, "out_features", to=3),
            r"^'weights\.safetensors': .*'circle_head/weight' is .*",
        ),
        (
            changed("spec.json", "fields", "circle_data", "shape", to=[3]),
            r"^'preprocessing\.json' makes field",
        ),
        (
            changed("spec.json", "fields", "circle_data", "dtype", to="object"),
            r"^'spec\.json': /fields/circle_data/",
        ),
        (
            changed("spec.json", "fields", "circle_data", "shape", to=[2**30]),
            r"^'spec\.json': /fields/circle_data/",
        ),
        (replaced("weights.safetensors", b""), r"^'weights\.safetensors': "),
        (replaced("weights.safetensors", pickle.dumps({"a": 1})), r"^'weights\.safetensors': "),
        (replaced("weights.safetensors", b"\xff" * 64), r"^'weights\.safetensors': "),
        (tensors(tail__bias=torch.zeros(1)), r"^'weights\.safetensors': no task has a module 'tail'$"),
        (
            tensors(circle_head__bias=None),
            r"^'weights\.safetensors': .*tensor 'circle_head/bias' is missing$",
        ),
        (
            tensors(circle_head__more=torch.zeros(1)),
            r"^'weights\.safetensors': .*no tensor 'circle_head/more'$",
        ),
        (
            tensors(circle_head__bias=torch.zeros(3)),
            r"^'weights\.safetensors': .*\[2\], not torch\.float32 \[3\]$",
        ),
        (
            tensors(circle_head__bias=torch.zeros(2).double()),
            r"^'weights\.safetensors': .* not torch\.float64 \[2\]$",
        ),
        (tensors(tail__bias=torch.zeros(2**16)), r"^'weights\.safetensors' is larger than 7\d,\d+ bytes"),
        (replaced("preprocessing.json", b"{"), r"^'preprocessing\.json': .*Invalid JSON"),
        (replaced("preprocessing.json", b"\xff"), r"^'preprocessing\.json': 'utf-8' codec"),
        (
            changed("preprocessing.json", "fields", "circle_data", "columns", to=[]),
            r"^'preprocessing\.json': field 'circle_data' has no columns$",
        ),
        (
            changed("preprocessing.json", "fields", "circle_data", "columns", 0, "scale", to="much"),
            r"^'preprocessing\.json': /fields/circle_data/columns/0/number/scale: ",
        ),
        (
            changed("preprocessing.json", "fields", "circle_data", "columns", to=[NUMBER, BUCKETS]),
            r"^'preprocessing\.json': field 'circle_data' encodes no row: ",
        ),
        (
            changed("preprocessing.json", "fields", "other", to=None),
            r"^'preprocessing\.json': /fields/other: ",
        ),
    ],
)
def test_what_is_wrong_is_refused_in_words(
    change: Callable[[Files], None], message: str, files: Files, tmp_path: Path
) -> None:
    change(files)
    with pytest.raises(BundleError, match=message) as caught:
        read_bundle(zipped(files, tmp_path / "b.zip"))
    assert len(str(caught.value)) < 600


def test_a_folder_is_read_as_strictly_and_its_links_are_not_followed(files: Files, tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    (folder / "more").mkdir()
    with pytest.raises(BundleError, match="a bundle has no file 'more'"):
        read_bundle(folder)
    (folder / "more").rmdir()
    (tmp_path / "secret").write_bytes(files["spec.json"])
    (folder / "spec.json").unlink()
    (folder / "spec.json").symlink_to(tmp_path / "secret")
    with pytest.raises(BundleError, match=r"'spec\.json' is no plain file"):
        read_bundle(folder)


def test_tasks_beyond_the_limits_together_are_refused(small: Exported, tmp_path: Path) -> None:
    write(small, tmp_path / "b.zip")
    read_bundle(tmp_path / "b.zip", Limits(max_parameters=32))
    with pytest.raises(BundleError, match="32 parameters in all"):
        read_bundle(tmp_path / "b.zip", Limits(max_parameters=31))


def test_bombs_are_refused_before_they_unfold(files: Files, tmp_path: Path) -> None:
    for name in ("spec.json", "weights.safetensors", "preprocessing.json"):
        path = zipped(files | {name: bytes(2**28)}, tmp_path / "b.zip")
        assert path.stat().st_size < 2**20
        with pytest.raises(BundleError, match=f"'{name}' is larger than"):
            read_bundle(path)


def test_an_entry_that_lies_about_its_size_is_refused(files: Files, tmp_path: Path) -> None:
    path = zipped({"spec.json": bytes(2**20), "weights.safetensors": b""}, tmp_path / "b.zip")
    size, content = (2**20).to_bytes(4, "little"), path.read_bytes()
    assert content.count(size) == 2
    path.write_bytes(content.replace(size, (64).to_bytes(4, "little")))
    with pytest.raises(BundleError):
        read_bundle(path)


def test_what_is_no_archive_twice_the_same_file_or_encrypted_is_refused(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    with pytest.raises(FileNotFoundError):
        read_bundle(path)
    path.write_bytes(b"no archive")
    with pytest.raises(BundleError, match=r"^'b\.zip' is no zip archive, or a damaged one: "):
        read_bundle(path)
    zipped(files, path)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("spec.json", b"{}")
    with pytest.raises(BundleError, match=r"^two files have one name$"):
        read_bundle(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    with pytest.raises(BundleError, match="encrypted, or compressed in another way"):
        read_bundle(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_archive_is_refused_or_read_as_it_was(
    files: Files, data: st.DataObject, tmp_path: Path
) -> None:
    whole = bytearray(zipped(files, tmp_path / "whole.zip").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(whole[: data.draw(st.just(len(whole)) | st.integers(0, len(whole)))])
    try:
        bundle = read_bundle(damaged)
    except BundleError:
        return
    assert safetensors.torch.save(bundle.weights) == files["weights.safetensors"]


def test_what_could_not_be_read_again_is_not_written(small: Exported, tmp_path: Path) -> None:
    weights, path = module_weights(small.model), tmp_path / "b.zip"
    lazy = TaskSpec.model_validate(
        shape_spec("circle")
        | {
            "module_pool": shape_spec()["module_pool"]
            | {"circle_head": {"type": "LazyLinear", "out_features": 2}}
        }
    )
    for specs, tensors_, preprocessing, message in [
        ([lazy, small.specs[1]], weights, None, r"'spec\.json': .*resolve the task first"),
        (small.specs[:1], weights, None, r"'weights\.safetensors': no task has a module 'square_head'"),
        (small.specs, {}, None, r"'weights\.safetensors': .* is missing"),
        ([*small.specs, small.specs[0]], weights, None, "two tasks have one name"),
        (small.specs, weights, "[]", r"'preprocessing\.json': "),
        (small.specs, weights, preprocessing_of("circle_data", 3), r"'preprocessing\.json' makes field"),
    ]:
        with pytest.raises(BundleError, match=message):
            write_bundle(path, specs, tensors_, small.fields, preprocessing)
    assert not list(tmp_path.iterdir())


def test_all_outputs_and_scales_survive(tmp_path: Path) -> None:
    exported = of_outputs()
    write(exported, tmp_path / "b.zip")
    again = read_bundle(tmp_path / "b.zip").classifier()
    for name in exported.tasks:
        assert type(again.tasks[name].output_func) is type(exported.model.tasks[name].output_func)


def test_a_field_of_unknown_shape_stays_so(small: Exported, tmp_path: Path) -> None:
    fields = small.fields | {"circle_data": FieldShape(None, "float32")}
    write_bundle(tmp_path / "b.zip", small.specs, module_weights(small.model), fields)
    assert read_bundle(tmp_path / "b.zip").fields["circle_data"].shape is None


def test_what_stands_beside_a_program_or_onnx_file_is_what_a_bundle_has(
    small: Exported, files: Files, tmp_path: Path
) -> None:
    write_beside(tmp_path / "out", small.fields, preprocessing_of("circle_data", 2))
    written = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert written == {name: files[name] for name in ("preprocessing.json", "README.md")}
    write_beside(tmp_path / "plain", small.fields)
    assert [file.name for file in (tmp_path / "plain").iterdir()] == ["README.md"]


def test_a_layer_that_slices_bring_under_many_names_counts_under_each(tmp_path: Path) -> None:
    wide = shape_spec("circle")
    head = {"type": "Linear", "in_features": 4, "out_features": 1000}
    parts = [RIGHT | {"name": f"s{i}"} for i in range(60)]
    exported = built([wide | {"module_pool": wide["module_pool"] | {"circle_head": head}, "slices": parts}])
    write(exported, tmp_path / "b.zip")
    assert len(read_bundle(tmp_path / "b.zip").weights) == len(module_weights(exported.model))
    with pytest.raises(
        BundleError, match=r"'spec\.json': the weights of its tasks are 1,\d+,\d+ bytes; at most"
    ):
        read_bundle(tmp_path / "b.zip", Limits(max_parameters=13_000))


def test_nothing_is_unpacked_to_disk(files: Files, tmp_path: Path) -> None:
    zipped(files, tmp_path / "b.zip")
    before = sorted(tmp_path.rglob("*"))
    read_bundle(tmp_path / "b.zip")
    assert sorted(tmp_path.rglob("*")) == before
