"""Relive a history: train, judge every interval, retrain when due, alert. The production functions on rows at once.

`backtest` shows this to people; validation and the scenario tests rest on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshock.alerting.state import AlertPolicy, AlertState, Kind, Phase, Transition, advance
from foreshock.core.errors import NotEnoughHistory
from foreshock.core.frame import Array, Frame
from foreshock.core.verdicts import Anomalous, Contribution, Ignorance, Judgement, Subject
from foreshock.detectors.model import Model
from foreshock.engine import throttle
from foreshock.engine.decide import Decisions, code_of, decide, judgement, shares
from foreshock.engine.facts import facts_of, without_thin_metrics
from foreshock.lifecycle.train import DAY_S, SETTLED, incidents_in, rules_of, train_revision
from foreshock.manifests.detector import AnomalyDetector, DetectorSpec

RETRY_S = 3_600  # while there is no model: how often to see whether the history is long enough by now


@dataclass(frozen=True, slots=True)
class Alert:
    """One incident as people would have seen it; `ended_at_s` is None while it fires at the end of the history."""

    incident_id: str
    fired_at_s: int
    started_at_s: int
    ended_at_s: int | None
    severity: str
    peak_score: float
    peak_at_s: int
    contributions: tuple[Contribution, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """What happened after `train_until_s`: rows of the frame from `first_row` on, each with what was said of it."""

    subject: Subject
    frame: Frame
    first_row: int
    judgements: tuple[Judgement, ...]
    alerts: tuple[Alert, ...]
    scores: Array  # (n_rows,) NaN where inconclusive
    anomalous: NDArray[np.bool_]  # (n_rows,)
    contributions: Array  # (n_rows, n_metrics), rows adding up to 1
    expected: Array  # (n_rows, n_metrics)
    usual: Array  # (n_rows, n_metrics)
    n_trainings: int
    models: tuple[Model, ...]  # the newest only, unless asked for
    let_through: int  # windows that the throttle let through, of those it was asked about
    asked: int


def replay(
    manifest: AnomalyDetector,
    frame: Frame,
    train_until_s: float,
    *,
    group: tuple[tuple[str, str], ...] = (),
    n_groups: int = 1,
    adapt: bool = True,
    throttled: bool = True,
    cluster: str = "default",
    progress: Callable[[float], None] = lambda _: None,
) -> Replay:
    """Train on what lies before `train_until_s`, then judge and live on to the end of the frame."""
    lived = relive(manifest, frame, train_until_s, group=group, n_groups=n_groups, adapt=adapt, progress=progress)
    return lived.alerts(cluster=cluster, throttled=throttled)


def relive(
    manifest: AnomalyDetector,
    frame: Frame,
    train_until_s: float,
    *,
    group: tuple[tuple[str, str], ...] = (),
    n_groups: int = 1,
    adapt: bool = True,
    progress: Callable[[float], None] = lambda _: None,
) -> Stretch:
    """Judge every window, whatever the throttle would have skipped; who asks for the alerts says whether it was on.

    With `adapt` a new revision is trained every `retrain_interval`, on what production would have had by then: windows
    that fired do not teach; and what has lasted is learnt early, as in production. Without enough history the rows are
    `Inconclusive(WarmingUp)` until there is enough.
    """
    spec = manifest.spec
    subject = Subject(manifest.metadata.namespace, manifest.metadata.name, group)
    first = int(np.searchsorted(frame.times_s, train_until_s))
    stretch = Stretch(spec, subject, frame, first, n_groups)
    every = max(1, spec.training.retrain_interval // spec.step) if adapt else frame.n_times
    at = first
    while at < frame.n_times:
        stretch.train(at)
        soon = every if stretch.model else max(1, min(every, RETRY_S // spec.step))
        until = min(frame.n_times, at + soon)
        stretch.judge(at, until)
        until = stretch.settles(at, until) if adapt else until
        progress((until - first) / max(1, frame.n_times - first))
        at = until
    return stretch


class Stretch:
    """The rows of one replay and what is known of each so far."""

    def __init__(self, spec: DetectorSpec, subject: Subject, frame: Frame, first: int, n_groups: int) -> None:
        n, n_metrics = frame.n_times - first, len(frame.metrics)
        self.spec, self.subject, self.frame, self.first, self.n_groups = spec, subject, frame, first, n_groups
        self.fired = np.zeros(frame.n_times, np.bool_)
        self.codes = np.full(n, code_of(Ignorance.WARMING_UP), np.int8)
        self.scores, self.passed, self.skipped = np.full(n, np.nan), np.ones(n, np.bool_), np.full(n, np.nan)
        self.contributions = np.full((n, n_metrics), 1.0 / n_metrics)
        self.expected, self.usual = np.full((n, n_metrics), np.nan), np.full((n, n_metrics), np.nan)
        self.model: Model | None = None
        self.n_trainings = 0
        self.settled_at = -frame.n_times  # the row at which a change was last learnt early

    def train(self, at: int) -> None:
        keep = max(0, at - self.spec.training.window // self.spec.step)
        try:
            history = self.frame.rows(keep, at)
            self.model = train_revision(self.spec, history, self.fired[keep:at], n_groups=self.n_groups)
            self.n_trainings += 1
        except NotEnoughHistory:
            return

    def judge(self, at: int, until: int) -> None:
        if self.model is None:
            return
        context = max(0, at - self.model.schema.context_steps)
        rules = rules_of(self.spec.named_metrics)
        rows = self.frame.rows(context, until)
        vectors = self.model.vectors(rows, at - context)
        judged = without_thin_metrics(vectors)
        facts = facts_of(self.model, rules, vectors, rows, at - context)
        decisions = decide(facts)
        here = slice(at - self.first, until - self.first)
        self.codes[here], self.scores[here] = decisions.codes, decisions.scores
        self.contributions[here] = shares(decisions, facts, self.model.ensemble.contributions(judged, rules))
        cheap = self.model.screen.score(judged, rules)
        limit = throttle.limits(self.model.screen_quantiles[None, :], np.array([self.spec.throttle.sigma]))
        self.passed[here] = throttle.passes(cheap, limit)
        self.skipped[here] = throttle.skipped_score(cheap, limit)
        expected, usual = self.model.baseline.expect(rows)
        self.expected[here], self.usual[here] = expected[at - context :], usual[at - context :]
        self.fired[at:until] = decisions.anomalous

    def settles(self, at: int, until: int) -> int:
        """The row up to which the judgement of these rows holds: where an incident has lasted, its level is learnt.

        At most once a day; what was judged after that row is judged again, by the next model.
        """
        training, step_s = self.spec.training, self.spec.step
        if training.drift_detection != "enabled":
            return until
        lasts = -(-int(SETTLED * training.persistence) // step_s)
        earliest = max(at + 1, self.settled_at + DAY_S // step_s)
        for begin, end in incidents_in(self.fired[:until], step_s):
            row = max(begin + lasts, earliest)
            if row < min(end, until):
                self.settled_at = row
                return row
        return until

    def alerts(self, *, cluster: str, throttled: bool) -> Replay:
        """What people would have seen, with the throttle or without: the models are the same, it teaches nothing."""
        spec, times_s = self.spec, self.frame.times_s[self.first :]
        policy = AlertPolicy(spec.alert_severity, spec.pending_for, spec.keep_firing_for, spec.interval)
        decisions = Decisions(self.codes, self.scores.copy())
        every = -(-spec.interval // spec.step)  # windows end on the step, as in production
        grid = times_s // (every * spec.step)
        forced = grid % spec.throttle.force_every == 0
        judgements: list[Judgement] = []
        transitions: list[Transition] = []
        state: AlertState | None = None
        asked = let_through = 0
        anomalous = decisions.anomalous.copy()
        for row in range(0, len(times_s), every):
            open_incident = state is not None and state.phase is not Phase.INACTIVE
            if throttled and not open_incident and not forced[row] and not decisions.inconclusive[row]:
                asked += 1
                let_through += bool(self.passed[row])
                if not self.passed[row] and self.codes[row] in (0, 1):
                    decisions.codes[row], decisions.scores[row] = 0, self.skipped[row]
                    anomalous[row] = False
            verdict = decisions.verdict(row)
            said = judgement(self.subject, int(times_s[row]), verdict, self.frame.metrics, self.contributions[row])
            judgements.append(said)
            if isinstance(verdict, Anomalous) or state is not None:
                state, moved = advance(
                    state, said, policy, cluster=cluster, quiet=spec.maintenance_in_window(said.at_s) is not None
                )
                transitions.extend(moved)
        return Replay(
            self.subject, self.frame, self.first, tuple(judgements), _alerts(transitions, state),
            decisions.scores, anomalous, self.contributions, self.expected, self.usual,
            self.n_trainings, (self.model,) if self.model else (), let_through, asked,
        )  # fmt: skip


def _alerts(transitions: list[Transition], state: AlertState | None) -> tuple[Alert, ...]:
    """Pair each firing with its end; the peak is the end's, or the open incident's."""
    ends = {each.incident_id: each for each in transitions if each.kind is not Kind.FIRING}
    alerts = []
    for firing in (each for each in transitions if each.kind is Kind.FIRING):
        end = ends.get(firing.incident_id)
        peak = end.peak if end else state.incident.peak if state and state.incident else firing.peak
        alerts.append(
            Alert(
                firing.incident_id,
                firing.at_s,
                firing.started_at_s,
                end.at_s if end else None,
                firing.severity,
                peak.score,
                peak.at_s,
                peak.contributions,
            )
        )
    return tuple(alerts)
