from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtl_core import ArrayWriter, DictDataLoader, DictDataset, MappedDataset, TaskloomError

from .shapes import shape_data, shape_task

BOTH_WAYS = pytest.mark.parametrize("resident_bytes", [0, 10**9], ids=["read", "mapped"])


def write(path: Path, values: torch.Tensor, batch: int = 3) -> Path:
    array = values.numpy()
    with ArrayWriter(path, array.dtype, array.shape[1:], len(array)) as writer:
        for start in range(0, len(array), batch):
            writer.write(array[start : start + batch])
    return path


def mapped(folder: Path, data: DictDataset, **options: Any) -> MappedDataset:
    X_files = {field: write(folder / f"x_{field}.npy", values) for field, values in data.X_dict.items()}
    Y_files = {task: write(folder / f"y_{task}.npy", labels) for task, labels in data.Y_dict.items()}
    return MappedDataset.open(data.name, data.split, X_files, Y_files, **options)


def in_memory(n: int = 11) -> DictDataset:
    labels = torch.randint(-1, 3, (n,))
    fields = {
        "x": torch.randn(n, 3, 2),
        "i": torch.arange(n),
        "wide": torch.randn(n, 30_000),
        "none": torch.zeros(n, 0),
        "_weights_": torch.rand(n),
    }
    return DictDataset("d", "train", fields, {"t": labels, "u": torch.rand(n, 2)})


def assert_same(ours: Any, theirs: Any) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for key, values in mine.items():
            assert values.dtype == other[key].dtype
            assert torch.equal(values, other[key])


