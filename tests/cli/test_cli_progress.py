"""One implementation of progress bars, for samples, steps and grids; without a terminal only the notes are printed."""

from __future__ import annotations

import contextlib
import io

import pytest

from collapselab.cli import progress
from collapselab.cli.grid_bars import GridBars
from collapselab.cli.progress import ProgressBars
from collapselab.cli.terminal import print_text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")


def use_all(bars: ProgressBars) -> None:
    bars.samples("class statistics", 10, 100)
    bars.samples("class statistics", 1000, 2000)
    bars.samples("nearest class means", 5, 0)
    report = bars.steps("a[b]")
    report(3, 20, "measuring")
    bars.note("a line [that] stays")


def test_what_is_shown_on_a_terminal() -> None:
    err = Terminal()
    with contextlib.redirect_stderr(err), ProgressBars() as bars:
        use_all(bars)
        assert bars._progress is not None
        shown = [(task.description, task.fields["text"], task.total) for task in bars._progress.tasks]
    # One pass at a time; names are no markup; an unknown total is none.
    assert shown == [
        ("nearest class means", "5 samples", None),
        ("a[b]", "3 of 20 steps, measuring", 20),
    ]
    assert "a line [that] stays" in err.getvalue()


def test_nothing_but_notes_elsewhere() -> None:
    err = io.StringIO()
    with contextlib.redirect_stderr(err), ProgressBars() as bars:
        use_all(bars)
    assert err.getvalue() == "a line [that] stays\n"


def test_a_line_every_ten_seconds_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_SECONDS", 10.0)  # other tests print no lines
    err, now = io.StringIO(), 0.0
    with contextlib.redirect_stderr(err), ProgressBars(clock=lambda: now) as bars:
        for now in (1.0, 9.0, 10.0, 15.0, 19.5, 21.0):
            bars.samples("class statistics", int(now), 100)
    assert err.getvalue() == ("class statistics: 10 of 100 samples\nclass statistics: 21 of 100 samples\n")


def test_a_grid_has_a_bar_for_all_runs_and_one_for_the_run_in_progress() -> None:
    err = Terminal()
    with contextlib.redirect_stderr(err), ProgressBars() as bars:
        grid = GridBars(bars, ["linear_probe"])
        grid.estimated(3, 4, 120.0)
        grid.run_started("small", 0, 2, 4, 100, 400, 100)
        grid.progress(40, 100, "training")
        assert bars._progress is not None
        shown = [(t.description, t.completed, t.total, t.fields["text"]) for t in bars._progress.tasks]
        grid.run_ended("small", 0, 2, 4, "loss", 61.0)
        grid.run_started("large", 0, 3, 4, 200, 400, 100)
        names = [task.description for task in bars._progress.tasks]
    assert shown == [
        ("all runs", 140, 400, "run 2 of 4"),
        ("small, seed 0", 40, 100, "40 of 100 steps, training"),
    ]
    assert names == ["all runs", "large, seed 0"]
    text = " ".join(err.getvalue().split())
    assert "3 of 4 runs left: about 2 min at the current speed, then linear probe" in text
    assert "2 of 4: small, seed 0: 61 s (loss below its threshold)" in text


def test_names_in_bars_and_notes_are_shown_escaped() -> None:
    err = Terminal()
    with contextlib.redirect_stderr(err), ProgressBars() as bars:
        bars.steps("\x1b[31mred\u202e")(1, 2, "step\x07")
        bars.note("reading \udce9\x1b]0;title\x07")
        assert bars._progress is not None
        task = bars._progress.tasks[0]
        assert (task.description, task.fields["text"]) == ("\\x1b[31mred\\u202e", "1 of 2 steps, step\\x07")
    assert "reading \\udce9\\x1b]0;title\\x07" in err.getvalue()
    plain = io.StringIO()
    with contextlib.redirect_stderr(plain), ProgressBars() as bars:
        bars.note("a\x1b[2J")
    assert plain.getvalue() == "a\\x1b[2J\n"


def test_only_styles_of_tables_reach_the_terminal_raw() -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        print_text("\x1b[1mbold\x1b[0m é\n\x1b[2J\r\x9b1m\u2066\udce9\n")
    assert out.getvalue() == "\x1b[1mbold\x1b[0m é\n\\x1b[2J\\r\\x9b1m\\u2066\\udce9\n"
