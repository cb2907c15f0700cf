"""Pickles of arrays from elsewhere: numbers are read, nothing that a file names is run."""

from __future__ import annotations

import io
import os
import pickle
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collapselab.data.plain_pickle import read_plain_pickle
from collapselab.errors import InputError


def written(path: Path, content: Any, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4", "<f4", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_plain_arrays(protocol: int, dtype: str, order: Any, tmp_path: Path) -> None:
    array = np.asarray(np.arange(24).reshape(4, 6) % 5, dtype=dtype, order=order)
    content = {
        "data": array,
        "labels": [3, 1, 2, 0],
        b"names": ["a", b"b"],
        "depth": {"x": (1.5, None, True)},
    }
    found = read_plain_pickle(written(tmp_path / "p", content, protocol))
    assert found["data"].dtype == array.dtype
    assert np.array_equal(found["data"], array)
    assert found["labels"] == [3, 1, 2, 0]
    assert set(found) == {"data", "labels", "names", "depth"}


def test_pickles_of_python_2(tmp_path: Path) -> None:
    """As the authors of CIFAR wrote them: short strings of bytes, and the shape and bytes of the array beside them."""
    state = b"(I1\n(I2\nI3\ntcnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        + state
        + b"I00\nU\x06abcdeftb"
    )
    (tmp_path / "p").write_bytes(b"\x80\x02}(U\x04data" + array + b"U\x06labels](K\x01K\x00eu.")
    found = read_plain_pickle(tmp_path / "p")
    assert found["data"].tolist() == [[97, 98, 99], [100, 101, 102]]
    assert found["labels"] == [1, 0]


class Calls:
    """Unpickled by calling a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def hostile(mark: Path) -> dict[str, bytes]:
    """Programs that would make the file `mark`, or read memory that is not theirs."""
    command = f"touch {mark}"
    array = pickle.dumps(np.zeros(4, np.uint8), 2)
    dtype = b"cnumpy\ndtype\n(X\x02\x00\x00\x00%sK\x00K\x01tR"
    return {
        "a call of the system": pickle.dumps({"data": Calls(os.system, command)}),
        "eval": pickle.dumps({"data": Calls(eval, f"__import__('pathlib').Path({str(mark)!r}).touch()")}),
        "numpy's own way to start programs": pickle.dumps({"data": Calls(np.save, str(mark), 1)}),
        "an old instruction": f"(S'{command}'\nios\nsystem\n.".encode(),
        "another old instruction": f"(cos\nsystem\nS'{command}'\no.".encode(),
        "an entry of the registry of extensions": b"\x82\x01.",
        "an object outside": b"Pname\n.",
        "a method of something allowed": b"\x80\x04\x8c\x05numpy\x8c\x13ndarray.__init_subclass__\x93.",
        "attributes of something allowed": b"c_codecs\nencode\n(N}X\x08\x00\x00\x00__call__K\x01stb.",
        "objects in an array": pickle.dumps({"data": np.array([Calls(os.system, command)], object)}),
        "a dtype of objects": dtype % b"O8" + b".",
        "a dtype of several fields": dtype % b"V8" + b".",
        "bytes that do not fill the shape": array.replace(
            struct.pack("<BB", 75, 4), struct.pack("<BB", 75, 9)
        ),
        "a huge shape": array.replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85"),
        "no array at all": pickle.dumps([1, 2]),
    }


@pytest.mark.parametrize("kind", hostile(Path("x")))
def test_a_hostile_pickle_runs_nothing(kind: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "p").write_bytes(hostile(mark)[kind])
    with pytest.raises(InputError) as raised:
        read_plain_pickle(tmp_path / "p")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("mark*"))


@pytest.mark.parametrize(
    "kind", ["a call of the system", "eval", "an old instruction", "another old instruction"]
)
def test_the_ordinary_reader_would_have_run_it(kind: str, tmp_path: Path) -> None:
    """Or else the test above shows nothing."""
    mark = tmp_path / "mark"
    pickle.load(io.BytesIO(hostile(mark)[kind]))
    assert mark.exists()


def test_damage_never_ends_in_another_error(tmp_path: Path, rng: np.random.Generator) -> None:
    whole = pickle.dumps({"data": np.arange(40, dtype=np.uint8), "labels": [0, 1]}, 2)
    for place in rng.integers(0, len(whole), 200):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        (tmp_path / "p").write_bytes(damaged)
        with suppress(InputError):
            read_plain_pickle(tmp_path / "p")
