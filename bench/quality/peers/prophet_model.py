"""Prophet with its defaults: how far a value lies from the forecast, in widths of its own 80 % interval.

Only where there is one metric: a fit takes seconds per metric, and Prophet knows nothing of the others. Frozen only:
daily refits of it would take hours. Calibrated on the second half of the training rows, forecast from the first half.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from bench.quality.cases import Case
from bench.quality.detector import Answer, Budget, Mode, NotApplicable
from bench.quality.measure import Scores
from bench.quality.peers.base import filled
from bench.quality.peers.threshold import scale_of


@dataclass(frozen=True, slots=True)
class Forecast:
    """Two fits: half of the training rows for the threshold, all of them for the scores."""

    name: str = "prophet"
    modes: tuple[Mode, ...] = (Mode.FROZEN,)

    def scores(
        self, case: Case, mode: Mode, budgets: Sequence[Budget], progress: Callable[[float], None]
    ) -> dict[Budget, Answer]:
        """Calibrated scores of the judged rows.

        Raises:
            NotApplicable: there is more than one metric.

        """
        assert mode is Mode.FROZEN
        values = filled(case.values, case.train_rows)
        if values.shape[1] > 1:
            raise NotApplicable("run on cases of one metric only: a fit takes seconds a metric and sees no other one")
        times_s = pq.read_table(case.path, columns=["timestamp"]).column("timestamp").to_numpy()
        series = pd.DataFrame({"ds": pd.to_datetime(times_s, unit="s"), "y": values[:, 0]})
        half, first = case.train_rows // 2, case.train_rows
        held_out = _residuals(series[:half], series[half:first])
        progress(0.5)
        raw = _residuals(series[:first], series[first:])
        return {budget: Answer(scale_of(held_out, case.step_s, budget)(raw)) for budget in budgets}


def prophet() -> Any:
    """A Prophet with its defaults that says nothing while it is fitted."""
    for noisy in ("prophet.plot", "cmdstanpy"):  # cmdstanpy sets a level of its own unless there is a handler
        logging.getLogger(noisy).addHandler(logging.NullHandler())
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    from prophet import Prophet  # noqa: PLC0415 - after its loggers were told

    return Prophet()


def _residuals(train: pd.DataFrame, fresh: pd.DataFrame) -> Scores:
    forecast = prophet().fit(train).predict(fresh[["ds"]])
    width = (forecast["yhat_upper"] - forecast["yhat_lower"]).to_numpy()
    # predict sorts by time, and some files have an hour twice
    expected = pd.DataFrame({"ds": forecast["ds"], "yhat": forecast["yhat"], "width": np.maximum(width, 1e-12)})
    joined = fresh[["ds", "y"]].merge(expected.drop_duplicates("ds"), on="ds", how="left")
    return np.asarray(((joined["y"] - joined["yhat"]).abs() / joined["width"]).to_numpy(), np.float64)


PROPHET = Forecast()
