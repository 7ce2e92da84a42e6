"""Backtests on a real Prometheus: what is asked, what is found, and how one bad detector stays alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from tests.servers.prometheus import Samples, serving

from foreshock.app import backtest as module
from foreshock.app.backtest import Backtested, backtest, first_trained_on, report_of, sentence_of
from foreshock.core.clock import parse_instant
from foreshock.core.errors import QueryRejected
from foreshock.diagnosis.report import render
from foreshock.engine.schedule import phase_s
from foreshock.manifests.detector import AnomalyDetector
from foreshock.prometheus.client import PrometheusClient
from foreshock.prometheus.local_server import LocalPrometheus
from foreshock.prometheus.requests import RangeQuery
from foreshock.prometheus.responses import Matrix
from foreshock.prometheus.settings import Datasource

STEP_S = 300
START_S = 1_760_000_400
FROM_S = START_S + 2 * 86_400
TO_S = FROM_S + 6 * 3_600
FAULT_S = FROM_S + 2 * 3_600
SHOPS = ("eu", "us", "asia")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPrometheus]:
    """Two days of three shops and six hours more; four hours before the end, the queue of `eu` fills."""
    with serving(tmp_path_factory.mktemp("prometheus"), history()) as server:
        yield server


def history() -> Mapping[str, Samples]:
    times_s = np.arange(START_S, TO_S + 1, STEP_S)
    chance = np.random.default_rng(5)
    series: dict[str, Samples] = {}
    for name, level in (("queue", 50.0), ("latency", 0.2)):
        for place in SHOPS:
            values = level * (1.0 + chance.normal(0.0, 0.02, len(times_s)))
            if (name, place) == ("queue", "eu"):
                values[times_s >= FAULT_S] += 50.0
            series[f'{name}{{shop="{place}"}}'] = list(zip(times_s.tolist(), values.tolist(), strict=True))
    return series


def detector(name: str = "shop", **spec: Any) -> AnomalyDetector:
    """A detector with a short warm-up; `eu`'s two metrics unless told otherwise."""
    metrics = [{"name": each, "query": f'sum({each}{{shop="eu"}})'} for each in ("queue", "latency")]
    fields = {
        "target_service": "shop",
        "step": "5m",
        "interval": "5m",
        "training": {"window": "2d", "warm_up": "1d"},
        "algorithm": "level",
        **({} if "prometheus_query" in spec else {"metrics": metrics}),
        **spec,
    }
    return AnomalyDetector.model_validate(
        {"apiVersion": "devopsroles.com/v1", "kind": "AnomalyDetector", "metadata": {"name": name}, "spec": fields}
    )


class Listening:
    """A client that remembers what it was asked."""

    def __init__(self, client: PrometheusClient) -> None:
        self.client, self.asked = client, list[RangeQuery]()

    async def range(self, query: RangeQuery, *, deadline_s: float | None = None) -> Matrix:
        self.asked.append(query)
        return await self.client.range(query, deadline_s=deadline_s)


async def judged(
    server: LocalPrometheus, *detectors: AnomalyDetector, from_s: float = FROM_S, to_s: float = TO_S, **options: Any
) -> tuple[list[Backtested], list[str]]:
    """The results, and the texts of the queries."""
    async with PrometheusClient(Datasource(url=server.url)) as client:
        source = Listening(client)
        results = await backtest(source, detectors, from_s, to_s, cluster="test", **options)
    return results, [query.query for query in source.asked]


async def test_a_fault_is_one_alert_with_its_cause_first_and_a_sentence(shop: LocalPrometheus) -> None:
    """The JSON has exactly the contract's keys; every window between from and to is judged once."""
    (result,), _ = await judged(shop, detector())
    entry = result.to_json()
    assert list(entry) == ["namespace", "name", "verdicts", "alerts"]
    assert sum(entry["verdicts"].values()) == (TO_S - FROM_S) // STEP_S + 1
    assert entry["verdicts"]["inconclusive"] == 0
    (alert,) = entry["alerts"]
    assert list(alert) == ["started_at", "ended_at", "severity", "peak_score", "contributions"]
    assert FAULT_S <= parse_instant(alert["started_at"]) <= FAULT_S + 1800
    assert (alert["ended_at"], alert["severity"]) == (None, "warning")
    assert alert["peak_score"] > 1.0
    shares = [each["share"] for each in alert["contributions"]]
    assert alert["contributions"][0]["metric"] == "queue"
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1.0)
    assert "queue" in sentence_of(*result.alerts[0])
    assert first_trained_on(result, result.replays[0]) == (START_S, FROM_S)


