"""The whole story: kubectl, a real API server, Prometheus, PostgreSQL, two operators and two extractors."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.app.operators import install_definitions
from tests.servers.binaries import require
from tests.servers.extractor import start as start_extractor
from tests.servers.kubernetes import ControlPlane, new_namespace, serving
from tests.servers.operators import LocalOperator, balanced, start_operator, stop_all, wait_for
from tests.servers.postgresql import PostgreSQL
from tests.servers.processes import family

from foreshock.app.shop import Story, openmetrics_lines, shop_series
from foreshock.app.shop_exporter import ShopExporter, scrape_config_yaml
from foreshock.operator.resources import ANOMALIES, DETECTORS, EVENTS, MODELS
from foreshock.prometheus.local_server import backfill, running

MANIFEST = Path(__file__).parents[2] / "examples/payment-service-monitor.yaml"
NAME = "payment-service-monitor"
UNFINISHED = "unfinished"  # a second detector, whose first leader is stopped while it trains it
RETRIES = 2e6  # requests at once: a retry storm that the rate over 15 minutes shows at the next scrape
TAKEN_OVER_WITHIN_S = 20.0


@dataclass(slots=True)
class Cluster:
    """Everything that runs, and what kubectl shows of it."""

    plane: ControlPlane
    namespace: str
    shop: ShopExporter
    postgresql: PostgreSQL
    database: str
    operators: tuple[LocalOperator, LocalOperator]

    @property
    def leader(self) -> LocalOperator | None:
        leading = [each for each in self.operators if each.leads]
        assert len(leading) <= 1, "two replicas say that they lead"
        return leading[0] if leading else None

    def kubectl(self, *arguments: str) -> str:
        return self.plane.kubectl(*arguments, "-n", self.namespace).stdout

    def list(self, kind: Any) -> list[dict[str, Any]]:
        return list(self.plane.request("GET", kind.path(self.namespace))["items"])

    def condition(self, kind: str) -> dict[str, Any]:
        found = self.plane.request("GET", DETECTORS.path(self.namespace, NAME))
        return next((each for each in found.get("status", {}).get("conditions", ()) if each["type"] == kind), {})

    def events(self) -> list[dict[str, Any]]:
        return [event for each in self.operators for event in each.events]


@pytest.fixture(scope="module")
def cluster(postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three weeks of a shop that goes on, and all replicas ready."""
    require("prometheus", "promtool", package="prometheus")
    folder = tmp_path_factory.mktemp("story")
    story, now_s = Story.before(time.time()), int(time.time())
    series = shop_series(story, story.history_start_s, now_s)
    (folder / "shop.om").write_text(
        "".join(openmetrics_lines(tuple(each for each in series if each.kind == "counter")))
    )
    backfill(folder / "prometheus/data", folder / "shop.om")
    with contextlib.ExitStack() as stack:
        shop = stack.enter_context(ShopExporter(story, time.time))
        config = scrape_config_yaml(shop.address)
        prometheus = stack.enter_context(running(folder / "prometheus", config_text=config))
        plane = stack.enter_context(serving(folder / "kubernetes"))
        install_definitions(plane)
        namespace, database = new_namespace(plane), postgresql.new_database()
        settings: dict[str, object] = {
            "datasources": [{"name": "default", "url": prometheus.url}],
            "database": postgresql.url(database),
            "artifacts": str(folder / "models"),
        }
        (folder / "models").mkdir()
        extractors = [start_extractor(folder / f"extractor-{number}", settings) for number in range(2)]
        for each in extractors:
            stack.callback(each.stop)
        url = stack.enter_context(balanced([each.url for each in extractors]))
        with_extractor = settings | {"extractor": {"url": url}}
        operators = tuple(
            start_operator(folder / f"operator-{number}", with_extractor, plane, namespace=namespace)
            for number in range(2)
        )
        stack.callback(stop_all, operators)
        found = Cluster(plane, namespace, shop, postgresql, database, operators)  # type: ignore[arg-type]
        for each in operators:
            wait_for(lambda each=each: each.is_ready, within_s=120, because="a replica is not ready", of=operators)
        wait_for(lambda: found.leader, within_s=60, because="nobody leads", of=operators)
        yield found


