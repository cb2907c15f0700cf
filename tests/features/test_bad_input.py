"""Feature files with contents that cannot be measured: each is refused in one line that says what, where and what to do."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli_runner import assert_refused, example, measured, save

KINDS = (".npz", ".safetensors")


# -------------------------------------------------------------------- wrong contents

NAN = example()["features"] * np.where(np.arange(24)[:, None] % 10 == 3, np.nan, 1)
INFINITE = np.where(np.arange(24)[:, None] == 20, np.array([0, np.inf, 0, -np.inf, 0]), 1.0)
LABELS = example()["labels"]
PREDICTED = np.where(np.arange(24) == 6, 5, LABELS)

WRONG: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "nan": ({"features": NAN}, ("15 feature values are NaN", "row 3", "remove")),
    "infinity": ({"features": INFINITE}, ("2 feature values", "infinite", "row 20")),
    "one nan": ({"features": NAN[:13], "labels": LABELS[:13], "weight": None, "bias": None}, ("row 3",)),
    "huge": ({"features": example()["features"] * 1e200}, ("120 feature values", "1e+130", "row 0")),
    "no rows": ({"features": np.zeros((0, 5)), "labels": LABELS[:0]}, ("empty", "(0, 5)")),
    "no columns": ({"features": np.zeros((24, 0))}, ("empty", "(24, 0)")),
    "one class": ({"labels": np.full(24, 7)}, ("all labels are 7", "at least two classes")),
    "too few labels": ({"labels": LABELS[:-1]}, ("23 labels for 24 rows", "one per row")),
    "too many labels": ({"labels": np.append(LABELS, 0)}, ("25 labels for 24 rows",)),
    "no labels": ({"labels": LABELS[:0]}, ("0 labels for 24 rows",)),
    "fractional labels": ({"labels": LABELS + 0.5 * (LABELS == 2)}, ("8 of the labels", "2.5", "row 2")),
    "nan labels": ({"labels": np.where(LABELS == 1, np.nan, 0)}, ("8 of the labels", "nan in row 1")),
    "infinite labels": ({"labels": np.where(LABELS == 1, np.inf, 0)}, ("8 of the labels", "inf in row 1")),
    "negative labels": ({"labels": LABELS - 1}, ("8 of the labels are negative", "-1 in row 0")),
    "negative float labels": ({"labels": LABELS - 1.0}, ("8 of the labels are negative", "-1 in row 0")),
    "huge labels": ({"labels": LABELS.astype(np.uint64) + 2**63}, ("labels go up to 9223372036854775810",)),
    "huge float labels": ({"labels": LABELS * 1e19}, ("labels go up to 2e+19",)),
    "scalar labels": ({"labels": np.array(3)}, ("labels have shape ()", "one whole number per sample")),
    "labels in a column": ({"labels": LABELS[:, None]}, ("labels have shape (24, 1)",)),
    "vector features": ({"features": np.ones(24)}, ("1-D", "(24,)", "reshape")),
    "maps as features": ({"features": np.ones((24, 2, 3))}, ("3-D", "(24, 2, 3)", "reshape")),
    "scalar features": ({"features": np.array(1.0)}, ("0-D",)),
    "missing features": ({"features": None}, ("no array named 'features'", "found: bias, labels, weight")),
    "missing labels": ({"labels": None}, ("no array named 'labels'", "found: bias, features, weight")),
    "weight of other classes": ({"weight": np.ones((4, 5))}, ("weight has shape (4, 5)", "(3, 5)")),
    "transposed weight": ({"weight": np.ones((5, 3))}, ("weight has shape (5, 3)", "(3, 5)")),
    "flat weight": ({"weight": np.ones(15)}, ("weight has shape (15,)", "(3, 5)")),
    "bias of other classes": ({"bias": np.ones(4)}, ("bias has shape (4,)", "(3,)")),
    "bias without weight": ({"weight": None}, ("bias is given without weight",)),
    "nan weight": ({"weight": np.full((3, 5), np.nan)}, ("weight has 15 NaN",)),
    "predictions outside": ({"predictions": PREDICTED}, ("1 predictions", "the first is 5 in row 6")),
    "few predictions": ({"predictions": LABELS[1:]}, ("23 predictions for 24 rows",)),
    "negative predictions": ({"predictions": LABELS - 1}, ("8 of the predictions are negative",)),
    "scores as predictions": ({"predictions": np.ones((24, 3))}, ("predictions have shape (24, 3)",)),
}  # fmt: skip


# The classifier of test data is not looked at.
WAYS = [
    (case, form)
    for case, (changes, _) in WRONG.items()
    for form in ("file", "shard", "test")
    if form != "test" or (case != "one class" and not {"weight", "bias"} & set(changes))
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("case", "form"), WAYS)
def test_wrong_contents_are_refused(tmp_path: Path, case: str, form: str, kind: str) -> None:
    changes, fragments = WRONG[case]
    if form == "shard":
        (tmp_path / "shards").mkdir()
        if case != "one class":
            predictions = LABELS if "predictions" in changes else None
            save(tmp_path / "shards" / f"0{kind}", weight=None, bias=None, predictions=predictions)
        path = save(tmp_path / "shards" / f"1{kind}", **changes)
        where = path.parent if case == "one class" or {"weight", "bias"} & set(changes) else path
        assert_refused(measured(path.parent), *fragments, where)
    elif form == "test":
        path = save(tmp_path / f"a{kind}", **changes)
        assert_refused(measured(save(tmp_path / f"b{kind}"), "--test", path), *fragments, path)
    else:
        path = save(tmp_path / f"a{kind}", **changes)
        assert_refused(measured(path), *fragments, path)


UNREAL = {
    "text": np.array([["a"] * 5] * 24),
    "complex": np.ones((24, 5), complex),
    "times": np.zeros((24, 5), "M8[s]"),
    "records": np.zeros((24, 5), [("x", "f4")]),
    "raw": np.zeros((24, 5), "V2"),
}


@pytest.mark.parametrize("kind", UNREAL)
def test_arrays_of_no_real_numbers_are_refused(tmp_path: Path, kind: str) -> None:
    array = UNREAL[kind]
    assert_refused(measured(save(tmp_path / "a.npz", features=array)), "features have dtype", "real numbers")
    assert_refused(measured(save(tmp_path / "a.npz", labels=array[:, 0])), "labels have dtype", "whole")
    assert_refused(measured(save(tmp_path / "a.npz", predictions=array[:, 0])), "predictions have dtype")
    assert_refused(measured(save(tmp_path / "a.npz", weight=array[:3])), "weight has dtype", "real numbers")


def test_test_data_must_fit_train_data(tmp_path: Path) -> None:
    train = save(tmp_path / "a.npz")
    narrow = save(tmp_path / "b.npz", features=np.ones((24, 4)))
    assert_refused(measured(train, "--test", narrow), narrow, "4 features", "train has 5", "same layer")
    foreign = save(tmp_path / "c.npz", labels=LABELS + 2)
    assert_refused(
        measured(train, "--test", foreign), foreign, "16 samples", "the first is 3", "leave them out"
    )
    single = save(tmp_path / "d.npz", labels=LABELS * 0)
    assert_refused(measured(train, "--test", single), single, "all labels are 0")


# -------------------------------------------------------------------- objects are never unpickled


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("name", ["features", "labels", "weight", "bias", "predictions"])
def test_objects_are_never_unpickled(tmp_path: Path, name: str) -> None:
    target = tmp_path / "executed"
    pickle.loads(pickle.dumps(Payload(target)))
    assert target.exists()  # the payload works where something unpickles it
    target.unlink()
    payload = np.array([Payload(target)] * 24, dtype=object)
    path = save(tmp_path / "a.npz", None, **{name: payload})
    assert_refused(measured(path), path, name, "Python objects", "never unpickled")
    assert_refused(measured(tmp_path), path, name, "Python objects", "never unpickled")
    assert not target.exists()


def test_a_pickle_that_is_called_npz_is_not_unpickled(tmp_path: Path) -> None:
    target = tmp_path / "executed"
    for name in ("a.npz", "a.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Payload(target)))
        assert_refused(measured(tmp_path / name), tmp_path / name)
    assert not target.exists()


# -------------------------------------------------------------------- files that are not what they are called


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    assert_refused(measured(tmp_path / "no.npz"), tmp_path / "no.npz", "no such file or folder")
    assert_refused(measured(tmp_path), tmp_path, "no .npz or .safetensors file in this folder")
    assert_refused(measured(save(tmp_path / "a.npz") / "b.npz"), "b.npz")
    assert_refused(measured(tmp_path / ("x" * 300)), "xxx")
    assert_refused(measured(Path("a\0b")), "null")
    (tmp_path / "gone.npz").symlink_to(tmp_path / "nothing")
    assert_refused(measured(tmp_path / "gone.npz"), "no such file")
    assert_refused(measured(tmp_path), "gone.npz", "no such file")


def test_a_name_that_is_hostile_to_terminals_stays_one_line(tmp_path: Path) -> None:
    outcome = measured(tmp_path / "a\nerror: b\x1b[31m\u2028.npz")
    assert_refused(outcome, "a error: b\\x1b[31m .npz")


@pytest.mark.parametrize("name", ["a.npy", "a.pt", "a", "a.csv", "a.npz.tmp"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(save(tmp_path / "real.npz").read_bytes())
    assert_refused(measured(tmp_path / name), tmp_path / name, "use .npz or .safetensors")


def test_renamed_files_are_refused(tmp_path: Path) -> None:
    npz, tensors = save(tmp_path / "a.npz"), save(tmp_path / "a.safetensors")
    wrong, swapped = tmp_path / "b.npz", tmp_path / "b.safetensors"
    wrong.write_bytes(tensors.read_bytes())
    swapped.write_bytes(npz.read_bytes())
    assert_refused(measured(wrong), wrong, "not an .npz file", "looks like a .safetensors file")
    assert_refused(measured(swapped), swapped, "not a .safetensors file", "looks like an .npz file")
    for content in (b"features,labels\n1,2\n", b"\x93NUMPY", b"{", b"PK", b"\0" * 100):
        wrong.write_bytes(content)
        swapped.write_bytes(content)
        assert_refused(measured(wrong), wrong)
        assert_refused(measured(swapped), swapped)
    for empty in (wrong, swapped):
        empty.write_bytes(b"")
        assert_refused(measured(empty), empty, "the file is empty", "write it again")


def test_suffixes_in_capitals_are_known(tmp_path: Path) -> None:
    (tmp_path / "A.NPZ").write_bytes(save(tmp_path / "a.npz").read_bytes())
    assert measured(tmp_path / "A.NPZ").out == measured(tmp_path / "a.npz").out


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz")
    path.chmod(0)
    assert_refused(measured(path), path)
