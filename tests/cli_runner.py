"""Running the command line inside the test process, as a user sees it: exit code, stdout, stderr."""

from __future__ import annotations

import contextlib
import io
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from collapselab.cli import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def run(*arguments: object) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return Outcome(ended.value.code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Refuse larger files, as a full disk or a quota does: with true errors, in true writers."""
    import sklearn.cluster  # noqa: F401 (joblib, which it imports, makes a semaphore at its first import: a file)

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def measured(path: Path, *options: object) -> Outcome:
    return run("measure", path, "--format", "json", *options)


def assert_refused(outcome: Outcome, *fragments: object) -> None:
    """One line on stderr that begins `error:` and holds all `fragments`, nothing on stdout, exit code 2."""
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert outcome.err.startswith("error: "), outcome.err
    assert outcome.err.endswith("\n")
    assert len(outcome.err.splitlines()) == 1, outcome.err
    for fragment in fragments:
        assert str(fragment) in outcome.err, outcome.err


def example(seed: int = 0, num_classes: int = 3, per_class: int = 8, dim: int = 5) -> dict[str, Any]:
    """Features, labels, weight and bias of a small, clean problem."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(num_classes), per_class)
    means = 3 * rng.normal(size=(num_classes, dim))
    return {
        "features": means[labels] + 0.3 * rng.normal(size=(len(labels), dim)),
        "labels": labels,
        "weight": means - means.mean(0),
        "bias": np.zeros(num_classes),
    }


def save(path: Path, arrays: dict[str, Any] | None = None, **changes: npt.ArrayLike | None) -> Path:
    """Write `arrays` (default: the example) with `changes` (None: without that array) by the path's suffix."""
    arrays = dict(example() if arrays is None else arrays) | changes
    arrays = {name: np.asarray(array) for name, array in arrays.items() if array is not None}
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        from safetensors.numpy import save_file

        save_file({name: array.copy(order="C") for name, array in arrays.items()}, path)
    return path
