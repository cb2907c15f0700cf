"""Feature files and folders of shards: every form of the same numbers gives the same result."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from cli_runner import assert_refused, example, measured, save
from collapselab import InputError, measure
from collapselab.features.files import NpzFile, SafetensorsFile
from collapselab.features.measure import measure_sources
from collapselab.features.measurement import Measurement
from collapselab.features.sources import ArraySource, ShardSource, open_source

LABELS = example()["labels"]


def splits(path: Path, *options: object) -> dict[str, dict[str, float | None]]:
    outcome = measured(path, *options)
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)["splits"]


def assert_same(found: dict[str, Any], wanted: dict[str, Any], *, rel: float) -> None:
    """Equal names, equal nulls, values within `rel` of the wanted one."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if value is None:
            assert found[name] is None, name
        else:
            assert found[name] == pytest.approx(value, rel=rel, abs=1e-12), name


# -------------------------------------------------------------------- forms of one array

INTEGERS = np.round(example()["features"] * 20)

FORMS: dict[str, tuple[Any, Any]] = {
    "float64, Fortran order": (np.asfortranarray(example()["features"]), example()["features"]),
    "float64, big-endian": (example()["features"].astype(">f8"), example()["features"]),
    "float32, big-endian": (example()["features"].astype(">f4"), example()["features"].astype("f4")),
    "long double": (example()["features"].astype(np.longdouble), example()["features"]),
    "int8": (INTEGERS.clip(-128, 127).astype(np.int8), INTEGERS.clip(-128, 127).astype(np.float32)),
    "int64": (INTEGERS.astype(np.int64), INTEGERS),
    "uint32, big-endian": ((INTEGERS + 500).astype(">u4"), INTEGERS + 500),
    "bool": (example()["features"] > 0, (example()["features"] > 0).astype(np.float32)),
    "int32, Fortran order": (np.asfortranarray(INTEGERS.astype(np.int32)), INTEGERS),
}


