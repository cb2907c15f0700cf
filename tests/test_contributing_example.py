"""The worked example of docs/contributing-an-experiment.md, run as it stands there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from collapselab.experiments.runner import Request, reproduce

PAGE = Path(__file__).parents[1] / "docs" / "contributing-an-experiment.md"


def test_the_example_is_a_whole_experiment_in_under_100_lines(tmp_path: Path) -> None:
    source, usage = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert source.count("\n") < 100
    file = tmp_path / "width.py"
    file.write_text(source, encoding="utf-8")
    experiment = runpy.run_path(str(file))["EXPERIMENT"]
    changes = {"num_threads": 1, "steps": 40, "measuring.count": 3}
    assert 'Request(EXPERIMENT, "smoke")' in usage
    outcome = reproduce(Request(experiment, "smoke", out=tmp_path / "out", changes=changes))
    assert [path.name for path in outcome.figures] == ["width.pdf", "width.png"]
    assert len(outcome.judgements) == 2
    assert all(one.verdict == "inconclusive" for one in outcome.judgements)  # one seed decides nothing
    assert sorted(set(outcome.rows["width"])) == [16, 32, 64, 128]
    page = outcome.page.read_text(encoding="utf-8")
    assert all(one.statement in page for one in outcome.judgements)
