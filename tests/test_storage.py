"""Writing and reading files: nothing that lies in the way is followed, waited for or lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from collapselab import InputError
from collapselab.storage import (
    WriteError,
    append_bytes,
    check_regular,
    is_temporary,
    read_bytes,
    replace_bytes,
    replace_text,
    save_tensors,
    write_to_device,
)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_pipe_or_a_device_is_not_waited_for(pipe: Path) -> None:
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(OSError, match="a pipe or a device, not a file"):
            read_bytes(path)
        with pytest.raises(InputError, match="a pipe or a device, not a file; save its content to a file"):
            check_regular(path)
    with pytest.raises(WriteError, match="pipe: cannot be written"):  # nobody reads it
        write_to_device(pipe, b"text")


def test_what_can_be_read_is_left_to_its_reader(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    assert read_bytes(tmp_path / "file") == b"text"
    for path in (tmp_path, tmp_path / "file", tmp_path / "none", Path("a\0b")):
        check_regular(path)


def test_a_pipe_is_replaced_and_a_folder_is_not(pipe: Path) -> None:
    replace_bytes(pipe, b"one", b"two")
    assert pipe.read_bytes() == b"onetwo"
    (pipe.parent / "folder").mkdir()
    with pytest.raises(WriteError, match=r"Is a directory.*; something else has this name: remove it"):
        replace_text(pipe.parent / "folder", "text")
    assert {path.name for path in pipe.parent.iterdir()} == {"pipe", "folder"}


def test_a_link_at_the_temporary_name_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    monkeypatch.setattr("secrets.token_hex", lambda _: "guessed")
    (tmp_path / ".guessed.tmp").symlink_to(precious)
    with pytest.raises(WriteError, match="File exists"):
        replace_text(tmp_path / "file", "text")
    assert precious.read_text() == "mine"


def test_names_as_long_as_the_file_system_allows_are_written(tmp_path: Path) -> None:
    replace_text(tmp_path / ("n" * 255), "text")
    assert [path.name for path in tmp_path.iterdir()] == ["n" * 255]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room, then run it again"),
        (errno.EDQUOT, "make room, then run it again"),
        (errno.EROFS, "check its permissions, or choose another folder"),
        (errno.EIO, "check the disk, then run it again"),
        (errno.ESTALE, "its folder is gone: bring it back, then run it again"),
    ],
)
@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str, name: str
) -> None:
    path = tmp_path / "file"
    path.write_text("old\n")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, name, fail)
        writes = {"replace": [0], "write": [1]}.get(name, [0, 1])
        for which in writes:
            with pytest.raises(WriteError) as caught:
                replace_text(path, "new\n") if which == 0 else append_bytes(path, b"new\n", 4)
            text = str(caught.value)
            assert text == f"{path}: cannot be written ({os.strerror(number)}); {remedy}"
            assert isinstance(caught.value, InputError)
    assert path.read_text() == "old\n"
    assert [inside.name for inside in tmp_path.iterdir()] == ["file"]


def test_what_is_behind_the_start_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    append_bytes(path, b"one\n", 0)
    append_bytes(path, b"two\nthr", 4)
    append_bytes(path, b"four\n", 8)
    assert path.read_bytes() == b"one\ntwo\nfour\n"


def test_what_a_killed_process_leaves_is_known(tmp_path: Path) -> None:
    assert is_temporary(tmp_path / ".0123456789abcdef.tmp")
    assert not is_temporary(tmp_path / "run.json")


@pytest.fixture(params=[0o000, 0o022, 0o027, 0o077], ids="{:03o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_new_files_have_the_permissions_that_the_umask_leaves(tmp_path: Path, umask: int) -> None:
    """Temporary files of the standard library have 0600: others could not read results that were meant to be shared."""
    replace_text(tmp_path / "text", "a")
    append_bytes(tmp_path / "lines", b"a", 0)
    save_tensors(tmp_path / "tensors", {"a": torch.ones(1)})
    assert {path.name: mode(path) for path in tmp_path.iterdir()} == dict.fromkeys(
        ("text", "lines", "tensors"), 0o666 & ~umask
    )


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "text"
    path.touch()
    path.chmod(0o640)
    replace_text(path, "a")
    assert (mode(path), path.read_text()) == (0o640, "a")
