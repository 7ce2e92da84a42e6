"""The `kafka` sink before a real broker: what its record says, how it logs in, and a broker that hangs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.alerting.sinks.events import firing_and_resolved, patiently
from tests.servers.kafka import PASSWORD, USER, Kafka, NewKafka

from foreshock.alerting.sinks.kafka import KafkaSettings, KafkaSink
from foreshock.core.errors import SinkUnavailable


@asynccontextmanager
async def sink_of(servers: str, topic: str, **more: Any) -> AsyncIterator[KafkaSink]:
    settings = {"name": "bus", "bootstrap_servers": servers, "topic": topic, **more}
    sink = KafkaSink(KafkaSettings.model_validate(settings))
    try:
        yield sink
    finally:
        await sink.close()


async def test_a_record_is_a_cloud_event_of_its_incident(kafka: Kafka) -> None:
    """Structured mode: key incident, headers content-type and event_id; both ends in one partition, in order."""
    topic = kafka.new_topic()
    incidents = [firing_and_resolved(number) for number in range(8)]
    async with sink_of(kafka.bootstrap_servers, topic) as sink:
        for firing, _ in incidents:
            await sink.send(firing, event_id=firing["id"])
        await asyncio.gather(*(sink.send(resolved, event_id=resolved["id"]) for _, resolved in incidents))
    records = kafka.records(topic)
    assert len(records) == 16
    for firing, resolved in incidents:
        ours = [one for one in records if one.key == firing["data"]["incident"]]
        assert [json.loads(one.value) for one in ours] == [firing, resolved]
        assert len({one.partition for one in ours}) == 1
        assert [one.headers for one in ours] == [
            {"content-type": "application/cloudevents+json; charset=UTF-8", "event_id": one["id"]}
            for one in (firing, resolved)
        ]


async def test_it_logs_in_over_tls_and_a_rotated_password_is_read(kafka: Kafka, tmp_path: Path) -> None:
    """A wrong password is an outage that names no password; the file is read again, and the next try delivers."""
    topic, file = kafka.new_topic(), tmp_path / "password"
    file.write_text("wr0ng-password\n")
    login = {"mechanism": "PLAIN", "username": USER, "password_file": str(file)}
    firing, _ = firing_and_resolved()
    async with sink_of(
        kafka.secure_servers, topic, tls={"ca_file": str(kafka.authority)}, sasl=login, timeout_s=2
    ) as sink:
        with pytest.raises(SinkUnavailable, match="_AUTHENTICATION") as caught:
            await sink.send(firing, event_id=firing["id"])
        assert "wr0ng" not in f"{caught.value} {caught.value.__cause__} {sink!r}"
        file.write_text(PASSWORD)
        await sink.send(firing, event_id=firing["id"])
    assert [one.headers["event_id"] for one in kafka.records(topic)] == [firing["id"]]


async def test_a_server_that_nobody_vouches_for_is_not_talked_to(kafka: Kafka) -> None:
    """Without the authority's certificate neither the password nor an event leaves."""
    login = {"mechanism": "PLAIN", "username": USER, "password": PASSWORD}
    firing, _ = firing_and_resolved()
    async with sink_of(kafka.secure_servers, kafka.new_topic(), tls={}, sasl=login, timeout_s=1) as sink:
        with pytest.raises(SinkUnavailable, match="_SSL"):
            await sink.send(firing, event_id=firing["id"])


async def test_a_hung_broker_blocks_nothing_and_loses_nothing(new_kafka: NewKafka) -> None:
    """Row 20: under SIGSTOP a try times out, the loop turns, and afterwards each event is there, in order."""
    broker = new_kafka()
    topic = broker.new_topic()
    firing, resolved = firing_and_resolved()
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.02)
            turns += 1

    async with sink_of(broker.bootstrap_servers, topic, timeout_s=1) as sink:
        await patiently(sink, firing)  # the first one waits for the producer's identity
        turning = asyncio.create_task(turn())
        with broker.paused():
            for _ in range(2):
                with pytest.raises(SinkUnavailable, match="_MSG_TIMED_OUT"):
                    await sink.send(resolved, event_id=resolved["id"])
        assert turns > 20  # of about 100 in two seconds; a blocked loop has none
        await patiently(sink, resolved)
        turning.cancel()
    ids = [one.headers["event_id"] for one in broker.records(topic)]
    assert list(dict.fromkeys(ids)) == [firing["id"], resolved["id"]]  # what timed out may have arrived all the same


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sasl": {"username": "u"}}, "set exactly one of password and password_file"),
        ({"tls": {"cert_file": "c"}}, "set cert_file and key_file together"),
        ({"bootstrap_servers": "kafka"}, "String should match pattern"),
        ({"bootstrap_servers": "user:s3cret@kafka:9092"}, "String should match pattern"),
        ({"topic": "a b"}, "String should match pattern"),
    ],
)
def test_bad_settings_have_a_sentence_that_repeats_no_value(change: dict[str, Any], sentence: str) -> None:
    """What was typed may be a secret in the wrong place."""
    given = {"name": "bus", "bootstrap_servers": "kafka:9092", "topic": "anomalies"} | change
    with pytest.raises(ValueError, match=sentence) as caught:
        KafkaSettings.model_validate(given)
    assert "s3cret" not in str(caught.value)
