"""Row 27: a secret of the settings is in nothing that Foreshock writes: no log, event, error or database."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml
from aiohttp import web
from tests.alerting.sinks.receiver import Receiver

from foreshock.app.settings import Settings, load_settings

CANARIES = {
    "password": "canary-password-1f0a",
    "token": "canary-token-2b7c",
    "hook": "canary-hook-3d9e",
    "path": "canary-path-4c4d",
    "variable": "canary-variable-5e5f",
}
MANIFEST = {
    "apiVersion": "devopsroles.com/v1",
    "kind": "AnomalyDetector",
    "spec": {"target_service": "checkout", "prometheus_query": "pool_wait", "detection_window": "10m"},
}


@dataclass
class Echo(Receiver):
    """Answers every query with 500 and, in Prometheus' own form, with the login that it was sent."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Remember the request, and repeat its login."""
        await super().handle(request)
        said = {"status": "error", "errorType": "internal", "error": f"sent {request.headers.get('Authorization')}"}
        return web.json_response(said, status=500)


def _settings(echo: Receiver, folder: Path) -> dict[str, object]:
    """Three datasources and a sink whose other side answers 500 and echoes every header and body that it was sent."""
    (folder / "hook-secret").write_text(CANARIES["hook"])
    return {
        "datasources": [
            {"name": "default", "url": echo.url, "basic_auth": {"username": "u", "password": CANARIES["password"]}},
            {"name": "token", "url": echo.url, "bearer_token": CANARIES["token"]},
            {"name": "variable", "url": echo.url, "bearer_token": "${PROMETHEUS_TOKEN}"},
        ],
        "sinks": [
            {
                "name": "hook",
                "type": "webhook",
                "url": f"{echo.url}/{CANARIES['path']}",
                "secret_file": "hook-secret",
                "allow_private": True,
            }
        ],
        "default_sinks": ["hook"],
        "listen": "127.0.0.1:0",
        "database": f"sqlite:///{folder}/run/state.db",
        "artifacts": str(folder / "run/models"),
    }


async def test_no_output_of_a_run_holds_a_secret(tmp_path: Path) -> None:
    """The other side echoes what it was sent into its errors; logs, events, database and folder have none of it."""
    run = tmp_path / "run"
    run.mkdir()
    names = ("default", "token", "variable")
    for name in names:
        one = {**MANIFEST, "metadata": {"name": name}, "spec": {**MANIFEST["spec"], "datasource": name}}  # type: ignore[dict-item]
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(one))
    async with Echo().listening("") as echo:
        (tmp_path / "foreshock.yaml").write_text(yaml.safe_dump(_settings(echo, tmp_path)))
        with (run / "out").open("wb") as out, (run / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                Path(sys.executable).with_name("foreshock"), "run", *(tmp_path / f"{name}.yaml" for name in names),
                "--config", tmp_path / "foreshock.yaml",
                stdout=out, stderr=log, env={**os.environ, "PROMETHEUS_TOKEN": CANARIES["variable"]},
            )  # fmt: skip
        try:
            async with asyncio.timeout(90):
                # each of the three has said what its datasource answered
                while (run / "log").read_text().count("Prometheus answers 500") < 3:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        finally:
            process.send_signal(signal.SIGTERM)
            await process.wait()
        sent = str([request.headers for request in echo.requests])
        assert all(CANARIES[name] in sent for name in ("token", "variable"))  # they were used, and echoed
    written = b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())
    assert b"Prometheus answers 500" in written
    assert [name for name, canary in CANARIES.items() if canary.encode() in written] == []


def test_no_error_or_repr_of_the_settings_holds_a_secret(tmp_path: Path) -> None:
    """Neither the settings as they print, nor the sentences about a file in which everything else is wrong."""
    text = f"""
datasources:
  - {{url: 'http://u:{CANARIES["password"]}@h', bearer_token: [{CANARIES["token"]}], tls: {CANARIES["hook"]}}}
sinks: [{{name: hook, type: webhook, url: 'https://{CANARIES["path"]} x', secret: {{a: {CANARIES["hook"]}}}}}]
database: 'oracle://u:{CANARIES["password"]}@h'
cluster: '${{TOKEN}}'
listen: '${{TOKEN}}'
"""
    (tmp_path / "wrong.yaml").write_text(text)
    try:
        load_settings(tmp_path / "wrong.yaml", {"TOKEN": CANARIES["variable"]})
    except Exception as error:  # noqa: BLE001 - whatever it is
        said = f"{error} {error!r} {error.__cause__!r} {error.__context__!r}"
    assert "wrong.yaml: listen" in said
    assert [name for name, canary in CANARIES.items() if canary in said] == []
    settings = Settings.model_validate(
        {
            "datasources": [{"url": "http://h", "basic_auth": {"username": "u", "password": CANARIES["password"]}}],
            "sinks": [
                {"name": "h", "type": "webhook", "url": f"https://h/{CANARIES['path']}", "secret": CANARIES["hook"]}
            ],
        }
    )
    shown = f"{settings} {settings!r} {settings.datasources[0]!r} {settings.sinks[0]!r}"
    assert [name for name, canary in CANARIES.items() if canary in shown] == []
