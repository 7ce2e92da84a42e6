"""Compares what a scenario promises with what was judged and what fired; knows no engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.scenarios.language import AlertPromise, Scenario, VerdictPromise
from tests.scenarios.series import START_S

from foreshock.core.durations import format_duration
from foreshock.core.verdicts import Anomalous, Inconclusive, Judgement, Normal


@dataclass(frozen=True, slots=True)
class SeenAlert:
    """One alert, in UTC seconds; `ended_at_s` is None while it fires; `top` is the metric named first."""

    started_at_s: float
    ended_at_s: float | None
    top: str | None


def broken_verdicts(scenario: Scenario, judgements: Sequence[Judgement]) -> list[str]:
    """Every `at` and `by` of the scenario that the judgements break, in words."""
    by_instant = {judgement.at_s - START_S: judgement for judgement in judgements}
    return [complaint for promise in scenario.verdicts for complaint in _verdict(promise, scenario, by_instant)]


def _verdict(promise: VerdictPromise, scenario: Scenario, judged: dict[int, Judgement]) -> Iterator[str]:
    where = f"{scenario.name}:{promise.line}: {promise.when} {format_duration(promise.instant_s)}"
    if promise.when == "at":
        found = judged.get(promise.instant_s)
        if found is None:
            yield f"{where}: nothing was judged at that instant"
        elif complaint := _differs(promise, found):
            yield f"{where}: {complaint}"
        return
    until = [one for instant_s, one in judged.items() if scenario.train_until_s <= instant_s <= promise.instant_s]
    kind = [one for one in until if _kind(one) == promise.verdict]
    if not kind:
        yield f"{where}: none of {len(until)} judgements is {promise.verdict}, the highest score is {_highest(until)}"
    elif complaint := _differs(promise, max(kind, key=_score)):
        yield f"{where}: {complaint}"


def _differs(promise: VerdictPromise, found: Judgement) -> str | None:
    """What of the promise this judgement breaks."""
    verdict = found.verdict
    if _kind(found) != promise.verdict:
        return f"the verdict is {verdict}"
    if promise.cause and isinstance(verdict, Anomalous) and verdict.cause is not promise.cause:
        return f"the cause is {verdict.cause}"
    if promise.reason and isinstance(verdict, Inconclusive) and verdict.reason is not promise.reason:
        return f"the reason is {verdict.reason}"
    if promise.top and (not found.contributions or found.contributions[0].metric != promise.top):
        return f"the contributions are {[(one.metric, round(one.share, 2)) for one in found.contributions]}"
    return None


def _kind(judgement: Judgement) -> str:
    return type(judgement.verdict).__name__.lower()


def _score(judgement: Judgement) -> float:
    verdict = judgement.verdict
    return verdict.score if isinstance(verdict, Normal | Anomalous) else float("-inf")


def _highest(judgements: Sequence[Judgement]) -> float:
    return max(map(_score, judgements), default=float("nan"))


def broken_alerts(scenario: Scenario, alerts: Sequence[SeenAlert]) -> list[str]:
    """Every promise about alerts that these break, in words; an alert keeps one promise at most."""
    complaints, unexpected = [], list(alerts)
    for promise in scenario.alerts:
        fitting = [one for one in unexpected if promise.after_s <= one.started_at_s - START_S <= promise.by_s]
        if not fitting:
            window = f"between {format_duration(promise.after_s)} and {format_duration(promise.by_s)}"
            complaints.append(f"{scenario.name}:{promise.line}: nothing fired {window}; {_list(alerts)}")
            continue
        unexpected.remove(fitting[0])
        complaints += [f"{scenario.name}:{promise.line}: {what}" for what in _alert(promise, fitting[0])]
    if scenario.nothing_else and unexpected:
        complaints.append(f"{scenario.name}: fired unexpectedly: {_list(unexpected)}")
    return complaints


def _alert(promise: AlertPromise, alert: SeenAlert) -> Iterator[str]:
    if promise.top and alert.top != promise.top:
        yield f"the alert names {alert.top} first, not {promise.top}"
    ended_s = None if alert.ended_at_s is None else alert.ended_at_s - START_S
    if promise.still_firing and ended_s is not None:
        yield f"the alert ended at {format_duration(int(ended_s))} and should still be firing"
    if promise.resolved_after_s is None:
        return
    if ended_s is None:
        yield "the alert is still firing at the end"
    elif ended_s < promise.resolved_after_s or ended_s > (promise.resolved_by_s or float("inf")):
        yield f"the alert ended at {format_duration(int(ended_s))}"


def _list(alerts: Sequence[SeenAlert]) -> str:
    def instant(at_s: float | None) -> str:
        return "…" if at_s is None else format_duration(int(at_s - START_S))

    return (
        ", ".join(f"{instant(one.started_at_s)}..{instant(one.ended_at_s)} {one.top}" for one in alerts) or "no alert"
    )
