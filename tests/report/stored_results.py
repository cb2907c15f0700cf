"""Folders of experiments as `reproduce` leaves them, written without running anything."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from judgements import finding, identity

from collapselab.digests import digest
from collapselab.records.experiment import ExperimentRecord, write_experiment
from collapselab.records.judgement import Judgement
from collapselab.records.verdicts import write_verdicts

PAPER = "Hui, Belkin, Nakkiran (2022)"
ROWS = b"job,seed,step\na,0,1\n"


def png(path: Path, width: int = 4, height: int = 2) -> None:
    """Write a white image."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress((b"\x00" + b"\xff" * width) * height)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def stored(
    folder: Path, id: str = "hui2022/fig3", judged: Sequence[Judgement] | None = None, **changes: Any
) -> Path:
    """Write a finished experiment with one figure, two claims and rows; return its folder."""
    folder.mkdir(parents=True)
    claims = (finding(verdict="holds"), identity([0, 1], [0, 1])) if judged is None else judged
    values: dict[str, Any] = {
        "experiment": id, "title": f"Title of {id}", "paper": PAPER, "where": "Fig. 3", "question": "Do features gather?",
        "scale": "cpu", "seeds": (0, 1, 2), "runs": 3, "reduced": "2,000 training images.", "status": "finished",
        "finished": "2026-11-28T05:18:27+00:00", "hours": {"training": 1.5, "measuring": 0.5},
        "hardware": {"processor": "Some CPU"}, "rows_digest": digest(ROWS),
    }  # fmt: skip
    write_experiment(folder, ExperimentRecord.model_validate(values | changes))
    write_verdicts(folder / "verdicts.json", claims)
    (folder / "rows.csv").write_bytes(ROWS)
    png(folder / "fig3.png")
    (folder / "fig3.pdf").write_bytes(b"%PDF")
    run = folder / "runs" / "a" / "seed-0"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    return folder
