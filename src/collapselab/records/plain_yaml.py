"""Read YAML that holds plain values: bounded before anything is built, with numbers written as people write them."""

from __future__ import annotations

import re
from typing import Any

import yaml

from collapselab.errors import InputError, one_line

_MAX_CHARACTERS, _MAX_VALUES, _MAX_DEPTH = 300_000, 30_000, 20
# `1e-3` is text in YAML 1.1.
_FLOAT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+")
_REMEDY = "correct it"


class _Loader(yaml.SafeLoader):
    """Dates stay text, numbers with an exponent are numbers, a key occurs once."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} occurs twice", key.start_mark
                )
            keys.add(key.value)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def read_yaml(text: str, where: str) -> Any:
    """Return the value of a YAML text.

    Args:
        text: YAML; no aliases that repeat large parts, no tags for Python objects.
        where: what is read, for messages.

    Raises:
        InputError: no YAML, or too large, too deep, repeating itself, with a key twice or a number that cannot be read.
    """
    if len(text) > _MAX_CHARACTERS:
        raise InputError(
            f"{where}: has {len(text):,} characters, the limit is {_MAX_CHARACTERS:,}; shorten it"
        )
    try:
        _check_size(text, where)
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise InputError(_not_yaml(error, where)) from error
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        reason = (
            "a number has thousands of digits" if "digits" in str(error) else "a value does not fit its tag"
        )
        raise InputError(f"{where}: {reason}; {_REMEDY}") from error


def _not_yaml(error: yaml.YAMLError, where: str) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"{where}: not YAML ({one_line(error)}); {_REMEDY}"
    problem = ": ".join(filter(None, (getattr(error, name) for name in ("context", "problem"))))
    return (
        f"{where}, line {mark.line + 1}, column {mark.column + 1}: not YAML ({one_line(problem)}); {_REMEDY}"
    )


def _check_size(text: str, where: str) -> None:
    """Count values as if aliases were written out, without building any.

    Raises:
        InputError: there are too many, or they are nested too deeply.
    """
    sizes: dict[str, int] = {}
    open_: list[list[Any]] = [[None, 0]]  # anchor and values so far, of each collection that is not closed
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append([event.anchor, 1])
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_.pop()
            if anchor is not None:
                sizes[anchor] = size
            open_[-1][1] += size
        elif isinstance(event, yaml.AliasEvent):
            # An alias of a collection that is still open contains itself.
            is_open = any(anchor == event.anchor for anchor, _ in open_)
            open_[-1][1] += _MAX_VALUES if is_open else sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.ScalarEvent):
            open_[-1][1] += 1
        if len(open_) > _MAX_DEPTH + 1:
            raise InputError(f"{where}: is nested more than {_MAX_DEPTH} levels deep; {_REMEDY}")
        if open_[-1][1] >= _MAX_VALUES:
            raise InputError(f"{where}: has, with its aliases, more than {_MAX_VALUES:,} values; {_REMEDY}")
