"""The records of benchmarks: what was measured, when, on what machine and with which torch."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from collapselab.storage import hardware


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
