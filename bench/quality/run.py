"""Run what is missing: every detector on every case in every mode, one file of scores each."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bench.quality import store
from bench.quality.cases import Case
from bench.quality.contenders import code_digest, measure_digest, named
from bench.quality.detector import Answer, Budget, Contender, Mode, NotApplicable
from bench.quality.store import Key, Run
from bench.quality.summary import row_of
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column


@dataclass(frozen=True, slots=True)
class Job:
    """One detector on one case in one mode, for the budgets that are missing."""

    case: Case
    detector: str
    mode: Mode
    budgets: tuple[Budget, ...]
    digest: str
    out: Path

    @property
    def said(self) -> str:
        return f"{self.case.dataset}/{self.case.name} {self.detector} {self.mode}"

    def key(self, budget: Budget) -> Key:
        return Key(self.case.dataset, self.case.name, self.detector, self.mode, budget.text)


def jobs(
    out: Path, cases: Sequence[Case], contenders: Sequence[Contender], modes: Sequence[Mode], budgets: Sequence[Budget]
) -> Iterator[Job]:
    """What is missing in `out`, the cheap datasets' cases in the order of `cases`."""
    digests = {each.name: code_digest(each) for each in contenders}
    for case in cases:
        for contender in contenders:
            for mode in (mode for mode in modes if mode in contender.modes):
                key = Key(case.dataset, case.name, contender.name, mode, "")
                wanted = store.missing(out, key, budgets, digests[contender.name])
                if wanted:
                    yield Job(case, contender.name, mode, tuple(wanted), digests[contender.name], out)


def run_job(job: Job, progress: Callable[[float], None] = lambda _: None) -> float:
    """Judge one case and save what was said; the seconds that it took."""
    started = time.perf_counter()
    refusal, answers = "", {}
    try:
        answers = named(job.detector).scores(job.case, job.mode, job.budgets, progress)
    except NotApplicable as error:
        refusal = str(error)
    seconds = time.perf_counter() - started
    nothing = Answer(np.full(job.case.rows - job.case.train_rows, np.nan))
    for budget in job.budgets:
        run = Run(job.digest, seconds / len(job.budgets), answers.get(budget, nothing), refusal)
        store.save(job.out, job.key(budget), run, row_of(job.key(budget), job.case, run, measure_digest()))
    return seconds


def run_all(todo: Sequence[Job], n_workers: int) -> None:
    """Run the jobs, with a bar on a terminal and a line a job elsewhere."""
    if not todo:
        return
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        for place, (job, seconds) in enumerate(_results(todo, n_workers, lambda _job, _share: None), start=1):
            sys.stderr.write(f"{place}/{len(todo)} {job.said} {seconds:.1f}s\n")
            sys.stderr.flush()
        return
    name = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", max_width=42))
    columns = (name, BarColumn(10), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        total = bar.add_task("all runs", total=len(todo))
        one = bar.add_task("", total=100, visible=n_workers == 1)

        def show(job: Job, share: float) -> None:
            bar.update(one, description=job.said, completed=round(100 * share))

        for _job, _seconds in _results(todo, n_workers, show):
            bar.advance(total)


def _results(todo: Sequence[Job], n_workers: int, show: Callable[[Job, float], None]) -> Iterator[tuple[Job, float]]:
    if n_workers == 1:
        for job in todo:
            yield job, run_job(job, lambda share, job=job: show(job, share))
        return
    with ProcessPoolExecutor(n_workers) as pool:
        running = {pool.submit(run_job, job): job for job in todo}
        for future in as_completed(running):
            yield running[future], future.result()
