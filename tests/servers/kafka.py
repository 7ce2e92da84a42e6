"""A real Kafka broker in KRaft mode on free loopback ports: one for the whole run, a topic for each test."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from tests.servers.binaries import require
from tests.servers.certificates import Authority, pkcs8
from tests.servers.fault_proxy import FaultProxy
from tests.servers.processes import STARTS, Breakable, Server, ServerError, free_port, launch, until

READY_WITHIN_S = 90.0
FETCH = Path(__file__).parents[2] / "tools/kafka/fetch"
PARTITIONS = 3
_PORT_TAKEN = "Address already in use"


@dataclass(frozen=True, slots=True)
class Record:
    """A record as a consumer sees it."""

    key: str
    value: bytes
    headers: dict[str, str]
    partition: int
    offset: int


@dataclass(slots=True)
class Kafka(Breakable):
    """A running broker; what it acknowledged is still there after `kill` and `restart`."""

    folder: Path
    bootstrap_servers: str
    server: Server
    proxied: tuple[int, int]  # the port behind, and that of a proxy, to which clients of it are sent
    secure_servers: str  # with TLS by `authority`, and PLAIN for `USER`
    authority: Path
    _command: tuple[str, ...]

    @property
    def pid(self) -> int:
        return self.server.pid

    def proxy(self) -> FaultProxy:
        """A fault proxy before it, for clients that begin at its address; one at a time."""
        behind, before = self.proxied
        return FaultProxy(f"http://127.0.0.1:{behind}", port=before)

    def new_topic(self) -> str:
        """Make a topic with a random name and three partitions."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        admin = self._admin()  # kept until the answer is there: it ends with its last name
        made = admin.create_topics([NewTopic(name, PARTITIONS, 1)])
        made[name].result(30)
        return name

    def records(self, topic: str) -> list[Record]:
        """All that the topic holds now, partition after partition, each in its order."""
        consumer = Consumer({
            "bootstrap.servers": self.bootstrap_servers, "group.id": uuid.uuid4().hex, "enable.auto.commit": False,
            "fetch.wait.max.ms": 20,
        })  # fmt: skip
        try:
            ends: dict[int, int] = {}
            begins: list[TopicPartition] = []
            for number in range(PARTITIONS):
                low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=30)
                if low < high:
                    ends[number] = high
                    begins.append(TopicPartition(topic, number, low))
            consumer.assign(begins)
            found = []
            ends_at_s = time.monotonic() + 30
            while ends:
                message = consumer.poll(0.5)
                if message is not None and message.error() is None:
                    headers = {name: value.decode() for name, value in message.headers() or []}
                    number, offset = message.partition(), message.offset()
                    found.append(Record(message.key().decode(), message.value(), headers, number, offset))
                    if offset + 1 >= ends.get(number, offset + 1):
                        ends.pop(number, None)
                if time.monotonic() > ends_at_s:
                    raise ServerError(f"{topic} could not be read to its end")
            return sorted(found, key=lambda one: (one.partition, one.offset))
        finally:
            consumer.close()

    def restart(self) -> None:
        """Start it again on the same ports; call it in a thread that outlives the server."""
        self.server.stop()
        self.server = launch(self._command, self.folder / "kafka.log")
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Until it answers who it is: an open port says nothing."""
        until(self._answers, within_s=READY_WITHIN_S, what="Kafka answers", server=self.server)

    def _answers(self) -> bool:
        try:
            return bool(self._admin().list_topics(timeout=2).brokers)
        except KafkaException:
            return False

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Kafka]:
    """A fresh broker in `folder`."""
    jars = _jars()
    authority = Authority(folder, "authority")
    pair = authority.server("kafka")
    (folder / "kafka.pem").write_bytes(pkcs8(pair) + pair.certificate.read_bytes())
    for _ in range(STARTS):
        ports = _Ports(*(free_port() for _ in range(5)))
        properties = folder / "server.properties"
        properties.write_text(_properties(folder, ports))
        java = ("java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{jars}/*")
        if not (folder / "data/meta.properties").exists():
            said = subprocess.run(
                [*java, "-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool", "format", "-t", _IDENTITY,
                 "-c", str(properties)],
                capture_output=True, check=False,
            )  # fmt: skip
            if said.returncode:
                raise ServerError(f"Kafka could not format {folder}: {said.stderr[-500:]!r}")
        command = (*java, "-XX:TieredStopAtLevel=1", "-Xms128m", "-Xmx384m", "kafka.Kafka", str(properties))
        kafka = Kafka(
            folder, f"127.0.0.1:{ports.direct}", launch(command, folder / "kafka.log"), (ports.behind, ports.proxy),
            f"127.0.0.1:{ports.secure}", authority.certificate, command,
        )  # fmt: skip
        try:
            kafka.wait_until_ready()
        except BaseException as error:
            kafka.server.stop()
            if isinstance(error, ServerError) and _PORT_TAKEN in str(error):
                continue
            raise
        try:
            yield kafka
        finally:
            kafka.server.kill()  # a broker that is asked to end takes its time
        return
    raise ServerError(f"every one of {STARTS} free ports was taken before Kafka listened on it")


USER, PASSWORD = "foreshock", "s3cr3t-of-the-tests"
_IDENTITY = "Zm9yZXNob2NrLXRlc3RzLQ"  # 16 bytes in Kafka's base64


class _Ports(NamedTuple):
    direct: int
    behind: int  # a proxy
    proxy: int
    secure: int
    controller: int


def _properties(folder: Path, ports: _Ports) -> str:
    single = (
        "offsets.topic.replication.factor", "offsets.topic.num.partitions", "transaction.state.log.replication.factor",
        "transaction.state.log.min.isr", "transaction.state.log.num.partitions",
        "share.coordinator.state.topic.replication.factor", "share.coordinator.state.topic.min.isr",
    )  # fmt: skip
    lines = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{ports.controller}",
        "listeners": f"PLAINTEXT://127.0.0.1:{ports.direct},PROXIED://127.0.0.1:{ports.behind},"
        f"SECURE://127.0.0.1:{ports.secure},CONTROLLER://127.0.0.1:{ports.controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{ports.direct},PROXIED://127.0.0.1:{ports.proxy},"
        f"SECURE://127.0.0.1:{ports.secure}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,SECURE:SASL_SSL,CONTROLLER:PLAINTEXT",
        "listener.name.secure.ssl.keystore.type": "PEM",
        "listener.name.secure.ssl.keystore.location": str(folder / "kafka.pem"),
        "listener.name.secure.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.secure.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule "
        f'required user_{USER}="{PASSWORD}";',
        "log.dirs": str(folder / "data"),
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": "0",
        **dict.fromkeys(single, "1"),
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items())


def _jars() -> Path:
    require("java", package="default-jre-headless")
    if not os.environ.get("FORESHOCK_KAFKA_LIBS"):
        require("mvn", package="maven")
    said = subprocess.run([FETCH], capture_output=True, text=True, check=False)
    if said.returncode:
        raise ServerError(said.stderr.strip()[-1_000:])
    return Path(said.stdout.strip())


class NewKafka(Protocol):
    """Start one more broker, to be killed, paused and restarted; it ends with the test."""

    def __call__(self) -> Kafka: ...


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """One broker for the whole run; stop nothing of it."""
    with serving(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def new_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewKafka]:
    """A function that starts brokers of the test's own."""
    with contextlib.ExitStack() as stack:

        def start() -> Kafka:
            return stack.enter_context(serving(tmp_path_factory.mktemp("kafka")))

        yield start
