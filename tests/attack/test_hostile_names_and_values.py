"""A seeded attack with names and values that nobody should use: each ends in a right number or in one printable line.

COLLAPSELAB_ATTACK multiplies the number of attempts.
"""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import collapselab
from cli_runner import run
from collapselab import InputError
from collapselab.cli.output import as_text
from collapselab.data import open_data_set
from collapselab.probes.options import OPTIONS
from collapselab.transfer import linear_probe as typed_linear_probe

TIMES = int(os.environ.get("COLLAPSELAB_ATTACK", "1"))
SEED = 20220216

# The tests check annotations at run time; users pass anything.
measure: Any = inspect.unwrap(collapselab.measure)
profile: Any = inspect.unwrap(collapselab.profile)
linear_probe: Any = inspect.unwrap(typed_linear_probe)

PIECES = (
    "\x1b[31m", "\x1b]0;title\x07", "\x1b[2J\x1b[H", "\x9b1m", "\r", "\n", "\t", "\x00", "\x08\x08", "\x7f", "\u202e",
    "\u2066", "\u2069", "\u200b", "\u200d", "\ufeff", "\u2028", "\x85", "\ud800", "\udce9", "\u00ad", "\U000e0041",
    "<script>alert(1)</script>", "</script>", "<img src=x onerror=1>", "&lt;", '"', "'", "`", "[bold red]", "[/]", "{0}",
    "{name!r}", "%s", "%n", "$(id)", "; rm", "| cat", "..", "~", "*", "[1]", "::", "name=value", "--set x=1", "(", ")",
    "é", "中文", "👩‍👩‍👧", "العربية", "à" * 20, "\u0301" * 30, "x" * 300, "word " * 80, "", " ",
)  # fmt: skip


def names(count: int, salt: int, allowed: Callable[[str], bool] = lambda name: True) -> Iterator[str]:
    """Yield hostile names, the same ones in every run."""
    rng = np.random.default_rng((SEED, salt))
    while count:
        name = "".join(PIECES[i] for i in rng.integers(0, len(PIECES), rng.integers(1, 4)))
        if allowed(name):
            count -= 1
            yield name


def is_file_name(name: str) -> bool:
    return 0 < len(os.fsencode(name)) < 200 if is_encodable(name) else False


def is_encodable(name: str) -> bool:
    if not name.strip(" .") or "/" in name or "\0" in name:
        return False
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def assert_shown(text: str) -> None:
    """Whatever is shown is valid UTF-8 without characters that a terminal or browser would obey."""
    text.encode("utf-8")
    wrong = {char for char in text if not char.isprintable() and char not in "\n\u00a0"}
    assert not wrong, ascii(wrong)


def assert_line(line: str) -> None:
    assert_shown(line)
    assert "\n" not in line
    assert 0 < len(line) <= 300, (len(line), line)


def refusal(call: Callable[[], object]) -> str | None:
    """Call; return the message if it was refused. Any other exception is a failure."""
    try:
        call()
    except InputError as error:
        assert_line(str(error))
        return str(error)
    return None


# ---------------------------------------------------------------- names


def model_named(names_of_layers: list[str]) -> nn.Module:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleDict({name: nn.Linear(4, 4) for name in names_of_layers})
            self.head = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers.values():
                x = x + layer(x).tanh()
            return self.head(x)

    torch.manual_seed(SEED)
    return Chain()


LABELS = torch.arange(24) % 3
INPUTS = torch.randn(24, 4, generator=torch.manual_seed(1)) + LABELS[:, None]


def is_module_name(name: str) -> bool:
    return name != "" and "." not in name and not hasattr(nn.ModuleDict, name)


