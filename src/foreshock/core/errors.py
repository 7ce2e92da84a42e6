"""One tree of errors; each says who must act (`reason`) and whether trying again can help (`retryable`).

ForeshockError
├── UserError             retryable=False  somebody must change what they wrote
│   ├── InvalidManifest                    all problems of one or more files, with their paths
│   ├── InvalidSettings                    likewise for the administrator's file
│   ├── QueryRejected                      Prometheus answered 400 or 422
│   ├── TooManySeries                      one query, several series, and no `group_by` that tells them apart
│   ├── WindowTooShort                     the detection window holds fewer than two steps
│   ├── NotEnoughHistory                   less data than a model needs
│   ├── NoSuchRevision                     a revision that was never trained, or is not kept any more
│   └── InvalidFile                        a data file that `backtest` cannot read
├── Unavailable           retryable=True   the other side may be well again later; may carry `retry_after_s`
│   ├── PrometheusUnavailable
│   │   └── QueryTimedOut                  this query took too long; the server may answer others
│   ├── QueryBudgetSpent                   a namespace has used its query time; it gets more each second
│   ├── ExtractorUnavailable
│   ├── KubernetesUnavailable
│   ├── SinkUnavailable
│   └── StoreUnavailable
├── SinkRejected          retryable=False  the receiver will never take this
├── KubernetesRefused     retryable=False  the API server answered 4xx; `status` says which
├── LeaseLost             retryable=False  another replica leads: write nothing, and become a candidate again
├── ListenFailed          retryable=False  the address that a server shall listen on cannot be had
└── Damaged               retryable=False  bytes are not what their digest or version says
    ├── ArtifactDamaged
    ├── ArtifactMissing
    └── DatabaseTooNew

`reason` is used word for word in conditions, metric labels, logs and the documentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class ForeshockError(Exception):
    """The root of the tree: its message is one sentence that says what to do."""

    reason: ClassVar[str] = "Error"
    retryable: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a file: which file, where in it, and the sentence that says how to mend it."""

    file: str
    path: str
    message: str

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.file, self.path) if part)
        return f"{where}: {self.message}" if where else self.message


class UserError(ForeshockError):
    """Somebody must change what they wrote; trying again changes nothing."""

    reason = "UserError"


class _Problems(UserError):
    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class InvalidManifest(_Problems):
    """A manifest breaks the schema; `problems` holds every one of them, with its path."""

    reason = "InvalidManifest"


class InvalidSettings(_Problems):
    """The administrator's settings break the schema; `problems` holds every one of them, with its path."""

    reason = "InvalidSettings"


class QueryRejected(UserError):
    """Prometheus understood the request and refuses it (400, 422); the message quotes its own words."""

    reason = "QueryRejected"


class TooManySeries(UserError):
    """A query returned several series where one is judged, or more groups than `max_groups`."""

    reason = "TooManySeries"


class WindowTooShort(UserError):
    """The detection window holds fewer than two steps."""

    reason = "WindowTooShort"


class NotEnoughHistory(UserError):
    """There are fewer usable rows than a model needs; more time or a shorter `warm_up` helps."""

    reason = "NotEnoughHistory"


class NoSuchRevision(UserError):
    """A revision was named that was never trained or is not kept any more."""

    reason = "NoSuchRevision"


class InvalidFile(UserError):
    """A data file lacks what `backtest FILE` needs, or cannot be read."""

    reason = "InvalidFile"


class Unavailable(ForeshockError):
    """The other side does not answer as it should, and may be well again after `retry_after_s` seconds."""

    reason = "Unavailable"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PrometheusUnavailable(Unavailable):
    """Prometheus is away, slow, overloaded or answers with something that is not its API."""

    reason = "PrometheusUnavailable"


class QueryBudgetSpent(Unavailable):
    """A namespace has used the query time that it may take of a datasource; other namespaces are asked for."""

    reason = "QueryBudgetSpent"


class ExtractorUnavailable(Unavailable):
    """No extractor answers as this version should; the engine extracts by itself meanwhile."""

    reason = "ExtractorUnavailable"


class QueryTimedOut(PrometheusUnavailable):
    """One query took longer than it may: the server may be hung, or well and answering others."""


class KubernetesUnavailable(Unavailable):
    """The API server is away, slow, overloaded (429, 5xx) or ends a connection: what was known stays known."""

    reason = "KubernetesUnavailable"


class KubernetesRefused(ForeshockError):
    """The API server understood a request and refuses it: 403, 404, 409, 410, 422; the message quotes its own words."""

    reason = "KubernetesRefused"

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class SinkUnavailable(Unavailable):
    """A receiver of alerts did not take one; the outbox keeps it."""

    reason = "SinkUnavailable"


class SinkRejected(ForeshockError):
    """A receiver refuses this event for good, for example with 400; sending it again is useless."""

    reason = "SinkRejected"


class LeaseLost(ForeshockError):
    """Another replica leads since: nothing was written, and whoever tried begins no other write."""

    reason = "LeaseLost"


class ListenFailed(ForeshockError):
    """A server cannot listen on the address that it was given; the message names both."""

    reason = "ListenFailed"


class StoreUnavailable(Unavailable):
    """The database or the artifact folder cannot be read or written right now."""

    reason = "StoreUnavailable"


class Damaged(ForeshockError):
    """Bytes are not what their digest or version says; nothing of them was used."""

    reason = "Damaged"


class ArtifactDamaged(Damaged):
    """A model artifact is truncated, altered or beyond its limits."""

    reason = "ArtifactDamaged"


class ArtifactMissing(Damaged):
    """A record names a model artifact that is not in the store: train again or restore a backup."""

    reason = "ArtifactMissing"


class DatabaseTooNew(Damaged):
    """The database was written by a newer Foreshock than this one."""

    reason = "DatabaseTooNew"
