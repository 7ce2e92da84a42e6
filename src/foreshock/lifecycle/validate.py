"""A candidate beside the champion: replayed on blocks that it was not fitted on, with faults put into the user's data.

`examine` counts, `PROMOTE` objects. Pure: the same history gives the same answer, whoever asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from foreshock.core.frame import Array, Frame
from foreshock.core.policy import Objection, Policy
from foreshock.detectors.model import Model
from foreshock.detectors.rules import Rules
from foreshock.engine.decide import Decisions, decide
from foreshock.engine.facts import facts_of
from foreshock.features.robust import median_of_columns

Mask = NDArray[np.bool_]
HOUR_S, DAY_S = 3_600, 86_400
BLOCKS = 4
_SPAN_S = 2 * DAY_S  # the last two days: every other quarter of a day is held out
SIZES = (2.0, 4.0, 8.0)  # held-out deviations
_MOST_METRICS = 2  # that faults are put into
_MOST_KNOWN = 10  # incidents that are replayed
_SURE = 0.01
_MAY_LOSE = 0.1  # of the faults that the champion finds
_LEAST_AGREEMENT = 0.8
_MOVED = 2.0  # usual distances
MOST_CREEP = 5.0  # deviations from the anchor


@dataclass(frozen=True, slots=True)
class Known:
    """An incident of the history; `confirmed`: a person said that it was one."""

    start_s: float
    end_s: float
    confirmed: bool = False


@dataclass(frozen=True, slots=True)
class Findings:
    """What a candidate did, and the champion on the same rows; those of several groups add up."""

    expected_alarms: float = 0.0  # that the budget allows on the rows that were judged
    alarms: int = 0  # one for each hour that an alarm goes on
    champion_alarms: int = 0
    rows: int = 0
    agreed: int = 0
    injected: int = 0
    found: int = 0
    champion_found: int = 0
    lost: int = 0  # faults that the champion finds and the candidate clearly does not
    gained: int = 0  # the reverse
    known: int = 0  # incidents that the champion finds
    known_lost: int = 0
    known_by_chance: float = 0.0  # incidents that the budget explains in the history that was looked at
    confirmed_lost: int = 0
    crept: float = 0.0  # the largest distance from the anchor, in its deviations
    crept_metric: str = ""
    has_champion: bool = False
    adapting: bool = False  # a change has lasted: what the champion thinks of it does not count
    shaken: bool = False  # the champion itself is over its budget by now

    @property
    def compares(self) -> bool:
        """Whether the champion's word counts."""
        return self.has_champion and not self.adapting and not self.shaken

    def __add__(self, other: Findings) -> Findings:
        """Both together."""
        worse = self if self.crept >= other.crept else other
        sums = {
            each.name: getattr(self, each.name) + getattr(other, each.name)
            for each in fields(self)
            if not isinstance(getattr(self, each.name), bool | str) and each.name != "crept"
        }
        return Findings(
            **sums, crept=worse.crept, crept_metric=worse.crept_metric,
            has_champion=self.has_champion or other.has_champion, adapting=self.adapting or other.adapting,
            shaken=self.shaken or other.shaken,
        )  # fmt: skip

    def as_details(self) -> dict[str, float | int | str | bool]:
        """As the record keeps it."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """What a candidate is examined on: the history of one group, and what is known of it."""

    frame: Frame
    rules: Rules
    false_alarms_per_s: float
    known: tuple[Known, ...] = ()
    adapting: bool = False
    shaken: bool = False
    moved_since_s: float = 0.0  # where a drift is learnt: the alarms of rows before it are no measure


def is_shaken(n_incidents: int, expected: float) -> bool:
    """Whether a champion has alarmed so often since its training that its budget hardly explains it."""
    return n_incidents > 0 and float(stats.poisson.sf(n_incidents - 1, expected)) < _SURE


def stays_moved(champion: Model, frame: Frame, since_s: float) -> bool:
    """Whether a metric still lies where an incident took it: the alarm of a fault that passed outlasts it by windows.

    The newest window lies two usual distances from what the champion expects, on the side of the whole incident.
    """
    first = int(np.searchsorted(frame.times_s, since_s))
    part = frame.rows(min(first, frame.n_times - 1), frame.n_times)
    expected, usual = champion.baseline.expect(part)
    away = (part.values - expected) / usual
    whole, newest = median_of_columns(away), median_of_columns(away[-champion.schema.window_steps :])
    return bool(((np.abs(whole) >= _MOVED) & (np.abs(newest) >= _MOVED) & (np.sign(whole) == np.sign(newest))).any())


def held_out(frame: Frame) -> Mask:
    """The rows that the probe is not fitted on, (n_times,): every other block of the last two days."""
    span = min(_SPAN_S // frame.step_s, frame.n_times // 4)
    length = span // (2 * BLOCKS)
    from_end = frame.n_times - 1 - np.arange(frame.n_times)
    return (
        np.asarray((from_end < span) & (from_end // max(1, length) % 2 == 0))
        if length
        else np.zeros(frame.n_times, np.bool_)
    )


def without(frame: Frame, rows: Mask) -> Frame:
    """The frame as if nothing had been measured on these rows."""
    return Frame(frame.start_s, frame.step_s, frame.metrics, np.where(rows[:, None], np.nan, frame.values))


def examine(
    candidate: Model, probe: Model, champion: Model | None, trial: Trial, *, anchor: Model | None = None
) -> Findings:
    """Count what the candidate does; `probe` is it without the rows of `held_out`, and judges those."""
    frame, rows = trial.frame, held_out(trial.frame)
    incident = _within(frame, trial.known)
    looked = rows & _since_change(trial) if trial.adapting else rows & ~incident
    looked &= frame.times_s >= trial.moved_since_s
    fired = fires(replace(probe, availability=candidate.availability), trial.rules, frame, rows)
    before = fires(champion, trial.rules, frame, rows) if champion is not None else fired
    crept, crept_metric = _creep(candidate, anchor, trial)
    found = Findings(
        expected_alarms=trial.false_alarms_per_s * int(looked.sum()) * frame.step_s,
        alarms=alarms(fired & looked, frame.step_s),
        champion_alarms=alarms(before & looked, frame.step_s) if champion is not None else 0,
        rows=int(looked.sum()), agreed=int((fired == before)[looked].sum()),
        crept=crept, crept_metric=crept_metric,
        has_champion=champion is not None, adapting=trial.adapting, shaken=trial.shaken,
    )  # fmt: skip
    found += _injections(candidate, probe, champion, trial, rows)
    # what was an incident at the level before is none to be found at that of a world that has changed
    return found if trial.adapting else found + _known(candidate, champion, trial)


def beside(candidate: Model, champion: Model, trial: Trial, first_row: int) -> Findings:
    """What both said of the rows from `first_row` on, which neither has seen: the shadow's time, replayed."""
    frame = trial.frame
    rows = np.arange(frame.n_times) >= first_row
    fired, before = (fires(model, trial.rules, frame, rows) for model in (candidate, champion))
    return Findings(
        expected_alarms=trial.false_alarms_per_s * int(rows.sum()) * frame.step_s,
        alarms=alarms(fired & rows, frame.step_s), champion_alarms=alarms(before & rows, frame.step_s),
        rows=int(rows.sum()), agreed=int((fired == before)[rows].sum()), has_champion=True, adapting=trial.adapting,
    )  # fmt: skip


