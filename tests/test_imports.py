"""What is imported when: who measures arrays waits for torch and pandas, and who mistypes a path for neither."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# What no measurement of arrays needs. (pandas imports pyarrow itself where it is installed.)
NOT_TO_MEASURE = {
    "datasets", "huggingface_hub", "jinja2", "lightning", "lightning_fabric", "matplotlib", "plotly", "pydantic", "ray", "rich",
    "scipy", "sklearn", "timm", "torchmetrics", "torchvision", "transformers", "typer", "yaml",
}  # fmt: skip
HEAVY = {"numpy", "pandas", "torch"}


def imported(code: str, folder: Path) -> set[str]:
    """Top-level modules that a new process has imported after `code`."""
    code = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_measuring_imports_what_it_uses(tmp_path: Path) -> None:
    found = imported("from collapselab import measure", tmp_path)
    assert found >= HEAVY  # or else this looks at the wrong modules
    assert not found & NOT_TO_MEASURE


def test_the_package_alone_imports_no_library(tmp_path: Path) -> None:
    found = imported("import collapselab", tmp_path)
    assert "collapselab" in found
    assert not found & (HEAVY | NOT_TO_MEASURE)


@pytest.mark.parametrize(
    "command",
    [
        ["measure", "none.npz"],
        ["measure", "there.npz", "--test", "none.npz"],
        ["measure", "there.npz", "--rcond", "2"],
        ["measure", "there.npz", "--output", "there.npz"],
        ["report", "none"],
        ["judge", "none"],
        ["results", "none"],
        ["run", "none.yaml"],
        ["run", "none"],
        ["reproduce", "hui2022/fig99"],
        ["reproduce", "hui2022/fig3", "--data", "mnits=there.npz"],
        ["metrics", "vic"],
        ["measure", "there.npz", "--metrics", "vic"],
        ["profile", "mlp", "--dataset", "digits", "--metrics", "vic"],
        ["profile", "mlp", "--dataset", "digitz"],
        ["profile", "mlp", "--dataset", "digits", "--test-dataset", "none.npz"],
        ["rank", "mlp", "--on", "digitz"],
    ],
    ids=" ".join,
)
def test_errors_about_paths_and_names_do_not_wait_for_torch(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "there.npz").touch()
    code = f"""
import contextlib, io
from collapselab.cli import main
said = io.StringIO()
with contextlib.suppress(SystemExit), contextlib.redirect_stderr(said):
    main({command})
assert said.getvalue().startswith("error: "), said.getvalue()
"""
    assert not imported(code, tmp_path) & HEAVY