def test_names_of_layers_and_models_are_shown_escaped(tmp_path: Path) -> None:
    from collapselab.records.profile import StoredProfile, read_profile, write_profile
    from collapselab.report.pages.profile import write_profile_page

    for number in range(TIMES):
        found = list(dict.fromkeys(names(24, 10 + number, is_module_name)))
        result = collapselab.profile(
            model_named(found),
            [(INPUTS, LABELS)],
            name="".join(found[:3]),
            metrics=["normalized_within", "vci", "equiangularity", "alignment"],
        )
        assert [layer.name for layer in result.layers][:-1] == [
            "layers." + name.encode("utf-8", "backslashreplace").decode() for name in found
        ]
        for form in ("table", "csv"):
            assert_shown(as_text(result, form))
        assert_shown(re.sub(r"\x1b\[[\d;]*m", "", as_text(result, "table", to_terminal=True)))
        text = as_text(result, "json")
        text.encode("ascii")
        again = json.loads(text)
        assert [layer["name"] for layer in again["layers"]] == [layer.name for layer in result.layers]
        json.dumps(again, ensure_ascii=False).encode("utf-8")
        assert_shown(result._repr_html_())
        write_profile(tmp_path, StoredProfile(result, None))
        assert read_profile(tmp_path).profile.to_dict() == result.to_dict()
        write_profile_page(tmp_path, result, None, None)
        assert_page(tmp_path / "report.html")


def assert_page(path: Path) -> None:
    """The page is valid UTF-8, and outside of its scripts nothing is shown raw or becomes an element."""
    page = path.read_text(encoding="utf-8", errors="strict")
    figures = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    assert figures is not None
    drawn = json.dumps(json.loads(figures[1]), ensure_ascii=False)
    assert_shown(drawn)
    rest = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    assert_shown(rest)
    assert "<img src=x" not in rest
    assert "alert(1)" not in re.sub(r"&lt;script&gt;alert\(1\)", "", rest)


def test_names_of_classes_are_shown_escaped(tmp_path: Path) -> None:
    classes = list(dict.fromkeys(names(12 * TIMES, 2, is_file_name)))
    for name in classes:
        folder = tmp_path / "set" / "train" / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), len(name) % 256).save(folder / "0.png")
    data = open_data_set(tmp_path / "set")
    shown = [name for name in data.class_names or () if not name.startswith((".", "__"))]
    assert shown
    for name in shown:
        assert_shown(name)
    assert refusal(lambda: data.labels("\x1b[31mtest")) is not None


COMMANDS: dict[str, Callable[[str], tuple[object, ...]]] = {
    "measure": lambda name: ("measure", f"{name}.npz"),
    "measure a folder": lambda name: ("measure", name),
    "metrics": lambda name: ("measure", "x.npz", "--metrics", f"_{name}_"),
    "output": lambda name: ("measure", "x.npz", "--output", f"/nowhere/{name}/x"),
    "model": lambda name: ("profile", f"_{name}", "--dataset", "digits"),
    "model file": lambda name: ("profile", f"{name}.py:build", "--dataset", "digits"),
    "data": lambda name: ("profile", "mlp", "--dataset", f"_{name}"),
    "copy": lambda name: ("profile", "mlp", "--dataset", "mnist", "--data", f"{name}=/nowhere"),
    "path of a copy": lambda name: (
        "profile",
        "mlp",
        "--dataset",
        "mnist",
        "--data",
        f"mnist=/nowhere{name}",
    ),
    "layers": lambda name: ("profile", "mlp", "--dataset", "digits", "--limit", "20", "--layers", f"_{name}"),
    "reduce": lambda name: ("profile", "mlp", "--dataset", "digits", "--reduce", f"_{name}"),
    "checkpoint": lambda name: (
        "profile",
        "mlp",
        "--dataset",
        "digits",
        "--checkpoint",
        f"/nowhere/{name}.pt",
    ),
    "against": lambda name: (
        "profile",
        "mlp",
        "--dataset",
        "digits",
        "--out",
        "o",
        "--against",
        f"/nowhere/{name}",
    ),
    "recipe": lambda name: ("run", f"/nowhere/{name}.yaml"),
    "run": lambda name: ("run", f"_{name}"),
    "set": lambda name: ("run", "digits", "--set", name),
    "experiment": lambda name: ("reproduce", f"_{name}"),
    "judge": lambda name: ("judge", f"/nowhere/{name}"),
    "unknown option": lambda name: ("measure", f"--{name}"),
    "command": lambda name: (f"_{name}",),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_names_on_the_command_line_are_refused_in_one_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in names(4 * TIMES, sum(map(ord, command)), lambda name: "\0" not in name):
        outcome = run(*COMMANDS[command](name))
        case = (command, ascii(name), outcome)
        assert outcome.code == 2, case
        assert outcome.out == "", case
        assert outcome.err.startswith("error: "), case
        assert outcome.err.endswith("\n"), case
        assert_line(outcome.err[:-1])


def test_names_in_a_recipe_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    monkeypatch.chdir(tmp_path)
    fields = ("model", "data", "loss", "optimizer", "steps")
    for number, name in enumerate(names(10 * TIMES, 5)):
        nested = {"name": f"_{name}"} if fields[number % 5] in ("model", "data", "optimizer") else f"_{name}"
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({fields[number % 5]: nested}), encoding="utf-8")
        outcome = run("run", path, "--out", tmp_path / "run")
        assert (outcome.code, outcome.out) == (2, ""), (ascii(name), outcome)
        assert_line(outcome.err[:-1])


