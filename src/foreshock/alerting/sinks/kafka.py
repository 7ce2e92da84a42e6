"""The `kafka` sink: each event as one record, acknowledged by all replicas, in order within its incident.

librdkafka has threads of its own and never blocks the event loop: `produce` only queues, one thread of ours hears the
reports. Its queue is small, because the outbox is what keeps events.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import Any, Final, Literal

from confluent_kafka import KafkaError, KafkaException, Producer
from pydantic import Field

from foreshock.alerting.sinks.access import Tls, read_password
from foreshock.alerting.sinks.base import BaseSinkSettings, one_line
from foreshock.core.access import Login
from foreshock.core.errors import SinkRejected, SinkUnavailable

CONTENT_TYPE: Final = b"application/cloudevents+json; charset=UTF-8"
_POLL_S: Final = 0.1
_CLOSED_WITHIN_S: Final = 2.0
_QUEUED_MESSAGES: Final = 10_000
# No later try can help these; a missing topic or right can be mended, and the outbox waits for that
_REFUSED: Final = frozenset({
    KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG, KafkaError.INVALID_MSG_SIZE, KafkaError.INVALID_RECORD,
    KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT, KafkaError.POLICY_VIOLATION,
})  # fmt: skip
_SILENT = logging.getLogger("foreshock.kafka")  # what librdkafka says; its errors come back with each record
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


class Sasl(Login):
    """How the producer logs in; without `tls` the password travels as the mechanism sends it."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"


class KafkaSettings(BaseSinkSettings):
    """`{name: bus, type: kafka, bootstrap_servers: 'kafka-0:9092,kafka-1:9092', topic: anomalies}`."""

    type: Literal["kafka"] = "kafka"
    bootstrap_servers: str = Field(
        min_length=1, max_length=2_048, pattern=r"^[^\s,@/]+:\d{1,5}(,\s*[^\s,@/]+:\d{1,5})*$",
        description="host:port of some brokers, separated by commas.",
    )  # fmt: skip
    topic: str = Field(min_length=1, max_length=249, pattern=r"^[a-zA-Z0-9._-]+$", description="It must exist.")
    tls: Tls | None = Field(None, description="TLS with these files; {} trusts the system's authorities.")
    sasl: Sasl | None = Field(None, description="mechanism, username, password_file.")
    timeout_s: float = Field(30.0, ge=1, le=300, description="How long one try may take, in seconds.")


