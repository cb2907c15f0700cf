"""YAML in which every key occurs once."""

from __future__ import annotations

from typing import Any


def load_yaml(text: str) -> Any:
    """Return the plain values of a YAML document; the parser alone would let the last of equal keys win.

    Raises:
        yaml.YAMLError: not YAML, or a key that occurs twice in a mapping, with its line.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """A safe loader that refuses keys that occur twice."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    if key.value in seen:
                        line = key.start_mark.line + 1
                        raise yaml.YAMLError(f"{key.value} is given twice, the second time in line {line}")
                    seen.add(key.value)
            return super().construct_mapping(node, deep)

    return yaml.load(text, Loader)
