"""What benchmarks share: the shapes they are given, and records of what was measured, when, on what machine, with which torch."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from collapselab.storage import hardware


def shape(text: str) -> tuple[int, int, int]:
    """Return n, p and C of an option `N,P,C`."""
    n, p, c = (int(part) for part in text.split(","))
    return n, p, c


def append_record(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append `rows` to the JSON file at `path`, which is made where it is missing."""
    known = json.loads(path.read_text()) if path.exists() else []
    known.append(
        {
            "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "torch": torch.__version__,
            "hardware": hardware(),
            "rows": rows,
        }
    )
    path.write_text(json.dumps(known, indent=1) + "\n")
