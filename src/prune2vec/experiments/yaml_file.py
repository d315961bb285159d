"""YAML read with line numbers, so that a wrong key is reported with the line it stands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prune2vec.errors import ConfigError, reason_of

Location = Sequence[int | str]
OWN_MESSAGE = "recipe"
"""Type of a validation error that is worded for the user already."""
_LARGEST, _MOST, _DEEPEST = 2_000_000, 100_000, 50


class _Loader(yaml.SafeLoader):
    """Takes only true and false as truth values: YAML 1.1 also takes on, off, yes and no, which settings use as words."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return a node's value; one that cannot be (a number of 5,000 digits, month 13) is reported with its line."""
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise yaml.MarkedYAMLError(problem=f"{reason_of(error)}", problem_mark=node.start_mark) from error


# The resolvers are a table by first letter that subclasses share until they have their own.
_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:bool" or letter in "tTfF"]
    for letter, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True)
class YamlFile:
    """A YAML file that holds a mapping; dashes in the keys of ``values`` became underscores."""

    path: Path
    values: Mapping[str, Any]
    _root: yaml.MappingNode

    def where(self, location: Location) -> str:
        """Return ``file:line`` of the key (or list item) at ``location``, or of the nearest one above it."""
        node: yaml.Node = self._root
        line = node.start_mark.line
        for part in location:
            inside: dict[str, tuple[int, yaml.Node]] = {}
            if isinstance(node, yaml.MappingNode):
                inside = {_key_name(key): (key.start_mark.line, value) for key, value in node.value}
            elif isinstance(node, yaml.SequenceNode):
                inside = {str(number): (item.start_mark.line, item) for number, item in enumerate(node.value)}
            if str(part) not in inside:
                break
            line, node = inside[str(part)]
        return f"{self.path}:{line + 1}"


def read_yaml(path: Path) -> YamlFile:
    """Read a YAML file that holds one mapping.

    Raises:
        ConfigError: It is missing, not YAML, not a mapping, or has a key twice; the message has the line.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            text = stream.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise ConfigError(f"{path}: longer than {_LARGEST:,} characters; expected a file of settings")
        return _parse(text, path)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}; make a recipe with prune2vec init") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); expected a YAML file") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise ConfigError(f"{path}:{line}: not YAML: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{path}:{line}: not YAML: {error.reason} ({chr(error.character)!r})") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply; expected keys and values of at most {_DEEPEST} levels") from error


def _parse(text: str, path: Path) -> YamlFile:
    root = yaml.compose(text, Loader=_Loader)
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}: expected keys and values; see prune2vec init for an example")
    # An alias may hold itself, or a thousand others.
    waiting: list[tuple[yaml.Node, int]] = [(root, 0)]
    seen = 0
    while waiting:
        node, depth = waiting.pop()
        seen += 1
        if depth > _DEEPEST or seen > _MOST:
            what = f"more than {_DEEPEST} levels deep" if depth > _DEEPEST else f"more than {_MOST:,} values"
            raise ConfigError(f"{path}:{node.start_mark.line + 1}: {what} with its aliases written out; write less")
        if isinstance(node, yaml.MappingNode):
            # YAML would silently take the last one.
            lines: dict[str, int] = {}
            for key, _ in node.value:
                line, name = key.start_mark.line + 1, _key_name(key)
                if name in lines:
                    raise ConfigError(f"{path}:{line}: key {name!r} was already given in line {lines[name]}")
                lines[name] = line
            waiting += [(one, depth + 1) for pair in node.value for one in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(one, depth + 1) for one in node.value]
    return YamlFile(path, underscored(yaml.load(text, Loader=_Loader)), root)


def underscored(value: Any) -> Any:
    """Return ``value`` with underscores for dashes in all keys, however deep."""
    if isinstance(value, Mapping):
        return {str(key).replace("-", "_"): underscored(item) for key, item in value.items()}
    return [underscored(item) for item in value] if isinstance(value, list) else value


def dashed(value: Any) -> Any:
    """Return ``value`` with dashes for underscores in all keys, as YAML files and the command line have them."""
    if isinstance(value, Mapping):
        return {str(key).replace("_", "-"): dashed(item) for key, item in value.items()}
    return [dashed(item) for item in value] if isinstance(value, list) else value


def _key_name(node: yaml.Node) -> str:
    return str(node.value).replace("-", "_") if isinstance(node, yaml.ScalarNode) else repr(node)


def dump_yaml(value: Mapping[str, Any]) -> str:
    """Return ``value`` as YAML in the order of its keys."""
    return yaml.safe_dump(dashed(value), sort_keys=False, allow_unicode=True, width=120)
