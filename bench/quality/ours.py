"""Foreshock, through the function that `foreshock backtest FILE.parquet` calls."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.quality.cases import Case
from bench.quality.detector import Answer, Budget, Mode, NotApplicable, Throttled

from foreshock.app.datafile import FileOptions, replay_file
from foreshock.core.errors import ForeshockError
from foreshock.detectors.ensemble import ALGORITHMS
from foreshock.manifests import fields


@dataclass(frozen=True, slots=True)
class Ours:
    """One algorithm, throttle off, as the command runs it; what the throttle changes is reported apart."""

    algorithm: str
    modes: tuple[Mode, ...] = (Mode.ADAPT, Mode.FROZEN)

    @property
    def name(self) -> str:
        return "foreshock" if self.algorithm == "ensemble" else f"foreshock:{self.algorithm}"

    def scores(
        self, case: Case, mode: Mode, budgets: Sequence[Budget], progress: Callable[[float], None]
    ) -> dict[Budget, Answer]:
        """One replay per budget: the budget shapes the thresholds, and those what the next training may learn from."""
        result: dict[Budget, Answer] = {}
        for done, budget in enumerate(budgets):
            options = FileOptions(
                train_rows=case.train_rows,
                step_s=case.step_s,
                algorithm=self.algorithm,
                budget=fields.Budget.parse(budget.text),
                adapt=mode is Mode.ADAPT,
            )
            try:
                replayed = replay_file(
                    case.path, options, lambda share, done=done: progress((done + share) / len(budgets))
                )
            except ForeshockError as error:
                raise NotApplicable(str(error)) from error
            throttled = replayed.throttled()
            asked, let_through = throttled.replay.asked, throttled.replay.let_through
            result[budget] = Answer(replayed.scores, Throttled(throttled.scores, asked, let_through))
        return result


OURS = tuple(Ours(algorithm) for algorithm in ALGORITHMS)


def source_files() -> Iterator[Path]:
    """The modules that judging a file loads: when one of them changes, results are old."""
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] == "foreshock" and module.__file__ is not None:
            yield Path(module.__file__)
