"""Print every figure of the benchmark in one table: a fleet beside the plain pipeline and through an
extractor, the way of an alert, the forest beside its peers.

python -m bench.main
"""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version

from bench.row import Row

from bench import delivery, extractor, fleet, forest

LIBRARIES = ("numpy", "numba", "aiohttp", "pandas", "scikit-learn", "isotree")


def main() -> None:
    """Run all parts, one after the other; takes seven minutes on an idle machine."""
    print("python -m bench.main")
    print(f"Python {platform.python_version()}, {_prometheus_version()} on GOMAXPROCS=1, {os.cpu_count()} cores")
    print(", ".join(f"{name} {version(name)}" for name in LIBRARIES))
    print(f"\n{'':<53}{'median':>12} {'unit':<6}{'range':>20}{'x ours':>8}")
    print(f"CPU per detector of a steady cycle, {fleet.DETECTORS:,} detectors of one template, {fleet.ROUNDS} cycles")
    _print(fleet.run())
    print(
        f"The same through an extractor, {extractor.DETECTORS:,} detectors with a model each, {extractor.ROUNDS} cycles"
    )
    _print(extractor.run())
    print(f"How late an alert is, {delivery.DETECTORS * delivery.GROUPS} alerts with an interval of a minute")
    _print(delivery.run())
    print(f"The packed forest and its peers, {forest.N_TREES} trees of {forest.SAMPLE_SIZE}")
    _print(forest.run())


def _print(rows: list[Row]) -> None:
    for row in rows:
        spread = "" if row.low is None or row.high is None else f"{_short(row.low)} - {_short(row.high)}"
        ratio = "" if row.ratio is None else _short(row.ratio)
        print(f"{row.name:<53}{_short(row.value):>12} {row.unit:<6}{spread:>20}{ratio:>8}", flush=True)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _prometheus_version() -> str:
    said = subprocess.run(["prometheus", "--version"], capture_output=True, text=True, check=True)
    return " ".join((said.stdout or said.stderr).split()[:3]).replace(",", "")


if __name__ == "__main__":
    main()
