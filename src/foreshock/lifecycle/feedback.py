"""What people say of incidents, and what follows: what teaches, how precise a detector is, where its threshold lies.

Everything is computed anew from the verdicts that stand, so that taking one back takes back what it did.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from foreshock.alerting.state import EndReason
from foreshock.core.frame import Frame
from foreshock.core.verdicts import Subject
from foreshock.detectors.calibrate import Calibration
from foreshock.detectors.model import Model
from foreshock.store.records import Incident

TRUE_POSITIVE, FALSE_POSITIVE, EXPECTED_CHANGE = "true_positive", "false_positive", "expected_change"
VERDICTS = (TRUE_POSITIVE, FALSE_POSITIVE, EXPECTED_CHANGE)
LEAST_VERDICTS = 5  # true or false ones before a threshold moves
WANTED = (0.5, 0.8)  # precision between which nothing moves
MOST_FACTOR, LEAST_FACTOR = 1.5, 0.9  # where nothing was worth its alert, and where everything was


@dataclass(frozen=True, slots=True)
class Precision:
    """How many incidents of a detector people called true and false."""

    true: int
    false: int

    @property
    def share(self) -> float | None:
        """Of the incidents with such a verdict those that were worth it; None without any."""
        total = self.true + self.false
        return self.true / total if total else None

    @property
    def factor(self) -> float:
        """By how much the threshold's distance from the middle of normal is stretched: 0.9 to 1.5, 1 without enough.

        >>> Precision(0, 5).factor, Precision(5, 5).factor, Precision(10, 0).factor, Precision(0, 4).factor
        (1.5, 1.0, 0.9, 1.0)
        """
        share, (low, high) = self.share, WANTED
        if share is None or self.true + self.false < LEAST_VERDICTS:
            return 1.0
        return float(np.interp(share, [0.0, low, high, 1.0], [MOST_FACTOR, 1.0, 1.0, LEAST_FACTOR]))


def precision_of(incidents: Iterable[Incident]) -> Precision:
    """What the verdicts on these incidents say."""
    given = [incident.feedback.verdict for incident in incidents if incident.feedback is not None]
    return Precision(given.count(TRUE_POSITIVE), given.count(FALSE_POSITIVE))


def stretched(model: Model, factor: float) -> Model:
    """The model with its threshold further from, or nearer to, the middle of normal."""
    if factor == 1.0:
        return model
    joint = model.ensemble.joint
    middle = np.asarray(joint.middle)
    threshold = middle + factor * (np.asarray(joint.threshold) - middle)
    return replace(model, ensemble=replace(model.ensemble, joint=Calibration(float(middle), float(threshold))))


def rows_of(
    frame: Frame, incidents: Iterable[Incident], subject: Subject, now_s: float, *, tail_s: int, lasts: bool
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The rows that fired and may not teach, and among them those that a person confirmed, each (n_times,).

    What people called false or expected teaches like any other row. What they confirmed stays out of the calibration
    too, however long it lasted. An alarm outlasts its fault by about `tail_s`, some samples and the calm that ends it:
    unless the change lasts, that much of the end is not what fired.
    """
    fired, confirmed = np.zeros(frame.n_times, np.bool_), np.zeros(frame.n_times, np.bool_)
    for incident in incidents:
        verdict = incident.feedback.verdict if incident.feedback is not None else None
        if incident.subject != subject or verdict in {FALSE_POSITIVE, EXPECTED_CHANGE}:
            continue
        end_s = incident.ended_at_s if incident.ended_at_s is not None else now_s
        stays = lasts if incident.ended_at_s is None else incident.reason is EndReason.ADAPTED
        if not stays:
            end_s -= min(tail_s, (end_s - incident.started_at_s) / 2)
        rows = (frame.times_s >= incident.started_at_s) & (frame.times_s <= end_s)
        fired |= rows
        if verdict == TRUE_POSITIVE:
            confirmed |= rows
    return fired, confirmed
