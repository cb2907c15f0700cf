"""Digests of stored files: JSON, tensors, any content; what has no digest is read without a check."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from collapselab.digests import (
    Damaged,
    check_tensors,
    digest,
    seal,
    seal_content,
    seal_tensors,
    unseal,
    unseal_content,
)
from collapselab.storage import load_tensors, save_tensors

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor([1, 2]), "none": torch.empty(0, 3)}


def test_a_digest_is_that_of_all_pieces_together() -> None:
    assert digest(b"ab", "c", memoryview(b"d")) == hashlib.sha256(b"abcd").hexdigest()[:16]


def test_an_object_comes_back_and_may_be_laid_out_anew() -> None:
    values = {"name": "é", "numbers": [1, 2.5, None, True], "inside": {"b": 1e-300, "a": {}}}
    sealed = seal(values)
    assert unseal(json.loads(json.dumps(sealed, indent=3, sort_keys=True))) == values
    assert unseal(values) == values


@pytest.mark.parametrize(
    "change", [{"a": 2}, {"a": 1.0}, {"a": None}, {"b": 1}, {"digest": None}, {"digest": "0" * 16}]
)
def test_an_object_that_was_changed_is_noticed(change: dict[str, object]) -> None:
    with pytest.raises(Damaged, match="its digest does not match"):
        unseal(seal({"a": 1}) | change)


def test_a_digest_that_must_be_there_is_missed() -> None:
    with pytest.raises(Damaged, match="its digest is missing"):
        unseal({"a": 1}, required=True)
    assert unseal([1], required=True) == [1]


def test_an_object_belongs_to_its_place() -> None:
    with pytest.raises(Damaged):
        unseal(seal({"a": 1}, 1), 2)


def test_tensors_come_back_with_every_program(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_tensors(path, TENSORS, {"file": "here"})
    for read in (load_tensors(path), load_tensors(path, {"file": "here"}), load_file(path)):
        assert read.keys() == TENSORS.keys()
        assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())


def test_equal_tensors_give_equal_files() -> None:
    facts = {f"fact {number}": str(number) for number in range(9)}
    assert len({b"".join(seal_tensors(TENSORS, facts)) for _ in range(9)}) == 1


def test_tensors_of_another_place_are_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "t.safetensors", TENSORS, {"file": "here"})
    with pytest.raises(Damaged, match="it belongs elsewhere: file is here, not there"):
        load_tensors(tmp_path / "t.safetensors", {"file": "there"})


def test_tensors_of_other_programs_have_no_digest_to_check(tmp_path: Path) -> None:
    for metadata in (None, {"format": "pt", "digest": "theirs"}):
        save_file(TENSORS, tmp_path / "t.safetensors", metadata)
        assert torch.equal(load_tensors(tmp_path / "t.safetensors", {"file": "here"})["a"], TENSORS["a"])


def test_a_flipped_bit_of_any_byte_of_tensors_is_noticed_or_means_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    whole = b"".join(seal_tensors(TENSORS, {"file": "here"}))
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        try:
            read = load_tensors(path, {"file": "here"})
        except Damaged:
            continue
        assert read.keys() == TENSORS.keys(), place
        assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items()), place


def test_an_endless_header_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(b"\xff" * 8 + b"{" * 100)
    with path.open("rb") as file, pytest.raises(Damaged, match="no safetensors file"):
        check_tensors(file)


def test_any_content_comes_back_behind_its_first_line() -> None:
    whole = b"".join(seal_content(b"one\ntwo", "run"))
    content, facts = unseal_content(whole)
    assert (bytes(content), facts) == (b"one\ntwo", "run")
    assert bytes(unseal_content(b"PK...\n")[0]) == b"PK...\n"
    for place in range(len(b"collapselab "), len(whole)):
        with pytest.raises(Damaged):
            unseal_content(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(Damaged):
            unseal_content(whole[:place])
