"""Manifests out of files and folders: every detector that is sound, and every problem of the others with its path."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from foreshock.core.errors import InvalidManifest, Problem
from foreshock.manifests.detector import API_VERSION, KIND, AnomalyDetector
from foreshock.manifests.documents import UnreadableError, read_documents
from foreshock.manifests.problems import broken_in, problems_of

SUFFIXES = (".yaml", ".yml", ".json")
_MOST_FILES = 10_000
_GROUP = API_VERSION.partition("/")[0]


@dataclass(frozen=True, slots=True)
class LoadedManifest:
    """A sound detector and where it was written; `path` is its prefix in a file of several documents, else empty."""

    file: str
    path: str
    detector: AnomalyDetector


@dataclass(frozen=True, slots=True)
class LoadedEach:
    """What is sound, what is not, and what was skipped because it is of another kind (one sentence each)."""

    manifests: tuple[LoadedManifest, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def load(paths: Sequence[Path]) -> tuple[LoadedManifest, ...]:
    """Every detector of the files and folders, in the order of the paths and their names.

    Raises:
        InvalidManifest: anything is wrong with any of them; it holds every problem of every file.

    """
    loaded = load_each(paths)
    if loaded.problems:
        raise InvalidManifest(loaded.problems)
    return loaded.manifests


def load_each(paths: Sequence[Path]) -> LoadedEach:
    """As `load`, but a problem in one document hides nothing of the others."""
    gathered = _Gathered()
    for file in _files(paths, gathered):
        try:
            documents = read_documents(file)
        except UnreadableError as error:
            gathered.problems.append(Problem(str(file), error.path, str(error)))
            continue
        for document in documents:
            for prefix, value in _objects(document.prefix, document.value):
                _read_object(str(file), prefix, value, gathered)
    return LoadedEach(tuple(gathered.manifests), tuple(gathered.problems), tuple(gathered.notes))


@dataclass(slots=True)
class _Gathered:
    manifests: list[LoadedManifest] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    taken: dict[str, str] = field(default_factory=dict)  # namespace/name to the file that has it


def _files(paths: Sequence[Path], gathered: _Gathered) -> Iterator[Path]:
    """Files as they are; of folders what lies directly in them, without hidden files, as kubectl does."""
    seen: set[Path] = set()
    for path in paths:
        for file in _within(path, gathered):
            if file.resolve() not in seen:  # `examples examples/a.yaml` names a.yaml once
                seen.add(file.resolve())
                yield file


def _within(path: Path, gathered: _Gathered) -> list[Path]:
    if not path.is_dir():
        return [path]
    try:
        found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and not file.name.startswith("."))
    except OSError as error:
        gathered.problems.append(
            Problem(str(path), "", f"The folder cannot be read ({error.strerror}); check its permissions.")
        )
        return []
    if not found:
        gathered.problems.append(
            Problem(str(path), "", "The folder holds no *.yaml, *.yml or *.json file; add a manifest.")
        )
    if len(found) > _MOST_FILES:
        gathered.problems.append(
            Problem(str(path), "", f"The folder holds more than {_MOST_FILES} manifests; split it.")
        )
        return []
    return found


def _objects(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The objects of a document: itself, or the items where it is the `List` that `kubectl get -o yaml` prints."""
    items = value.get("items") if isinstance(value, dict) and str(value.get("kind", "")).endswith("List") else None
    if not isinstance(items, list):
        yield prefix, value
        return
    for index, item in enumerate(items):
        yield f"{prefix}items[{index}].", item


def _read_object(file: str, prefix: str, value: Any, gathered: _Gathered) -> None:
    if not isinstance(value, dict) or not value.keys() & {"apiVersion", "kind", "spec"}:
        message = f"This is not a manifest; begin with apiVersion: {API_VERSION} and kind: {KIND}."
        gathered.problems.append(Problem(file, prefix.rstrip("."), message))
    elif _is_of_another_kind(value):
        kind = f"{value.get('apiVersion', '')} {value.get('kind')}".strip()[:100]
        gathered.notes.append(f"{file}: skipped a {kind}; only {KIND} is read.")
    else:
        _read_detector(file, prefix, value, gathered)


def _is_of_another_kind(value: dict[str, Any]) -> bool:
    """Somebody else's object; a detector whose kind or group is misspelt is not, since it would be silently ignored."""
    kind, group = value.get("kind"), str(value.get("apiVersion", "")).partition("/")[0]
    if kind in {"AnomalyModel", "Anomaly"} and group == _GROUP:
        return True
    return isinstance(kind, str) and kind != KIND and group != _GROUP and "apiVersion" in value


def _read_detector(file: str, prefix: str, value: dict[str, Any], gathered: _Gathered) -> None:
    try:
        detector = AnomalyDetector.model_validate(value)
    except ValidationError as error:
        found = [*problems_of(error, AnomalyDetector, value, file=file), *_hidden_problems(error, value, file)]
        gathered.problems.extend(replace(problem, path=f"{prefix}{problem.path}".rstrip(".")) for problem in found)
        return
    subject = detector.subject.detector
    if subject in gathered.taken:
        message = f"The detector {subject} is defined in {gathered.taken[subject]} already; rename or remove one."
        gathered.problems.append(Problem(file, f"{prefix}metadata.name", message))
        return
    gathered.taken[subject] = file
    gathered.manifests.append(LoadedManifest(file, prefix.rstrip("."), detector))


def _hidden_problems(error: ValidationError, value: dict[str, Any], file: str) -> Iterator[Problem]:
    """The rules between sound fields, which pydantic does not get to where any field is unsound.

    The unsound fields are left out and the rules that would read them are not believed. An unknown field may be a
    misspelt metric or query, so that the rule about these two is not believed either.
    """
    found = error.errors(include_url=False)
    unsound = {str(one["loc"][1]) for one in found if one["loc"][:1] == ("spec",) and len(one["loc"]) > 1}
    if not unsound or not isinstance(value.get("spec"), dict):
        return
    pruned = {name: entry for name, entry in copy.deepcopy(value["spec"]).items() if name not in unsound}
    if any(one["type"] == "extra_forbidden" for one in found):
        unsound |= {"prometheus_query"}
    pruned.setdefault("target_service", "unknown")
    candidate = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "unknown"}, "spec": pruned}
    try:
        AnomalyDetector.model_validate(candidate)
    except ValidationError as again:
        for broken in broken_in(again):
            if not broken.fields & unsound:
                yield Problem(file, broken.path, broken.sentence)
