"""`foreshock extractor` over HTTP: who is let in, how long for, and what everything else is answered with."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from foreshock import __version__
from foreshock.core.errors import InvalidManifest
from foreshock.extractor.extract import MAX_MESSAGE_LENGTH, DroppedError, extract
from foreshock.extractor.layout import Layout, LayoutCache, OneAtATime, key_of
from foreshock.extractor.models import ModelCache, ReadsArtifacts
from foreshock.extractor.settings import ExtractorSettings
from foreshock.extractor.telemetry import Telemetry
from foreshock.extractor.warm import warm_up
from foreshock.extractor.wire import MAX_BODY_BYTES, PATH, ExtractionAnswer, ExtractionRequest, Refusal
from foreshock.manifests.problems import problems_of
from foreshock.prometheus.client import PrometheusClient
from foreshock.prometheus.settings import Datasource

BODY_WITHIN_S = 10.0  # whoever sends more slowly keeps others out
RETRY_AFTER_S = 1
_IN_THREAD_BYTES = 64 * 1024  # reading more than this would hold up the event loop
_SHARE_OF_DATASOURCE = 0.8  # of the deadline: a slow datasource is said in time, and is no slow extractor
_GONE = 499  # nobody reads it; as other servers note it
_LAYOUT_BYTES = 128 * 1024 * 1024
_REF = "#/components/schemas/{model}"

_Reason = Literal[
    "BadRequest", "TooLarge", "TooSlow", "UnknownDatasource", "Full", "DeadlinePassed", "NotReady", "Failed"
]
_REASON_OF_STATUS: Mapping[int, _Reason] = {413: "TooLarge", 408: "TooSlow", 500: "Failed"}
_SAID = {
    400: "The body is no JSON, or ends too early.",
    404: "No such datasource is configured.",
    408: f"The body did not arrive within {BODY_WITHIN_S:.0f} s.",
    413: f"The body is larger than {MAX_BODY_BYTES} bytes.",
    415: "The body is not application/json, or compressed.",
    422: "A field is wrong: every one is named with its path.",
    429: "As many requests as the datasource's concurrency are being worked on.",
    503: "As many requests as this process takes are being worked on, or it is just starting.",
    504: "The deadline passed.",
}


class _Refused(Exception):
    def __init__(self, status: int, reason: _Reason, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


class Service:
    """One process: its datasources, its caches, its places."""

    def __init__(
        self, datasources: Sequence[Datasource], artifacts: ReadsArtifacts, settings: ExtractorSettings
    ) -> None:
        self._settings = settings
        self._datasources = {source.name: source for source in datasources}
        self._clients: dict[str, PrometheusClient] = {}
        self._models = ModelCache(artifacts, settings.model_bytes)
        self._layouts = LayoutCache(_LAYOUT_BYTES)
        self._in_flight: Counter[str] = Counter()
        self._n_taken = 0
        self.telemetry = Telemetry(self._models)
        self.is_ready = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open the datasources and compile the kernels; ready from then on."""
        async with contextlib.AsyncExitStack() as stack:
            for name, source in self._datasources.items():
                self._clients[name] = await stack.enter_async_context(PrometheusClient(source))
            await asyncio.to_thread(warm_up)
            self.is_ready = True
            yield
            self.is_ready = False

    async def answer(self, request: Request) -> Response:
        """Answer one request, or refuse it with a sentence; every end is counted."""
        began_s = time.monotonic()
        try:
            with self._place():
                response = await self._answered(request, began_s)
                outcome = "Answered"
        except _Refused as refused:
            response, outcome = _refusal(refused.status, refused.reason, refused.message), refused.reason
        except DroppedError:
            response, outcome = Response(status_code=_GONE), "Dropped"
        self.telemetry.ended(outcome, time.monotonic() - began_s)
        return response

    @contextlib.contextmanager
    def _place(self) -> Any:
        """One of the places of this process; before the body is read, which may be large."""
        if not self.is_ready:
            raise _Refused(503, "NotReady", "The extractor is starting; try again in a second.")
        if self._n_taken >= self._settings.requests:
            raise _Refused(503, "Full", f"All {self._settings.requests} places are taken; try again, or add replicas.")
        self._n_taken += 1
        self.telemetry.taken(self._n_taken)
        try:
            yield
        finally:
            self._n_taken -= 1
            self.telemetry.taken(self._n_taken)

    async def _answered(self, request: Request, began_s: float) -> Response:
        body = await _read_body(request)
        asked = await asyncio.to_thread(_read, body) if len(body) > _IN_THREAD_BYTES else _read(body)
        del body
        client = self._clients.get(asked.datasource)
        if client is None:
            known = " or ".join(sorted(self._clients)) or "none"
            raise _Refused(
                404, "UnknownDatasource", f"The datasource {asked.datasource!r} is not configured here; use {known}."
            )
        with self._share_of(client.datasource):
            self.telemetry.asked(asked.datasource, sum(len(shape.detectors) for shape in asked.shapes))
            work = asyncio.ensure_future(self._extracted(asked, client, began_s))
            gone = asyncio.ensure_future(_until_gone(request))
            left_s = max(0.0, began_s + asked.deadline_s - time.monotonic())
            try:
                done, _ = await asyncio.wait({work, gone}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (work, gone):
                    task.cancel()
                await asyncio.gather(work, gone, return_exceptions=True)
            if work in done:
                return Response(work.result(), media_type="application/json")
            if gone in done:
                raise DroppedError
            raise _Refused(
                504, "DeadlinePassed", f"The answer was not there within deadline_s={asked.deadline_s:g}; work stopped."
            )

    @contextlib.contextmanager
    def _share_of(self, source: Datasource) -> Any:
        """One of the datasource's places: a request asks its queries one after another, so this bounds both."""
        if self._in_flight[source.name] >= source.concurrency:
            raise _Refused(
                429, "Full", f"Datasource {source.name} is asked by {source.concurrency} requests already; try again."
            )
        self._in_flight[source.name] += 1
        try:
            yield
        finally:
            self._in_flight[source.name] -= 1

    async def _extracted(self, asked: ExtractionRequest, client: PrometheusClient, began_s: float) -> bytes:
        key = key_of(asked)
        layout = self._layouts.take(key)
        if layout is None:
            try:
                layout = await asyncio.to_thread(Layout, asked, OneAtATime(client, time.monotonic))
            except InvalidManifest as error:
                raise _Refused(422, "BadRequest", _cut(str(error))) from error
        layout.source.ends_at_s = began_s + _SHARE_OF_DATASOURCE * asked.deadline_s
        body = await extract(asked, layout, self._models)
        self._layouts.give(key, layout)  # not where it failed or was cancelled: a thread may still write to it
        return body


def create_app(service: Service) -> FastAPI:
    """The application; its OpenAPI document is at /openapi.json."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="Foreshock extractor",
        version=__version__,
        summary="Queries Prometheus and returns feature vectors; stateless, any number of replicas.",
        lifespan=lifespan,
        docs_url=None,  # those pages load scripts from elsewhere
        redoc_url=None,
    )
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"description": words, "content": {"application/json": {"schema": {"$ref": _ref(Refusal)}}}}
        for status, words in _SAID.items()
    }
    app.add_api_route(
        PATH,
        service.answer,
        methods=["POST"],
        summary="Vectors of the last window of some detectors",
        operation_id="extract",
        response_class=JSONResponse,
        responses={
            200: {
                "description": "Samples, vectors, and what went wrong by detector.",
                "content": {"application/json": {"schema": {"$ref": _ref(ExtractionAnswer)}}},
            },
            **refusals,
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": _ref(ExtractionRequest)}}},
            }
        },
    )

    @app.get("/healthz", summary="The process runs", response_class=PlainTextResponse)
    async def healthz() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    @app.get(
        "/readyz",
        summary="Requests are taken",
        response_class=PlainTextResponse,
        responses={503: {"description": "Starting or stopping.", "content": {"text/plain": {}}}},
    )
    async def readyz() -> PlainTextResponse:
        return PlainTextResponse(*(("ok\n", 200) if service.is_ready else ("starting or stopping\n", 503)))

    @app.get("/metrics", summary="What this process says of itself", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(service.telemetry.page(), media_type=CONTENT_TYPE_LATEST)

    async def refuse(_: Request, error: Exception) -> Response:
        """No route, another method: in the same words as everything else."""
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        return _refusal(error.status_code, "BadRequest", f"{error.detail}; see /openapi.json.", headers)

    app.add_exception_handler(HTTPException, refuse)
    schema = app.openapi()
    _, definitions = models_json_schema(
        [(ExtractionRequest, "validation"), (ExtractionAnswer, "serialization"), (Refusal, "serialization")],
        ref_template=_REF,
    )
    schema.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
    return app


async def _read_body(request: Request) -> bytes:
    """The body, never more than `MAX_BODY_BYTES` of it."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" or request.headers.get("content-encoding", "identity") != "identity":
        raise _Refused(415, "BadRequest", "Send application/json, not compressed.")
    too_large = _Refused(413, "TooLarge", f"The body is larger than {MAX_BODY_BYTES} bytes; send several requests.")
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length[:20]) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise too_large
    except TimeoutError:
        raise _Refused(408, "TooSlow", f"The body did not arrive within {BODY_WITHIN_S:.0f} s.") from None
    return bytes(body)


def _read(body: bytes) -> ExtractionRequest:
    try:
        return ExtractionRequest.model_validate_json(body)
    except ValidationError as error:
        failure = error
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise _Refused(400, "BadRequest", "The body is no JSON; see /openapi.json.") from None
    problems = "\n".join(str(problem) for problem in problems_of(failure, ExtractionRequest, data, file=""))
    raise _Refused(422, "BadRequest", _cut(problems))


async def _until_gone(request: Request) -> None:
    """Return once nobody listens any more."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _refusal(status: int, reason: _Reason, message: str, headers: Mapping[str, str] | None = None) -> Response:
    said = Refusal(reason=reason, message=_cut(message))
    again = {"Retry-After": str(RETRY_AFTER_S)} if status in {429, 503} else {}
    return JSONResponse(said.model_dump(), status_code=status, headers={**again, **(headers or {})})


def _cut(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE_LENGTH else f"{message[: MAX_MESSAGE_LENGTH - 1]}…"


def _ref(model: type) -> str:
    return _REF.format(model=model.__name__)
