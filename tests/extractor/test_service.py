"""`foreshock extractor` as a process: every bad request gets one sentence, and no load is without a bound."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.extractor.fleet import END_S, STEP_S, history
from tests.servers.extractor import LocalExtractor, NewExtractor, start
from tests.servers.processes import paused
from tests.servers.prometheus import serving

from foreshock.extractor.wire import MAX_BODY_BYTES, MAX_DETECTORS, PATH
from foreshock.prometheus.local_server import LocalPrometheus

DIGEST = "ab" * 32


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPrometheus]:
    with serving(tmp_path_factory.mktemp("prometheus"), history()) as server:
        yield server


@pytest.fixture(scope="module")
def extractor(shop: LocalPrometheus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExtractor]:
    folder = tmp_path_factory.mktemp("extractor")
    running = start(folder, {"datasources": [{"url": shop.url}], "artifacts": str(folder)})
    yield running
    assert running.stop() == 0


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@dataclass(frozen=True, slots=True)
class Said:
    """One answer."""

    status: int
    headers: dict[str, str]
    body: Any


async def post(session: aiohttp.ClientSession, url: str, body: object, **headers: str) -> Said:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | {key.replace("_", "-"): value for key, value in headers.items()}
    async with session.post(f"{url}{PATH}", data=data, headers=headers) as response:
        assert response.content_type == "application/json"
        return Said(response.status, dict(response.headers), await response.json())


def request(*detectors: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """A sound request for one new sample of each detector, with `changed` fields."""
    shape = {"window_s": 1800, "detectors": list(detectors) or [detector()]}
    whole = {
        "version": 1, "datasource": "default", "step_s": STEP_S, "from_s": END_S, "at_s": END_S, "deadline_s": 20.0,
        "shapes": [shape],
    }  # fmt: skip
    return whole | changed


def detector(name: str = "shop/one", query: str = 'wait{job="one"}', **changed: Any) -> dict[str, Any]:
    return {"name": name, "metrics": [{"name": "wait", "query": query}], "groups": [{}]} | changed


def outcomes(page: str) -> dict[str, float]:
    """How often requests ended in which way; and how many have not, under the empty name."""
    found = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == "foreshock_extractor_requests_total":
                found[sample.labels["outcome"]] = sample.value
            elif sample.name == "foreshock_extractor_requests_in_flight":
                found[""] = sample.value
    return found


async def page(session: aiohttp.ClientSession, url: str, path: str = "/metrics") -> str:
    async with session.get(f"{url}{path}") as response:
        assert response.status == 200
        return await response.text()


async def until_outcomes(session: aiohttp.ClientSession, url: str, wanted: dict[str, float]) -> None:
    async with asyncio.timeout(10):
        while not wanted.items() <= outcomes(await page(session, url)).items():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)


async def test_pages_and_the_api_description_are_served(
    session: aiohttp.ClientSession, extractor: LocalExtractor
) -> None:
    """Probes, metrics and OpenAPI, without a page that loads scripts from elsewhere."""
    assert await page(session, extractor.url, "/healthz") == "ok\n"
    assert await page(session, extractor.url, "/readyz") == "ok\n"
    assert "foreshock_extractor_model_bytes" in await page(session, extractor.url)
    described = json.loads(await page(session, extractor.url, "/openapi.json"))
    assert set(described["paths"]) == {PATH, "/healthz", "/readyz", "/metrics"}
    assert {"ExtractionRequest", "ExtractionAnswer", "Refusal"} <= set(described["components"]["schemas"])
    async with session.get(f"{extractor.url}/docs") as response:
        assert response.status == 404


async def test_samples_of_a_sound_request_come_back(session: aiohttp.ClientSession, extractor: LocalExtractor) -> None:
    """One detector without a model: its one sample, no vector."""
    said = await post(session, extractor.url, request())
    assert said.status == 200
    (shape,) = said.body["shapes"]
    assert len(base64.b64decode(shape["samples"])) == 4
    assert (shape["vectors"], shape["found"], said.body["failures"]) == ("", [], [])


HUGE = "x" * 20
BAD: dict[str, tuple[object, int, str]] = {
    "no json": (b"{", 400, "The body is no JSON"),
    "empty": (b"", 400, "The body is no JSON"),
    "deep": (b"[" * 100_000, 400, "The body is no JSON"),
    "a list": ([], 422, "the document must be a mapping"),
    "nothing": ({}, 422, "version: Set version; it is required."),
    "version": (request(version=2), 422, "version: version must be 1, not 2."),
    "a url": (request(datasource="http://evil:9090"), 422, "datasource takes names the administrator configured"),
    "unknown field": (request(url="http://evil:9090"), 422, "url: Unknown field 'url'"),
    "unknown datasource": (request(datasource="other"), 404, "'other' is not configured here; use default."),
    "backwards": (request(from_s=END_S + STEP_S), 422, "at_s must be from_s or a whole number of steps after it."),
    "beside the grid": (request(from_s=END_S - 1), 422, "a whole number of steps"),
    "too far back": (request(from_s=0, at_s=END_S // STEP_S * STEP_S), 422, "from_s lies before the context"),
    "year 9999": (request(from_s=253402300799, at_s=253402300799), 422, "from_s must be at most 3"),
    "no time": (request(deadline_s=0), 422, "deadline_s must be greater than 0."),
    "promql": (
        request(detector(query="sum(")), 422, "shapes[0].detectors[0]: spec.metrics[0].query: ",
    ),
    "namespace": (request(detector(name="one")), 422, "shapes[0].detectors[0].name: "),
    "twice": (request(detector(), detector()), 422, "shapes[0].detectors[1].name: shop/one is asked for twice"),
    "no group": (request(detector(groups=[])), 422, "A detector without group_by has exactly one group"),
    "labels": (request(detector(group_by=["pod"], groups=[{}])), 422, "one value for each label of group_by"),
    "a group twice": (
        request(detector(group_by=["pod"], groups=[{"labels": ["a"]}] * 2)), 422, "A group is there twice",
    ),
    "held": (request(detector(groups=[{"model": DIGEST}])), 422, "shapes[0].held: held must be 1 rows of "),
    "base64": (
        request(shapes=[{"window_s": 1800, "detectors": [detector()], "held": "*"}]), 422, "held must be base64",
    ),
    "window": (
        request(shapes=[{"window_s": 60, "detectors": [detector()]}]), 422, "holds fewer than two steps",
    ),
    "too many detectors": (
        request(*(detector(f"shop/d{k}") for k in range(MAX_DETECTORS + 1))), 422, "must have at most 1000 entries",
    ),
    "too many groups": (
        request(*(detector(f"shop/d{k}", group_by=["pod"], groups=[], max_groups=10_000) for k in range(11))), 422,
        "more than one request may ask for",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_every_bad_request_gets_one_status_and_a_sentence(
    name: str, session: aiohttp.ClientSession, extractor: LocalExtractor
) -> None:
    """The sentence names the field, and the answer is never an echo of what was sent."""
    body, status, words = BAD[name]
    said = await post(session, extractor.url, body)
    assert said.status == status, said.body
    assert words in said.body["message"]
    assert set(said.body) == {"reason", "message"}
    assert len(said.body["message"]) <= 2000


async def test_other_types_methods_and_paths_are_refused_in_the_same_words(
    session: aiohttp.ClientSession, extractor: LocalExtractor
) -> None:
    """415, 405 with Allow, 404."""
    assert (await post(session, extractor.url, request(), Content_Type="text/plain")).status == 415
    assert (await post(session, extractor.url, request(), Content_Encoding="gzip")).status == 415
    async with session.get(f"{extractor.url}{PATH}") as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")
        assert (await response.json())["reason"] == "BadRequest"
    async with session.get(f"{extractor.url}/v0/vectors") as response:
        assert (response.status, (await response.json())["reason"]) == (404, "BadRequest")


async def test_a_body_beyond_the_limit_is_not_read(session: aiohttp.ClientSession, extractor: LocalExtractor) -> None:
    """Neither one that says so, nor one that does not."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(extractor.url.rpartition(":")[2]))
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {MAX_BODY_BYTES + 1}"
    writer.write(f"{head}\r\n\r\n".encode())
    assert b" 413 " in await asyncio.wait_for(reader.readline(), 10)
    writer.close()

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 2**20 + 1):
            yield b" " * 2**20

    headers = {"Content-Type": "application/json"}
    with contextlib.suppress(aiohttp.ClientOSError):  # it may close before all was sent
        async with session.post(f"{extractor.url}{PATH}", data=chunks(), headers=headers) as response:
            assert response.status == 413
    assert outcomes(await page(session, extractor.url))["TooLarge"] >= 2


