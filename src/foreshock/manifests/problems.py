"""pydantic's errors as sentences that name the field and the fix, each with its path in the file."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from foreshock.core.errors import Problem

Location = tuple[int | str, ...]

_KINDS = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "a mapping",
    type(None): "empty",
}
_WANTED = {
    "string_type": "text (put it in quotes)",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping of names to values",
    "mapping_type": "a mapping of names to values",
    "model_type": "a mapping of fields to values",
    "model_attributes_type": "a mapping of fields to values",
    "dataclass_type": "a mapping of fields to values",
}


def path_of(location: Location) -> str:
    """A location as people write it: `spec.metrics[1].query`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")


def problems_of(error: ValidationError, model: type[BaseModel], data: Any, *, file: str) -> Iterator[Problem]:
    """One problem for each thing that pydantic found in `data`, which it read as a `model`."""
    for details in error.errors(include_url=False):
        location = _within(data, details["loc"], details["type"])
        yield Problem(file, path_of(location), _sentence(details, location, model, data))


def _within(data: Any, location: Location, kind: str) -> Location:
    """The location without the names of union members, which pydantic puts into it and nobody has written."""
    kept: list[int | str] = []
    for index, part in enumerate(location):
        if isinstance(data, dict) and part in data:
            data = data[part]
        elif isinstance(data, list | tuple) and isinstance(part, int) and part < len(data):
            data = data[part]
        elif not (kind == "missing" and index == len(location) - 1):
            continue
        kept.append(part)
    return tuple(kept)


def _sentence(details: ErrorDetails, location: Location, model: type[BaseModel], data: Any) -> str:
    kind, context, value = details["type"], details.get("ctx", {}), details["input"]
    field = next((part for part in reversed(location) if isinstance(part, str)), "the document")
    if kind == "sentence":
        return str(context["sentence"]).replace("{field}", field)
    if kind == "missing":
        return f"Set {field}; it is required."
    if kind == "extra_forbidden":
        return unknown_field(field, known_fields(model, location[:-1], data))
    if kind == "literal_error":
        return f"{field} must be {_or(context['expected'])}, not {_quoted(value)}."
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        return _wrong_tag(details)
    if kind in _WANTED:
        return f"{field} must be {_WANTED[kind]}, not {_KINDS.get(type(value), 'this')}."
    return _out_of_bounds(kind, context, field) or f"{field}: {_plain(details['msg'])}"


def _wrong_tag(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    tag_field = str(context["discriminator"]).strip("'")
    if details["type"] == "union_tag_not_found":
        return f"Set {tag_field}; it is required."
    return f"This version does not have the {tag_field} {context['tag']!r}; use {_or(context['expected_tags'])}."


def _out_of_bounds(kind: str, context: dict[str, Any], field: str) -> str | None:
    match kind:
        case "greater_than":
            return f"{field} must be greater than {context['gt']:g}."
        case "greater_than_equal":
            return f"{field} must be at least {context['ge']:g}."
        case "less_than":
            return f"{field} must be less than {context['lt']:g}."
        case "less_than_equal":
            return f"{field} must be at most {context['le']:g}."
        case "string_too_short":
            return f"{field} must not be empty."
        case "string_too_long":
            return f"{field} must be at most {context['max_length']} characters long."
        case "too_long":
            return f"{field} must have at most {context['max_length']} entries, not {context['actual_length']}."
        case "too_short":
            return f"{field} must have at least {context['min_length']} entries."
    return None


def unknown_field(field: str, known: Sequence[str]) -> str:
    """The sentence about a field that nobody knows, with the nearest known one."""
    near = get_close_matches(field, known, n=1, cutoff=0.6)
    if not near:
        snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in field)
        near = [name for name in known if name == snake]
    if near:
        return f"Unknown field {field[:60]!r}; did you mean {near[0]!r}?"
    return f"Unknown field {field[:60]!r}; remove it, or use one of {', '.join(known)}."


def known_fields(model: type[BaseModel], location: Location, data: Any) -> tuple[str, ...]:
    """What may be written at a location of a document that is read as `model`, as people write it."""
    return tuple(dict.fromkeys(name for found in _models_at(model, location, data) for name in _fields(found)))


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _models_at(annotation: Any, location: Location, data: Any) -> Iterator[type[BaseModel]]:
    for member in _members(annotation):
        if not location:
            if isinstance(member, type) and issubclass(member, BaseModel) and _is_tagged_so(member, data):
                yield member
            continue
        part, rest = location[0], location[1:]
        inner = data[part] if _holds(data, part) else None
        if isinstance(part, int):
            yield from _models_at(typing.get_args(member)[:1], rest, inner)
        elif isinstance(member, type) and issubclass(member, BaseModel):
            yield from _models_at(_fields(member).get(part), rest, inner)


def _holds(data: Any, part: int | str) -> bool:
    return part in data if isinstance(data, dict) else isinstance(data, list | tuple) and isinstance(part, int)


def _members(annotation: Any) -> Iterator[Any]:
    """The types that an annotation may stand for, without Annotated, Optional and unions."""
    if isinstance(annotation, tuple):
        for each in annotation:
            yield from _members(each)
    elif typing.get_origin(annotation) is Annotated:
        yield from _members(typing.get_args(annotation)[0])
    elif typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        yield from _members(typing.get_args(annotation))
    else:
        yield annotation


def _is_tagged_so(model: type[BaseModel], data: Any) -> bool:
    """Whether a member of a union is the one that the document's `type` names."""
    tags = typing.get_args(_fields(model).get("type"))
    return not (tags and isinstance(data, dict) and "type" in data) or data["type"] in tags


def _or(expected: str) -> str:
    """pydantic's list of quoted alternatives without quotes: `a, b or c`."""
    names = [name.strip().strip("'") for name in expected.replace(" or ", ", ").split(",")]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _quoted(value: Any) -> str:
    return repr(value[:40]) if isinstance(value, str) else _KINDS.get(type(value), "this") if value is None else repr(value)[:40]


def _plain(message: str) -> str:
    """A message of pydantic, or of a validator that raised ValueError, as a sentence of its own."""
    text = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return text if text.endswith(".") else f"{text}."