async def test_a_healthy_period_raises_nothing(shop: LocalPrometheus) -> None:
    """Up to the fault all is well."""
    (result,), _ = await judged(shop, detector(), to_s=FAULT_S - STEP_S)
    assert result.to_json()["alerts"] == []
    assert result.notes == ()


async def test_each_group_is_a_model_of_its_own_and_alerts_name_it(shop: LocalPrometheus) -> None:
    """Only `eu` has a fault; the verdicts of all groups are counted together."""
    grouped = detector(prometheus_query="sum by (shop) (queue)", group_by=["shop"])
    (result,), _ = await judged(shop, grouped)
    assert [played.subject.group for played in result.replays] == [(("shop", place),) for place in sorted(SHOPS)]
    entry = result.to_json()
    assert sum(entry["verdicts"].values()) == 3 * ((TO_S - FROM_S) // STEP_S + 1)
    assert [alert["group"] for alert in entry["alerts"]] == [{"shop": "eu"}]


async def test_detectors_that_share_a_template_share_a_query(shop: LocalPrometheus) -> None:
    """Three detectors, two templates: two queries, and each gets what its own query would give."""
    metrics = ("queue", "latency")
    each = [
        detector(place, metrics=[{"name": name, "query": f'sum({name}{{shop="{place}"}})'} for name in metrics])
        for place in SHOPS
    ]
    together, asked = await judged(shop, *each)
    assert len(asked) == 2
    for alone, result in zip(each, together, strict=True):
        (own,), queries = await judged(shop, alone)
        assert len(queries) == 2
        assert own.to_json() == result.to_json()


async def test_a_merged_query_that_is_refused_is_asked_member_by_member(shop: LocalPrometheus) -> None:
    """One detector's query beyond the server's limits does not take the others with it."""

    class Strict(Listening):
        async def range(self, query: RangeQuery, *, deadline_s: float | None = None) -> Matrix:
            matrix = await super().range(query, deadline_s=deadline_s)
            if "us" in query.query:
                raise QueryRejected("query processing would load too many samples")
            return matrix

    each = [detector(place, prometheus_query=f'sum(queue{{shop="{place}"}})') for place in SHOPS]
    async with PrometheusClient(Datasource(url=shop.url)) as client:
        results = await backtest(Strict(client), each, FROM_S, TO_S, cluster="test")
    assert [result.error is None for result in results] == [True, False, True]
    assert str(results[1].error) == "default/us: queue: query processing would load too many samples"


async def test_several_series_without_group_by_is_one_sentence_with_the_fix(shop: LocalPrometheus) -> None:
    """It names the detector, the metric and two of the series; the other detector goes on."""
    results, _ = await judged(shop, detector("many", prometheus_query="queue"), detector("sound"))
    entry = results[0].to_json()
    assert entry["error"]["reason"] == "TooManySeries"
    for word in ("default/many", "queue", 'shop="asia"', 'shop="eu"', "group_by", "sum("):
        assert word in entry["error"]["message"]
    assert (entry["verdicts"], entry["alerts"]) == ({"normal": 0, "anomalous": 0, "inconclusive": 0}, [])
    assert results[1].error is None


async def test_more_groups_than_allowed_is_a_sentence(shop: LocalPrometheus) -> None:
    """`max_groups` is named with its value."""
    (result,), _ = await judged(shop, detector(prometheus_query="queue", group_by=["shop"], max_groups=2))
    assert "max_groups=2" in str(result.error)


async def test_a_rejected_query_is_said_in_prometheus_words_with_the_metric(shop: LocalPrometheus) -> None:
    """Many-to-many matching is only found by evaluating it."""
    (result,), _ = await judged(shop, detector(prometheus_query="queue * on() latency"))
    assert result.to_json()["error"]["reason"] == "QueryRejected"
    assert str(result.error).startswith("default/shop: value: datasource default: Prometheus rejects the query: ")


async def test_a_query_that_returns_nothing_is_said_and_every_window_is_inconclusive(shop: LocalPrometheus) -> None:
    """No data is neither normal nor an error."""
    (result,), _ = await judged(shop, detector(prometheus_query="nobody_exports_this"))
    assert result.error is None
    assert result.to_json()["verdicts"] == {
        "normal": 0,
        "anomalous": 0,
        "inconclusive": (TO_S - FROM_S) // STEP_S + 1,
    }
    (note,) = result.notes
    assert "the query of nobody_exports_this returned nothing" in note


async def test_too_little_history_is_said(shop: LocalPrometheus) -> None:
    """The windows before there is a model are inconclusive, and a sentence says how much is missing."""
    (result,), _ = await judged(shop, detector(training={"window": "28d", "warm_up": "7d"}))
    assert result.to_json()["verdicts"]["normal"] == 0
    (note,) = result.notes
    assert "training.warm_up asks for 7d" in note
    assert first_trained_on(result, result.replays[0]) is None


async def test_a_model_is_trained_as_soon_as_the_warm_up_is_met(shop: LocalPrometheus) -> None:
    """Not only at the next retraining."""
    from_s = START_S + 20 * 3_600
    (result,), _ = await judged(shop, detector(), from_s=from_s, to_s=FROM_S - STEP_S)
    verdicts = result.to_json()["verdicts"]
    warm_s = 0.95 * 86_400 - (from_s - START_S)  # 95 % of a day must have been measured
    assert warm_s <= verdicts["inconclusive"] * STEP_S <= warm_s + 3_600 + STEP_S
    assert verdicts["normal"] > 0
    assert result.notes == ()


async def test_judged_instants_are_those_of_production(shop: LocalPrometheus) -> None:
    """They lie on the interval's grid with the phase of the queries, whatever --from is."""
    spaced = detector(interval="15m")
    (result,), _ = await judged(shop, spaced, from_s=FROM_S + 17)
    phase = phase_s("default", [metric.query for metric in spaced.spec.named_metrics], 900, STEP_S)
    instants = [each.at_s for each in result.replays[0].judgements]
    assert {(at_s - phase) % 900 for at_s in instants} == {0}
    assert FROM_S + 17 <= instants[0] < FROM_S + 17 + 900


async def test_a_period_without_any_instant_is_said(shop: LocalPrometheus) -> None:
    """Half a minute holds no window of a detector that judges every five."""
    (result,), asked = await judged(shop, detector(), from_s=FROM_S + 10, to_s=FROM_S + 40)
    assert "no instant is judged from" in str(result.error)
    assert asked == []


async def test_many_replays_run_in_processes_and_give_the_same(
    shop: LocalPrometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a replay runs changes nothing of it; the progress ends at 1 for every detector."""
    grouped = detector(prometheus_query="sum by (shop) (queue)", group_by=["shop"])
    (here,), _ = await judged(shop, grouped)
    monkeypatch.setattr(module, "IN_PROCESS", 1)
    heard: list[tuple[str, float]] = []
    (elsewhere,), _ = await judged(shop, grouped, advance=lambda name, share: heard.append((name, share)))
    assert elsewhere.to_json() == here.to_json()
    assert [share for _, share in heard] == sorted(share for _, share in heard)
    assert heard[-1] == ("default/shop", 1.0)


async def test_the_report_shows_every_metric_in_its_band_and_the_alert(shop: LocalPrometheus) -> None:
    """The page names what the JSON names."""
    (result,), _ = await judged(shop, detector())
    sections = report_of(result)
    page = render("A backtest", FROM_S, TO_S, sections, TO_S)
    assert [metric.name for metric in sections[0].metrics] == ["queue", "latency"]
    assert np.isfinite(sections[0].metrics[0].upper).all()
    assert len(sections[0].alerts) == 1
    assert sentence_of(*result.alerts[0]).split(".")[0] in page
