"""A run that nothing disturbs."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
from attacking import recipe
from interrupting import CALLS, Killed, failing, results

from collapselab.training import RunFolder, run_recipe


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("whole") / "run"
    run_recipe(recipe(), RunFolder(path))
    return results(path)


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """How often each function is called in a run."""
    with ExitStack() as stack:
        calls = {name: stack.enter_context(failing(name, -1, Killed())) for name in CALLS}
        run_recipe(recipe(), RunFolder(tmp_path_factory.mktemp("counts") / "run"))
    assert all(number for (number,) in calls.values()), calls
    return {name: number for name, (number,) in calls.items()}
