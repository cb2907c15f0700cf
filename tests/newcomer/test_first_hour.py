"""What is built is what users get: contents of wheel and source distribution, and the README followed with the wheel."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.message import Message
from importlib.util import find_spec
from pathlib import Path

import first_hour
import pytest

import collapselab

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "collapselab"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel, built from the source distribution, as `make dist` does."""
    folder = tmp_path_factory.mktemp("dist")
    # The environment of the tests has the build backend; an older one downloads it.
    here = ["--no-isolation"] if find_spec("hatchling") and find_spec("hatch_fancy_pypi_readme") else []
    command = [sys.executable, "-m", "build", "--outdir", str(folder), *here, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as held:
        (name,) = (name for name in held.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_string(held.read(name).decode())


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as held:
        found = {name for name in held.namelist() if ".dist-info/" not in name}
    wanted = {
        f"collapselab/{path.relative_to(SOURCE).as_posix()}"
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert found == wanted
    assert {Path(name).suffix for name in found} >= {
        ".py",
        ".typed",
        ".css",
        ".js",
        ".j2",
        ".yaml",
        ".mplstyle",
    }


def test_the_source_distribution_can_be_tested_and_holds_no_results(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as held:
        parts = {name.split("/")[1] for name in held.getnames()}
    assert parts >= {
        "src",
        "tests",
        "docs",
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "Makefile",
    }
    assert not parts & {"results", "runs", "dist", ".venv", ".git"}


def test_registries_accept_and_render_it(dist: Path) -> None:
    files = [str(path) for path in dist.iterdir()]
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_description_has_no_relative_link(metadata: Message) -> None:
    text = str(metadata.get_payload())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    relative = r"\]\((?!https?://|#)[^)]*\)"
    assert re.search(relative, readme)  # or else nothing has been replaced
    assert not re.search(relative, text)
    for title in re.findall(r"^## .*$", readme, re.MULTILINE):
        assert title in text
    assert "- Metric catalogue: formula, source" in text


def test_the_metadata_say_what_pyproject_says(metadata: Message) -> None:
    assert metadata["Version"] == collapselab.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert set(metadata.get_all("Provides-Extra", [])) >= {
        "train",
        "plots",
        "data",
        "models",
        "papers",
        "all",
    }
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


@pytest.mark.slow
def test_the_readme_works_with_the_wheel(wheel: Path) -> None:
    script = [sys.executable, first_hour.__file__, str(wheel)]
    # Other tests run at the same time: seconds of a clock would measure them too.
    borrow = ["--busy", "--borrow", sysconfig.get_path("purelib")]
    done = subprocess.run([*script, *borrow], capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "first page:" in done.stdout


def newcomer(tmp_path: Path) -> first_hour.Newcomer:
    return first_hour.Newcomer(tmp_path, tmp_path / "a.whl", borrow=None, busy=False)


def test_steps_are_read_in_their_order() -> None:
    text = "Text\n\n    pip install .\n\n```python\nimport a\n\nprint(1)\n```\n\n    collapselab x  # why\n"
    assert list(first_hour.steps(text)) == [
        first_hour.Step("pip install .", False),
        first_hour.Step("import a\n\nprint(1)\n", True),
        first_hour.Step("collapselab x  # why", False),
    ]


def test_the_wheel_takes_the_place_of_the_clone(tmp_path: Path) -> None:
    words = newcomer(tmp_path).words('pip install ".[train]"  # downloads')
    assert words[1:] == ["install", f"{tmp_path / 'a.whl'}[train]"]


@pytest.mark.parametrize(
    ("readme", "reason"),
    [
        ("# Title\n", "no section 'Install'"),
        ("## Install\n\n    pip install collapselab\n", "no command of the README installs"),
    ],
)
def test_a_readme_that_misleads_is_refused(
    readme: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_hour.Newcomer, "start", lambda _: None)
    with pytest.raises(first_hour.Failure, match=reason):
        first_hour.first_hour(newcomer(tmp_path), readme)


def test_a_page_is_small_and_has_charts(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert not first_hour.is_page(page)
    page.write_text("<p>")
    assert not first_hour.is_page(page)
    page.write_text('<div class="chart">')
    assert first_hour.is_page(page)
    page.write_bytes(bytes(first_hour.PAGE_BYTES + 1))
    with pytest.raises(first_hour.Failure, match="1,500,001 bytes"):
        first_hour.is_page(page)
