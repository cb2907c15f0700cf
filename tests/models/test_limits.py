"""Sizes of networks that are out of range."""

from __future__ import annotations

import pytest

from collapselab import InputError
from collapselab.models.limits import check_options


def test_the_message_names_the_value_in_full() -> None:
    """It is shortened only where the whole message is too long, and then at its middle."""
    with pytest.raises(InputError) as caught:
        check_options("mlp", {"width": "w" * 60})
    assert str(caught.value) == f"mlp: width {'w' * 60}: give a whole number from 1 to 1,048,576"
