"""A data folder of made-up cases in the format of the benchmark's data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TRAIN_ROWS, ROWS, STEP_S = 600, 1_000, 300
SEGMENT = (800, 830)


def write_folder(data: Path, folder: str = "asd", cases: tuple[str, ...] = ("one",), n_metrics: int = 3) -> Path:
    """Noise with a daily shape, and one stretch in which one metric jumps."""
    (data / folder).mkdir(parents=True)
    entries = []
    for seed, name in enumerate(cases):
        rng = np.random.default_rng(seed)
        daily = np.sin(2 * np.pi * np.arange(ROWS) / 288)[:, None]
        values = 10 + daily + rng.normal(0, 0.2, (ROWS, n_metrics))
        values[slice(*SEGMENT), 0] += 5
        labels = np.zeros(ROWS, np.int8)
        labels[slice(*SEGMENT)] = 1
        columns = {"timestamp": np.arange(ROWS)} | {
            f"m{k}": values[:, k].astype(np.float32) for k in range(n_metrics)
        } | {"is_anomaly": labels}  # fmt: skip
        pq.write_table(pa.table(columns), data / folder / f"{name}.parquet")
        segments = [{"start": SEGMENT[0], "end": SEGMENT[1]}]
        (data / folder / f"{name}.json").write_text(json.dumps({"case": name, "segments": segments}))
        entries.append({"case": name, "file": f"{name}.parquet", "rows": ROWS, "train_rows": [0, TRAIN_ROWS]})
    manifest = {"dataset": folder, "step_seconds": STEP_S, "cases": entries}
    (data / folder / "manifest.json").write_text(json.dumps(manifest))
    return data