@pytest.mark.parametrize("form", FORMS)
def test_numbers_of_every_kind_are_read(tmp_path: Path, form: str) -> None:
    given_features, plain = FORMS[form]
    path = save(tmp_path / "a.npz", features=given_features)
    wanted = splits(save(tmp_path / "shards.npz", features=plain))["train"]
    assert_same(splits(path)["train"], wanted, rel=1e-12)
    folder = tmp_path / "folder"
    folder.mkdir()
    save(folder / "a.npz", features=given_features)
    # float32 products of all classes together and of each are rounded differently.
    assert_same(splits(folder)["train"], wanted, rel=1e-9 if plain.dtype == np.float64 else 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_narrow_floats_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    features = torch.from_numpy(example()["features"]).to(dtype)
    folder = tmp_path / "folder"
    folder.mkdir()
    tensors = {"features": features, "labels": torch.from_numpy(LABELS)}
    save_file(tensors, tmp_path / "a.safetensors")
    save_file(tensors | {"weight": torch.ones(3, 5, dtype=dtype)}, folder / "a.safetensors")
    wanted = measure(features.double(), LABELS).splits["train"]
    for path in (tmp_path / "a.safetensors", folder):
        found = splits(path)["train"]
        assert found["within_trace"] == pytest.approx(wanted["within_trace"], rel=1e-5)
        assert found["cdnv"] == pytest.approx(wanted["cdnv"], rel=1e-5)


@pytest.mark.parametrize("dtype", ["u1", "i2", ">i4", "u8", "f2", "f4", ">f8", "g"])
def test_whole_labels_of_any_type_are_read(tmp_path: Path, dtype: str) -> None:
    wanted = splits(save(tmp_path / "a.npz"))["train"]
    assert splits(save(tmp_path / "b.npz", labels=LABELS.astype(dtype)))["train"] == wanted


def test_boolean_labels_are_two_classes(tmp_path: Path) -> None:
    arrays = {"features": example()["features"], "labels": LABELS > 0}
    found = json.loads(measured(save(tmp_path / "a.npz", arrays)).out)
    assert found["num_classes"] == 2


def test_compressed_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "packed.npz"
    np.savez_compressed(path, **example())
    assert splits(path) == splits(save(tmp_path / "a.npz"))


def test_members_beside_the_known_ones_are_left_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", notes=np.array(["text"]), objects=np.array([{}], dtype=object))
    assert splits(path) == splits(save(tmp_path / "b.npz"))


def test_arrays_that_are_none_are_refused() -> None:
    for features in ([[1.0, 2.0], [3.0]], object(), {"a": 1}):
        with pytest.raises(InputError, match="train: features"):
            measure(features, [0, 1])
    with pytest.raises(InputError, match="train: labels"):
        measure(np.ones((2, 2)), [0, "a"])


def test_a_read_only_array_is_measured() -> None:
    features = example()["features"]
    features.flags.writeable = False
    assert measure(features[::-1], LABELS[::-1]).num_samples == 24


# -------------------------------------------------------------------- shards


def write_shards(folder: Path, arrays: dict[str, Any], cuts: list[int], kinds: str = "n") -> Path:
    """Rows split at `cuts`; weight and bias go into the middle shard. `kinds`: n(pz) or s(afetensors) in turn."""
    folder.mkdir(exist_ok=True)
    pieces = list(zip([0, *cuts], [*cuts, len(arrays["labels"])], strict=True))
    for index, (start, stop) in enumerate(pieces):
        part = {
            name: array[start:stop] for name, array in arrays.items() if name not in ("weight", "bias")
        }  # fmt: skip
        if index == len(pieces) // 2:
            part |= {name: arrays[name] for name in ("weight", "bias") if name in arrays}
        suffix = ".npz" if kinds[index % len(kinds)] == "n" else ".safetensors"
        save(folder / f"shard-{index:03d}{suffix}", part)
    return folder


ROWS = example(5, num_classes=4, per_class=25, dim=6)
ROWS["labels"] = np.random.default_rng(0).permutation(ROWS["labels"])


@cache
def of_one_source(weighting: Any, decided: bool) -> Measurement:
    predictions = {"predictions": np.roll(ROWS["labels"], 3)} if decided else {}
    one = ArraySource(**ROWS, **predictions)
    return measure_sources(one, one, weighting=weighting, spectra=True)


@given(
    st.lists(st.integers(1, 99), max_size=6, unique=True).map(sorted),
    st.sampled_from(["n", "s", "ns"]),
    st.sampled_from(["balanced", "sample"]),
    st.booleans(),
)
def test_shards_give_what_one_file_gives(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], kinds: str, weighting: Any, decided: bool
) -> None:
    arrays = dict(ROWS)
    if decided:
        arrays["predictions"] = np.roll(arrays["labels"], 3)
    folder = write_shards(tmp_path_factory.mktemp("shards"), arrays, cuts, kinds)
    found = measure_sources(ShardSource(folder), ShardSource(folder), weighting=weighting, spectra=True)
    wanted = of_one_source(weighting, decided)
    assert found.num_samples == wanted.num_samples
    for split in ("train", "test"):
        assert_same(found.splits[split], wanted.splits[split], rel=1e-9)
        for name, values in wanted.spectra[split].items():
            np.testing.assert_allclose(found.spectra[split][name], values, rtol=1e-9, atol=1e-9 * values[0])


def test_float32_shards_agree_within_rounding(tmp_path: Path) -> None:
    arrays = ROWS | {"features": ROWS["features"].astype(np.float32)}
    folder = write_shards(tmp_path / "shards", arrays, [1, 30, 77])
    assert_same(splits(folder)["train"], splits(save(tmp_path / "a.npz", arrays))["train"], rel=1e-5)


