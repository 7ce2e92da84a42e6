"""The figures can be read: names stand beside their points, and on nothing else."""

from __future__ import annotations

import re
from itertools import combinations

from bench.quality.figures import scatter
from bench.quality.summary import Summary, summaries
from tests.bench.test_summary import row


def line(detector: str, false_alarms: int, found: int) -> Summary:
    each = [n < found for n in range(20)]
    (result,) = summaries(
        [row(detector=detector, false_alarms=false_alarms, segments=20, found=found, found_each=each,
             starts_s=[n * 10_000 for n in range(20)], weeks=10.0)]
    )  # fmt: skip
    return result


def test_no_name_covers_another_one() -> None:
    """Peers crowd at the bottom; a name goes where there is room, and is left out where there is none."""
    rows = [line(f"a-detector-{n}", 10 + n % 3, n % 4) for n in range(12)] + [line("foreshock", 10, 18)]
    figure = scatter(rows)
    names = re.findall(r'class="name" x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">([^<]+)<', figure)
    assert "foreshock" in {name for *_, name in names}
    assert len(names) > 6
    assert figure.count("<circle") == 13
    for one, other in combinations(names, 2):
        apart = abs(float(one[1]) - float(other[1])) >= 10
        beside = abs(left(one) - left(other)) >= 5.5 * min(len(one[3]), len(other[3]))
        assert apart or beside, (one, other)


def left(name: tuple[str, ...]) -> float:
    return float(name[0]) - (6.2 * len(name[3]) if name[2] == "end" else 0.0)
