"""The API reference has every public name: those in `__all__` of the package and of the packages in it."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import pytest
from snippets import ROOT

PACKAGES = [
    path.parent.relative_to(ROOT / "src").as_posix().replace("/", ".")
    for path in sorted((ROOT / "src").rglob("__init__.py"))
    if "__all__ =" in path.read_text(encoding="utf-8")
]
REFERENCE = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs/api").glob("*.md")))
DOCUMENTED = set(re.findall(r"^::: ([\w.]+)$", REFERENCE, flags=re.MULTILINE))


def _value(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_documented(package: str) -> None:
    documented = [_value(path) for path in DOCUMENTED]
    public = {name: getattr(import_module(package), name) for name in import_module(package).__all__}
    missing = [name for name, value in public.items() if not any(value is one for one in documented)]
    assert missing == []


def test_the_package_itself_is_listed() -> None:
    assert {"collapselab", "collapselab.metrics", "collapselab.transfer.scores"} <= set(PACKAGES)