def fires(model: Model, rules: Rules, frame: Frame, rows: Mask) -> Mask:
    """Where the production `decide` says anomalous, (n_times,), among `rows`."""
    return _decided(model, rules, frame, rows).anomalous & rows


def _decided(model: Model, rules: Rules, frame: Frame, rows: Mask) -> Decisions:
    """What is decided from the first of `rows` on, (n_times,); nothing is said of what is before."""
    decided = Decisions(np.zeros(frame.n_times, np.int8), np.full(frame.n_times, np.nan))
    if not rows.any():
        return decided
    first = int(np.argmax(rows))
    start = max(0, first - model.schema.context_steps)
    part = frame.rows(start, frame.n_times)
    found = decide(facts_of(model, rules, model.vectors(part, first - start), part, first - start))
    decided.codes[first:], decided.scores[first:] = found.codes, found.scores
    return decided


def alarms(fired: Mask, step_s: int) -> int:
    """Rows less than an hour apart are one alarm, and one more for each further hour that it goes on."""
    rows = np.flatnonzero(fired)
    if not len(rows):
        return 0
    runs = np.split(rows, np.flatnonzero(np.diff(rows) * step_s >= HOUR_S) + 1)
    return sum(1 + int((run[-1] - run[0]) * step_s // HOUR_S) for run in runs)


# --- objections ---------------------------------------------------------------------------------------------------


def over_budget(found: Findings) -> Objection | None:
    """It raised more false alarms than the budget allows, and more than the champion did.

    A first revision is not asked: its alarms may be an incident that goes on, and without it nobody would judge at all.
    """
    chance = float(stats.poisson.sf(found.alarms - 1, found.expected_alarms)) if found.alarms else 1.0
    if chance >= _SURE or not found.has_champion or found.alarms <= found.champion_alarms:
        return None
    return Objection(
        "OverBudget",
        f"it raised {found.alarms} alarms on held-out history where the budget allows {found.expected_alarms:.2g}",
    )


def misses_known(found: Findings) -> Objection | None:
    """It misses an incident that a person confirmed, or more than half of those that the champion finds.

    As many as the champion's budget allows are no loss: nobody said that they were more than its false alarms.
    """
    many = max(1.0, found.known / 2, found.known_by_chance)
    if found.confirmed_lost or (found.compares and found.known_lost > many):
        return Objection("MissesKnown", f"it misses {found.known_lost} of {found.known} known incidents")
    return None


def misses_faults(found: Findings) -> Objection | None:
    """It misses injected faults that the champion finds, more than chance and a tenth would explain."""
    if not found.compares or found.lost <= max(2.0, _MAY_LOSE * found.champion_found):
        return None
    if float(stats.binom.sf(found.lost - 1, found.lost + found.gained, 0.5)) >= _SURE:
        return None
    return Objection(
        "MissesFaults", f"it misses {found.lost} of {found.champion_found} injected faults that the champion finds"
    )


def disagrees(found: Findings) -> Objection | None:
    """It says something else than the champion of a fifth of the rows."""
    if not found.compares or not found.rows or found.alarms <= found.champion_alarms:
        return None
    share = found.agreed / found.rows
    return (
        Objection("Disagrees", f"it agrees with the champion on {share:.0%} of rows")
        if (share < _LEAST_AGREEMENT)
        else None
    )


def crept(found: Findings) -> Objection | None:
    """It followed a slow change away from the anchor: the champion goes on, so that the change becomes an incident.

    Once it has become more of them than the budget explains, people know, and a champion that only alarms helps nobody.
    """
    if found.adapting or found.shaken or found.crept <= MOST_CREEP:
        return None
    return Objection(
        "Crept", f"{found.crept_metric} has crept {found.crept:.1f} deviations away from the last confirmed revision"
    )


PROMOTE: tuple[Policy[Findings], ...] = (over_budget, crept, misses_known, misses_faults, disagrees)
SHADOWED: tuple[Policy[Findings], ...] = (over_budget, disagrees)


# --- what is looked at --------------------------------------------------------------------------------------------


def _within(frame: Frame, known: tuple[Known, ...]) -> Mask:
    result = np.zeros(frame.n_times, np.bool_)
    for each in known:
        result |= (frame.times_s >= each.start_s) & (frame.times_s <= each.end_s + HOUR_S)
    return result


def _since_change(trial: Trial) -> Mask:
    """The rows of the incidents that go on: of a world that has changed, only those say what a candidate is worth."""
    times_s = trial.frame.times_s
    going_on = [each for each in trial.known if each.end_s >= trial.frame.end_s]
    return np.asarray(times_s >= min((each.start_s for each in going_on), default=np.inf))


def _known(candidate: Model, champion: Model | None, trial: Trial) -> Findings:
    if champion is None:
        return Findings()
    found = Findings(known_by_chance=trial.false_alarms_per_s * trial.frame.n_times * trial.frame.step_s)
    for each in trial.known[:_MOST_KNOWN]:
        rows = (trial.frame.times_s >= each.start_s) & (
            trial.frame.times_s <= min(each.end_s, each.start_s + DAY_S / 4)
        )
        last = int(np.flatnonzero(rows)[-1]) + 1 if rows.any() else 0
        part, rows = trial.frame.rows(0, last), rows[:last]
        if rows.any() and fires(champion, trial.rules, part, rows).any():
            lost = not fires(candidate, trial.rules, part, rows).any()
            found += Findings(known=1, known_lost=int(lost), confirmed_lost=int(lost and each.confirmed))
    return found


def _injections(candidate: Model, probe: Model, champion: Model | None, trial: Trial, rows: Mask) -> Findings:
    """Put faults into the end of each held-out block: what the candidate finds, and what the champion does."""
    schema, frame = candidate.schema, trial.frame
    expected, usual = probe.baseline.expect(frame)
    off = np.where(rows[:, None], frame.values - expected, np.nan)
    deviation = 1.4826 * median_of_columns(np.abs(off - median_of_columns(off)))
    deviation = np.where(np.isfinite(deviation) & (deviation > 0), deviation, np.nanmedian(usual, axis=0))
    judged = np.flatnonzero(~trial.rules.is_load)
    ends = [int(row) + 1 for row in np.flatnonzero(rows & ~np.append(rows[1:], False))]
    length, context = schema.window_steps, schema.context_steps
    found, clearly = Findings(), _clearly_below(frame)
    for end in ends:
        if end < context + 2 * length:
            continue
        piece = frame.rows(end - context - length, end)
        models = [candidate] if champion is None else [candidate, champion]
        if max(_peak(model, trial.rules, piece, length) for model in models) >= 1.0:
            continue
        for column in judged[:: max(1, len(judged) // _MOST_METRICS)][:_MOST_METRICS]:
            for values in _faults(piece.values, int(column), float(deviation[column]), length, trial.rules):
                broken = Frame(piece.start_s, piece.step_s, piece.metrics, values)
                mine, *other = (_peak(model, trial.rules, broken, length) for model in models)
                theirs = other[0] if other else np.nan
                found += Findings(
                    injected=1, found=int(mine >= 1.0), champion_found=int(theirs >= 1.0),
                    lost=int(theirs >= 1.0 and mine < clearly), gained=int(mine >= 1.0 and theirs < clearly),
                )  # fmt: skip
    return found


def _clearly_below(frame: Frame) -> float:
    """The score below which a fault is missed, and not only as uncertain as a threshold from such a history is.

    The standard error of a tail's scale that is read from the median of its incidents, one in every eight hours: 0.55
    for a day, 0.76 for a week; `tail_threshold` reads a little more surely. Else candidates with lower thresholds would
    win, and each revision alarm more.
    """
    incidents = max(1.0, frame.n_times * frame.step_s / HOUR_S / 8)
    return float(1.0 / (1.0 + 1.0 / (np.log(2.0) * np.sqrt(incidents))))


def _peak(model: Model, rules: Rules, piece: Frame, length: int) -> float:
    """The largest score of the last rows; 0.0 where nothing could be said of any."""
    rows = np.arange(piece.n_times) >= piece.n_times - length
    return float(np.nan_to_num(_decided(model, rules, piece, rows).scores[rows], nan=0.0).max())


def _faults(values: Array, column: int, deviation: float, length: int, rules: Rules) -> Iterator[Array]:
    """Spike, step, ramp and drop at each size; a flat line; a relation that breaks."""
    here = slice(len(values) - length, len(values))
    sign = -1.0 if rules.direction[column] < 0 else 1.0
    shapes = {
        "spike": sign * (np.arange(length) >= length - max(1, length // 12)),
        "step": sign * np.ones(length),
        "ramp": sign * np.linspace(0.0, 1.0, length),
    }
    if rules.direction[column] == 0:
        shapes["drop"] = -np.ones(length)
    for shape in shapes.values():
        for size in SIZES:
            changed = values.copy()
            changed[here, column] += size * deviation * shape
            yield changed
    flat = values.copy()
    flat[here, column] = values[len(values) - length - 1, column]
    yield flat
    if values.shape[1] > 1:  # what the metric did a window earlier: in range, and not what the others do now
        moved = values.copy()
        moved[here, column] = values[len(values) - 2 * length : len(values) - length, column]
        yield moved


def _creep(candidate: Model, anchor: Model | None, trial: Trial) -> tuple[float, str]:
    """How far the candidate's middle lies from the anchor's on the last day, in the anchor's usual distances."""
    if anchor is None or anchor.schema != candidate.schema:
        return 0.0, ""
    frame = trial.frame.rows(max(0, trial.frame.n_times - DAY_S // trial.frame.step_s), trial.frame.n_times)
    (now, _), (then, usual) = candidate.baseline.expect(frame), anchor.baseline.expect(frame)
    gap, middle = np.nanmedian(now - then, axis=0), np.nanmedian(then, axis=0)
    counts = trial.rules.counts(gap[None, :], middle[None, :])[0]
    away = np.where(counts, np.abs(gap) / np.nanmedian(usual, axis=0), 0.0)
    worst = int(np.argmax(away))
    return float(away[worst]), frame.metrics[worst]
