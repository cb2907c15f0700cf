"""A small finished run with its page."""

import pytest

from collapselab.claims import judge_all
from collapselab.demo import digits_claims
from collapselab.report import write_report
from collapselab.training import Recipe, RunFolder, run_recipe


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    recipe = Recipe(width=24, depth=3, steps=400, num_measurements=8, num_train=300)
    folder = RunFolder(tmp_path_factory.mktemp("report") / "run")
    run_recipe(recipe, folder)
    folder.write_verdicts(judge_all(digits_claims(recipe.epsilon), folder.table().assign(seed=0)))
    write_report(folder)
    return folder
