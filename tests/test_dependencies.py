"""Whatever the package imports is declared: an environment with more in it hides what a user's lacks."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]
# Where a module is not called like the distribution it comes in.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "huggingface_hub": "huggingface-hub",
    "lightning_fabric": "lightning-fabric",
    "sklearn": "scikit-learn",
    "typing_extensions": "typing-extensions",
    "yaml": "pyyaml",
}
# Of users who have it already: a callback for their own training is no reason to install it.
INTEGRATIONS = {"lightning", "torchmetrics", "transformers"}


def _names(requirements: list[str], extras: dict[str, list[str]]) -> set[str]:
    """Distributions that requirements name, those of the package's own extras in place of its name."""
    names = set()
    for one in requirements:
        if own := re.fullmatch(r"collapselab\[(.+)\]", one):
            names |= _names([name for extra in own[1].split(",") for name in extras[extra]], extras)
        else:
            names.add(re.split(r"[\[<>=!~ ;]", one)[0].lower())
    return names


@pytest.fixture(scope="module")
def project() -> dict[str, set[str]]:
    held = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = held["optional-dependencies"]
    return {
        "core": _names(held["dependencies"], extras),
        "users": _names([*held["dependencies"], *extras["papers"], *extras["ray"]], extras),
        "all": _names(extras["all"], extras),
        "dev": _names(extras["dev"], extras),
    }


def _imports(node: ast.AST, *, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """Top-level modules, and whether they are imported when the file is."""
    for child in ast.iter_child_nodes(node):
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if isinstance(child, ast.Import):
            yield from ((alias.name.partition(".")[0], not inside) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
            yield child.module.partition(".")[0], not inside
        later = inside or typing_only or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from _imports(child, inside=later)


def _third_party() -> Iterator[tuple[Path, str, bool]]:
    for path in sorted((ROOT / "src").rglob("*.py")):
        for module, at_once in _imports(ast.parse(path.read_text(encoding="utf-8"))):
            if module not in sys.stdlib_module_names and module not in INTEGRATIONS | {"collapselab"}:
                yield path, DISTRIBUTIONS.get(module, module).lower(), at_once


def test_every_import_is_declared(project: dict[str, set[str]]) -> None:
    found = list(_third_party())
    assert len(found) > 100
    missing = {(path.name, name) for path, name, _ in found if name not in project["users"]}
    assert not missing


def test_what_is_imported_at_once_comes_with_the_core(project: dict[str, set[str]]) -> None:
    optional = {
        (path.name, name) for path, name, at_once in _third_party() if at_once and name not in project["core"]
    }
    assert not optional


def test_all_is_what_users_can_use_and_no_tool_of_developers(project: dict[str, set[str]]) -> None:
    assert project["users"] | INTEGRATIONS <= project["core"] | project["all"]
    assert {"pytest", "ruff", "pyright"} <= project["dev"] - project["all"]
    assert not {
        name
        for name in project["all"]
        if name.startswith(("pytest", "hypothesis", "beartype", "build", "twine"))
    }


def test_errors_name_extras_that_exist_and_contain_what_is_missing() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    named = [
        (path.name, found["library"].lower(), found["extra"])
        for path in sorted((ROOT / "src").rglob("*.py"))
        for found in re.finditer(
            r"needs? (?P<library>[\w ]+): pip install 'collapselab\[(?P<extra>\w+)\]'",
            path.read_text(encoding="utf-8"),
        )
    ]
    assert len(named) > 10
    wrong = [one for one in named if one[1].replace(" ", "-") not in _names(extras[one[2]], extras)]
    assert not wrong


def test_reading_a_recipe_needs_nothing_but_the_core(project: dict[str, set[str]]) -> None:
    wanted = {
        name for path, name, _ in _third_party() if path.name in ("recipe.py", "cli.py", "cli_experiments.py")
    }
    assert "pyyaml" in wanted
    assert wanted <= project["core"]
