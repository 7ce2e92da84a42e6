"""The engine never needs an extractor: it falls back, says so, returns, and its load stays bounded meanwhile."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.extractor.fleet import END_S, STEP_S, Engine, detectors, history, learn
from tests.servers.extractor import LocalExtractor, NewExtractor
from tests.servers.fault_proxy import (
    Answer,
    Connection,
    Fault,
    FaultProxy,
    answering,
    black_hole,
    cut_after,
    garbage,
    rewriting,
    rewriting_body,
)
from tests.servers.prometheus import serving
from tests.servers.round_robin import round_robin

from foreshock.engine.gather import Gatherer
from foreshock.extractor.client import ExtractorClient
from foreshock.extractor.remote import FIRST_PAUSE_S, LONGEST_PAUSE_S, RemoteGatherer, most_in_flight
from foreshock.manifests.detector import AnomalyDetector
from foreshock.prometheus.client import PrometheusClient
from foreshock.prometheus.local_server import LocalPrometheus
from foreshock.prometheus.settings import Datasource

NAMES = {"one", "two", "three", "shop", "pods"}


class Clock:
    """Monotonic time that the test moves."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalPrometheus]:
    with serving(tmp_path_factory.mktemp("prometheus"), history()) as server:
        yield server


class Shop:
    """A Prometheus, trained models, and engines that go through an extractor under an address of the test's choice."""

    def __init__(self, server: LocalPrometheus, client: PrometheusClient, artifacts: Path) -> None:
        self.server, self.client, self.artifacts = server, client, artifacts
        self.source = client.datasource
        self.clock = Clock()
        self.learnt: dict = {}

    @property
    def settings(self) -> dict[str, object]:
        return {"datasources": [{"url": self.server.url}], "artifacts": str(self.artifacts)}

    def remote(self, client: ExtractorClient, *, timeout_s: float = 30) -> Engine:
        gatherer = RemoteGatherer(
            Gatherer(self.client), client, self.source,
            timeout_s=timeout_s, jitter=lambda: 1.0, monotonic_s=self.clock,
        )  # fmt: skip
        return Engine.of(gatherer, self.source, detectors(), self.learnt)

    async def own_vectors(self, at_s: int) -> dict[str, bytes]:
        engine = Engine.of(Gatherer(self.client), self.source, detectors(), self.learnt)
        return _vectors(engine, await engine.gather(at_s))


@pytest.fixture
async def made(shop: LocalPrometheus, tmp_path: Path) -> AsyncIterator[Shop]:
    async with PrometheusClient(Datasource(url=shop.url)) as client:
        made = Shop(shop, client, tmp_path)
        made.learnt = await learn(client, detectors(), tmp_path)
        yield made


def _vectors(engine: Engine, gathered: object) -> dict[str, bytes]:
    return {name: judged.vectors.tobytes() for name, judged in engine.judge(gathered).items()}


async def test_a_killed_extractor_is_done_without_at_once_and_used_again_when_it_is_back(
    made: Shop, new_extractor: NewExtractor
) -> None:
    """SIGKILL: the very cycle is judged by the engine itself, on the same numbers, and says why."""
    extractor = new_extractor(made.settings)
    port = int(extractor.url.rpartition(":")[2])
    async with ExtractorClient(extractor.url) as client:
        engine = made.remote(client)
        first = await engine.gather(END_S)
        assert (first.extractor_away, bool(first.described)) == ("", True)
        extractor.kill()
        second = await engine.gather(END_S + STEP_S)
        assert "is not available: it takes no connection" in second.extractor_away
        assert (second.failures, second.described) == ({}, {})
        assert _vectors(engine, second) == await made.own_vectors(END_S + STEP_S)
        new_extractor(made.settings, port=port)
        third = await engine.gather(END_S + 2 * STEP_S)
        assert third.extractor_away  # it is not asked again so soon
        made.clock.now_s += FIRST_PAUSE_S
        fourth = await engine.gather(END_S + 3 * STEP_S)
        assert (fourth.extractor_away, bool(fourth.described)) == ("", True)
        assert _vectors(engine, fourth) == await made.own_vectors(END_S + 3 * STEP_S)


