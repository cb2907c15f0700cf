"""Follow README.md as a newcomer does, with a wheel, in an environment and a folder of its own; print how long it takes.

    python tests/newcomer/first_hour.py dist/*.whl

The commands and the code are those of the sections "Install" and "First results", in their order: this fails where the README
does. It runs on the standard library, and everything is downloaded afresh. `--borrow` takes the dependencies from another
environment instead, and only the package itself from the wheel. On a machine that is busy, `--busy` compares processor seconds
with twice the goals: processes that share a core and its caches slow each other down.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
# Seconds after the installation, on two cores.
GOALS = {"first number": 60, "first page": 90}
BUSY = 2
PAGE_BYTES = 1_500_000
# A line of the table that `measure` prints: a metric and its value.
_NUMBER = re.compile(r"^\s*\w+_\w+\s+\d[\d.e+-]*\b", re.MULTILINE)
_WHERE = "import collapselab, importlib.metadata as m; print(collapselab.__file__, m.version('collapselab'))"


class Failure(Exception):
    """The README promises something that does not happen."""


@dataclass(frozen=True)
class Step:
    """What a reader types: a line in a shell, or a block of Python."""

    code: str
    is_python: bool


def section(readme: str, title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL)
    if found is None:
        raise Failure(f"README.md has no section {title!r}")
    return found[1]


def steps(text: str) -> Iterator[Step]:
    """Yield blocks of Python and indented lines of a shell, in their order."""
    for found in re.finditer(r"^```python\n(.*?)^```|^    (\S[^\n]*)$", text, re.MULTILINE | re.DOTALL):
        yield Step(found[1], True) if found[1] else Step(found[2], False)


@dataclass(frozen=True)
class Newcomer:
    """An environment with nothing but pip, and an empty folder to work in."""

    home: Path
    wheel: Path
    borrow: Path | None
    busy: bool

    @property
    def bin(self) -> Path:
        return self.home / "venv" / ("Scripts" if os.name == "nt" else "bin")

    def start(self) -> None:
        venv.create(self.home / "venv", with_pip=True)
        (self.home / "work").mkdir()

    def seconds(self) -> float:
        """Seconds since some moment, or those that a processor has worked for what was followed."""
        spent = os.times()
        return spent.children_user + spent.children_system if self.busy else spent.elapsed

    def follow(self, step: Step) -> str:
        """Run a step, and return what it prints."""
        command = [str(self.bin / "python"), "-c", step.code] if step.is_python else self.words(step.code)
        # Nothing that the caller has set may help.
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
        }
        clean["PATH"] = os.pathsep.join([str(self.bin), os.environ["PATH"]])
        done = subprocess.run(
            command, cwd=self.home / "work", env=clean, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )  # fmt: skip
        if done.returncode:
            raise Failure(f"exit code {done.returncode} from the README's\n{step.code}\n{done.stdout}")
        return done.stdout

    def words(self, line: str) -> list[str]:
        """Return a command; `.` means the clone, in whose place there is a wheel."""
        words = [re.sub(r"^\.(?=$|\[)", str(self.wheel), word) for word in shlex.split(line, comments=True)]
        if words[:2] == ["pip", "install"] and self.borrow:
            words[2:2] = ["--no-deps", "--no-index"]
        return [str(self.bin / words[0]), *words[1:]]

    def install(self, commands: list[Step]) -> None:
        if not any(str(self.wheel) in " ".join(self.words(step.code)) for step in commands):
            raise Failure("no command of the README installs the package")
        for step in commands:
            said = self.follow(step)
            if "does not provide the extra" in said:
                raise Failure(f"the README's\n{step.code}\nnames an extra that is not there:\n{said}")
        if self.borrow:
            # The folder alone: .pth files in it, such as that of an editable checkout, are not read.
            site = next((self.home / "venv").glob("**/site-packages"))
            (site / "borrowed.pth").write_text(f"{self.borrow}\n", encoding="utf-8")
        where, version = self.follow(Step(_WHERE, True)).split()
        if not Path(where).resolve().is_relative_to(self.home.resolve()):
            raise Failure(f"collapselab comes from {where}, not from the wheel")
        print(f"collapselab {version} from the wheel")


def first_hour(person: Newcomer, readme: str) -> None:
    """Install, get a first number and a first page, and print the seconds.

    Raises:
        Failure: a command fails, there is no number or no page, or it takes longer than it should.
    """
    person.start()
    began = person.seconds()
    person.install(list(steps(section(readme, "Install"))))
    installed = person.seconds()
    print(f"{installed - began:6.1f} s  installation")
    results = section(readme, "First results")
    seconds: dict[str, float] = {}
    for step in steps(results):
        said = person.follow(step)
        after = person.seconds() - installed
        print(f"{after:6.1f} s  after: {step.code.strip().splitlines()[-1]}")
        if _NUMBER.search(said):
            seconds.setdefault("first number", after)
        if any(is_page(person.home / "work" / name) for name in re.findall(r"`([\w/]+\.html)`", results)):
            seconds.setdefault("first page", after)
    for what, goal in GOALS.items():
        if what not in seconds:
            raise Failure(f"the README leads to no {what}")
        print(f"{what}: {seconds[what]:.1f} s after the installation (goal: {goal} s)")
    slower = BUSY if person.busy else 1
    if late := [what for what, goal in GOALS.items() if seconds[what] > slower * goal]:
        raise Failure(f"too late: {', '.join(late)}")


def is_page(path: Path) -> bool:
    if not path.is_file():
        return False
    if path.stat().st_size > PAGE_BYTES:
        raise Failure(f"{path.name} has {path.stat().st_size:,} bytes (goal: {PAGE_BYTES:,})")
    return 'class="chart"' in path.read_text(encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument(
        "--borrow", type=Path, metavar="FOLDER", help="site-packages that has the dependencies"
    )
    parser.add_argument("--busy", action="store_true", help="compare processor seconds with twice the goals")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        try:
            person = Newcomer(
                Path(home), given.wheel.resolve(), given.borrow and given.borrow.resolve(), given.busy
            )
            first_hour(person, README.read_text(encoding="utf-8"))
        except Failure as failure:
            sys.exit(f"error: {failure}")


if __name__ == "__main__":
    main()
