"""Micrographs read through scratch: a copy while it is read, nothing afterwards, and never a reason to fail."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.micrographs.scratch import local_copies, local_copy


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "scratch of 'job' 7"
    folder.mkdir()
    monkeypatch.setenv("CRYOFLOW_SCRATCH", str(folder))
    return folder


@pytest.fixture
def micrograph(tmp_path: Path, hostile_name: str) -> Path:
    path = tmp_path / hostile_name / "micrograph.mrc"
    path.parent.mkdir()
    path.write_bytes(os.urandom(4096))
    return path


def test_the_copy_has_the_same_bytes_and_ending_and_is_gone_afterwards(scratch: Path, micrograph: Path) -> None:
    with local_copy(micrograph) as copy:
        assert copy.parent == scratch
        assert copy.suffix == ".mrc"
        assert copy.read_bytes() == micrograph.read_bytes()
    assert list(scratch.iterdir()) == []
    assert micrograph.exists()


def test_without_scratch_the_file_itself_is_read(micrograph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRYOFLOW_SCRATCH", raising=False)
    with local_copy(micrograph) as copy:
        assert copy == micrograph
    monkeypatch.setenv("CRYOFLOW_SCRATCH", "/not/there")
    with local_copy(micrograph) as copy:
        assert copy == micrograph
    assert micrograph.exists()


def test_without_room_the_file_itself_is_read(scratch: Path, micrograph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 5_000 + 4_096  # the file's bytes above the 5 % that are left to others
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(total=100_000, free=free))
    with local_copy(micrograph) as copy:
        assert copy != micrograph
    free -= 1
    with local_copy(micrograph) as copy:
        assert copy == micrograph
    assert list(scratch.iterdir()) == []


def test_a_full_disk_leaves_nothing_behind_and_the_file_itself_is_read(
    scratch: Path, micrograph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with local_copy(micrograph) as copy:
        assert copy == micrograph
    monkeypatch.undo()
    monkeypatch.setenv("CRYOFLOW_SCRATCH", str(scratch))
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with local_copy(micrograph) as copy:
        assert copy == micrograph
    assert list(scratch.iterdir()) == []


def test_a_pipe_is_not_copied_and_leaves_nothing_behind(scratch: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "micrograph.mrc"
    os.mkfifo(pipe)
    with local_copy(pipe) as copy:
        assert copy == pipe
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("kind", [BadInput, MissingMetadata])
def test_what_is_wrong_with_the_copy_is_said_of_the_file(scratch: Path, tmp_path: Path, kind: type[BadInput]) -> None:
    path = tmp_path / "cut.mrc"
    path.write_bytes(b"short")
    with pytest.raises(kind) as caught, local_copy(path) as copy:
        raise kind(copy, "is cut off.", "Copy it again.")
    assert (caught.value.path, caught.value.reason, caught.value.hint) == (path, "is cut off.", "Copy it again.")
    assert list(scratch.iterdir()) == []


def test_many_files_at_a_time_have_a_copy_each(scratch: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.mrc" for i in range(8)]
    for path in paths:
        path.write_bytes(path.name.encode() * 1000)

    def read(path: Path) -> bytes:
        with local_copy(path) as copy:
            assert copy != path
            return copy.read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, paths)) == [p.read_bytes() for p in paths]
    with local_copies([*paths, *paths]) as copies:
        assert sorted(copies) == sorted(paths)
        assert len(list(scratch.iterdir())) == 8
    assert list(scratch.iterdir()) == []
