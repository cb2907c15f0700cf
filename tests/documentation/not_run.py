"""Which commands and Python blocks of the documentation are not run, and why. Everything else is run."""

from __future__ import annotations

import re

# Pattern in a command, and the reason. Commands that are not run must still parse.
COMMANDS = {
    r"--scale (cpu|paper)": "trains for minutes to days, on data that are not in the package",
    r"--pretrained": "downloads weights",
    r"--dataset (cifar10|images|mnist)|--on (cifar10|mnist|sets/)": "needs images that are not in the package",
    r"run imagenet.yaml|run recipe.yaml --data mnist": "needs images that are not in the package",
    r"--devices": "starts processes: tests/training/test_processes.py runs it",
    r"run digits( --seeds 3)? *(#|$)": "trains for a minute: tests/findings/test_digits_demo.py runs it",
    r"run recipe.yaml --set steps=2000": "trains for half a minute: the tutorials run another recipe",
    r"reproduce hui2022/fig6 *(#|$)": "docs/tutorials/reproduce-a-figure.md runs it",
    r"reproduce xu2023/sec4 *(#|$)": "tests/papers/test_smoke.py runs it",
    r"rank runs/a/checkpoints": "docs/tutorials/which-checkpoint.md runs it",
    r"results( results)? *(#|$)": "tests/report/pages/test_results_page.py runs it",
}
# Page, pattern in a block, and the reason.
BLOCKS = {
    ("docs/contributing-an-experiment.md", ""): "tests/test_contributing_example.py runs it",
}


def why_not_command(command: str) -> str | None:
    """Return why a command is not run, or None."""
    return next((reason for pattern, reason in COMMANDS.items() if re.search(pattern, command)), None)


def why_not_block(page: str, source: str) -> str | None:
    """Return why a block of Python is not run, or None."""
    found = (
        reason for (name, pattern), reason in BLOCKS.items() if name == page and re.search(pattern, source)
    )
    return next(found, None)