def test_pieces_of_a_shard_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_shards(tmp_path / "shards", ROWS, [40], "ns")
    wanted = splits(folder, "--test", folder)
    monkeypatch.setattr("collapselab.features.sources._PIECE_ELEMENTS", 20)
    found = splits(folder, "--test", folder)
    for split in ("train", "test"):
        assert_same(found[split], wanted[split], rel=1e-9)
    features = ROWS["features"].copy()
    features[[12, 39, 50], 1] = np.nan
    write_shards(folder, ROWS | {"features": features}, [40], "ns")
    assert_refused(measured(folder), folder / "shard-000.npz", "2 feature values", "row 12")
    save(folder / "shard-000.npz", {name: ROWS[name][:40] for name in ("features", "labels")})
    assert_refused(measured(folder), folder / "shard-001.safetensors", "1 feature value is", "row 10")


def test_shards_of_several_types_are_measured_in_the_widest(tmp_path: Path) -> None:
    whole = ROWS | {"features": np.round(ROWS["features"] * 50)}
    folder = write_shards(tmp_path / "shards", whole, [30, 60])
    for index, dtype in enumerate(("i1", "f4")):
        part = {name: whole[name][30 * index : 30 * index + 30] for name in ("features", "labels")}
        part["features"] = part["features"].clip(-128, 127).astype(dtype)
        whole["features"][30 * index : 30 * index + 30] = part["features"]
        extra = {name: whole[name] for name in ("weight", "bias")} if index == 1 else {}
        save(folder / f"shard-{index:03d}.npz", part | extra)
    found, wanted = splits(folder)["train"], splits(save(tmp_path / "a.npz", whole))["train"]
    assert_same(found, wanted, rel=1e-9)


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards", ROWS, [50])
    wanted = splits(folder)
    for name in (".shard-000.npz", "._shard-000.safetensors", "README.md", "shard.npz.partial"):
        (folder / name).write_bytes(b"nothing")
    (folder / "older.npz").mkdir()
    assert splits(folder) == wanted


def test_shards_must_fit_together(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards", ROWS, [30, 60])
    first, last = folder / "shard-000.npz", folder / "shard-002.npz"
    tail = {name: ROWS[name][60:] for name in ("features", "labels")}

    save(last, tail, features=tail["features"][:, :5])
    assert_refused(measured(folder), last, "5 features per sample", "shard-000.npz has 6")
    save(last, tail, weight=ROWS["weight"] + 1e-9)
    assert_refused(measured(folder), last, "weight differs from an earlier shard's", "leave")
    save(last, tail, bias=ROWS["bias"] + 1)
    assert_refused(measured(folder), last, "bias differs")
    save(last, tail, weight=ROWS["weight"], bias=ROWS["bias"])
    assert measured(folder).code == 0
    save(last, tail, predictions=tail["labels"])
    assert_refused(measured(folder), folder, "1 of 3 shards have predictions", "shard-000.npz has none")
    save(last, tail, labels=tail["labels"][1:])
    assert_refused(measured(folder), last, "39 labels for 40 rows")
    save(last, tail, labels=tail["labels"] - 1)
    assert_refused(measured(folder), last, "negative")
    save(last, tail)
    save(first, {"features": np.zeros((0, 6)), "labels": np.zeros(0, int)})
    assert_refused(measured(folder), first, "empty")


def test_rows_are_counted_within_their_shard(tmp_path: Path) -> None:
    arrays = ROWS | {"predictions": ROWS["labels"].copy()}
    arrays["predictions"][45] = 99
    folder = write_shards(tmp_path / "shards", arrays, [40])
    assert_refused(measured(folder), folder / "shard-001.npz", "the first is 99 in row 5")


def test_features_are_read_again_in_the_same_order(tmp_path: Path) -> None:
    source = open_source(write_shards(tmp_path / "shards", ROWS, [10, 20, 55], "ns"))
    for _ in range(2):
        blocks = list(source.blocks())
        assert np.array_equal(torch.cat([block.features for block in blocks]).numpy(), ROWS["features"])
        assert np.array_equal(np.concatenate([block.labels for block in blocks]), ROWS["labels"])


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory from /proc")
@pytest.mark.parametrize("order", ["C", "F"])
def test_one_shard_at_a_time_is_in_memory(tmp_path: Path, order: Any) -> None:
    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    labels = np.arange(20_000) % 4
    for index in range(3):
        features = np.zeros((20_000, 512), np.float32, order=order)  # 39 MiB
        features[:, 0] = labels
        np.savez(tmp_path / f"{index}.npz", features=features, labels=labels)
    del features  # pyright: ignore[reportPossiblyUnboundVariable]
    source = open_source(tmp_path)
    before, peak = resident(), 0.0
    for _ in source.blocks():
        peak = max(peak, resident())
    # A piece is 32 MiB: one on its way in, one handed on, and for Fortran order the shard it is cut from.
    assert peak - before < 32 * 2 + (40 if order == "F" else 0) + 16


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("train.npz", "test.npz"), "holds train.npz and test.npz; give the files of each split separately"),
        (("Train-0.npz", "Train-1.npz", "val_0.npz"), "and val_0.npz; give the files of each split"),
        (("a.npz", "a.safetensors"), "a.npz and a.safetensors have one name; keep one of the two formats"),
        (("train-0.npz", "train-1.npz"), None),
        (("tested.npz", "training.npz", "trainer.npz"), None),
        (("test-0.npz", "test-1.safetensors"), None),
    ],
)
def test_files_of_two_splits_are_no_shards_of_one(
    tmp_path: Path, names: tuple[str, ...], says: str | None
) -> None:
    for name in names:
        save(tmp_path / name)
    if says is None:
        assert len(open_source(tmp_path).labels) == 24 * len(names)
        return
    with pytest.raises(InputError) as caught:
        open_source(tmp_path)
    assert says in str(caught.value)