async def test_what_prometheus_refuses_is_said_of_that_detector_alone(
    session: aiohttp.ClientSession, extractor: LocalExtractor
) -> None:
    """Typed failures by detector: a rejected query, several series; the third goes on. Unknown models by digest."""
    asked = request(
        detector("shop/one", groups=[{"model": DIGEST}]),
        detector("shop/many", 'wait * on() group_left wait{job="one"} / on(nothing) wait'),
        detector("shop/several", "queue"),
    )
    context = 6 * 30 + 5 + 5 + 1
    asked["shapes"][0]["held"] = base64.b64encode(b"\0\0\x80\x3f" * (context - 1)).decode()
    said = await post(session, extractor.url, asked)
    assert said.status == 200, said.body
    assert [(each["detector"], each["reason"]) for each in said.body["failures"]] == [
        (1, "QueryRejected"), (2, "TooManySeries"),
    ]  # fmt: skip
    assert "set group_by, or aggregate with sum()" in said.body["failures"][1]["message"]
    assert [(each["digest"], each["reason"]) for each in said.body["unusable"]] == [(DIGEST, "ArtifactMissing")]


async def test_a_hung_datasource_is_said_before_the_deadline(
    session: aiohttp.ClientSession, extractor: LocalExtractor, shop: LocalPrometheus
) -> None:
    """It is no slow extractor: an answer comes in time, and says whose fault it is."""
    with paused(shop):
        async with asyncio.timeout(5):
            said = await post(session, extractor.url, request(deadline_s=1.0))
    assert said.status == 200
    assert [each["reason"] for each in said.body["failures"]] == ["DatasourceUnavailable"]


