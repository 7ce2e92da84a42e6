"""Manifests that change while `foreshock run` runs: what is wrong takes nothing back, what is gone ends."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.app.hurried import HurriedClock, until
from tests.app.test_engine import detector

from foreshock.app.manifest_files import ManifestFiles, Reading
from foreshock.app.runner import REREAD_EVERY_S, Runner
from foreshock.app.settings import Settings
from foreshock.core.verdicts import Subject
from foreshock.prometheus.local_server import LocalPrometheus


def write(file: Path, *names: str, **spec: Any) -> None:
    """Replace a file by one with these detectors, as careful editors do: with another inode."""
    documents = [
        {
            "apiVersion": "devopsroles.com/v1",
            "kind": "AnomalyDetector",
            "metadata": {"name": name},
            "spec": {"target_service": "a", "prometheus_query": "a", **spec},
        }
        for name in names
    ]
    new = file.with_name(".new")
    new.write_text(yaml.safe_dump_all(documents))
    new.replace(file)


def names(reading: Reading | None) -> list[str]:
    assert reading is not None
    return sorted(each.metadata.name for each in reading.detectors)


@pytest.fixture
def files(tmp_path: Path) -> ManifestFiles:
    write(tmp_path / "a.yaml", "one", "two")
    write(tmp_path / "b.yaml", "three")
    return ManifestFiles([tmp_path], Settings())


def test_only_a_change_is_read(files: ManifestFiles, tmp_path: Path) -> None:
    """The second look costs a stat a file; a new, a changed and a removed file are each noticed."""
    assert names(files.read_if_changed()) == ["one", "three", "two"]
    assert files.read_if_changed() is None
    write(tmp_path / "c.yaml", "four")
    assert names(files.read_if_changed()) == ["four", "one", "three", "two"]
    write(tmp_path / "a.yaml", "one", alert_severity="critical")
    reading = files.read_if_changed()
    assert names(reading) == ["four", "one", "three"]
    assert reading is not None
    assert [each.metadata.name for each in reading.gone] == ["two"]
    (tmp_path / "b.yaml").unlink()
    reading = files.read_if_changed()
    assert reading is not None
    assert [each.metadata.name for each in reading.gone] == ["three"]
    assert files.read_if_changed() is None


@pytest.mark.parametrize("how", ["half-written", "unknown field", "unknown sink", "unreadable folder"])
def test_a_file_that_is_wrong_takes_nothing_back(files: ManifestFiles, tmp_path: Path, how: str) -> None:
    """Its detectors go on as they were, its neighbours may change, and the problem has a sentence."""
    files.read()
    file = tmp_path / "a.yaml"
    if how == "half-written":
        file.write_text(file.read_text()[:-40] + "{")
    elif how == "unknown field":
        write(file, "one", "two", quary="a")
    elif how == "unknown sink":
        write(file, "one", "two", sinks=["nobody"])
    else:
        for each in list(tmp_path.iterdir()):
            each.rename(each.with_suffix(".bak"))
    if how != "unreadable folder":
        (tmp_path / "b.yaml").unlink()
    reading = files.read_if_changed()
    assert reading is not None
    assert reading.problems
    assert names(reading) == (["one", "three", "two"] if how == "unreadable folder" else ["one", "two"])
    assert all(each.spec.sinks is None for each in reading.detectors)


async def test_a_run_follows_its_files(breaking_shop: LocalPrometheus, tmp_path: Path) -> None:
    """A change is judged with its model, a new detector is taken up, one that is gone is forgotten; no restart."""
    folder, clock = tmp_path / "manifests", HurriedClock()
    folder.mkdir()
    spec = detector().model_dump(mode="json", exclude_unset=True)["spec"]
    write(folder / "a.yaml", "one", **spec)
    settings = Settings.model_validate(
        {
            "datasources": [{"url": breaking_shop.url}],
            "database": f"sqlite:///{tmp_path / 'state.db'}",
            "artifacts": str(tmp_path / "models"),
        }
    )
    files = ManifestFiles([folder], settings)
    runner = Runner(settings, files.read().detectors, clock=clock, executor=ThreadPoolExecutor(1), files=files)
    engine, task = runner._engine, asyncio.create_task(runner.run())
    one, two = Subject("default", "one"), Subject("default", "two")
    try:
        await until(lambda: bool((now := engine.standing(one)) and now.revision))
        write(folder / "a.yaml", "one", **spec | {"alert_severity": "critical"})
        write(folder / "b.yaml", "two", **spec)
        clock.skip(REREAD_EVERY_S)
        await until(lambda: bool((now := engine.standing(two)) and now.revision))
        await until(lambda: engine._lanes["default", None].watches[one].spec.alert_severity == "critical")
        assert runner._history.models(one)[0].revision == 1
        (folder / "a.yaml").unlink()
        clock.skip(REREAD_EVERY_S)
        await until(lambda: one not in engine._lanes["default", None].watches)
        await until(lambda: not runner._history.models(one))
        assert runner._history.models(two)
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