EARLY: dict[str, tuple[dict[str, Any], dict[str, Any] | None, str]] = {
    "labels": ({"labels": -np.arange(24)}, None, "labels are negative"),
    "length of labels": ({"labels": np.zeros((24, 1000))}, None, "labels have shape (24, 1000)"),
    "one class": ({"labels": np.zeros(24)}, None, "all labels are 0"),
    "weight": ({"weight": np.zeros((3, 4))}, None, "weight has shape (3, 4)"),
    "values of weight": ({"weight": np.full((3, 5), np.nan)}, None, "NaN or infinite"),
    "bias": ({"bias": np.zeros(4)}, None, "bias has shape (4,)"),
    "predictions": ({"predictions": np.full(24, 9)}, None, "not among the training labels"),
    "test labels": ({}, {"labels": np.full(24, 7)}, "labels that no training sample has"),
    "test width": ({}, {"features": np.zeros((24, 6))}, "6 features per sample, but train has 5"),
}


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("case", EARLY)
def test_what_is_wrong_is_found_before_features_are_read(
    tmp_path: Path, case: str, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test, says = EARLY[case]
    paths = [save(tmp_path / f"train{suffix}", **train)]
    if test is not None:
        paths.append(save(tmp_path / f"other{suffix}", **test))
    for kind in (NpzFile, SafetensorsFile):
        monkeypatch.setattr(kind, "read", _without_features(kind.read))
    with pytest.raises(InputError) as caught:
        measure_sources(*(open_source(path) for path in paths))
    assert says in str(caught.value)


def _without_features(read: Any) -> Any:
    def guarded(self: Any, name: str) -> Any:
        assert name != "features", "features were read"
        return read(self, name)

    return guarded


def test_arrays_of_a_wrong_shape_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, array in (
        ("labels", np.zeros((24, 9))),
        ("weight", np.zeros((7, 5))),
        ("bias", np.zeros((3, 3))),
    ):
        source = save(tmp_path / f"{name}.npz", {**example(), name: array})
        with monkeypatch.context() as patch:
            read = NpzFile.read
            patch.setattr(
                NpzFile,
                "read",
                lambda self, wanted, name=name, read=read: read(self, wanted) if wanted != name else 1 / 0,
            )
            with pytest.raises(InputError, match=f"{name} ha(s|ve) shape"):
                measure_sources(open_source(source))
