"""YAML and JSON text into plain values, as Kubernetes reads them; refuses what is too large, ambiguous or explosive.

Differs from PyYAML's safe loader where YAML 1.1 would surprise: instants stay text, `1e3` is a number, keys are text
and given once, and aliases cannot grow a small file into a large value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

LARGEST_SIZE_BYTES = 1 << 20
_MOST_NODES = 200_000  # values in one file once its aliases are written out
_DEEPEST = 64
_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"


class UnreadableError(Exception):
    """A file is not what it should be; `path` is where in it, as far as that is known."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True, slots=True)
class Document:
    """One value of a file, and the path prefix that tells it from its siblings (empty where it is alone)."""

    prefix: str
    value: Any


def read_documents(file: Path) -> tuple[Document, ...]:
    """Every value of a YAML or JSON file, without the empty ones.

    Raises:
        UnreadableError: the file cannot be read, is larger than 1 MiB, or is not what its syntax says.

    """
    text = read_text(file)
    values = [value for value in _parse(text, is_json=file.suffix == ".json") if value is not None]
    return tuple(
        Document(f"documents[{index}]." if len(values) > 1 else "", value) for index, value in enumerate(values)
    )


def read_text(file: Path, largest_size_bytes: int = LARGEST_SIZE_BYTES) -> str:
    """The whole of a regular UTF-8 file that is no larger than `largest_size_bytes`.

    Raises:
        UnreadableError: it is none of that.

    """
    try:
        if not file.exists():
            raise UnreadableError("There is no such file or folder; check the path.")
        if not file.is_file():
            raise UnreadableError("This is not a regular file; give a *.yaml, *.yml or *.json file.")
        with file.open("rb") as stream:
            content = stream.read(largest_size_bytes + 1)
    except OSError as error:
        raise UnreadableError(f"The file cannot be read ({error.strerror}); check its permissions.") from error
    if len(content) > largest_size_bytes:
        raise UnreadableError(f"The file is larger than {largest_size_bytes} bytes; split it.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError(f"The file is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error


def _parse(text: str, *, is_json: bool) -> list[Any]:
    try:
        return [_read_json(text)] if is_json else list(_read_yaml(text))
    except RecursionError:
        raise UnreadableError(f"The file nests values deeper than {_DEEPEST} levels; flatten it.") from None


# --- JSON -----------------------------------------------------------------------------------------------------------


def _read_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once_each, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise UnreadableError(
            f"This is not JSON: {error.msg}.", f"line {error.lineno}, column {error.colno}"
        ) from error
    except ValueError as error:  # an integer of more than 4,300 digits
        raise UnreadableError("This JSON holds a number of thousands of digits; remove it.") from error


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise UnreadableError(f"The key {key[:60]!r} is given twice in one object; remove one.")
        found[key] = value
    return found


def _no_constant(name: str) -> NoReturn:
    raise UnreadableError(f"{name} is not JSON; write a number.")


# --- YAML -----------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Reads the scalars that JSON has, and everything else as the text that it is."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":value"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _read_yaml(text: str) -> Iterator[Any]:
    try:
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()  # composed, and not yet constructed: aliases still cost nothing
            if node is None:  # for mypy: check_node has just said that there is one
                return
            _check(node, "", [0], ())
            yield loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UnreadableError(f"This is not YAML: {error.problem or error.context}.", where) from error
    except yaml.YAMLError as error:
        raise UnreadableError("This is not YAML: it holds a character that YAML does not allow.") from error
    except ValueError as error:  # `0b2`, an integer of thousands of digits, an overflowing sexagesimal
        raise UnreadableError(
            f"This YAML holds a number that cannot be read ({str(error)[:80]}); put it in quotes."
        ) from error


def _check(node: yaml.Node, path: str, n_seen: list[int], above: tuple[yaml.Node, ...]) -> None:
    """Refuse duplicate and non-text keys, cycles, and more nodes than a file of 1 MiB needs; aliases count in full."""
    n_seen[0] += 1
    if n_seen[0] > _MOST_NODES:
        raise UnreadableError(f"The file's aliases grow it beyond {_MOST_NODES} values; write the values out.", path)
    if any(node is parent for parent in above):
        raise UnreadableError("An alias contains itself; write the value out.", path)
    if len(above) > _DEEPEST:
        raise UnreadableError(f"The file nests values deeper than {_DEEPEST} levels; flatten it.", path)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _check(item, f"{path}[{index}]", n_seen, (*above, node))
    elif isinstance(node, yaml.MappingNode):
        _check_keys(node, path)
        for key, value in node.value:
            _check(value, f"{path}.{key.value}".lstrip("."), n_seen, (*above, node))


def _check_keys(node: yaml.MappingNode, path: str) -> None:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag not in {_TEXT, _MERGE}:
            raise UnreadableError(f"The key in line {line} is not text to YAML; put it in quotes.", path)
        if key.value in seen:
            raise UnreadableError(
                f"The key {key.value[:60]!r} is given twice, in lines {seen[key.value]} and {line}; remove one.",
                f"{path}.{key.value}".lstrip("."),
            )
        seen[key.value] = line
