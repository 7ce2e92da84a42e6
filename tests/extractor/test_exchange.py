"""Requests are as large as an extractor takes and no larger, planned once, and ask for what the rings lack."""

from __future__ import annotations

import numpy as np
import pytest
from tests.extractor.fleet import END_S, STEP_S

from foreshock.app.changes import Cohorts, watch_of
from foreshock.engine.gather import advance_rings
from foreshock.engine.watch import Watch
from foreshock.extractor.exchange import Planner
from foreshock.extractor.wire import MAX_BODY_BYTES, MAX_DETECTORS, ExtractionRequest
from foreshock.manifests.detector import AnomalyDetector
from foreshock.prometheus.settings import Datasource

SOURCE = Datasource(url="http://127.0.0.1:9")


def _watches(number: int, **spec: object) -> list[Watch]:
    cohorts = Cohorts()
    return [
        watch_of(
            AnomalyDetector.model_validate({
                "apiVersion": "devopsroles.com/v1",
                "kind": "AnomalyDetector",
                "metadata": {"name": f"svc-{k}", "namespace": "shop"},
                "spec": {"target_service": "svc", "prometheus_query": f'wait{{job="svc-{k:04}"}}', **spec},
            }),
            SOURCE, cohorts, (),
        )
        for k in range(number)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "spec"),
    [(2_500, {}), (300, {"group_by": ["pod"]}), (5, {"detection_window": "7d", "interval": "1h"})],
)
def test_every_request_is_one_that_an_extractor_takes(number: int, spec: dict[str, object]) -> None:
    """Both sides count alike, from an empty ring and in the steady state; each detector is in one request."""
    watches = _watches(number, **spec)
    for at_s in (END_S, END_S + STEP_S):
        due = [(watch, at_s) for watch in watches]
        advance_rings(due)
        exchanges, rest = Planner("default").plan(due)
        assert rest == []
        assert sorted(id(watch) for each in exchanges for watch in each.watches) == sorted(map(id, watches))
        for each in exchanges:
            body = each.body(10.0)
            asked = ExtractionRequest.model_validate_json(body)
            assert asked.at_s == at_s
            assert len(body) <= MAX_BODY_BYTES
            assert len(each.watches) <= MAX_DETECTORS
        for watch in watches:
            watch.filled(at_s)


def test_what_is_too_large_for_any_request_stays_with_the_engine() -> None:
    """Ten thousand groups of a long window: no extractor takes them, and the engine asks by itself."""
    watches = _watches(1, group_by=["pod"], max_groups=10_000, detection_window="1d")
    exchanges, rest = Planner("default").plan([(watches[0], END_S)])
    assert (exchanges, rest) == ([], [(watches[0], END_S)])


def test_the_steady_state_asks_for_one_instant_and_plans_nothing_anew() -> None:
    """The same detectors a step later: the same exchange, moved on."""
    watches, planner = _watches(3), Planner("default")
    for watch in watches:
        watch.filled(END_S - STEP_S)
    (first,), _ = planner.plan([(watch, END_S) for watch in watches])
    asked = ExtractionRequest.model_validate_json(first.body(10.0))
    assert (asked.from_s, asked.at_s, asked.n_fresh) == (END_S, END_S, 1)
    for watch in watches:
        watch.filled(END_S)
    (second,), _ = planner.plan([(watch, END_S + STEP_S) for watch in watches])
    assert second is first
    assert ExtractionRequest.model_validate_json(second.body(10.0)).at_s == END_S + STEP_S
    planner.forget()
    (third,), _ = planner.plan([(watch, END_S + STEP_S) for watch in watches])
    assert third is not first


def test_no_address_is_ever_sent() -> None:
    """A request names a datasource; where it is, the extractor's own settings say."""
    watches = _watches(2)
    (exchange,), _ = Planner("default").plan([(watch, END_S) for watch in watches])
    assert b"http" not in exchange.body(10.0)
    assert np.isclose(ExtractionRequest.model_validate_json(exchange.body(1e9)).deadline_s, 600.0)
