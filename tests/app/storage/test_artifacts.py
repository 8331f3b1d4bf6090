from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from app.storage.artifacts import ArtifactStore, DamagedArtifactError, StoredFile


def test_content_is_stored_once_under_its_checksum(store: ArtifactStore) -> None:
    sha256 = store.put(b"weights")
    assert sha256 == hashlib.sha256(b"weights").hexdigest()
    assert store.put(b"weights") == sha256
    assert store.path(sha256).read_bytes() == b"weights"
    assert [path.name for path in store.root.rglob("*") if path.is_file()] == [sha256]


def test_tensors_come_back_as_they_went_in_and_equal_ones_are_one_file(store: ArtifactStore) -> None:
    tensors = {"a": torch.randn(4, 3), "b/c": torch.arange(4), "empty": torch.zeros(4, 0)}
    stored = store.put_tensors(tensors)
    assert (stored.numbers, stored.bytes) == (16, store.path(stored.sha256).stat().st_size)
    loaded = store.load_tensors(stored.sha256)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert store.put_tensors(dict(reversed(tensors.items()))) == stored


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_damage_is_noticed(store: ArtifactStore, damage: str) -> None:
    sha256 = store.put_tensors({"a": torch.ones(100)}).sha256
    path = store.path(sha256)
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[:-1])
    else:
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.raises(DamagedArtifactError, match=sha256):
        store.load_tensors(sha256)
    # Loading what is not there makes nothing.
    with pytest.raises(DamagedArtifactError, match="missing"):
        store.path("0" * 64)


def test_what_is_damaged_is_mended_by_storing_it_again(store: ArtifactStore) -> None:
    sha256 = store.put(b"weights")
    store.path(sha256).write_bytes(b"wrong")
    assert store.put(b"weights") == sha256
    assert store.path(sha256).read_bytes() == b"weights"


def test_a_write_that_fails_leaves_nothing_behind(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.put(b"weights")
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_collecting_spares_what_is_referred_to_and_what_is_young(store: ArtifactStore) -> None:
    kept, old, young = store.put(b"kept"), store.put(b"old"), store.put(b"young")
    past = time.time() - 100
    for sha256 in (kept, old):
        os.utime(store.path(sha256), (past, past))
    abandoned = store.path(old).parent / ".writing-abandoned"
    abandoned.write_bytes(b"half")
    os.utime(abandoned, (past, past))
    assert sorted(store.collect({kept}, older_than_s=50)) == sorted([old, abandoned.name])
    assert store.path(kept).exists()
    assert store.path(young).exists()
    with pytest.raises(DamagedArtifactError):
        store.path(old)


def test_storing_again_makes_young(store: ArtifactStore) -> None:
    sha256 = store.put(b"again")
    past = time.time() - 100
    os.utime(store.path(sha256), (past, past))
    store.put(b"again")
    assert store.collect(set(), older_than_s=50) == []


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    store.check_writable()
    assert list(store.root.iterdir()) == []
    store.root.rmdir()
    with pytest.raises(OSError, match="artifacts"):
        store.check_writable()


def test_files_are_moved_into_the_store_once(store: ArtifactStore) -> None:
    past = time.time() - 100
    for _ in range(2):
        with store.scratch() as folder:
            (folder / "file").write_bytes(b"rows" * 2**20)
            os.utime(folder / "file", (past, past))
            stored = store.put_file(folder / "file")
            assert list(folder.iterdir()) == []
        assert stored == StoredFile(hashlib.sha256(b"rows" * 2**20).hexdigest(), 4 * 2**20)
        # It is young however old the file was, and stays so when it comes again.
        assert store.collect(set(), older_than_s=50) == []
        os.utime(store.path(stored.sha256), (past, past))
    store.path(stored.sha256).write_bytes(b"damaged")
    with store.scratch() as folder:
        (folder / "file").write_bytes(b"rows" * 2**20)
        store.put_file(folder / "file")
    assert store.path(stored.sha256).stat().st_size == 4 * 2**20


def test_a_path_is_checked_unless_told_otherwise(store: ArtifactStore) -> None:
    sha256 = store.put(b"weights")
    store.path(sha256).write_bytes(b"wrong")
    assert store.path(sha256, verify=False).read_bytes() == b"wrong"
    with pytest.raises(DamagedArtifactError, match="damaged"):
        store.path(sha256)
    with pytest.raises(DamagedArtifactError, match="missing"):
        store.path("0" * 64, verify=False)


def test_scratch_is_gone_afterwards(store: ArtifactStore) -> None:
    def fail() -> None:
        with store.scratch() as folder:
            (folder / "file").write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(store.root.iterdir()) == []


def test_scratch_of_a_killed_process_is_collected_and_that_of_others_kept(store: ArtifactStore) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from app.storage.artifacts import ArtifactStore\n"
        "with ArtifactStore(Path(sys.argv[1])).scratch() as folder:\n"
        "    (folder / 'file').write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, store.root], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = store.root.iterdir()
    past = time.time() - 100
    with store.scratch() as folder:
        for path in (left, folder.parent):
            os.utime(path, (past, past))
        assert store.collect(set(), older_than_s=200) == []
        assert store.collect(set(), older_than_s=50) == [left.name]
        assert folder.is_dir()
