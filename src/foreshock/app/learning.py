"""What the detectors of one lane learn: restored when they come, trained when they are due, and said once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field, replace

import structlog

from foreshock.app.metrics import Metrics
from foreshock.core import telemetry
from foreshock.core.clock import Clock
from foreshock.core.errors import Damaged, ForeshockError, LeaseLost
from foreshock.core.verdicts import Subject
from foreshock.engine.watch import Watch
from foreshock.lifecycle.drift import Drift
from foreshock.lifecycle.learnt import NEVER_S, Learnt, spread
from foreshock.lifecycle.lines import SHADOW
from foreshock.lifecycle.standing import Trouble
from foreshock.lifecycle.trainer import Trainer
from foreshock.manifests.conditions import Because

_IDLE_S, _DAY_S = 0.5, 86_400.0
_SOON_S, _LATER_S = 60.0, 600.0  # after a failure that may pass, and after one that will not by itself
_LOOK_EVERY_S = 3 * 3_600.0
_FAILED = Because.TRAINING_FAILED.value
_KILLED = (
    "The process that trains was killed, most likely for want of memory: raise the memory limit, or ask for fewer "
    "metrics or a shorter training.window."
)
_log = structlog.get_logger("foreshock")


@dataclass(slots=True)
class Known:
    """What was learnt about one detector, and what the log said of it last."""

    learnt: Learnt | None = None
    trouble: Trouble | None = None
    damage: Trouble | None = None  # the active revision cannot be read, until another one was trained
    drift: Drift | None = None  # why a successor is being learnt before it is due, until one judges
    logged: str = ""


@dataclass(slots=True)
class Learning:
    """One detector at a time, beside the cycles of its lane; `watches` are those of the lane, at every moment."""

    trainer: Trainer
    clock: Clock
    metrics: Metrics
    watches: Mapping[Subject, Watch]
    changed: Callable[[Subject], None]  # something else is to be said of this detector
    adapted: Callable[[tuple[Subject, ...]], None] = lambda _: None  # their incidents turned out to be the new normal
    is_open: Callable[[Subject], bool] = lambda _: False  # whether an incident of this detector goes on
    _anew: set[Subject] = field(default_factory=set)  # a candidate that waits is not worth waiting for
    _hurried_s: dict[Subject, float] = field(default_factory=dict)  # when a lasting change was last a reason to train
    _to_restore: deque[Subject] = field(default_factory=deque)
    _train_at_s: dict[Subject, float] = field(default_factory=dict)
    _look_at_s: dict[Subject, float] = field(default_factory=dict)  # when to look for drift
    _known: dict[Subject, Known] = field(default_factory=dict)
    _came: asyncio.Event = field(default_factory=asyncio.Event)
    _restored: asyncio.Event = field(default_factory=asyncio.Event)  # nobody waits to be restored

    def take_up(self, subject: Subject) -> None:
        """Restore this detector next, before it is trained."""
        self._to_restore.append(subject)
        self._restored.clear()
        self._came.set()
        self._train_at_s.pop(subject, None)

    async def caught_up(self, *, within_s: float) -> None:
        """Return once whoever came has the model that it had before, or after that time: judging must not wait long."""
        patience = asyncio.ensure_future(self.clock.sleep(within_s))
        restored = asyncio.ensure_future(self._restored.wait())
        try:
            await asyncio.wait((patience, restored), return_when=asyncio.FIRST_COMPLETED)
        finally:
            patience.cancel()
            restored.cancel()

    async def restore_now(self, watch: Watch) -> None:
        """Restore before the next cycle, also where a training is going on: a rollback waits for nobody."""
        await self._restore(watch, self.clock.now_s())

    def look_again(self, subject: Subject) -> None:
        """Train as soon as may be: what may teach has changed."""
        if self._train_at_s.get(subject, NEVER_S) != NEVER_S:
            self._train_at_s[subject] = self.clock.now_s()
            self._anew.add(subject)

    def settle_change(self, subject: Subject, now_s: float) -> None:
        """Train early because an incident has lasted longer than `training.persistence`; at most once a day."""
        if now_s - self._hurried_s.get(subject, -_DAY_S) >= _DAY_S:
            self._hurried_s[subject] = now_s
            self.look_again(subject)

    def forget(self, subject: Subject) -> None:
        """Learn nothing more about it."""
        self._hurried_s.pop(subject, None)
        self._anew.discard(subject)
        self.metrics.forget_detector(subject.detector)
        self._train_at_s.pop(subject, None)
        self._look_at_s.pop(subject, None)
        self._known.pop(subject, None)

    def known(self, subject: Subject) -> Known:
        """How far a detector is; of one that nobody knows, nothing."""
        return self._known.get(subject) or Known()

    async def run(self) -> None:
        """Restore what was learnt of whoever came, and train whoever is due, for ever.

        Raises:
            ExceptionGroup: of `LeaseLost`: whoever leads now goes on with it.

        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._restore_all())
            tasks.create_task(self._train_all())

    async def _restore_all(self) -> None:
        """A training takes seconds and a model from the store none, so that nobody waits for the training of others."""
        while True:
            self._came.clear()
            while self._to_restore:
                subject = self._to_restore.popleft()
                if (watch := self.watches.get(subject)) is not None:
                    await self._restore(watch, self.clock.now_s())
            self._restored.set()
            await self._came.wait()

    async def _train_all(self) -> None:
        while True:
            now_s = self.clock.now_s()
            due = min(self._train_at_s, key=self._train_at_s.__getitem__, default=None)
            if due is not None and self._train_at_s[due] <= now_s:
                await self._learn(self.watches[due], now_s)
                continue
            look = min(self._look_at_s, key=self._look_at_s.__getitem__, default=None)
            if look is not None and self._look_at_s[look] <= now_s:
                await self._look_for_drift(self.watches[look], now_s)
            else:
                await self.clock.sleep(_IDLE_S)

    async def _look_for_drift(self, watch: Watch, now_s: float) -> None:
        """Learn before it is due where the service has moved for hours; what cannot be read is looked at later."""
        subject = watch.subject
        self._look_at_s[subject] = now_s + _LOOK_EVERY_S
        if self.is_open(subject):
            return
        try:
            drift = await self.trainer.drifted(watch, now_s)
        except LeaseLost:
            raise
        except ForeshockError as error:
            _log.warning("drift was not looked for", detector=str(subject), reason=error.reason, message=str(error))
            return
        except BrokenExecutor:
            _log.warning("drift was not looked for", detector=str(subject), reason=_FAILED, message=_KILLED)
            return
        except Exception:  # noqa: BLE001 - as for a training
            _log.exception("looking for drift failed", detector=str(subject))
            return
        if drift is None or self.watches.get(subject) is not watch:
            return
        self.metrics.show(telemetry.DRIFT, drift.ratio, subject.detector)
        if drift.ratio > 1.0 and now_s - self._hurried_s.get(subject, -_DAY_S) >= _DAY_S:
            self.metrics.count(telemetry.DRIFT_TRAININGS)
            self._known.setdefault(subject, Known()).drift = drift
            self.say(subject, f"{drift}: its successor is learnt now")
            self.settle_change(subject, now_s)
            self.changed(subject)

    async def _restore(self, watch: Watch, now_s: float) -> None:
        subject = watch.subject
        try:
            learnt = await self.trainer.restore(watch, now_s)
        except LeaseLost:
            raise
        except ForeshockError as error:
            pinned = watch.spec.pinned_revision is not None
            trouble = Trouble(error.reason, str(error))
            if isinstance(error, Damaged):
                self.metrics.count(telemetry.MODEL_LOAD_FAILURES, error.reason)
                if not pinned:
                    trouble = self._known.setdefault(subject, Known()).damage = await self._do_without(watch, trouble)
            again_s = _SOON_S if error.retryable or pinned else 0.0
            self._note(watch, None, now_s + again_s, trouble)
            if error.retryable or pinned:  # nothing else may judge where a revision is pinned
                self._train_at_s.pop(subject, None)
                asyncio.get_running_loop().call_later(again_s, self.take_up, subject)
            return
        if learnt is None:
            self._train_at_s.setdefault(subject, now_s)
        else:
            self._note(watch, learnt, learnt.next_s)

    async def _do_without(self, watch: Watch, damage: Trouble) -> Trouble:
        """Let an earlier revision judge until the damaged one is replaced, and say so."""
        try:
            name = await self.trainer.fall_back(watch)
        except ForeshockError as error:  # the store has become worse: what is trained next needs none of it
            return replace(damage, message=f"{damage.message} {error}")
        return damage if name is None else replace(damage, message=f"{damage.message} {name} judges meanwhile.")

    async def _learn(self, watch: Watch, now_s: float) -> None:
        began_s = self.clock.monotonic_s()
        anew = watch.subject in self._anew
        drift = self.known(watch.subject).drift if anew else None
        self._anew.discard(watch.subject)
        try:
            with self.metrics.running(telemetry.TRAININGS_RUNNING):
                learnt = await self.trainer.learn(watch, now_s, anew=anew, drift=drift)
        except LeaseLost:  # no trouble of this detector: whoever leads now trains it
            raise
        except ForeshockError as error:
            again_s = now_s + (_SOON_S if error.retryable else _LATER_S)
            self._note(watch, None, again_s, Trouble(error.reason, str(error)))
            return
        except BrokenExecutor:
            self._note(watch, None, now_s + _LATER_S, Trouble(_FAILED, _KILLED))
            return
        except Exception as error:  # noqa: BLE001 - one detector's training must not end the judging of all others
            _log.exception("training failed", detector=str(watch.subject))
            message = f"The training failed with {type(error).__name__}, which is a bug: please report it with the log."
            self._note(watch, None, now_s + _LATER_S, Trouble(_FAILED, message))
            return
        self.metrics.observe(telemetry.TRAINING_SECONDS, self.clock.monotonic_s() - began_s)
        self._count(watch.subject, learnt)
        self._note(watch, learnt, learnt.next_s)
        if learnt.adapted:
            self.adapted(learnt.adapted)

    def _count(self, subject: Subject, learnt: Learnt) -> None:
        if learnt.outcome:
            stage = learnt.newest[1] if learnt.newest is not None else ""
            self.metrics.count(telemetry.CANDIDATES, "shadow" if stage == SHADOW else learnt.outcome)
        if learnt.precision is not None and learnt.precision.share is not None:
            self.metrics.show(telemetry.PRECISION, learnt.precision.share, subject.detector)
        if learnt.ready:
            self.metrics.forget_detector(subject.detector, telemetry.WARM_UP, telemetry.WARM_UP_END)
            return
        self.metrics.show(telemetry.WARM_UP, learnt.share, subject.detector)
        if learnt.warm_at_s is not None:
            self.metrics.show(telemetry.WARM_UP_END, learnt.warm_at_s, subject.detector)

    def _note(self, watch: Watch, learnt: Learnt | None, next_s: float, trouble: Trouble | None = None) -> None:
        """Note what a round of learning came to, unless the detector was changed or removed meanwhile."""
        subject = watch.subject
        if self.watches.get(subject) is not watch:
            return
        self._train_at_s[subject] = next_s
        known = self._known.setdefault(subject, Known())
        if learnt is not None and learnt.ready:
            known.damage = None
            if learnt.next_s != NEVER_S and watch.spec.training.drift_detection == "enabled":
                self._look_at_s.setdefault(subject, self.clock.now_s() + _LOOK_EVERY_S * spread(subject))
            else:
                self._look_at_s.pop(subject, None)
        if learnt is not None and (learnt.newest is None or learnt.newest[1] != SHADOW):
            known.drift = None  # a successor judges, or was not good enough
        known.trouble = _both(known.damage, trouble)
        if learnt is not None:
            known.learnt = learnt
            self.say(subject, learnt.message)
        elif trouble is not None:
            self.say(subject, trouble.message, reason=trouble.reason)
        self.changed(subject)

    # --- the log --------------------------------------------------------------------------------------------------

    def say(self, subject: Subject, message: str, *, reason: str | None = None) -> None:
        """Log what changed about a detector, once."""
        key = f"!{reason}" if reason else message
        known = self._known.setdefault(subject, Known())
        if known.logged == key:
            return
        known.logged = key
        if reason:
            _log.warning(message, detector=str(subject), reason=str(reason))
        else:
            _log.info(message, detector=str(subject))

    def say_well_again(self, subject: Subject) -> None:
        """Log that a detector is judged again, where the last word about it was trouble."""
        known = self._known.get(subject)
        if known is not None and known.logged.startswith("!"):
            self.say(subject, "its data is there again")


def _both(damage: Trouble | None, trouble: Trouble | None) -> Trouble | None:
    """What is wrong now, under the reason of the damage for as long as nothing has replaced what is damaged."""
    if damage is None or trouble is None or trouble is damage:
        return damage or trouble
    return replace(damage, message=f"{damage.message} {trouble.message}")
