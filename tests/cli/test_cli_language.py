"""Library errors speak Python; the command line says the same with its options."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_runner import assert_refused, run
from collapselab import InputError
from collapselab.cli.errors import error_line, in_options, typed

OPTIONS = {"out": "--out", "reduce": "--reduce", "limit": "--limit", "copies": "--data", "set": "--set"}

# Averaged heads have no classifier; the warning says that `classifier=` names one.
NETWORK = """
from torch import nn

def build(num_classes, input_shape):
    class Averaged(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(64, num_classes), nn.Linear(64, num_classes)

        def forward(self, inputs):
            return (self.one(inputs.flatten(1)) + self.other(inputs.flatten(1))) / 2

    return Averaged()
"""


@pytest.mark.parametrize(
    ("message", "translated"),
    [
        ("runs/a: not a run; choose another out=", "runs/a: not a run; choose another --out"),
        ("use reduce='gap', or fewer layers", "use --reduce gap, or fewer layers"),
        ('use reduce="token:0"; or not', "use --reduce token:0; or not"),
        ("limit=0 leaves no samples", "--limit 0 leaves no samples"),
        ("limit=3 and rows= are both given", "--limit 3 and rows= are both given"),
        ("no copy; give copies={'mnist': PATH} or wait", "no copy; give --data mnist=PATH or wait"),
        # what only looks like an argument: parts of paths, of pairs, of variables
        ("/data/out=3/limit=4.npz: damaged", "/data/out=3/limit=4.npz: damaged"),
        ("COLLAPSELAB_DATA=mnist=PATH", "COLLAPSELAB_DATA=mnist=PATH"),
        ("--set out=3: unknown", "--set out=3: unknown"),
    ],
)
def test_arguments_become_options(message: str, translated: str) -> None:
    assert in_options(message, OPTIONS) == translated


def test_names_of_files_are_not_translated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were typed, those of folders on the way and those that are suggested."""
    monkeypatch.chdir(tmp_path)
    Path("limit=3").write_text("not features")
    for name in ("rcond=5.npz", "test=a/rcond=5.npz", "test=a b/rcond=5.npz"):
        assert_refused(run("measure", name), f"error: {name}: no such file or folder")
    assert_refused(run("measure", "limit=3"), "error: limit=3: ")
    assert_refused(run("rank", "seed=1.npz", "seed=2.npz"), "error: seed=1.npz: no such")
    Path("seed=0.npz").touch()
    assert_refused(run("rank", "seed=1.npz"), "error: seed=1.npz: no such", "did you mean 'seed=0.npz'")
    with typed(["--out=runs/seed=0"]):
        assert in_options("seed=0: holds out='seed=0' and limit=0", OPTIONS) == (
            "seed=0: holds --out seed=0 and --limit 0"
        )
    assert in_options("limit=3: no such file", OPTIONS) == "--limit 3: no such file"


def test_only_options_of_the_command_are_translated() -> None:
    import typer

    from collapselab.cli.app import app

    command = typer.main.get_command(app)
    error = InputError("choose another out=, or fewer samples with limit=")
    assert (
        error_line(error, command, ["run", "a.yaml"]) == "choose another --out, or fewer samples with limit="
    )
    assert (
        error_line(error, command, ["profile", "mlp"])
        == "choose another --out, or fewer samples with --limit"
    )
    assert error_line(ZeroDivisionError("a bug"), command, ["profile"]) is None


def test_options_of_profiling_have_the_defaults_of_the_library() -> None:
    """The command names them once more, as its help must not import the list; their defaults are the list's."""
    import inspect

    from collapselab.cli.profile import profile
    from collapselab.probes.options import OPTIONS

    given = inspect.signature(profile).parameters
    shared = OPTIONS.keys() & given.keys()
    assert shared == {
        "layers", "reduce", "metrics", "channel_axis", "scatter", "weighting", "epsilon", "seed", "batch_axis", "scores", "classifier",
        "ignore_index", "stats_device",
    }  # fmt: skip
    assert {name: given[name].default for name in shared} == {name: OPTIONS[name].default for name in shared}


def test_warnings_speak_of_options_too(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    arguments = ("profile", f"{tmp_path / 'net.py'}:build", "--dataset", "digits", "--limit", "40")
    for format in ("table", "csv", "json"):
        outcome = run(*arguments, "--format", format)
        assert outcome.code == 0
        said = " ".join((outcome.out + outcome.err).split())
        assert "--classifier" in said
        assert "classifier=" not in said