def test_a_folder_of_a_hostile_name_is_measured_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arrays: dict[str, Any] = {"features": INPUTS.numpy(), "labels": LABELS.numpy()}
    for name in names(6 * TIMES, 6, is_file_name):
        folder = tmp_path / f"_{name}"
        folder.mkdir(exist_ok=True)
        np.savez(folder / "a.npz", **arrays)
        outcome = run("measure", folder, "--metrics", "vci", "--output", folder / "out.txt")
        assert outcome.code == 0, (ascii(name), outcome)
        assert_shown(outcome.err)
        np.savez(folder / "a.npz", **{**arrays, "labels": -LABELS.numpy()})
        outcome = run("measure", folder)
        assert outcome.code == 2, (ascii(name), outcome)
        assert_line(outcome.err[:-1])


# ---------------------------------------------------------------- values

NUMBERS = (
    0.0, -0.0, 1.0, -1.0, 0.5, 5e-324, 1e-310, 1e-200, 1e-30, 1e30, 1e129, 1e131, 1e200, 1e308, -1e308, np.nan, np.inf,
    -np.inf, 2.0**53 + 2, -(2.0**63), 2.0**64,
)  # fmt: skip
DTYPES = (
    np.float64,
    np.float32,
    np.float16,
    np.int64,
    np.uint8,
    np.bool_,
    np.complex64,
    object,
    "U8",
    "M8[s]",
    "V4",
)


def hostile_array(rng: np.random.Generator, base: Any) -> Any:
    """Return an array that is changed in one or two ways: values, dtype, shape, scale, mask."""
    array = np.array(base)
    for _ in range(rng.integers(1, 3)):
        kind = rng.integers(0, 8)
        if kind == 0 and array.size and array.dtype.kind == "f":
            array.reshape(-1)[rng.integers(0, array.size)] = rng.choice(NUMBERS)
        elif kind == 1 and array.dtype.kind == "f":
            array = array * rng.choice(NUMBERS)
        elif kind == 2:
            with np.errstate(all="ignore"):
                try:
                    array = array.astype(DTYPES[rng.integers(0, len(DTYPES))])
                except (TypeError, ValueError):
                    continue
        elif kind == 3 and array.ndim:
            array = array[: rng.integers(0, len(array) + 1)]
        elif kind == 4:
            array = array[..., None] if rng.integers(0, 2) else array.reshape(-1)
        elif kind == 5:
            array = np.ma.masked_array(array, rng.random(array.shape) < 0.05)
        elif kind == 6 and array.ndim > 1 and array.dtype.kind == "f":
            array = array[:, ::-1] + array[:, :1] * 0
        elif kind == 7 and array.dtype.kind in "fiu" and array.dtype != object:
            array = array + rng.choice((0, 1, 7, 10**6))
    return array


@pytest.mark.filterwarnings("ignore")
def test_values_give_the_right_number_or_one_line() -> None:
    rng = np.random.default_rng((SEED, 7))
    x, y = INPUTS.double().numpy(), LABELS.numpy()
    results = 0
    for _ in range(60 * TIMES):
        features, labels = (hostile_array(rng, a) if rng.random() < 0.6 else a for a in (x, y))
        weight = hostile_array(rng, x[:3]) if rng.random() < 0.3 else None
        found: list[Any] = []
        with np.errstate(all="ignore"):
            call = lambda f=features, l=labels, w=weight, out=found: out.append(measure(f, l, weight=w))  # noqa: E731, E741
            case = (features, labels, weight)
            try:
                message = refusal(call)
            except Exception as error:
                raise AssertionError(case) from error
        if message is not None:
            continue
        results += 1
        json.dumps(found[0].to_dict(), allow_nan=False)
        assert not np.ma.getmaskarray(features).any(), case
        wanted = within_by_hand(features, labels)
        value = found[0]["normalized_within"]
        assert value is None or value == pytest.approx(wanted, rel=1e-3, abs=1e-6), case
    assert results >= 5 * TIMES


