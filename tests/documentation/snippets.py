"""Snippets of the documentation: found in Markdown, and run as a reader would run them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import cli_runner

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md")))
TUTORIALS = ["docs/quick-start.md", *(page for page in PAGES if page.startswith("docs/tutorials/"))]
_FENCE = re.compile(r" *```(\w*)")
# `measured  # about 0.25`: a value that the text states.
_STATED = re.compile(r"^(?P<expression>\S.*?)  # about (?P<value>[-\d.e]+)$", flags=re.MULTILINE)


@dataclass(frozen=True)
class Snippet:
    page: str
    line: int
    language: str
    source: str

    @property
    def commands(self) -> list[str]:
        """Lines that start with `collapselab`, continued lines joined."""
        lines = self.source.replace("\\\n", " ").splitlines()
        return [line for line in lines if self.language == "shell" and line.startswith("collapselab ")]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def snippets(page: str) -> Iterator[Snippet]:
    """Yield the Python blocks of a page, and its blocks of commands (indented ones too), in order."""
    language, block, before = "", list[str](), ""
    for number, line in enumerate([*(ROOT / page).read_text(encoding="utf-8").splitlines(), ""], start=1):
        fence = _FENCE.match(line)
        if language in ("", "indented"):
            if fence:
                language = fence[1] or "text"
            elif line.startswith("    ") and (language or not before):
                language = "indented"
                block.append(line)
            elif language:
                yield Snippet(page, number - len(block), "shell", dedent("\n".join(block)))
                language, block = "", []
        elif fence:
            if language in ("python", "bash"):
                kind = "shell" if language == "bash" else language
                yield Snippet(page, number - len(block), kind, "\n".join(block))
            language, block = "", []
        else:
            block.append(line)
        before = line.strip()


def run_python(snippet: Snippet, names: dict[str, Any]) -> None:
    """Run a block among the names of those before it, and check the values that its comments state, to a tenth."""
    exec(compile("\n" * (snippet.line - 1) + snippet.source, snippet.page, "exec"), names)
    for stated in _STATED.finditer(snippet.source):
        assert eval(stated["expression"], names) == pytest.approx(float(stated["value"]), rel=0.1), stated[0]


def run_command(command: str, *more: str) -> None:
    """Run a command in the current folder, with what a shell does to it: comments, globs, `> file`."""
    words, target = arguments(command)
    expanded = [
        path
        for word in words
        for path in (sorted(map(str, Path().glob(word))) if "*" in word else ()) or [word]
    ]
    outcome = cli_runner.run(*expanded, *more)
    assert outcome.code == 0, f"{command}\n{outcome.out}{outcome.err}"
    if target is not None:
        Path(target).write_text(outcome.out, encoding="utf-8")


def arguments(command: str) -> tuple[list[str], str | None]:
    """Words of a command after `collapselab`, and the file that its output goes to."""
    words = shlex.split(command, comments=True)[1:]
    return (words[:-2], words[-1]) if ">" in words else (words, None)
