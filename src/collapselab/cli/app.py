"""The command line: parse, call public functions, print. Errors are printed as one line on stderr.

torch and modules that need it are imported inside the commands, so that help and usage errors appear immediately.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from collapselab import __version__
from collapselab.cli.errors import error_line, typed, warning_line
from collapselab.cli.judge import judge
from collapselab.cli.measure import measure
from collapselab.cli.metrics import metrics
from collapselab.cli.profile import profile
from collapselab.cli.rank import rank
from collapselab.cli.report import report
from collapselab.cli.reproduce import reproduce
from collapselab.cli.results import results
from collapselab.cli.run import run
from collapselab.cli.stdout import give_up_stdout, keep_descriptors_open, owning_stdout
from collapselab.cli.terminal import INTERRUPTED, ReaderLeft, note

_FAILED = 2
_BROKEN_PIPE = 141

app = typer.Typer(
    name="collapselab", add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)


def _print_version(wanted: bool) -> bool:
    if wanted:
        print(f"collapselab {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def collapselab(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Measure neural collapse in deep networks.

    Each command explains its options and gives examples: collapselab COMMAND --help.

    \b
    Examples:
      collapselab run digits
      collapselab measure features.npz
      collapselab profile mlp --dataset digits
    """  # noqa: D301 (Typer wants the backspace itself before lines it must not join)


for _command in (measure, profile, rank, run, report, reproduce, judge, results, metrics):
    app.command()(owning_stdout(_command))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with code 0, or with code 2 and one line on stderr that starts with `error:`.

    Args:
        arguments: default: those of the process.
    """
    keep_descriptors_open()
    try:
        given = sys.argv[1:] if arguments is None else list(arguments)
        with typed(given):
            code = _run(given)
    finally:
        if arguments is None:
            give_up_stdout()
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Run a command and return the exit code."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: note(
                f"warning: {warning_line(message, typer.main.get_command(app), arguments)}"
            )
            code = app(args=arguments or ["--help"], prog_name="collapselab", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except ReaderLeft:
        return _BROKEN_PIPE
    except Exception as error:
        line = error_line(error, typer.main.get_command(app), arguments)
        if line is None:
            raise
        note(f"error: {line}")
        return _FAILED
    if code == INTERRUPTED:  # newer versions of Typer catch the exception themselves
        note("error: interrupted")
    return code if isinstance(code, int) else 0
