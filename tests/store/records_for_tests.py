"""Records that the store's tests share: cycle `n` touches every table in a way that tells it from cycle `n - 1`."""

from __future__ import annotations

from foreshock.alerting.outbox import deliveries
from foreshock.alerting.state import AlertPolicy, Transition, advance
from foreshock.core.verdicts import Anomalous, Contribution, Judgement, Subject
from foreshock.store.history import History
from foreshock.store.records import CycleChanges, Incident, ModelRecord, Progress

NOW_S = 1_700_000_000
SINKS = ("bus", "oncall")
POLICY = AlertPolicy("critical", 0, 0, 60)


def subject(n: int) -> Subject:
    return Subject("shop", f"detector-{n}", (("pod", f"p-{n}"),))


def incident(transition: Transition, **more: object) -> Incident:
    known: dict[str, object] = {"evidence": {"features": {"a.mean": 1.5}}}
    return Incident(
        transition.incident_id,
        transition.subject,
        "payment-api",
        transition.severity,
        transition.started_at_s,
        transition.peak.score,
        **{**known, **more},  # type: ignore[arg-type]
    )


def cycle(n: int) -> CycleChanges:
    """One new incident with its state, its progress, a row for each sink; and progress that all cycles share."""
    at_s = NOW_S + 60 * n
    judgement = Judgement(subject(n), at_s, Anomalous(1.0 + n), (Contribution("a", 1.0),))
    state, (firing,) = advance(None, judgement, POLICY, cluster="c")
    return CycleChanges(
        at_s,
        states=(state,),
        incidents=(incident(firing),),
        outbox=deliveries(firing, {"id": firing.event_id, "n": n}, sinks=SINKS, created_s=at_s),
        progress=(Progress(subject(n), at_s, {"n": n}), Progress(subject(-1), at_s, {"n": n})),
    )


def model(n: int, **more: object) -> ModelRecord:
    known: dict[str, object] = {
        "subject": subject(0),
        "version": "v2.1.0",
        "revision": n,
        "digest": f"{n:064x}",
        "algorithm": "ensemble",
        "trained_from_s": NOW_S - 86_400,
        "trained_to_s": NOW_S,
        "rows_used": 1_440,
        "created_s": NOW_S + n,
        "rows_excluded": {"incident": 60},
        "details": {"threshold": 0.1 + 0.2},
    }
    return ModelRecord(**{**known, **more})  # type: ignore[arg-type]


def record(history: History, *models: ModelRecord, epoch: int | None = None) -> None:
    """Store each as it is, by the way that the engine takes."""
    for each in models:
        history.change_models(each.subject, each.version, lambda _, each=each: (each,), epoch=epoch)  # type: ignore[misc]


def everything(history: History) -> tuple[object, ...]:
    """All that can be read from a history, to compare two of them."""
    return (
        history.load_alert_states(),
        history.load_progress(),
        history.incidents(limit=1_000),
        tuple(history.pending(sink, limit=1_000, now_s=2e9) for sink in SINKS),
        history.models(subject(0)),
    )
