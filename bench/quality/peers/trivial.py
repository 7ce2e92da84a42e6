"""What any figure must be compared with first: an alarm that is always on, and dice."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from bench.quality.cases import Case
from bench.quality.detector import Answer, Budget, Mode
from bench.quality.peers.threshold import scale_of


@dataclass(frozen=True, slots=True)
class AlwaysOn:
    """Anomalous from the first row to the last."""

    name: str = "always-on"
    modes: tuple[Mode, ...] = (Mode.FROZEN,)

    def scores(
        self, case: Case, mode: Mode, budgets: Sequence[Budget], progress: Callable[[float], None]
    ) -> dict[Budget, Answer]:
        """Two everywhere."""
        del mode, progress
        return {budget: Answer(np.full(case.rows - case.train_rows, 2.0)) for budget in budgets}


@dataclass(frozen=True, slots=True)
class Dice:
    """Independent exponential numbers, calibrated as every peer is."""

    name: str = "random"
    modes: tuple[Mode, ...] = (Mode.FROZEN,)

    def scores(
        self, case: Case, mode: Mode, budgets: Sequence[Budget], progress: Callable[[float], None]
    ) -> dict[Budget, Answer]:
        """The same for a case in every run."""
        del mode, progress
        raw = np.random.default_rng(zlib.crc32(case.name.encode())).exponential(size=case.rows)
        first = case.train_rows
        return {budget: Answer(scale_of(raw[:first], case.step_s, budget)(raw[first:])) for budget in budgets}


ALWAYS_ON, RANDOM = AlwaysOn(), Dice()
