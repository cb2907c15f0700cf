"""`collapselab profile`: what it prints and writes, and that its options do what they say."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import collapselab
from cli_runner import Outcome, run
from collapselab.cli import main
from collapselab.data import load_digits

NETS = """
import torch
from torch import nn
def small(num_classes, input_shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(input_shape).numel(), 16), nn.ReLU(), nn.Linear(16, num_classes))
def wide():
    return nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
def maps(num_classes, input_shape):
    return nn.Sequential(nn.Conv2d(input_shape[0], 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(80, num_classes))
class named(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.a_stem_whose_name_is_longer_than_a_table_has_room = nn.Linear(12, 12)
        self.blocks = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.head = nn.Linear(4, num_classes)

    def forward(self, x):
        tokens = self.a_stem_whose_name_is_longer_than_a_table_has_room(x).unflatten(1, (3, 4))
        return self.head(self.blocks(tokens).mean(1))
"""
Array = np.ndarray[Any, Any]
Made = tuple[Outcome, Path]
NAMES = ("cat", "dog", "owl")
TERMINAL = type("Terminal", (io.StringIO,), {"isatty": lambda _: True})
KEPT = ("counts", "class_means", "class_variances")
STEM = "a_stem_whose_name_is_longer_than_a_table_has_room"
CLASSES = np.repeat([0, 1, 2], [30, 20, 10])
TEST_CLASSES = np.repeat([1, 2], 10)
MEANS = 1.5 * np.random.default_rng(1).normal(size=(3, 12)).astype(np.float32)
NOISE = np.random.default_rng(2).normal(size=(80, 12)).astype(np.float32)
X, TEST_X = MEANS[CLASSES] + NOISE[:60], MEANS[TEST_CLASSES] + NOISE[60:]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks, checkpoints and data."""
    folder = tmp_path_factory.mktemp("profile")
    (folder / "nets.py").write_text(NETS)
    np.savez(folder / "both.npz", inputs=X, labels=CLASSES, test_inputs=TEST_X, test_labels=TEST_CLASSES)
    np.savez(folder / "train.npz", inputs=X, labels=CLASSES)
    np.savez(folder / "test.npz", inputs=TEST_X, labels=TEST_CLASSES)
    save_file(collapsing(3), folder / "narrow.safetensors")
    torch.save({"state_dict": collapsing(3), "epoch": 3}, folder / "narrow.pt")
    torch.save(collapsing(5), folder / "extra.pt")
    return folder


def collapsing(outputs: int) -> dict[str, torch.Tensor]:
    """The first layer of `small` projects onto class means: the second reads less variance within classes."""
    first = torch.cat([torch.from_numpy(MEANS), torch.zeros(13, 12)])
    zeros = {"1.bias": torch.zeros(16), "3.bias": torch.zeros(outputs)}
    return zeros | {"1.weight": first, "3.weight": torch.eye(outputs, 16)}


def profiled(here: Path, net: str, data: str, *options: object) -> Outcome:
    model = net if net == "mlp" else f"{here / 'nets.py'}:{net}"
    outcome = run("profile", model, "--dataset", data if data == "digits" else here / data, *options)
    assert outcome.code == 0, outcome.err
    return outcome


def parsed(text: str) -> dict[str, Any]:
    return json.loads(text, parse_constant=pytest.fail)  # NaN and infinity


def as_json(here: Path, net: str, data: str, *options: object) -> dict[str, Any]:
    return parsed(profiled(here, net, data, "--format", "json", *options).out)


def values(found: dict[str, Any], metric: str, split: str = "train") -> list[Any]:
    return [layer[split][metric] for layer in found["layers"]]


def on_terminal(*arguments: object) -> str:
    with contextlib.redirect_stdout(TERMINAL()) as out, pytest.raises(SystemExit):
        main(["profile", *map(str, arguments)])
    return out.getvalue()


@pytest.fixture(scope="module")
def narrow(here: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """JSON on stdout and a folder beside it."""
    out = tmp_path_factory.mktemp("out") / "new" / "narrow"
    options = ("--checkpoint", here / "narrow.safetensors", "--format", "json", "--out", out)
    return profiled(here, "small", "both.npz", *options), out


def test_json_is_exactly_the_documented_object(narrow: Made) -> None:
    found = parsed(narrow[0].out)
    keys = "schema model num_samples num_classes classes weighting reduction epsilon loss accuracy"
    assert list(found) == [*keys.split(), "layers", "first_collapsed_layer", "law_of_separation", "warnings"]
    assert found["loss"].keys() == found["accuracy"].keys() == {"train", "test"}
    assert re.fullmatch(r".*nets\.py:small, narrow\.safetensors", found["model"])
    assert (found["num_samples"], found["num_classes"]) == ({"train": 60, "test": 20}, 3)
    for depth, layer in enumerate(found["layers"]):
        assert (
            " ".join(layer)
            == "name depth shape dim reduction scatter train test counts warnings weight_singular_values"
        )
        assert (layer["depth"], layer["shape"]) == (depth, [layer["dim"]])
        for split in ("train", "test"):
            assert all(value is None or isinstance(value, int | float) for value in layer[split].values())
    assert [layer["name"] for layer in found["layers"]] == ["1", "3"]
    assert any("1 of the training classes have no samples here" in text for text in found["warnings"])


def test_json_of_digits_holds_what_profile_returns_in_python(here: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    torch.save(model.state_dict(), tmp_path / "w.pt")
    data = load_digits()
    loaders = [DataLoader(TensorDataset(s.inputs, s.labels), batch_size=50) for s in (data.train, data.test)]
    options = {"scatter": "sketch", "epsilon": 0.5, "layers": "2,0", "seed": 7}
    given = [part for name, value in options.items() for part in (f"--{name}", value)]
    found = as_json(here, "wide", "digits", "--checkpoint", tmp_path / "w.pt", "--batch-size", 50, *given)
    wanted = collapselab.profile(model, *loaders, name=found["model"], **options)
    assert found == json.loads(json.dumps(wanted.to_dict()))


def test_csv_has_a_row_per_layer_split_and_metric(here: Path, narrow: Made) -> None:
    outcome = profiled(here, "small", "both.npz", "--checkpoint", here / "narrow.pt", "--format", "csv")
    found = parsed(narrow[0].out)
    rows = list(csv.reader(io.StringIO(outcome.out)))
    assert rows == [["layer", "depth", "split", "name", "value"]] + [
        [layer["name"], str(layer["depth"]), split, name, "" if value is None else repr(value)]
        for layer in found["layers"]
        for split in ("train", "test")
        for name, value in layer[split].items()
    ]
    assert any(row[-1] == "" for row in rows)
    assert outcome.err.splitlines() == [f"warning: {text}" for text in found["warnings"]]


def test_table_marks_collapsed_layers_and_names_the_first(here: Path, narrow: Made) -> None:
    shares = values(parsed(narrow[0].out), "normalized_within")
    assert shares[1] < 0.2 < shares[0]
    text = profiled(here, "small", "both.npz", "--checkpoint", here / "narrow.pt").out
    rows = {line.split()[0]: line for line in text.splitlines() if re.match(r"[13]\*? +\d", line)}
    assert set(rows) == {"1", "3*"}
    for name, share in (("1", shares[0]), ("3*", shares[1])):
        assert f" {share:.3g} " in rows[name]
    words = " ".join(text.split())
    assert re.search("60 train and 20 test samples, 3 classes, balanced .*two numbers train, test", words)
    assert "First collapsed layer on train data: 3\n" in text
    assert "Law of separation on train data: undefined: 2 of 2 layers have a positive fuzziness" in text
    assert "warning: test: 1 of the training classes" in text
    assert "\x1b" not in text
    one_split = profiled(here, "small", "train.npz").out
    assert "initial" not in one_split  # the user's function may load trained weights itself
    assert "60 train samples" in one_split
    assert "then test" not in one_split
    assert [len(line.split()) for line in one_split.splitlines() if re.match(r"[13]\*? ", line)] == [8, 8]


def test_sketched_stable_ranks_have_a_mark_and_those_of_traces_none(here: Path) -> None:
    sketched = profiled(here, "wide", "digits", "--scatter", "sketch").out
    first, second = (line.split() for line in sketched.splitlines() if re.match(r"[02] ", line))
    assert second[-1].startswith("~")
    assert not first[-1].startswith("~")  # 64 features are kept whole
    found = as_json(here, "wide", "digits", "--scatter", "sketch")
    assert [layer["scatter"] for layer in found["layers"]] == ["per_class", "sketch"]
    low, rank, high = (values(found, f"stable_rank{end}")[1] for end in ("_low", "", "_high"))
    assert low <= rank <= high
    traced = as_json(here, "wide", "digits", "--scatter", "trace")
    assert [layer["scatter"] for layer in traced["layers"]] == ["trace", "trace"]
    assert values(traced, "stable_rank") == values(traced, "vci") == [None, None]
    assert values(traced, "normalized_within") == pytest.approx(values(found, "normalized_within"))


@pytest.mark.parametrize(("columns", "colour"), [(40, False), (100, True), (300, False)])
def test_no_number_is_cut_on_any_terminal(
    here: Path, columns: int, colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.delenv("NO_COLOR", raising=False) if colour else monkeypatch.setenv("NO_COLOR", "1")
    whole_table = profiled(here, "named", "both.npz", "--reduce", "token").out
    text = on_terminal(f"{here / 'nets.py'}:named", "--dataset", here / "both.npz", "--reduce", "token")
    assert ("\x1b[" in text) == colour
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert max(map(len, lines)) <= max(80, min(columns, 140))
    start = next(row for row, line in enumerate(lines) if line.startswith("layer "))
    first, *body = lines[start + 2 : start + 6]
    assert re.match(r"a_st\S*…\S*room\*? ", first)
    assert "…" not in "".join([lines[start], first.split(maxsplit=1)[1], *body])
    assert [line.split()[0] for line in body] == ["blocks.0", "blocks.2", "head"]
    numbers = next(line for line in whole_table.splitlines() if line.startswith("head")).split()
    assert body[-1].split()[:4] == numbers[:4]
    left_out = any(
        line.startswith("Columns hidden because the terminal is too narrow: random") for line in lines
    )
    assert left_out == (len(body[-1].split()) < len(numbers)) == (columns < 100)
    assert "Not shown" not in whole_table


def test_out_holds_the_numbers_the_class_means_and_a_page(narrow: Made) -> None:
    outcome, out = narrow
    assert outcome.err.splitlines() == [f"Page: {out / 'report.html'}", f"Numbers: {out / 'profile.json'}"]
    assert {path.name for path in out.iterdir()} == {"profile.json", "report.html", "statistics.safetensors"}
    written = parsed((out / "profile.json").read_text())
    made = written.pop("made")
    assert len(written.pop("digest")) == 16
    assert written == parsed(outcome.out)
    assert made["options"]["dataset"].endswith("both.npz")
    assert {"versions", "commit", "hardware", "seconds", "processes"} <= set(made)
    held = load_file(out / "statistics.safetensors")
    names = {f"{split}/{layer}/{name}" for split in ("train", "test") for layer in "13" for name in KEPT}
    assert set(held) == names
    wanted = [X[label == CLASSES].astype(float).mean(0) for label in range(3)]
    np.testing.assert_allclose(held["train/1/class_means"].numpy(), wanted, rtol=1e-6)
    assert held["train/1/counts"].tolist() == [30, 20, 10]
    assert held["test/3/class_means"].shape == (3, 16)
    assert held["test/3/class_means"].isnan().all(1).tolist() == [True, False, False]
    page = re.sub(
        r"(?s)(<script[^>]*>).*?</script>", r"\1", (out / "report.html").read_text(encoding="utf-8")
    )
    assert "nets.py:small, narrow.safetensors" in page
    links = re.findall(r"<[^>]*?\s(?:src|href|srcset|action)\s*=\s*[\"']?([^\"'\s>]+)", page)
    assert not [link for link in links if not link.startswith(("#", "data:"))]


def test_running_again_replaces_and_an_earlier_profile_is_drawn_beside(here: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = profiled(here, "small", "both.npz", "--out", out, "--format", "json").out
    before = (out / "profile.json").read_text()
    profiled(here, "small", "both.npz", "--seed", 1, "--against", out, "--out", out)
    assert len(list(out.iterdir())) == 3
    assert (out / "profile.json").read_text() != before
    assert "same network at initialisation" in (out / "report.html").read_text()
    (tmp_path / "earlier.json").write_text(before)
    assert parsed(before)["layers"] == parsed(first)["layers"]
    other = profiled(here, "named", "train.npz", "--against", tmp_path / "earlier.json", "--out", out)
    assert re.search("\nwarning: --against .*has none of these layers", other.err)
    assert parsed((out / "profile.json").read_text())["layers"][0]["name"] == STEM
    assert "same network at initialisation" not in (out / "report.html").read_text()


def test_the_seed_decides_initial_weights(here: Path) -> None:
    options = ("small", "train.npz", "--format", "json", "--seed")
    texts = [profiled(here, *options, seed).out for seed in (4, 4, 5)]
    assert texts[0] == texts[1]
    found, other = parsed(texts[0]), parsed(texts[2])
    assert values(found, "alignment")[0] != values(other, "alignment")[0]
    same = [ours == theirs for ours, theirs in zip(values(found, "vci"), values(other, "vci"), strict=True)]
    assert same == [True, False]  # the first layer reads the inputs


def test_a_checkpoint_may_be_of_torch_and_have_more_classes(here: Path, narrow: Made) -> None:
    torch_file = as_json(here, "small", "both.npz", "--checkpoint", here / "narrow.pt")
    assert torch_file["layers"] == parsed(narrow[0].out)["layers"]
    extra = as_json(here, "small", "both.npz", "--checkpoint", here / "extra.pt")
    assert (values(extra, "self_duality")[1], values(torch_file, "self_duality")[1] is None) == (None, False)
    assert any("5 outputs for 3 classes: self_duality is undefined" in text for text in extra["warnings"])
    assert values(extra, "vci") == values(torch_file, "vci")


def test_limit_layers_and_the_papers_mlp(here: Path) -> None:
    found = as_json(here, "mlp", "digits", "--limit", 90, "--layers", "layers.0,*.10", "--scatter", "trace")
    assert found["num_samples"] == {"train": 90, "test": 90}
    assert {layer["name"]: layer["dim"] for layer in found["layers"]} == {"layers.0": 64, "layers.10": 1024}
    found = as_json(here, "named", "train.npz", "--layers", "blocks.*, head")
    assert [layer["name"] for layer in found["layers"]] == ["blocks.0", "blocks.2", "head"]


def test_metrics_are_those_that_are_named(here: Path) -> None:
    found = as_json(here, "small", "train.npz", "--metrics", "cdnv, vci", "--metrics", "ncc_accuracy")
    assert [list(layer["train"]) for layer in found["layers"]] == [["vci", "cdnv", "ncc_accuracy"]] * 2
    whole = as_json(here, "small", "train.npz")
    for name in ("vci", "cdnv", "ncc_accuracy"):
        # A root of Sigma_T serves VCI alone; with all metrics its eigenvectors, which round differently.
        assert values(found, name) == pytest.approx(values(whole, name), rel=1e-12)
    text = profiled(here, "small", "train.npz", "--metrics", "cdnv,vci").out
    assert [words for line in text.splitlines() if (words := line.split())[:1] == ["layer"]] == [
        ["layer", "dim", "vci", "cdnv"]
    ]
    assert not any(said in text for said in ("stable rank", "First collapsed", "Law of", "within/total"))
    for wrong, message in (("cdvn", "did you mean 'cdnv'"), (",", "no names given")):
        outcome = run(
            "profile", f"{here / 'nets.py'}:small", "--dataset", here / "train.npz", "--metrics", wrong
        )
        assert outcome.code != 0
        assert message in outcome.err


def test_reductions_and_weighting_give_the_variances_that_numpy_gives(here: Path) -> None:
    def within(features: Array, weights: Array) -> float:
        parts = [features[label == CLASSES].astype(float) for label in range(3)]
        return float(sum(w * part.var(0).sum() for w, part in zip(weights, parts, strict=True)))

    balanced, by_sample = np.full(3, 1 / 3), np.bincount(CLASSES) / 60
    for options, weights in (((), balanced), (("--weighting", "sample"), by_sample)):
        found = as_json(here, "small", "train.npz", *options)
        assert found["weighting"] == (options[1] if options else "balanced")
        assert values(found, "within_trace")[0] == pytest.approx(within(X, weights), rel=1e-5)
    flat = as_json(here, "named", "train.npz", "--reduce", "flatten")
    tokens = [as_json(here, "named", "train.npz", "--reduce", f"token:{index}") for index in range(3)]
    assert [found["reduction"] for found in (flat, *tokens)] == ["flatten", "token:0", "token:1", "token:2"]
    assert [layer["dim"] for layer in flat["layers"]] == [12, 12, 12, 4]
    assert [layer["dim"] for layer in tokens[1]["layers"]] == [12, 4, 4, 4]
    parts = [values(found, "within_trace")[1] for found in tokens]
    assert sum(parts) == pytest.approx(values(flat, "within_trace")[1], rel=1e-5)


def test_output_gets_what_stdout_would(here: Path, narrow: Made, tmp_path: Path) -> None:
    target, out = tmp_path / "profile.csv", tmp_path / "out"
    options = ("--checkpoint", here / "narrow.safetensors", "--format", "csv")
    outcome = profiled(here, "small", "both.npz", *options, "--output", target, "--out", out)
    assert outcome.out == ""
    assert f"wrote {target}" in outcome.err.splitlines()
    assert f"Page: {out / 'report.html'}" in outcome.err.splitlines()
    assert target.read_text(encoding="utf-8") == profiled(here, "small", "both.npz", *options).out


def test_epsilon_moves_the_first_collapsed_layer(here: Path, narrow: Made) -> None:
    first, last = values(parsed(narrow[0].out), "normalized_within")
    for epsilon, wanted in ((last / 2, None), ((first + last) / 2, "3"), ((1 + first) / 2, "1")):
        options = ("--checkpoint", here / "narrow.pt", "--epsilon", epsilon)
        found = as_json(here, "small", "both.npz", *options)
        assert (found["first_collapsed_layer"], found["epsilon"]) == (wanted, epsilon)


def test_labels_of_another_file_mean_the_same_classes(here: Path, narrow: Made) -> None:
    options = ("--checkpoint", here / "narrow.pt", "--test-dataset", here / "test.npz")
    found = as_json(here, "small", "train.npz", *options)
    assert found["layers"] == parsed(narrow[0].out)["layers"]  # classes 1 and 2 alone, and still so called
    assert values(found, "ncc_accuracy", "test")[0] > 0.8


def png(path: Path, values: Array) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path.read_bytes()


def test_images_in_folders_parquet_and_arrays_give_the_same_numbers(here: Path, tmp_path: Path) -> None:
    import datasets

    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 5)
    images = (rng.integers(0, 99, (15, 8, 8, 3)) + 50 * labels[:, None, None, None]).astype(np.uint8)
    columns: dict[str, list[Any]] = {"image": [], "label": labels.tolist()}
    for row, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        data = png(tmp_path / "folder" / "train" / NAMES[label] / f"{row:02}.png", image)
        columns["image"].append({"bytes": data, "path": None})
        if label != 1:
            png(tmp_path / "others" / NAMES[label] / f"{row:02}.png", image)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})
    (tmp_path / "parquet").mkdir()
    whole = datasets.Dataset.from_dict(columns, features=features)
    whole.to_parquet(str(tmp_path / "parquet" / "train-0.parquet"))
    np.savez(tmp_path / "images.npz", images=images, labels=labels)
    forms = (tmp_path / name for name in ("folder", "parquet", "images.npz"))
    found, *others = (as_json(here, "maps", str(form), "--reduce", "gap") for form in forms)
    assert [other["layers"] for other in others] == [found["layers"]] * 2
    assert [layer["shape"] for layer in found["layers"]] == [[3, 8, 8], [4, 6, 6], [80]]
    assert [layer["dim"] for layer in found["layers"]] == [3, 4, 80]
    for given, dims in (("-1", [3, 6]), ("1=-1", [3, 6]), ("1=1", [3, 4])):
        by_hand = as_json(
            here,
            "maps",
            str(tmp_path / "folder"),
            "--layers",
            "0,1",
            "--reduce",
            "gap",
            "--channel-axis",
            given,
        )
        assert [layer["dim"] for layer in by_hand["layers"]] == dims
    options = ("--test-dataset", tmp_path / "others", "--reduce", "gap", "--standardize", "pixel")
    tested = as_json(here, "maps", str(tmp_path / "parquet"), *options)
    assert tested["num_samples"] == {"train": 15, "test": 10}
    assert any("the first is 1" in text for text in tested["warnings"])
    assert values(tested, "ncc_accuracy", "test")[0] > 0.8
    assert values(tested, "within_trace")[0] != values(found, "within_trace")[0]


def test_weights_of_a_named_network_without_checkpoint_are_called_initial(here: Path, tmp_path: Path) -> None:
    outcome = run(
        "profile", "mlp", "--dataset", here / "train.npz", "--layers", "layers.0", "--out", tmp_path
    )
    assert outcome.out.startswith("mlp, untrained (seed 0): 60 train samples")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Neural collapse by layer: mlp, untrained (seed 0)" in page
