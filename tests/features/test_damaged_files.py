"""Feature files that are cut off, damaged or lie about themselves: one line, no traceback, no memory taken."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli_runner import assert_refused, example, measured, run, save

KINDS = (".npz", ".safetensors")


def written(compressed: bool = False, kind: str = ".npz") -> bytes:
    arrays = example(0, 3, 30, 6) | {"predictions": example(0, 3, 30, 6)["labels"]}
    buffer = io.BytesIO()
    if kind == ".safetensors":
        from safetensors.numpy import save as dump

        return dump({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


CONTENTS = {
    "plain": written(),
    "packed": written(compressed=True),
    "safetensors": written(kind=".safetensors"),
}


def suffixed(form: str) -> str:
    return "a.safetensors" if form == "safetensors" else "a.npz"


@pytest.mark.parametrize("share", [0.0005, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize("form", CONTENTS)
def test_cut_files_are_refused(tmp_path: Path, form: str, share: float) -> None:
    content, path = CONTENTS[form], tmp_path / suffixed(form)
    path.write_bytes(content[: int(share * len(content))])
    assert_refused(measured(path), path)
    assert_refused(measured(tmp_path), path)


@pytest.mark.parametrize("name", ["features", "labels", "weight", "bias", "predictions"])
@pytest.mark.parametrize("form", ["plain", "packed"])
def test_a_flipped_bit_in_a_member_is_noticed(tmp_path: Path, form: str, name: str) -> None:
    content = CONTENTS[form]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        info = archive.getinfo(f"{name}.npy")
    at = info.header_offset + 30 + len(info.filename) + 20 + info.compress_size - 8
    path = tmp_path / "a.npz"
    path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
    assert_refused(measured(path), path, name, "damaged")
    assert_refused(measured(tmp_path), path, name, "damaged")


HEADERS = {
    "more rows": "{'descr': '<f8', 'fortran_order': False, 'shape': (1000, 5), }",
    "fewer rows": "{'descr': '<f8', 'fortran_order': False, 'shape': (10, 5), }",
    "enormous": "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000, 5), }",
    "beyond 64 bits": "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999999, 5), }",
    "negative": "{'descr': '<f8', 'fortran_order': False, 'shape': (-24, -5), }",
    "no header": "",
    "no dictionary": "[1, 2]",
    "unfinished": "{'descr': '<f8', 'fortran_order': ",
    "nested": "(" * 5000,
    "nested signs": "-" * 5000 + "1",
    "unknown type": "{'descr': '<q99', 'fortran_order': False, 'shape': (24, 5), }",
    "of no size": "{'descr': '|V0', 'fortran_order': False, 'shape': (24, 5), }",
    "arrays in arrays": "{'descr': ('<f8', (5,)), 'fortran_order': False, 'shape': (24,), }",
    "python 2": "{'descr': '<f8', 'fortran_order': False, 'shape': (1000L, 5L), }",
    "code": "__import__('os').abort()",
}


def npy(header: str, data: bytes, version: int = 1) -> bytes:
    text = header.encode() + b"\n"
    return (
        b"\x93NUMPY"
        + bytes([version, 0])
        + len(text).to_bytes(2 if version == 1 else 4, "little")
        + text
        + data
    )


@pytest.mark.parametrize("version", [1, 2, 3, 9])
@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_lie_are_refused(tmp_path: Path, case: str, version: int) -> None:
    path = save(tmp_path / "a.npz", features=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("features.npy", npy(HEADERS[case], example()["features"].tobytes(), version))
    assert_refused(measured(path), path, "features")
    assert_refused(measured(tmp_path), path, "features")


def test_sizes_that_lie_about_a_packed_member_take_no_memory(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", features=None)
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (24, 5000000), }"
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", npy(header, b"\0" * 960))
    content = bytearray(path.read_bytes())
    real, claimed = 960 + 10 + len(header) + 1, 24 * 5_000_000 * 8 + 10 + len(header) + 1
    assert content.count(real.to_bytes(4, "little")) == 2  # in the local and in the central directory
    path.write_bytes(bytes(content.replace(real.to_bytes(4, "little"), claimed.to_bytes(4, "little"))))
    assert_refused(measured(path), path, "features", "damaged")


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "F32"}, {"dtype": "Q7"}, {"shape": [24]}, {"shape": [10**15, 5]}, {"shape": [-1, 5]},
        {"shape": [2**64 - 1, 2**64 - 1]}, {"data_offsets": [0, 10**12]}, {"data_offsets": [8, 0]},
    ],
)  # fmt: skip
def test_safetensors_headers_that_lie_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    content = save(tmp_path / "a.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["features"] |= change
    text = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    assert_refused(measured(path), path)
    assert_refused(measured(tmp_path), path)


def test_members_that_are_no_arrays_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", features=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("features", b"1 2 3")
    assert_refused(measured(path), path, "features is not an array", "numpy.savez")


@given(st.binary(max_size=200), st.sampled_from([b"", b"PK\x03\x04", b"\x08\0\0\0\0\0\0\0{"]))
def test_random_bytes_are_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, start: bytes
) -> None:
    folder = tmp_path_factory.mktemp("random")
    for kind in KINDS:
        path = folder / f"a{kind}"
        path.write_bytes(start + content)
        assert_refused(measured(path), path)


EDITS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4
)  # fmt: skip


@given(st.sampled_from(sorted(CONTENTS)), EDITS, st.booleans())
def test_random_damage_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, form: str, edits: list[tuple[float, bytes]], near_end: bool
) -> None:
    """Bytes of safetensors data carry no checksum, and some of a zip archive's mean nothing: those may pass."""
    content = CONTENTS[form]
    damaged = bytearray(content)
    span = 900 if near_end or form == "safetensors" else len(content)  # its header is there
    first = len(content) - span if near_end else 0
    for place, new in edits:
        at = first + int(place * span)
        damaged[at : at + len(new)] = new
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / suffixed(form)
    path.write_bytes(bytes(damaged[: len(content)]))
    for target in (path, folder):
        outcome = run("measure", target, "--format", "json", "--metrics", "within_trace")
        if outcome.code == 0:
            json.loads(outcome.out)
        else:
            assert_refused(outcome, folder)