class TestMappedDataset:
    @BOTH_WAYS
    def test_it_is_the_same_as_in_memory(self, tmp_path: Path, resident_bytes: int) -> None:
        theirs = in_memory()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ours = mapped(tmp_path, theirs, resident_bytes=resident_bytes)
            assert (ours.name, ours.split, len(ours)) == ("d", "train", 11)
            assert_same((ours.X_dict, ours.Y_dict), (theirs.X_dict, theirs.Y_dict))
            for indices in ([3], [], [2, 3, 4, 0], [10, 9, 8], [5, 5, 6, 1], list(range(11))):
                assert_same(ours.batch(indices), theirs.batch(indices))
        for index in (0, 10):
            assert_same(ours[index], theirs[index])

    @BOTH_WAYS
    @pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"shuffle": True, "drop_last": True}])
    def test_its_loader_gives_the_same_batches(
        self, tmp_path: Path, resident_bytes: int, options: dict[str, Any]
    ) -> None:
        theirs = in_memory(40)
        ours = mapped(tmp_path, theirs, resident_bytes=resident_bytes)
        passes: list[list[Any]] = []
        for data in (ours, theirs):
            torch.manual_seed(4)
            loader = DictDataLoader(data, batch_size=7, **options)
            passes.append([*loader, *loader])
        for mine, other in zip(*passes, strict=True):
            assert_same(mine, other)

    def test_its_loader_gathers_rather_than_collates(self, tmp_path: Path) -> None:
        class NoExamples(MappedDataset):
            def batch(self, indices: Any) -> Any:
                assert len(indices) == 4
                return super().batch(indices)

        write(tmp_path / "x.npy", torch.rand(8))
        data = NoExamples.open("d", "train", {"x": tmp_path / "x.npy"}, {})
        assert len(list(DictDataLoader(data, batch_size=4))) == 2

    def test_a_batch_is_a_copy_to_work_on(self, tmp_path: Path) -> None:
        data = mapped(tmp_path, in_memory(), resident_bytes=0)
        first = data.batch([1, 2])
        for values in first[0].values():
            values.fill_(0)
        assert data.batch([1, 2])[0]["x"].abs().sum() > 0

    def test_a_loader_that_is_left_early_ends(self, tmp_path: Path) -> None:
        loader = DictDataLoader(mapped(tmp_path, in_memory(), resident_bytes=0), batch_size=1)
        batches = iter(loader)
        next(batches)
        batches.close()  # pyright: ignore[reportAttributeAccessIssue]
        assert len(list(loader)) == 11

    @BOTH_WAYS
    @pytest.mark.parametrize("index", [-1, 11])
    def test_there_is_no_row_beyond_the_last(self, tmp_path: Path, resident_bytes: int, index: int) -> None:
        data = mapped(tmp_path, in_memory(), resident_bytes=resident_bytes)
        with pytest.raises(IndexError):
            data.batch([0, index])
        with pytest.raises(IndexError):
            list(DictDataLoader(data, sampler=[0, 1, index]))

    def test_a_model_is_trained_and_scored_as_from_memory(self, tmp_path: Path) -> None:
        from mtl_core import MultitaskClassifier, Trainer

        theirs = shape_data("circle")
        scores: list[Any] = []
        for data in (theirs, mapped(tmp_path, theirs, resident_bytes=0)):
            torch.manual_seed(0)
            model = MultitaskClassifier([shape_task("circle")], device="cpu")
            loaders = [DictDataLoader(data, batch_size=8, shuffle=True)]
            Trainer(n_epochs=2, seed=1, progress_bar=False).fit(model, loaders)
            scores.append((model.score(loaders), model.module_pool["circle_head"].state_dict()))
        assert scores[0][0] == scores[1][0]
        assert all(torch.equal(scores[0][1][key], scores[1][1][key]) for key in scores[0][1])

    def test_lengths_that_differ_are_refused(self, tmp_path: Path) -> None:
        files = [write(tmp_path / f"{n}.npy", torch.rand(n)) for n in (3, 4)]
        with pytest.raises(TaskloomError, match="one length"):
            MappedDataset.open("d", "train", {"x": files[0]}, {"t": files[1]})

    @pytest.mark.parametrize(
        "damage", ["cut", "longer", "empty", "text", "objects", "fortran", "scalar", "big endian"]
    )
    def test_a_file_that_is_not_what_it_should_be_is_refused(self, tmp_path: Path, damage: str) -> None:
        path = write(tmp_path / "x.npy", torch.rand(4, 2))
        content = path.read_bytes()
        match damage:
            case "cut":
                path.write_bytes(content[:-1])
            case "longer":
                path.write_bytes(content + b"0")
            case "empty":
                path.write_bytes(b"")
            case "text":
                path.write_text("a,b\n1,2\n")
            case "objects":
                np.save(path, np.array([{}], dtype=object))
            case "fortran":
                np.save(path, np.asfortranarray(np.ones((3, 2))))
            case "scalar":
                np.save(path, np.float32(1))
            case _:
                np.save(path, np.ones(3, dtype=">f4"))
        with pytest.raises(TaskloomError, match=r"x\.npy"):
            MappedDataset.open("d", "train", {"x": path}, {})

    def test_a_file_that_is_cut_while_in_use_is_an_error_not_an_end(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.npy", torch.rand(100, 1000))
        data = MappedDataset.open("d", "train", {"x": path}, {}, resident_bytes=0)
        with path.open("r+b") as file:
            file.truncate(200_000)
        with pytest.raises(TaskloomError, match=r"x\.npy' is shorter than it was"):
            data.batch([1, 99])

    @pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
    @pytest.mark.parametrize("shuffle", [True, False])
    def test_memory_stays_bounded_while_a_larger_file_is_read(self, tmp_path: Path, shuffle: bool) -> None:
        n_rows, n_columns = 100_000, 1000
        chunk = np.ones((1000, n_columns), dtype=np.float32)
        with ArrayWriter(tmp_path / "x.npy", "float32", (n_columns,), n_rows) as writer:
            for _ in range(n_rows // len(chunk)):
                writer.write(chunk)
        write(tmp_path / "y.npy", torch.zeros(n_rows, dtype=torch.int64), batch=n_rows)
        program = [sys.executable, "-c", _READ_ALL, str(tmp_path), str(int(shuffle))]
        growth, rows = map(int, subprocess.check_output(program, text=True).split())
        assert rows == n_rows
        # Of the 400 MB, 64 MiB may stay; threads and batches take some more.
        assert growth < 100 * 2**20


_READ_ALL = """
import sys
from pathlib import Path
import torch
from mtl_core import DictDataLoader, DictDataset, MappedDataset

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))

folder, shuffle = Path(sys.argv[1]), sys.argv[2] == "1"
list(DictDataLoader(DictDataset("warm", "train", {"x": torch.rand(300, 1000)}, {}), batch_size=100, shuffle=shuffle))
before = peak = resident()
files = {"x": folder / "x.npy"}, {"t": folder / "y.npy"}
data = MappedDataset.open("d", "train", *files, resident_bytes=64 * 2**20)
rows = 0
for X_dict, _ in DictDataLoader(data, batch_size=100, shuffle=shuffle):
    rows += int(X_dict["x"][:, 0].sum())
    peak = max(peak, resident())
print(peak - before, rows)
"""


class TestArrayWriter:
    @given(
        rows=st.integers(0, 20),
        shape=st.lists(st.integers(0, 3), max_size=3),
        dtype=st.sampled_from(["float32", "int64", "bool", "float64"]),
        batch=st.integers(1, 7),
    )
    def test_what_is_written_is_what_numpy_reads(
        self, tmp_path_factory: pytest.TempPathFactory, rows: int, shape: list[int], dtype: str, batch: int
    ) -> None:
        path = tmp_path_factory.mktemp("written") / "x.npy"
        values = (
            (np.arange(rows * int(np.prod(shape)), dtype=np.int64) % 251).reshape(rows, *shape).astype(dtype)
        )
        with ArrayWriter(path, dtype, shape, rows) as writer:
            for start in range(0, rows, batch):
                writer.write(values[start : start + batch])
        loaded = np.load(path, allow_pickle=False)
        assert loaded.dtype == values.dtype
        assert np.array_equal(loaded, values)

    def test_rows_that_are_no_block_of_memory_are_written_as_they_read(self, tmp_path: Path) -> None:
        values = np.arange(24, dtype=np.float32).reshape(4, 6)
        with ArrayWriter(tmp_path / "x.npy", "float32", (3,), 4) as writer:
            writer.write(values[:, ::2])
        assert np.array_equal(np.load(tmp_path / "x.npy"), values[:, ::2])

    @pytest.mark.parametrize("n", [0, 2, 4])
    def test_another_number_of_rows_than_announced_leaves_no_file(self, tmp_path: Path, n: int) -> None:
        path = tmp_path / "x.npy"
        with (
            pytest.raises(TaskloomError, match=f"3 rows were announced, and {n}"),
            ArrayWriter(path, "float32", (), 3) as writer,
        ):
            writer.write(np.zeros(n, dtype=np.float32))
        assert not path.exists()

    @pytest.mark.parametrize(
        "rows",
        [np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float64), np.zeros(2, np.float32), np.float32(0)],
    )
    def test_rows_of_another_form_are_refused_and_leave_no_file(self, tmp_path: Path, rows: Any) -> None:
        path = tmp_path / "x.npy"
        with (
            pytest.raises(TaskloomError, match=r"rows of float32 \[2\] are written"),
            ArrayWriter(path, "float32", (2,), 1) as writer,
        ):
            writer.write(rows)
        assert not path.exists()

    def test_an_error_of_the_caller_leaves_no_file_and_passes_through(self, tmp_path: Path) -> None:
        path = tmp_path / "x.npy"
        with pytest.raises(KeyError), ArrayWriter(path, "float32", (), 0):
            raise KeyError
        assert not path.exists()

    def test_a_file_that_is_there_is_never_written_over(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.npy", torch.ones(3))
        with pytest.raises(FileExistsError), ArrayWriter(path, "float32", (), 1):
            pass
        assert np.load(path).tolist() == [1, 1, 1]

    def test_it_writes_within_its_block_alone(self, tmp_path: Path) -> None:
        with pytest.raises(TaskloomError, match="is not open"):
            ArrayWriter(tmp_path / "x.npy", "float32", (), 1).write(np.zeros(1, np.float32))
