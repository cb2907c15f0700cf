"""Statistics with checks at once, with checks that wait, and on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from torch import Tensor

from collapselab.statistics import ClassStats, gathering
from devices import cuda, putting_on

_MODES = ["eager", "deferred", cuda]


@pytest.fixture(scope="module", params=_MODES)
def checks(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test in every mode. Chunks are so small that the rows of most tests fill several of them."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "eager":
            patch.setattr(gathering, "EAGER_DEVICES", frozenset({"cpu"}))
            yield request.param
            return
        patch.setattr(gathering, "_MAX_CHUNK_ROWS", 200)
        if request.param == "deferred":
            patch.setattr(gathering, "EAGER_DEVICES", frozenset())
            yield request.param
            return
        with putting_on(request.param) as put:
            update = ClassStats.update

            def update_there(stats: ClassStats, features: Tensor, labels: Tensor) -> None:
                update(stats, put(features), labels)

            patch.setattr(ClassStats, "update", update_there)
            yield request.param
