"""Statistics with checks at once, and with checks that wait."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from collapselab.statistics import gathering


@pytest.fixture(scope="module", params=["eager", "deferred"])
def checks(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test in both modes. Chunks are so small that the rows of most tests fill several of them."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "deferred":
            patch.setattr(gathering, "EAGER_DEVICES", frozenset())
            patch.setattr(gathering, "_MAX_CHUNK_ROWS", 200)
        else:
            patch.setattr(gathering, "EAGER_DEVICES", frozenset({"cpu"}))
        yield request.param