def within_by_hand(features: Any, labels: Any) -> float:
    rows = np.asarray(features, dtype=np.longdouble)
    rows = rows / max(np.abs(rows).max(), 1e-4000)
    classes = [rows[np.asarray(labels) == label] for label in np.unique(labels)]
    means = np.stack([rows.mean(0) for rows in classes])
    within = np.mean([((rows - rows.mean(0)) ** 2).sum(1).mean() for rows in classes])
    return float(within / (within + ((means - means.mean(0)) ** 2).sum(1).mean()))


@pytest.mark.filterwarnings("ignore")
def test_values_of_a_probe_give_an_accuracy_or_one_line() -> None:
    rng = np.random.default_rng((SEED, 8))
    x, y = INPUTS.double().numpy(), LABELS.numpy()
    for _ in range(20 * TIMES):
        samples = tuple(hostile_array(rng, a) if rng.random() < 0.5 else a for a in (x, y))
        for train, test in (((x, y), samples), (samples, samples)):
            found: list[Any] = []
            call = lambda a=train, b=test, out=found: out.append(linear_probe(a, b, num_penalties=3))  # noqa: E731
            with np.errstate(all="ignore"):
                try:
                    message = refusal(call)
                except Exception as error:
                    raise AssertionError((train, test)) from error
            if message is None:
                assert 0 <= found[0].accuracy <= 1
                assert found[0].classifier.weight.isfinite().all()


ARGUMENTS: tuple[Any, ...] = (
    None, -1, 0, 10**400, 1e400, float("nan"), "", "x" * 1000, "\x1b[31m", b"x", [], [None], {}, {1: 2}, object(), int,
    np.array(1), np.ma.masked, torch.tensor([]), torch.zeros(2, 3, device="meta"), range(3), (1, 2, 3), nn.Linear(1, 1),
    lambda *_: None,
)  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_arguments_of_any_type_are_taken_or_refused_in_one_line() -> None:
    rng = np.random.default_rng((SEED, 9))
    net = model_named(["a"])
    batches = [(INPUTS, LABELS)]
    calls: tuple[Callable[[Any], object], ...] = (
        lambda value: measure(value, LABELS),
        lambda value: measure(INPUTS, value),
        lambda value: measure(INPUTS, LABELS, weight=value),
        lambda value: measure(INPUTS, LABELS, test=(value, LABELS)),
        lambda value: profile(value, batches),
        lambda value: profile(net, value),
        lambda value: profile(net, batches, layers=value),
        lambda value: profile(net, batches, class_counts=value),
        lambda value: linear_probe(value, value),
        lambda value: linear_probe((INPUTS, LABELS), (value, value), num_penalties=2),
        lambda value: open_data_set(str(value)),
    )
    for number in range(44 * TIMES):
        value = ARGUMENTS[rng.integers(0, len(ARGUMENTS))]
        try:
            refusal(lambda value=value, number=number: calls[number % len(calls)](value))
        except Exception as error:
            raise AssertionError((number % len(calls), ascii(repr(value))[:100])) from error


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("option", OPTIONS)
def test_options_of_any_type_give_numbers_or_are_refused_in_one_line(option: str) -> None:
    net, batches = model_named(["a"]), [(INPUTS, LABELS)]
    for value in (
        *ARGUMENTS,
        True,
        0.5,
        1.5,
        -1.0,
        10**400,
        np.float64(0.3),
        np.int64(3),
        "token",
        [[]],
        {"a": 1},
    ):
        if option in ("split_batch", "progress") and callable(value):
            continue  # what a function raises is its own
        found: list[Any] = []
        call = lambda v=value, out=found: out.append(profile(net, batches, **{option: v}))  # noqa: E731
        try:
            refusal(call)
        except Exception as error:
            raise AssertionError((option, ascii(repr(value))[:100])) from error
        for result in found:
            json.dumps(result.to_dict(), allow_nan=False)
            assert result.layers
