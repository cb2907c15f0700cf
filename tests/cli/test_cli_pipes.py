"""Named pipes and devices where a command takes a path: one line at once, never a wait."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli_runner import assert_refused, run, save

REFUSED = "a pipe or a device, not a file"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    for name in ("p.npz", "p.safetensors", "p.yaml", "p.py", "p.pt", "p", "p.json"):
        os.mkfifo(tmp_path / name)
    save(tmp_path / "train.npz")
    (tmp_path / "shards").mkdir()
    save(tmp_path / "shards" / "a.npz")
    os.mkfifo(tmp_path / "shards" / "b.npz")
    images = tmp_path / "images" / "train" / "a"
    images.mkdir(parents=True)
    os.mkfifo(images / "0.png")
    (tmp_path / "profile").mkdir()
    os.mkfifo(tmp_path / "profile" / "profile.json")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("measure", "{}/p.npz"), REFUSED),
        (("measure", "{}/p.safetensors"), REFUSED),
        (("measure", "{}/train.npz", "--test", "{}/p.npz"), REFUSED),
        (("measure", "{}/shards"), REFUSED),
        (("measure", "{}/train.npz", "--output", "{}/p"), "--output"),
        (("run", "{}/p.yaml"), REFUSED),
        (("judge", "{}/p"), "not a finished experiment"),
        (("run", "digits", "--out", "{}/p"), "cannot be created"),
        (("profile", "mlp", "--dataset", "digits", "--checkpoint", "{}/p.pt"), REFUSED),
        (("profile", "mlp", "--dataset", "digits", "--checkpoint", "{}/p.safetensors"), REFUSED),
        (("profile", "mlp", "--dataset", "digits", "--out", "{}/o", "--against", "{}/p.json"), REFUSED),
        (("profile", "mlp", "--dataset", "digits", "--out", "{}/o", "--against", "{}/profile"), REFUSED),
        (("profile", "mlp", "--dataset", "{}/images"), REFUSED),
        (("profile", "mlp", "--dataset", "{}/p.npz"), "p.npz"),
        (("profile", "mlp", "--dataset", "digits", "--out", "{}/p"), "--out"),
        (("profile", "{}/p.py:f", "--dataset", "digits"), "p.py"),
    ],
)
def test_a_pipe_is_refused(here: Path, arguments: tuple[str, ...], said: str) -> None:
    assert_refused(run(*(argument.format(here) for argument in arguments)), said)


def test_an_output_may_be_a_pipe_that_is_read(here: Path) -> None:
    reader = os.open(here / "p", os.O_RDONLY | os.O_NONBLOCK)
    outcome = run("measure", here / "train.npz", "--format", "json", "--output", here / "p")
    assert outcome.code == 0
    assert os.read(reader, 100).startswith(b"{")
    os.close(reader)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema": 2}', b"[" * 9000])
def test_a_damaged_earlier_profile_is_one_line(here: Path, content: bytes) -> None:
    (here / "earlier.json").write_bytes(content)
    outcome = run(
        "profile", "mlp", "--dataset", "digits", "--out", here / "o", "--against", here / "earlier.json"
    )
    assert_refused(outcome, "--against", "earlier.json")
