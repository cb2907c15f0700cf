"""An error of one process is raised in all: what the others make of it, without starting processes."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from collapselab import InputError, distributed
from collapselab.storage import FolderInUse, WriteError

WRITE_ERROR = WriteError(errno.ENOSPC, "No space left on device", "run.json")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InputError("bad"), InputError),
        (WRITE_ERROR, InputError),
        (FolderInUse("in use"), InputError),
        (KeyError("bug"), RuntimeError),
    ],
)
def test_errors_of_the_user_stay_errors_of_the_user(
    error: Exception, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []

    def gathered(value: Any) -> list[Any]:
        sent.append(value)
        return [sent[0], value]

    monkeypatch.setattr(distributed, "rank_and_world", lambda: (0, 2))
    monkeypatch.setattr(distributed, "_gathered", gathered)
    with pytest.raises(type(error)):
        distributed.raise_together(error)  # in the process that failed
    with pytest.raises(Exception, match="process 0: ") as caught:
        distributed.raise_together(None)  # in the other one
    assert type(caught.value) is kind