async def test_a_hung_extractor_costs_one_timeout_and_then_only_probes(made: Shop, new_extractor: NewExtractor) -> None:
    """SIGSTOP: its port still accepts; after the time-out the engine goes on, and looks again at growing intervals."""
    extractor = new_extractor(made.settings)
    async with ExtractorClient(extractor.url) as client:
        engine = made.remote(client, timeout_s=30)
        assert (await engine.gather(END_S)).extractor_away == ""
        engine.gatherer._timeout_s = 1.0  # a machine that is busy must not look like a hung extractor before
        extractor.signal(signal.SIGSTOP)
        try:
            away = await engine.gather(END_S + STEP_S)
            assert "it did not answer in time" in away.extractor_away
            assert _vectors(engine, away) == await made.own_vectors(END_S + STEP_S)
            pauses = []
            for _ in range(6):
                pauses.append(engine.gatherer._try_at_s - made.clock.now_s)
                made.clock.now_s = engine.gatherer._try_at_s
                assert not await engine.gatherer._is_there()
            assert pauses[:2] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S]
            assert pauses[-1] == LONGEST_PAUSE_S
        finally:
            extractor.signal(signal.SIGCONT)
        engine.gatherer._timeout_s = 30.0
        made.clock.now_s = engine.gatherer._try_at_s
        assert (await engine.gather(END_S + 2 * STEP_S)).extractor_away == ""


def _of_version(body: bytes, **changed: str) -> bytes:
    return json.dumps({**json.loads(body), **changed}).encode()


