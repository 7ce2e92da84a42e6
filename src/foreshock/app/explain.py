"""`foreshock explain`: find the evidence of an alert, load its model, and judge it again. No datasource is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

from pydantic import ValidationError

from foreshock.alerting.event import AnomalyData, AnomalyEvent
from foreshock.core.errors import Damaged, ForeshockError, InvalidFile, UserError
from foreshock.core.verdicts import Inconclusive
from foreshock.detectors.model import Model, load
from foreshock.engine.rebuild import Rebuilt, rebuild
from foreshock.store.artifacts import Artifacts
from foreshock.store.history import History

MAX_EVENT_BYTES = 2_000_000
_LISTED = 5


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """One window that was told of, and what its model says of it now; `why_not` where it could not be asked."""

    data: AnomalyData
    rebuilt: Rebuilt | None
    model: Model | None
    why_not: str = ""

    @property
    def is_reproduced(self) -> bool:
        """Whether the score is the very float that was told."""
        return self.rebuilt is not None and self.rebuilt.score == self.data.score

    @property
    def outcome(self) -> str:
        """One clause about the reproduction."""
        if self.rebuilt is None:
            return f"not reproduced: {self.why_not}"
        if self.is_reproduced:
            return "reproduced bit for bit"
        if isinstance(self.rebuilt.verdict, Inconclusive):
            return f"NOT reproduced: the stored window is inconclusive ({self.rebuilt.verdict.reason})"
        return f"NOT reproduced: the stored window scores {self.rebuilt.score!r}, not {self.data.score!r}"


@dataclass(frozen=True, slots=True, eq=False)
class Explained:
    """An alert: the window that it was told of, and its worst one where that is another and was kept."""

    event: AnomalyEvent
    told: Told
    peak: Told | None = None

    @property
    def is_reproduced(self) -> bool:
        """Whether every window that was kept is reproduced."""
        return self.told.is_reproduced and (self.peak is None or self.peak.is_reproduced)


def explain_incident(prefix: str, history: History, artifacts: Artifacts) -> Explained:
    """Explain the incident with this id, or with the only id that begins so.

    Raises:
        UserError: no incident has such an id, or several.
        Damaged: what is stored of it cannot be read.
        StoreUnavailable: the database cannot be read now.

    """
    ids = history.incident_ids(prefix.lower(), limit=_LISTED + 1)
    if not ids:
        raise UserError(f"No incident begins with {prefix!r}: is this its id, and the database of its engine?")
    if len(ids) > 1 and prefix.lower() not in ids:
        raise UserError(f"{prefix!r} begins several incidents ({', '.join(ids[:_LISTED])}): give more of the id.")
    incident = history.incident(ids[0])
    if incident is None or incident.evidence is None:
        raise Damaged(f"Nothing but the row of incident {ids[0]} is stored: its evidence was removed.")
    event = _event(incident.evidence)
    peak = None if incident.peak_evidence is None else _event(incident.peak_evidence)
    return Explained(event, _told(event, artifacts), None if peak is None else _told(peak, artifacts))


def explain_event(file: IO[bytes], artifacts: Artifacts) -> Explained:
    """Explain the event that a sink was given, read from a file.

    Raises:
        InvalidFile: it is too long, or not one event in JSON.

    """
    text = file.read(MAX_EVENT_BYTES + 1)
    if len(text) > MAX_EVENT_BYTES:
        raise InvalidFile(f"An event has at most {MAX_EVENT_BYTES} bytes and this is longer: give one event alone.")
    try:
        document = json.loads(text)
    except ValueError as error:  # also text that is not UTF-8
        raise InvalidFile(
            f"This is no event in JSON ({error}): give one line of the log sink, or one message."
        ) from error
    try:
        event = _event(document)
    except Damaged as error:
        raise InvalidFile(str(error)) from error
    return Explained(event, _told(event, artifacts))


def _event(document: Mapping[str, Any]) -> AnomalyEvent:
    try:
        return AnomalyEvent.model_validate(document)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the whole"
        raise Damaged(f"This is no event of Foreshock as this version writes it, by {where}.") from error


def _told(event: AnomalyEvent, artifacts: Artifacts) -> Told:
    data = event.data
    if data.model is None and data.contributions:
        return Told(data, None, None, "there was no model yet, and its valid range alone raised it")
    if data.evidence is None or data.evidence.replay is None or data.model is None:
        return Told(data, None, None, "the event carries no samples; an earlier version wrote it, or nobody judged")
    try:
        facts, arrays = artifacts.get(data.model.digest)
        model = load(arrays, facts["model"])
    except ForeshockError as error:
        return Told(data, None, None, f"the model {data.model.revision} cannot be had any more ({error})")
    except KeyError:
        return Told(data, None, None, f"the artifact of {data.model.revision} is no model")
    try:
        return Told(data, rebuild(data.evidence.replay, model), model)
    except Damaged as error:
        return Told(data, None, model, str(error))
