"""Eight weeks of one detector through the real engine in simulated time, told line by line as `eight_weeks.txt` says.

No date is finer than a threshold leaves it: the day of what is sudden, the week of the rest. Revisions that come and go
as they should are not told.
"""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

import numpy as np
from tests.lifecycle.simulated import DAY_S, HOUR_S, START_S, Simulation, daily, detector, noise, simulated

from foreshock.alerting.state import EndReason
from foreshock.core.verdicts import Subject
from foreshock.lifecycle import lines
from foreshock.lifecycle.feedback import EXPECTED_CHANGE, TRUE_POSITIVE
from foreshock.store.records import Feedback

EXPECTED = Path(__file__).with_name("eight_weeks.txt")
SUBJECT = Subject("default", "checkout")
LOOK_DAYS = 0.25
LEAK_DAY = 24.0  # what it takes to matter comes by `min_deviation`, six deviations, and so no date by a threshold
CENTURY_S = 100 * 365 * DAY_S
MANIFEST = detector(
    prometheus_query=None, metrics=[{"name": "latency", "query": "latency", "direction": "up", "min_deviation": 12}],
    interval="1h", step="20m", keep_firing_for="6h", training={"window": "14d", "warm_up": "7d"},
)  # fmt: skip


class Service:
    """Its latency: a day's swing with a noise of two, and what happens to it."""

    def __init__(self) -> None:
        self.mended_day = float("inf")

    def __call__(self, times_s: np.ndarray) -> np.ndarray:
        days = (times_s - START_S) / DAY_S
        fault = ((days >= 9.25) & (days < 9.5)) | ((days >= 11.25) & (days < 11.5)) | (days >= 54.25)
        campaign = days >= 17.25
        leak = 1.5 * np.maximum(days - LEAK_DAY, 0.0) * (days < self.mended_day)
        return daily(times_s, 100.0, 20.0) + 2.0 * noise(times_s) + 40.0 * fault + 40.0 * campaign + leak


class Chronicle:
    """What happened, a line each, and what people do about it."""

    def __init__(self, run: Simulation, service: Service) -> None:
        self.run, self.service, self.told = run, service, list[str]()
        self._events = 0

    async def to_day(self, day: float) -> None:
        """Let time pass and tell what happens: what was learnt first, as an alert is what a model said."""
        while (now := self.run.day(self.run.clock.now_s())) < day:
            await self.run.to_day(min(day, now + LOOK_DAYS))
            self._look_at_models()
            for event in self.run.events[self._events :]:
                self._events += 1
                why = event.get("reason")
                sudden = event["status"] == "firing" and not LEAK_DAY < day < self.service.mended_day
                self.tell(f"alert: {event['status']}{f' ({why})' if why else ''}", sudden=sudden)

    def tell(self, text: str, *, sudden: bool = False) -> None:
        day = int(self.run.day(self.run.clock.now_s()))
        self.told.append(f"week {day // 7 + 1}  {f'day {day:2}' if sudden else '      '}  {text}")

    def tell_once(self, text: str, *, sudden: bool = False) -> None:
        if not any(line.endswith(text) for line in self.told):
            self.tell(text, sudden=sudden)

    def say(self, verdict: str) -> None:
        """Give a verdict on every incident that has none."""
        now_s = self.run.clock.now_s()
        for incident in self.run.history.incidents():
            if incident.feedback is None:
                self.run.history.give_verdict(incident.incident_id, Feedback(verdict, now_s, "cli"), now_s=now_s)
                self.tell(f"verdict: {verdict}")

    def roll_back(self) -> None:
        now_s = self.run.clock.now_s()
        self.run.history.change_models(
            SUBJECT, "v1", lambda records: lines.rolled_back(records, now_s), noticed_s=now_s
        )
        self.tell("rolled back by hand", sudden=True)

    @property
    def judging(self) -> str:
        standing = self.run.engine.standing(SUBJECT)
        assert standing is not None
        return standing.revision.name if standing.revision is not None else ""

    def _look_at_models(self) -> None:
        since_s = self.run.clock.now_s() - LOOK_DAYS * DAY_S
        for record in takewhile(lambda one: one.created_s > since_s, self.run.history.models(SUBJECT)):
            why = str(record.details.get("why"))
            if lines.is_provisional(record):
                self.tell_once("learning: it judges and pages nobody")
            elif why == "learnt":
                self.tell_once("learnt: the warm-up is over", sudden=True)
            elif why == "learnt a change that has lasted":
                self.tell_once("learnt: a change that has lasted")
            elif "has crept" in why:
                self.tell_once("rejected: a candidate that followed the leak")


async def test_eight_weeks_are_told_as_expected(tmp_path: Path) -> None:
    """Kinds, order and dates of everything out of the ordinary, and nothing else, are those of the file."""
    service = Service()
    async with simulated(tmp_path, {"latency": service}, since_s=START_S - 4 * DAY_S) as run:
        run.clock.tick_s = HOUR_S
        run.engine.put(MANIFEST)
        life = Chronicle(run, service)
        await life.to_day(13)  # two faults of six hours: the first was not learnt, for the second is found
        life.say(TRUE_POSITIVE)
        await life.to_day(20)  # the campaign
        (campaign,) = [one for one in run.history.incidents() if one.reason is EndReason.ADAPTED]
        assert campaign.ended_at_s is not None
        assert campaign.ended_at_s - campaign.started_at_s < DAY_S
        life.say(EXPECTED_CHANGE)
        await life.to_day(LEAK_DAY)
        while len(run.history.incidents()) < 4:  # the leak, until somebody hears of it
            await life.to_day(run.day(run.clock.now_s()) + LOOK_DAYS)
        life.say(TRUE_POSITIVE)
        service.mended_day = run.day(run.clock.now_s())
        life.tell("the leak is mended")
        await life.to_day(48)
        bad = life.judging
        life.roll_back()
        await life.to_day(48.25)
        good = life.judging
        assert good != bad
        await life.to_day(50.75)
        assert life.judging == good  # held for three days
        await life.to_day(54.5)
        assert life.judging not in {good, bad}
        run.engine.remove(MANIFEST)
        life.tell("deleted while it fires", sudden=True)
        await life.to_day(56)
        assert not run.history.models(SUBJECT)
        run.engine.sweep_artifacts(grace_s=-CENTURY_S)  # the disk's clock is not simulated
        assert not list((tmp_path / "models").iterdir())
        expected = [line for line in EXPECTED.read_text().splitlines() if line and not line.startswith("#")]
        assert life.told == expected, "\n".join(life.told)
