"""What the attacks share: how many there are, small things to attack, and damages to files."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from collapselab.data.recipe import DataSpec, Sample
from collapselab.experiments.claims.judges import falls
from collapselab.experiments.experiment import Experiment, curve_rows
from collapselab.experiments.grid import Grid
from collapselab.experiments.recipes import At, Job
from collapselab.experiments.runner import Request
from collapselab.records.experiment import ExtraRow
from collapselab.records.recipe import Checkpoints, Measuring, ModelSpec, Recipe

SEED = 20220216
TIMES = int(os.environ.get("COLLAPSELAB_ATTACK", "1"))


def recipe(seed: int = 0, **changes: object) -> Recipe:
    """Four measurements, every kind of file, a state on disk after every step."""
    values = {
        "model": ModelSpec(options={"width": 4, "depth": 1, "dropout": 0.2}),
        "data": DataSpec(train=Sample(method="first", count=40), test=Sample(method="first", count=40)),
        "steps": 9,
        "batch_size": 16,
        "seed": seed,
        "num_threads": 1,
        "measuring": Measuring(count=3, metrics=("train_variance", "strong_test_variance")),
        "checkpoints": Checkpoints(at="measured", save_every=0),
    }
    return Recipe.model_validate(values | changes)


def _norm(runs: Grid, seed: int) -> list[ExtraRow]:
    weights = next(iter(runs.of(seed).values())).model().parameters()
    return [{"norm": float(sum(weight.detach().square().sum() for weight in weights))}]


EXPERIMENT = Experiment(
    id="tiny/fig1",
    paper="Nobody",
    where="Fig. 1",
    title="Tiny",
    question="Does it hold?",
    presets={
        "smoke": At(
            "Everything.",
            seeds=3,
            make=lambda seed, _: [Job("only", recipe(seed), {"dataset": "digits", "model": "mlp"})],
        )
    },
    rows=curve_rows,
    charts=(),
    claims=(falls("train_variance", "Train variance falls.", id="falls", fitted=None),),
    extras={"norm": _norm},
)


def request(out: Path, **changes: Any) -> Request:
    return Request(experiment=EXPERIMENT, scale="smoke", out=out, **changes)


# ---------------------------------------------------------------- damages

Random = random.Random
Damage = Callable[[Path, Path, Random], None]


def files_of(folder: Path) -> list[Path]:
    """Files that are read back, relative to their folder; pages and texts are only written."""
    return sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".html", ".txt", ".lock")
    )


def _flip(path: Path, _other: Path, draw: Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def _overwrite(path: Path, _other: Path, draw: Random) -> None:
    content = bytearray(path.read_bytes())
    start = draw.randrange(len(content))
    content[start : start + 16] = draw.randbytes(len(content[start : start + 16]))
    path.write_bytes(content)


def _cut(path: Path, _other: Path, draw: Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content))])


def _cut_lines(path: Path, _other: Path, draw: Random) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: draw.randrange(len(lines))]))


def _empty(path: Path, _other: Path, _draw: Random) -> None:
    path.write_bytes(b"")


def _lines(change: Callable[[list[bytes], int, Random], None]) -> Damage:
    def damage(path: Path, _other: Path, draw: Random) -> None:
        lines = path.read_bytes().splitlines(keepends=True)
        change(lines, draw.randrange(len(lines)), draw)
        path.write_bytes(b"".join(lines))

    return damage


def _swap(lines: list[bytes], at: int, draw: Random) -> None:
    other = draw.randrange(len(lines))
    lines[at], lines[other] = lines[other], lines[at]


def _drop(lines: list[bytes], at: int, _draw: Random) -> None:
    del lines[at]


def _double(lines: list[bytes], at: int, _draw: Random) -> None:
    lines.insert(at, lines[at])


OTHER_TYPES = (
    b"null",
    b"[]",
    b"3",
    b'"text"',
    b"{}",
    b"true",
    b"[[]]",
    b"NaN",
    b'{"schema": 3}',
    b"[" * 5000,
)


def _other_line(lines: list[bytes], at: int, draw: Random) -> None:
    lines[at] = draw.choice(OTHER_TYPES) + b"\n"


def _bad_text(lines: list[bytes], at: int, draw: Random) -> None:
    lines[at] = lines[at][:3] + draw.choice([b"\xff", b"\xc3\x28", b"\0", b"\xed\xa0\x80"]) + lines[at][3:]


def _other_type(path: Path, _other: Path, draw: Random) -> None:
    path.write_bytes(draw.choice(OTHER_TYPES))


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every object or list in a JSON value, with each of its keys."""
    found = []
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        found.append((value, key))
        if isinstance(inner, dict | list):
            found += _places(inner)
    return found


def _json(change: Callable[[Any, Any, Random], None]) -> Damage:
    """Change one value in a JSON file, or in one line of it, and write it as a person would."""

    def damage(path: Path, other: Path, draw: Random) -> None:
        lines = path.read_text(encoding="utf-8").splitlines() if path.suffix == ".jsonl" else []
        at = draw.randrange(len(lines)) if lines else 0
        try:
            value = json.loads(lines[at] if lines else path.read_text(encoding="utf-8"))
            change(*draw.choice(_places(value)), draw)
        except (ValueError, IndexError):  # no JSON, or nothing in it
            return _flip(path, other, draw)
        if lines:
            path.write_text(
                "".join(f"{line}\n" for line in [*lines[:at], json.dumps(value), *lines[at + 1 :]])
            )
        else:
            path.write_text(json.dumps(value, indent=4))

    return damage


def _without(value: Any, key: Any, _draw: Random) -> None:
    del value[key]


def _null(value: Any, key: Any, _draw: Random) -> None:
    value[key] = None


def _another(value: Any, key: Any, draw: Random) -> None:
    old = value[key]
    value[key] = old * 2 + 1 if isinstance(old, int | float) else draw.choice([7, "text", [], {}, -1.5, True])


def _remove(path: Path, _other: Path, _draw: Random) -> None:
    path.unlink()


def _folder(path: Path, _other: Path, _draw: Random) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path, _other: Path, _draw: Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _of_another_seed(path: Path, other: Path, _draw: Random) -> None:
    if other.exists():
        shutil.copy(other, path)
    else:
        path.unlink()


def _of_another_step(path: Path, _other: Path, draw: Random) -> None:
    beside = [beside for beside in sorted(path.parent.iterdir()) if beside.suffix == path.suffix != ".json"]
    shutil.copy(source, path) if (source := draw.choice([*beside, path])) != path else _flip(path, path, draw)


DAMAGES: dict[str, Damage] = {
    "flip": _flip,
    "overwrite": _overwrite,
    "cut": _cut,
    "cut lines": _cut_lines,
    "empty": _empty,
    "swap lines": _lines(_swap),
    "drop a line": _lines(_drop),
    "double a line": _lines(_double),
    "another line": _lines(_other_line),
    "bad text": _lines(_bad_text),
    "another type": _other_type,
    "without a key": _json(_without),
    "null": _json(_null),
    "another value": _json(_another),
    "remove": _remove,
    "a folder": _folder,
    "a pipe": _pipe,
    "another seed": _of_another_seed,
    "another step": _of_another_step,
}