def test_the_given_manifest_from_apply_to_delete(cluster: Cluster) -> None:
    """Ready with a model; the fault in status, Anomaly, Event and metric; leaders come and go; deleted, all gone."""
    operators = cluster.operators
    cluster.kubectl("apply", "-f", str(MANIFEST))
    wait_for(
        lambda: cluster.condition("Ready").get("status") == "True", within_s=240, because="not ready", of=operators
    )
    (model,) = wait_for(
        lambda: [each for each in cluster.list(MODELS) if each.get("status", {}).get("stage") == "Active"],
        within_s=60,
        because="no AnomalyModel",
        of=operators,
    )
    assert model["metadata"]["name"] == f"{NAME}-v2.1.0-r1"
    assert model["status"]["rowsUsed"] > 20_000
    assert len(model["status"]["artifact"]["sha256"]) == 64

    cluster.shop.retries = RETRIES
    wait_for(
        lambda: cluster.condition("Anomalous").get("status") == "True", within_s=300, because="not seen", of=operators
    )
    (anomaly,) = wait_for(
        lambda: [each for each in cluster.list(ANOMALIES) if each.get("status")],
        within_s=60,
        because="no Anomaly",
        of=operators,
    )
    assert anomaly["status"]["state"] == "firing"
    assert anomaly["status"]["severity"] == "critical"
    wait_for(
        lambda: [each for each in cluster.list(EVENTS) if each["reason"] == "Anomalous"],
        within_s=60,
        because="no Event",
        of=operators,
    )
    first = cluster.leader
    assert first is not None
    assert first.metric("foreshock_score", detector=f"{cluster.namespace}/{NAME}") >= 1
    assert first.metric("foreshock_extractor_up", datasource="default") == 1
    (fired,) = cluster.events()
    assert anomaly["spec"]["incident"] == fired["data"]["incident"]

    second = _a_paused_leader_writes_nothing_more(cluster, first)
    _a_killed_leader_is_followed(cluster, second, first)
    assert {event["id"] for event in cluster.events()} == {fired["id"]}

    cluster.kubectl("delete", "ad", NAME, UNFINISHED, "--wait=true", "--timeout=60s")
    wait_for(
        lambda: not cluster.list(MODELS) and not cluster.list(ANOMALIES), within_s=60, because="left over", of=operators
    )
    ended = wait_for(
        lambda: [each["data"] for each in cluster.events() if each["data"]["status"] == "expired"],
        within_s=60,
        because="nobody was told of the end",
        of=operators,
    )
    assert [(each["reason"], each["incident"]) for each in ended] == [("detector_deleted", fired["data"]["incident"])]
    for table in ("alert_states", "models", "progress"):
        wait_for(
            lambda table=table: not cluster.postgresql.execute(f"SELECT 1 FROM {table}", cluster.database),
            within_s=30,
            because=f"rows are left in {table}",
        )
    survivor = cluster.leader
    assert survivor is not None
    asked_s = time.monotonic()
    survivor.server.process.send_signal(signal.SIGTERM)
    assert survivor.server.process.wait(15) == 0
    assert time.monotonic() - asked_s < 10
    lease = cluster.plane.request(
        "GET", f"/apis/coordination.k8s.io/v1/namespaces/{cluster.namespace}/leases/foreshock"
    )
    assert lease["spec"].get("holderIdentity", "") == ""


