"""pydantic's errors as sentences that name the field and the fix, each with its path in the file."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from foreshock.core.errors import Problem

Location = tuple[int | str, ...]

RULES_ERROR = "rules"  # pydantic's type of the error that carries every broken rule


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule between fields that does not hold: the path below its model, its sentence, and the fields it compared."""

    path: str
    sentence: str
    fields: frozenset[str] = frozenset()


def refuse_all(broken: Sequence[Broken]) -> None:
    """Refuse a model for all of its broken rules at once; nothing where there is none."""
    if broken:
        raise PydanticCustomError(RULES_ERROR, "{sentence}", {"sentence": broken[0].sentence, "broken": broken})


def broken_in(error: ValidationError) -> tuple[Broken, ...]:
    """The broken rules among what pydantic found."""
    found = (entry for entry in error.errors(include_url=False) if entry["type"] == RULES_ERROR)
    return tuple(broken for entry in found for broken in entry["ctx"]["broken"])


_NAME_PATTERN = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
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

_BOUNDS = {
    "finite_number": "{field} must be a finite number.",
    "greater_than": "{field} must be greater than {gt:g}.",
    "greater_than_equal": "{field} must be at least {ge:g}.",
    "less_than": "{field} must be less than {lt:g}.",
    "less_than_equal": "{field} must be at most {le:g}.",
    "string_too_short": "{field} must not be empty.",
    "string_too_long": "{field} must be at most {max_length} characters long.",
    "string_pattern_mismatch": "{field} must match {pattern}.",
    "too_long": "{field} must have at most {max_length} entries, not {actual_length}.",
    "too_short": "{field} must have at least {min_length} entries.",
}


def shown(value: object) -> str:
    """A value as a message quotes it: on one line, and never more than 60 characters of it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


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
        if details["type"] != RULES_ERROR:
            yield Problem(file, path_of(location), _sentence(details, location, model, data))
    for broken in broken_in(error):
        yield Problem(file, broken.path, broken.sentence)


def _within(data: Any, location: Location, kind: str) -> Location:
    """The location without the names of union members, which pydantic puts into it and nobody has written."""
    kept: list[int | str] = []
    for index, part in enumerate(location):
        if _holds(data, part):
            data = data[part]
        elif not (kind == "missing" and index == len(location) - 1):
            continue
        kept.append(part)
    return tuple(kept)


def _sentence(details: ErrorDetails, location: Location, model: type[BaseModel], data: Any) -> str:
    kind, context, value = details["type"], details.get("ctx", {}), details["input"]
    field = next((part for part in reversed(location) if isinstance(part, str)), "the document")
    if kind in _WANTED:
        return f"{field} must be {_WANTED[kind]}, not {_KINDS.get(type(value), 'this')}."
    if kind in _BOUNDS and context.get("pattern") != _NAME_PATTERN:
        return _BOUNDS[kind].format(field=field, **context)
    match kind:
        case "sentence":
            text = str(context["sentence"]).replace("{field}", field)
        case "missing":
            text = f"Set {field}; it is required."
        case "extra_forbidden":
            text = unknown_field(field, known_fields(model, location[:-1], data))
        case "literal_error":
            text = f"{field} must be {_or(context['expected'])}, not {_quoted(value)}."
        case "union_tag_not_found":
            text = f"Set {_tag_field(context)}; it is required."
        case "union_tag_invalid":
            tag, known = shown(context["tag"]), _or(context["expected_tags"])
            text = f"This version does not have the {_tag_field(context)} {tag}; use {known}."
        case "string_pattern_mismatch":  # the one pattern that is worth words
            text = f"{field} must be made of lower-case letters, digits and '-', beginning and ending with no '-'."
        case _:
            text = _raised(details["msg"], field)
    return text


def _tag_field(context: dict[str, Any]) -> str:
    return str(context["discriminator"]).strip("'")


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
    if isinstance(data, dict):
        return part in data
    return isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)


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
    """The list of quoted alternatives that pydantic gives, without quotes: `a, b or c`."""
    names = [name.strip().strip("'") for name in expected.replace(" or ", ", ").split(",")]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _quoted(value: Any) -> str:
    return (
        repr(value[:40])
        if isinstance(value, str)
        else _KINDS.get(type(value), "this")
        if value is None
        else repr(value)[:40]
    )


def _raised(message: str, field: str) -> str:
    """A validator's ValueError as a sentence; one that begins with "must" lacks its subject."""
    text = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    text = f"{field} {text}" if text.startswith("must ") else f"{text[:1].upper()}{text[1:]}"
    return text if text.endswith(".") else f"{text}."
