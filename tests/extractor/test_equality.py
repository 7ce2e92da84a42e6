"""Both ways give the same numbers, to the bit: a real Prometheus, and an extractor that is a process of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tests.extractor.fleet import END_S, STEP_S, Engine, detectors, history, learn
from tests.servers.extractor import NewExtractor
from tests.servers.prometheus import NewPrometheus

from foreshock.detectors.fleet import Fleet
from foreshock.engine.gather import Gatherer
from foreshock.extractor.client import ExtractorClient
from foreshock.extractor.remote import RemoteGatherer
from foreshock.features.schema import INDEX
from foreshock.prometheus.client import PrometheusClient
from foreshock.prometheus.settings import Datasource


@dataclass(slots=True)
class Pair:
    """Two engines: one that asks Prometheus, one that asks an extractor."""

    own: Engine
    remote: Engine
    gatherer: RemoteGatherer


@pytest.fixture
async def pair(new_prometheus: NewPrometheus, new_extractor: NewExtractor, tmp_path: Path) -> AsyncIterator[Pair]:
    server = new_prometheus(history())
    source = Datasource(url=server.url)
    async with PrometheusClient(source) as client:
        learnt = await learn(client, detectors(), tmp_path)
        extractor = new_extractor({"datasources": [{"url": server.url}], "artifacts": str(tmp_path)})
        async with ExtractorClient(extractor.url) as to_extractor:
            gatherer = RemoteGatherer(Gatherer(client), to_extractor, source, timeout_s=60)
            yield Pair(
                Engine.of(Gatherer(client), source, detectors(), learnt),
                Engine.of(gatherer, source, detectors(), learnt),
                gatherer,
            )


async def test_vectors_gaps_scores_and_rings_are_equal_to_the_bit(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """One metric, several with gaps and a load, groups: from an empty ring, a step later, and after an outage."""
    for at_s in (END_S, END_S + STEP_S, END_S + 10 * STEP_S):
        ours = pair.own.judge(await pair.own.gather(at_s))
        gathered = await pair.remote.gather(at_s)
        assert gathered.extractor_away == ""
        with monkeypatch.context() as patch:  # every vector must have come over the wire
            patch.setattr(Fleet, "vectors", lambda *_: pytest.fail("the engine described a window by itself"))
            theirs = pair.remote.judge(gathered)
        assert set(ours) == set(theirs) == {"one", "two", "three", "shop", "pods"}
        for name, mine in ours.items():
            assert np.isfinite(mine.vectors[..., INDEX["mean"]]).any(), name
            assert mine.vectors.tobytes() == theirs[name].vectors.tobytes(), name
            assert mine.facts.gap_steps.tobytes() == theirs[name].facts.gap_steps.tobytes(), name
            assert mine.decisions.scores.tobytes() == theirs[name].decisions.scores.tobytes(), name
        for one, other in zip(pair.own.watches, pair.remote.watches, strict=True):
            assert one.cohort.ring[one.rows].tobytes() == other.cohort.ring[other.rows].tobytes()
            assert one.filled_to_s == other.filled_to_s == at_s
    assert len(ours["pods"].rows) == 4
    assert sorted(ours["pods"].facts.gap_steps[:, 0]) == [0, 0, 0, 15]  # one pod is gone, beyond the look-back


async def test_groups_that_nobody_knew_are_found_through_the_extractor(pair: Pair) -> None:
    """A group without a model gets its row and its samples, in the same order and to the bit."""
    for engine in (pair.own, pair.remote):
        engine.watches = Engine.of(engine.gatherer, Datasource(url="http://unused"), detectors(), {}).watches
    ours, theirs = await pair.own.gather(END_S), await pair.remote.gather(END_S)
    assert (ours.failures, theirs.failures, theirs.extractor_away) == ({}, {}, "")
    for one, other in zip(pair.own.watches, pair.remote.watches, strict=True):
        assert one.row_of_group == other.row_of_group
        assert one.cohort.ring[one.rows].tobytes() == other.cohort.ring[other.rows].tobytes()
    assert len(pair.remote.watches[-1].row_of_group) == 4