FAULTS: dict[str, tuple[Fault, str]] = {
    "500": (answering(500, b"oops"), "it answers 500: something that is not its API"),
    "html": (answering(200, b"<html>"), "its answer is not that of this version of an extractor"),
    "no-http": (garbage(b"\x00\xffnonsense\r\n\r\n"), "it does not speak HTTP as expected"),
    "cut": (cut_after(2000), "its answer broke off"),
    "full": (answering(503, b'{"reason":"Full","message":"All places are taken."}'), "503: All places are taken."),
    "silence": (black_hole, "it did not answer in time"),
    "redirect": (answering(302, b"", Location="http://127.0.0.1:1/"), "it answers 302"),
    "version": (
        rewriting_body(lambda body: _of_version(body, foreshock="9.9.9")), "it is of version 9.9.9 and this is"
    ),
    "features": (rewriting_body(lambda body: _of_version(body, features="0" * 16)), "run one version of both"),
    "other-request": (
        rewriting_body(lambda body: json.dumps({**json.loads(body), "shapes": []}).encode()),
        "answers another request than the one that was asked",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def extractor_of_shop(shop: LocalPrometheus, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalExtractor]:
    from tests.servers.extractor import start

    folder = tmp_path_factory.mktemp("extractor")
    running = start(folder, {"datasources": [{"url": shop.url}], "artifacts": str(folder / "models")})
    yield running
    running.stop()


@pytest.mark.parametrize("name", FAULTS)
async def test_whatever_an_extractor_answers_the_cycle_is_judged(
    name: str, made: Shop, extractor_of_shop: LocalExtractor
) -> None:
    """5xx, garbage, another version, silence: one sentence, and the numbers of the engine's own way."""
    fault, words = FAULTS[name]
    async with FaultProxy(extractor_of_shop.url) as proxy, ExtractorClient(proxy.url, sleep=_at_once) as client:
        proxy.fault = fault
        engine = made.remote(client, timeout_s=1 if name == "silence" else 20)
        gathered = await engine.gather(END_S)
        assert words in gathered.extractor_away
        assert proxy.url in gathered.extractor_away or "answers another request" in words
        assert (gathered.failures, gathered.described) == ({}, {})
        assert _vectors(engine, gathered) == await made.own_vectors(END_S)


async def _at_once(_: float) -> None:
    await asyncio.sleep(0)


async def test_a_model_that_the_extractor_cannot_read_is_described_by_the_engine(
    made: Shop, extractor_of_shop: LocalExtractor
) -> None:
    """An artifact folder that is not shared costs time and no verdict."""
    async with ExtractorClient(extractor_of_shop.url) as client:
        engine = made.remote(client)
        gathered = await engine.gather(END_S)
        assert gathered.failures == {}
        assert gathered.described == {}
        assert "cannot use" in gathered.extractor_away
        assert _vectors(engine, gathered) == await made.own_vectors(END_S)


async def test_one_replica_of_two_may_die(made: Shop, new_extractor: NewExtractor) -> None:
    """Behind one address: a refused connection is tried again and meets the other; no cycle falls back."""
    replicas = [new_extractor(made.settings) for _ in range(2)]
    async with round_robin([each.url for each in replicas]) as url, ExtractorClient(url) as client:
        engine = made.remote(client)
        assert (await engine.gather(END_S)).extractor_away == ""
        replicas[0].kill()
        for k in range(1, 4):
            gathered = await engine.gather(END_S + k * STEP_S)
            assert (gathered.extractor_away, gathered.failures) == ("", {})
            assert gathered.described
        assert _vectors(engine, gathered) == await made.own_vectors(END_S + 3 * STEP_S)


def _slow(pause_s: float) -> Fault:
    """One connection a request, so that connections count requests."""
    through = rewriting(lambda answer: Answer(answer.status, answer.body, answer.headers))

    async def fault(connection: Connection) -> None:
        await asyncio.sleep(pause_s)
        await through(connection)

    return fault


async def test_load_on_the_datasource_is_bounded_however_many_extractors_there_are(
    made: Shop, new_extractor: NewExtractor
) -> None:
    """Twelve requests of three queries each over three extractors: never more than three queries at a time."""
    manifests = [_of_window(f"{minutes}m") for minutes in range(10, 22)]
    async with FaultProxy(made.server.url) as counted:
        counted.fault = _slow(0.05)
        settings = {**made.settings, "datasources": [{"url": counted.url}]}
        replicas = [new_extractor(settings) for _ in range(3)]
        async with round_robin([each.url for each in replicas]) as url, ExtractorClient(url) as client:
            gatherer = RemoteGatherer(Gatherer(made.client), client, made.source, timeout_s=30)
            engine = Engine.of(gatherer, made.source, manifests, {})
            gathered = await engine.gather(END_S)
            assert (gathered.extractor_away, gathered.failures) == ("", {})
        assert gatherer.max_in_flight == made.source.concurrency - 1 == 3
        assert counted.connections == 12 * 3
        assert 1 < counted.peak_connections <= 3


async def test_namespaces_that_are_told_apart_share_that_bound(made: Shop, new_extractor: NewExtractor) -> None:
    """Three gatherers of one datasource: together no more than three queries at a time, each no more than two."""
    apart = made.source.model_copy(update={"namespace_label": "job"})  # of this test's history
    manifests = [_of_window(f"{minutes}m") for minutes in range(10, 14)]
    peaks = []
    for n_gatherers in (1, 3):
        async with FaultProxy(made.server.url) as counted:
            counted.fault = _slow(0.05)
            settings = {**made.settings, "datasources": [{"url": counted.url}]}
            replicas = [new_extractor(settings) for _ in range(2)]
            async with round_robin([each.url for each in replicas]) as url, ExtractorClient(url) as client:
                places = asyncio.Semaphore(most_in_flight(apart))
                engines = [
                    Engine.of(
                        RemoteGatherer(Gatherer(made.client), client, apart, timeout_s=30, places=places),
                        made.source, manifests, {},
                    )
                    for _ in range(n_gatherers)
                ]  # fmt: skip
                found = await asyncio.gather(*(each.gather(END_S) for each in engines))
                assert [each.extractor_away for each in found] == [""] * n_gatherers
            peaks.append(counted.peak_connections)
    assert peaks[0] <= 2
    assert 2 < peaks[1] <= 3


def _of_window(window: str) -> AnomalyDetector:
    like = next(each for each in detectors() if each.metadata.name == "shop").model_dump(mode="json", by_alias=True)
    like["metadata"]["name"] = f"shop-{window}"
    like["spec"]["detection_window"] = window
    return AnomalyDetector.model_validate(like)
