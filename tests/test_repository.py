"""Files that no code reads, but that must agree with those that some code does: workflows, hooks, metadata."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import collapselab

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def parsed(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_every_supported_version_of_python_is_tested() -> None:
    tested = parsed(".github/workflows/ci.yml")["jobs"]["tests"]["strategy"]["matrix"]["python"]
    stated = [
        found[1]
        for one in PROJECT["classifiers"]
        if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", one))
    ]
    assert tested == stated
    assert PROJECT["requires-python"] == f">={tested[0]}"


def test_workflows_and_hooks_run_commands_that_exist() -> None:
    """Targets of the Makefile, files of this repository, and tools that the extra `dev` installs."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(VENV)", ".venv")
    jobs = parsed(".github/workflows/ci.yml")["jobs"].values()
    lines = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    hooks = [hook["entry"] for repo in parsed(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    dev = {re.split(r"[\[=>]", one)[0] for one in PROJECT["optional-dependencies"]["dev"]}
    assert len(lines) > 5
    for line in [*lines, *hooks]:
        command, *words = line.split()
        if command == "make":
            assert re.search(rf"^{re.escape(words[0])}:", makefile, re.MULTILINE), line
        elif command == "python":
            assert (ROOT / words[0]).is_file(), line
        elif command == "pip":
            assert "ruff==" in line
        else:
            assert command.removeprefix(".venv/bin/") in dev, line


def test_the_linter_that_ci_installs_alone_is_the_pinned_one() -> None:
    pins = re.findall(r"ruff==[0-9.]*", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert pins == [one for one in PROJECT["optional-dependencies"]["dev"] if one.startswith("ruff")]
    assert len(pins) == 1


def test_versions_agree() -> None:
    assert parsed("CITATION.cff")["version"] == collapselab.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", changes, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", one) for one in headings[1:])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", changes, re.MULTILINE)) <= kinds


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_issue_forms_have_the_fields_that_are_required_of_them(name: str) -> None:
    form = parsed(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert form["name"]
    assert form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_a_bug_report_asks_for_versions() -> None:
    (asked,) = (
        field for field in parsed(".github/ISSUE_TEMPLATE/bug.yml")["body"] if field["id"] == "versions"
    )
    assert "collapselab --version" in asked["attributes"]["value"]