def _a_paused_leader_writes_nothing_more(cluster: Cluster, first: LocalOperator) -> LocalOperator:
    """SIGSTOP for longer than the Lease: the other leads; woken, the first begins no write and steps down."""
    (other,) = (each for each in cluster.operators if each is not first)
    before = cluster.condition("Anomalous")
    began = _training_is_under_way(cluster, first)
    first.server.signal(signal.SIGSTOP)
    stopped_s = time.monotonic()
    try:
        wait_for(lambda: other.leads, within_s=40, because="nobody took over", of=(other,))
        assert time.monotonic() - stopped_s < TAKEN_OVER_WITHIN_S
        wait_for(lambda: other.metric("foreshock_cycles_total") > 0, within_s=120, because="no cycle", of=(other,))
        _wait_for_model(cluster, other)
    finally:
        first.server.signal(signal.SIGCONT)
    wait_for(lambda: "leads no more" in first.log, within_s=30, because="it does not step down", of=(first,))
    lost = [json.loads(line) for line in first.log.splitlines() if "leads no more" in line]
    assert len(lost) == 1
    wait_for(lambda: first.metric("foreshock_leader") == 0, within_s=10, because="it still says that it leads")
    written = first.metric("foreshock_status_writes_total", outcome="written")
    after = cluster.condition("Anomalous")
    assert (after["status"], after["lastTransitionTime"]) == (before["status"], before["lastTransitionTime"])
    assert first.metric("foreshock_status_writes_total", outcome="written") == written
    assert cluster.leader is other
    revisions = cluster.postgresql.execute(f"SELECT revision FROM models WHERE name = '{UNFINISHED}'", cluster.database)
    assert len(revisions) == 1, "the loser's training was committed beside the leader's"
    said = _history_of_model_ready(cluster, began)
    assert said.count("True") >= 1
    assert sorted(said, key=lambda status: status == "True") == said, f"a step back: {said}"
    return other


def _training_is_under_way(cluster: Cluster, leader: LocalOperator) -> str:
    """Row 16: a new detector whose fit has begun and cannot end; the version of the world before it was applied."""
    worker = _worker(leader)
    if worker is not None:
        os.kill(worker, signal.SIGSTOP)
    began = cluster.plane.request("GET", DETECTORS.path(cluster.namespace))["metadata"]["resourceVersion"]
    manifest = yaml.safe_load(MANIFEST.read_text())
    manifest["metadata"]["name"] = UNFINISHED
    manifest["spec"]["sinks"] = []  # it tells nobody: the events of this story are those of the other one
    cluster.plane.kubectl("apply", "-n", cluster.namespace, "-f", "-", stdin=json.dumps(manifest))
    if worker is None:  # it leads since a moment ago, and has trained nothing: it starts one now, which takes seconds
        os.kill(wait_for(lambda: _worker(leader), within_s=60, because="no worker", of=(leader,)), signal.SIGSTOP)
    wait_for(
        lambda: leader.metric("foreshock_trainings_running") == 1, within_s=60, because="no training", of=(leader,)
    )
    return str(began)


def _worker(leader: LocalOperator) -> int | None:
    """The process that trains, once there is one."""
    for pid in family(leader.server.pid):
        with contextlib.suppress(OSError):  # it has ended in between
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return None


def _wait_for_model(cluster: Cluster, leader: LocalOperator) -> None:
    """Until the detector that the other leader left unfinished has its model."""
    wait_for(
        lambda: [
            each
            for each in cluster.list(MODELS)
            if each["metadata"]["name"].startswith(UNFINISHED) and each.get("status", {}).get("stage") == "Active"
        ],
        within_s=180,
        because="the new leader does not train what the old one left",
        of=(leader,),
    )


def _history_of_model_ready(cluster: Cluster, began: str) -> list[str]:
    """Every status of `ModelReady` that the API server ever showed of it, in order."""
    path = f"{DETECTORS.path(cluster.namespace)}?watch=1&resourceVersion={began}&timeoutSeconds=2"
    shown = cluster.plane.kubectl("get", "--raw", path).stdout
    conditions = [
        condition
        for change in map(json.loads, shown.splitlines())
        if change["object"]["metadata"]["name"] == UNFINISHED
        for condition in change["object"].get("status", {}).get("conditions", ())
    ]
    return [condition["status"] for condition in conditions if condition["type"] == "ModelReady"]


def _a_killed_leader_is_followed(cluster: Cluster, leader: LocalOperator, heir: LocalOperator) -> None:
    """SIGKILL: the other leads in less than 20 s and goes on with the same incident."""
    leader.server.kill()
    killed_s = time.monotonic()
    wait_for(lambda: heir.leads, within_s=40, because="nobody took over", of=(heir,))
    assert time.monotonic() - killed_s < TAKEN_OVER_WITHIN_S
    judged = heir.metric("foreshock_cycles_total")
    wait_for(lambda: heir.metric("foreshock_cycles_total") > judged, within_s=150, because="no cycle", of=(heir,))
    assert cluster.condition("Anomalous")["status"] == "True"