@pytest.mark.parametrize(("limits", "status"), [({"requests": 1}, 503), ({"requests": 8}, 429)])
async def test_one_request_too_many_is_told_to_come_back(
    limits: dict[str, int],
    status: int,
    session: aiohttp.ClientSession,
    shop: LocalPrometheus,
    new_extractor: NewExtractor,
) -> None:
    """503 where the process is full, 429 where the datasource is, both with Retry-After; probes go on meanwhile."""
    extractor = new_extractor({"datasources": [{"url": shop.url, "concurrency": 1}], "extractor": limits})
    with paused(shop):
        first = asyncio.create_task(post(session, extractor.url, request(deadline_s=30.0)))
        await until_outcomes(session, extractor.url, {"": 1.0})
        said = await post(session, extractor.url, request())
        assert (said.status, said.headers["Retry-After"], said.body["reason"]) == (status, "1", "Full")
        assert await page(session, extractor.url, "/readyz") == "ok\n"
    assert (await first).status == 200


async def test_work_that_nobody_waits_for_is_dropped(
    session: aiohttp.ClientSession, shop: LocalPrometheus, new_extractor: NewExtractor
) -> None:
    """Who asked has gone: the place is free at once, and not after the deadline."""
    extractor = new_extractor({"datasources": [{"url": shop.url}]})
    with paused(shop):
        asked = asyncio.create_task(post(session, extractor.url, request(deadline_s=60.0)))
        await until_outcomes(session, extractor.url, {"": 1.0})
        asked.cancel()
        await until_outcomes(session, extractor.url, {"": 0.0, "Dropped": 1.0})


async def test_a_store_that_hangs_ends_with_the_deadline(
    session: aiohttp.ClientSession, shop: LocalPrometheus, new_extractor: NewExtractor, tmp_path: Path
) -> None:
    """A model that cannot be read in time: 504, and the process answers the next one."""
    (tmp_path / DIGEST).mkdir()
    os.mkfifo(tmp_path / DIGEST / "manifest.json")  # opening it waits for a writer that does not come
    extractor = new_extractor({"datasources": [{"url": shop.url}], "artifacts": str(tmp_path)})
    asked = request(detector(groups=[{"model": DIGEST}]), from_s=END_S - 190 * STEP_S, deadline_s=2.0)
    said = await post(session, extractor.url, asked)
    try:
        assert (said.status, said.body["reason"]) == (504, "DeadlinePassed")
        assert (await post(session, extractor.url, request())).status == 200
    finally:
        os.close(os.open(tmp_path / DIGEST / "manifest.json", os.O_WRONLY))


async def test_sigterm_finishes_what_is_under_way(
    session: aiohttp.ClientSession, shop: LocalPrometheus, new_extractor: NewExtractor
) -> None:
    """The request that was taken is answered, and the process ends with 0."""
    extractor = new_extractor({"datasources": [{"url": shop.url}]})
    with paused(shop):
        asked = asyncio.create_task(post(session, extractor.url, request(deadline_s=30.0)))
        await until_outcomes(session, extractor.url, {"": 1.0})
        extractor.signal(signal.SIGTERM)
    assert (await asked).status == 200
    assert extractor.stop() == 0


async def test_an_address_that_is_taken_is_one_sentence(extractor: LocalExtractor, tmp_path: Path) -> None:
    """No traceback, exit code 1."""
    port = int(extractor.url.rpartition(":")[2])
    with pytest.raises(AssertionError, match=rf"127\.0\.0\.1:{port} cannot be listened on .* pass another --listen"):
        start(tmp_path, {"datasources": [{"url": "http://127.0.0.1:9"}]}, port=port)
    assert not re.search("Traceback", (tmp_path / "log.jsonl").read_text())