class KafkaSink:
    """Delivered means acknowledged by all in-sync replicas. A try that timed out may have arrived all the same."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._connection: _Connection | None = None
        self._opening = asyncio.Lock()

    def __repr__(self) -> str:
        return f"KafkaSink(name={self.name!r}, topic={self._settings.topic!r})"

    @property
    def name(self) -> str:
        return self._settings.name

    async def send(self, event: dict[str, Any], *, event_id: str) -> None:
        """Produce one record with the incident as key.

        Raises:
            SinkUnavailable: no broker acknowledged it in time, or the queue is full.
            SinkRejected: the broker will never take this record.

        """
        connection = await self._open()
        try:
            await connection.produce(
                one_line(event, ascii_only=False).encode(),
                key=event_id.partition("/")[0].encode(),
                headers={"content-type": CONTENT_TYPE, "event_id": event_id},
            )
        except BufferError as error:
            raise SinkUnavailable(f"{self._label} has a full queue.") from error
        except KafkaException as error:
            raise self._judged(error.args[0], connection) from error

    async def close(self) -> None:
        """Forget what no broker has acknowledged, which the outbox keeps; calling it twice is harmless."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.to_thread(connection.close)

    async def _open(self) -> _Connection:
        async with self._opening:
            if self._connection is not None and self._connection.is_spent:
                await self.close()
            if self._connection is None:
                configuration = self._configuration()
                try:
                    self._connection = await asyncio.to_thread(
                        _Connection, configuration, self._settings.topic, asyncio.get_running_loop()
                    )
                except KafkaException as error:  # a file of `tls` that is none, for example
                    raise SinkUnavailable(f"{self._label} cannot be set up: {error.args[0].str()}") from error
            return self._connection

    def _configuration(self) -> dict[str, Any]:
        """Librdkafka's own names; the files are read when a connection is opened."""
        settings = self._settings
        configuration: dict[str, Any] = {
            "bootstrap.servers": settings.bootstrap_servers,
            "client.id": "foreshock",
            "enable.idempotence": True,  # means acks=all, at most five in flight, and order within a partition
            "acks": "all",
            "message.timeout.ms": round(settings.timeout_s * 1_000),
            "queue.buffering.max.messages": _QUEUED_MESSAGES,
            "linger.ms": 5,
            "topic.metadata.propagation.max.ms": 2_000,  # how long a missing topic counts as one that is being made
            "reconnect.backoff.max.ms": 1_000,
            "partitioner": "murmur2_random",  # as Java's clients
            "compression.type": "lz4",
            "security.protocol": _protocol(settings),
        }
        if settings.tls is not None:
            files = {
                "ssl.ca.location": settings.tls.ca_file,
                "ssl.certificate.location": settings.tls.cert_file,
                "ssl.key.location": settings.tls.key_file,
            }
            configuration |= {key: str(file) for key, file in files.items() if file is not None}
        if settings.sasl is not None:
            configuration |= {
                "sasl.mechanism": settings.sasl.mechanism,
                "sasl.username": settings.sasl.username,
                "sasl.password": read_password(self.name, settings.sasl),
            }
        return configuration

    def _judged(self, error: KafkaError, connection: _Connection) -> SinkUnavailable | SinkRejected:
        if error.code() in _REFUSED:
            return SinkRejected(f"{self._label} refuses this event: {error.name()}.")
        if error.fatal():
            connection.is_spent = True
        last = f" ({connection.trouble})" if connection.trouble else ""
        return SinkUnavailable(f"{self._label} did not take it: {error.name()}{last}.")

    @property
    def _label(self) -> str:
        return f"Sink {self.name!r} with topic {self._settings.topic!r}"


class _Connection:
    """A producer with the thread that hears its reports; a spent one is closed, and the next one reads the secrets."""

    def __init__(self, configuration: dict[str, Any], topic: str, loop: asyncio.AbstractEventLoop) -> None:
        self.trouble = ""  # the code of the last error that concerns the connection, never a text of the library
        self.is_spent = False
        self._topic, self._loop = topic, loop
        self._producer = Producer({**configuration, "error_cb": self._error}, logger=_SILENT)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._hear, name="kafka-reports", daemon=True)
        self._thread.start()

    async def produce(self, value: bytes, *, key: bytes, headers: dict[str, str | bytes | None]) -> None:
        """Return once all in-sync replicas have it; raises KafkaException, or BufferError where the queue is full."""
        done: asyncio.Future[KafkaError | None] = self._loop.create_future()

        def reported(error: KafkaError | None, _message: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(_settle, done, error)

        self._producer.produce(self._topic, value=value, key=key, headers=headers, on_delivery=reported)
        error = await done
        if error is not None:
            raise KafkaException(error)
        self.trouble = ""

    def close(self) -> None:
        self._producer.purge()
        self._producer.flush(_CLOSED_WITHIN_S)
        self._ends.set()
        self._thread.join(_CLOSED_WITHIN_S)

    def _hear(self) -> None:
        while not self._ends.is_set():
            self._producer.poll(_POLL_S)

    def _error(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self.trouble:  # noqa: SLF001 - the library's own name
            self.trouble = error.name()
        if error.fatal() or error.code() in {KafkaError._AUTHENTICATION, KafkaError._SSL}:  # noqa: SLF001
            self.is_spent = True


def _settle(done: asyncio.Future[KafkaError | None], error: KafkaError | None) -> None:
    if not done.done():
        done.set_result(error)


def _protocol(settings: KafkaSettings) -> str:
    if settings.sasl is not None:
        return "SASL_SSL" if settings.tls is not None else "SASL_PLAINTEXT"
    return "SSL" if settings.tls is not None else "PLAINTEXT"
