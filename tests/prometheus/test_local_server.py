"""A real Prometheus starts on a free port with its history and rules, and is gone when it is stopped."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.servers.binaries import require
from tests.servers.processes import paused
from tests.servers.prometheus import NewPrometheus, openmetrics

from foreshock.prometheus import local_server
from foreshock.prometheus.local_server import LocalServerError


@pytest.fixture(autouse=True)
def _binaries(request: pytest.FixtureRequest) -> None:
    if "monkeypatch" not in request.fixturenames:
        require("prometheus", "promtool", package="prometheus")


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as response:
        return json.load(response)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_weeks_of_history_survive(new_prometheus: NewPrometheus) -> None:
    """Five weeks of backfilled samples are all there after the start, from several metrics."""
    now_s = int(time.time()) // 3600 * 3600
    samples = [(now_s - 3600 * i, float(i)) for i in range(35 * 24, 0, -1)]
    server = new_prometheus({'x{a="1"}': samples, 'y{a="1"}': samples})
    for metric in "xy":
        data = get(f"{server.url}/api/v1/query?query=count_over_time({metric}[40d])")["data"]["result"]
        assert [row["value"][1] for row in data] == [str(35 * 24)]


def test_rules_are_loaded(new_prometheus: NewPrometheus) -> None:
    """The rules that were given are what the server evaluates."""
    rules = "groups: [{name: team, rules: [{alert: Slow, expr: 'pool_wait > 500', for: 5m}]}]"
    server = new_prometheus(rules_text=rules)
    assert get(f"{server.url}/api/v1/rules")["data"]["groups"][0]["rules"][0]["name"] == "Slow"


def test_stopping_ends_a_paused_server_and_may_be_repeated(new_prometheus: NewPrometheus) -> None:
    """A server under SIGSTOP is woken and ends; its port is free again."""
    server = new_prometheus()
    with paused(server):
        server.stop()
        server.stop()
    assert not is_running(server.pid)
    with socket.create_server(("127.0.0.1", int(server.url.rpartition(":")[2]))):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children that their parent died")
def test_a_killed_parent_leaves_nothing_running(tmp_path: Path) -> None:
    """The server is gone after SIGKILL of the process that started it."""
    code = (
        "import sys, pathlib; from foreshock.prometheus import local_server\n"
        f"print(local_server.start(pathlib.Path({str(tmp_path)!r})).pid, flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill()
    ends_at_s = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < ends_at_s:
        time.sleep(0.01)
    assert not is_running(pid)


def test_a_taken_port_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When somebody takes the port in between, another one is used."""
    require("prometheus", package="prometheus")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1], local_server._free_port()]
        monkeypatch.setattr(local_server, "_free_port", lambda: ports.pop(0))
        with local_server.running(tmp_path) as server:
            assert str(taken.getsockname()[1]) not in server.url
    assert ports == []


@pytest.mark.parametrize(
    "config", ["global: [", "rule_files: [missing.yml]\nscrape_configs: [{job_name: a}, {job_name: a}]"]
)
def test_a_bad_configuration_is_quoted(tmp_path: Path, config: str) -> None:
    """What Prometheus says about its configuration is in the error."""
    with pytest.raises(LocalServerError, match=r"did not start .*(yaml|job)"):
        local_server.start(tmp_path, config_text=config)


def test_a_bad_history_is_quoted(tmp_path: Path) -> None:
    """What promtool says about a file is in the error, with the file's name."""
    (tmp_path / "bad.om").write_text(openmetrics({"x": [(0, 1.0)]}).replace("# EOF\n", ""))
    with pytest.raises(LocalServerError, match=r"bad\.om: .*EOF"):
        local_server.backfill(tmp_path / "data", tmp_path / "bad.om")


def test_a_missing_binary_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Prometheus the error says what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalServerError, match="apt-get install prometheus"):
        local_server.start(tmp_path)
