"""The engine with damaged, full, slow and missing stores: what was good judges on, and the status says what is not."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs
from tests.app.hurried import until
from tests.app.test_engine import SUBJECT, Running, _running, detector
from tests.servers.s3 import NewS3
from tests.servers.shop import HEALTHY, TO_THE_FAULT_S

from foreshock.app.settings import Settings
from foreshock.cli.main import main
from foreshock.lifecycle.standing import Standing
from foreshock.prometheus.local_server import LocalPrometheus
from foreshock.store.artifacts import ARRAYS, MANIFEST

NOWHERE = "http://127.0.0.1:9"
CANARY = "foreshock-canary-must-not-run"
PICKLE = b"cos\nsystem\n(Vtouch " + CANARY.encode() + b"\ntR."
TRAINING = {"window": "1d", "warm_up": "12h", "retrain_interval": "1h", "shadow": "0s"}


def _settings(folder: Path, url: str, **changed: object) -> Settings:
    return Settings.model_validate(
        {
            "datasources": [{"url": url}],
            "database": f"sqlite:///{folder / 'state.db'}",
            "artifacts": str(folder / "models"),
            **changed,
        }
    )


def standing(run: Running) -> Standing:
    return run.engine.standing(SUBJECT) or Standing()


def judges(run: Running, name: str) -> bool:
    revision = standing(run).revision
    return revision is not None and revision.name == name


async def _train_twice(run: Running) -> None:
    run.engine.put(detector(query=HEALTHY, training=TRAINING))
    await until(lambda: judges(run, "v1-r1"))
    run.clock.skip(3_700)
    await until(lambda: judges(run, "v1-r2"))


@pytest.fixture
async def trained(breaking_shop: LocalPrometheus, tmp_path: Path) -> Path:
    """A folder with a database and the two revisions of one detector."""
    async with _running(_settings(tmp_path / "trained", breaking_shop.url)) as run:
        await _train_twice(run)
    return tmp_path / "trained"


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped bit": _flip,
    "truncated": lambda path: os.truncate(path, 100),
    "deleted": lambda path: path.unlink(),
    "a pickle": lambda path: path.write_bytes(PICKLE),
}


async def test_a_damaged_model_leaves_the_judging_to_the_last_good_one_until_it_is_trained_anew(
    trained: Path, breaking_shop: LocalPrometheus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it was damaged: the one before judges, the status and a counter say so, and a training heals it."""
    monkeypatch.chdir(tmp_path)
    for number, (how, damage) in enumerate(DAMAGE.items()):
        folder = Path(shutil.copytree(trained, tmp_path / str(number)))
        async with _running(_settings(folder, NOWHERE)) as run:  # nothing can be trained: Prometheus is away
            (active, *_) = run.history.models(SUBJECT)
            assert active.name == "v1-r2"
            damage(folder / "models" / active.digest / (MANIFEST, ARRAYS)[number % 2])
            run.engine.put(detector(query=HEALTHY, training=TRAINING))
            await until(lambda run=run: judges(run, "v1-r1"))
            await until(lambda run=run: standing(run).trouble is not None)
            trouble = standing(run).trouble
            assert trouble is not None
            assert trouble.reason == ("ArtifactMissing" if how == "deleted" else "ArtifactDamaged"), how
            assert "v1-r1 judges meanwhile." in trouble.message
            assert 'foreshock_model_load_failures_total{reason="Artifact' in _metrics(run)
            await until(lambda run=run: _is_tried(run))  # and failed, which does not hide what is damaged
            assert judges(run, "v1-r1")
        async with _running(_settings(folder, breaking_shop.url)) as run:
            run.clock.skip(3_800)  # the second revision is of an hour from now
            run.engine.put(detector(query=HEALTHY, training=TRAINING))
            await until(lambda run=run: judges(run, "v1-r3"))
            await until(lambda run=run: standing(run).trouble is None)
    assert not _ran(tmp_path)


def _ran(folder: Path) -> bool:
    return any(folder.rglob(CANARY))


def _metrics(run: Running) -> str:
    return generate_latest(run.engine._metrics.registry).decode()


def _is_tried(run: Running) -> bool:
    trouble = standing(run).trouble
    return (
        trouble is not None
        and trouble.reason.startswith("Artifact")
        and "Prometheus is not available" in trouble.message
    )


async def test_when_every_revision_is_damaged_nothing_judges_and_nothing_breaks(
    trained: Path, breaking_shop: LocalPrometheus
) -> None:
    """Without any model there is no verdict, a sentence, and a new model as soon as there is data."""
    for file in (trained / "models").rglob("*.json"):
        file.write_bytes(PICKLE)
    async with _running(_settings(trained, NOWHERE)) as run:
        run.engine.put(detector(query=HEALTHY, training=TRAINING))
        await until(lambda: standing(run).trouble is not None)
        assert standing(run).revision is None
    async with _running(_settings(trained, breaking_shop.url)) as run:
        run.clock.skip(3_800)
        run.engine.put(detector(query=HEALTHY, training=TRAINING))
        await until(lambda: judges(run, "v1-r3"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A function that mounts a folder of some bytes, and mounts it larger when it is called again."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def size(size_bytes: int) -> Path:
        nonlocal mounted
        options = f"{'remount,' if mounted else ''}size={size_bytes}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("needs root and the right to mount a tmpfs")
        mounted = True
        return place

    yield size
    if mounted:
        subprocess.run(["umount", place], check=True)


async def test_a_full_disk_keeps_the_last_good_model_and_the_next_one_comes_when_there_is_room(
    trained: Path, breaking_shop: LocalPrometheus, small_disk: Callable[[int], Path]
) -> None:
    """The database has room, the models have none: the old revision judges on, and nothing half-written is seen."""
    disk = small_disk(8 << 20)
    shutil.copytree(trained / "models", disk / "models")
    free = os.statvfs(disk)
    (disk / "filler").write_bytes(b"x" * (free.f_bavail * free.f_frsize - 8192))
    async with _running(_settings(trained, breaking_shop.url, artifacts=str(disk / "models"))) as run:
        run.engine.put(detector(query=HEALTHY, training=TRAINING))
        await until(lambda: judges(run, "v1-r2"))
        before = sorted(path for path in (disk / "models").rglob("*") if path.is_file())
        run.clock.skip(7_400)
        await until(lambda: standing(run).trouble is not None)
        trouble = standing(run).trouble
        assert trouble is not None
        assert trouble.reason == "StoreUnavailable"
        assert "No space left on device" in trouble.message
        assert judges(run, "v1-r2")
        assert sorted(path for path in (disk / "models").rglob("*") if path.is_file()) == before
        small_disk(64 << 20)
        run.clock.skip(120)
        await until(lambda: judges(run, "v1-r3"))
        await until(lambda: standing(run).trouble is None)


async def test_a_bucket_that_hangs_delays_no_cycle(
    breaking_shop: LocalPrometheus, tmp_path: Path, new_s3: NewS3
) -> None:
    """Judging goes on while a training waits for the store; what it learnt comes a minute after the store woke."""
    s3 = new_s3()
    at_bucket = {"artifacts": f"s3://{s3.new_bucket()}/models", "s3": s3.settings}
    async with _running(_settings(tmp_path, breaking_shop.url, **at_bucket)) as run:
        run.engine.put(detector(query=HEALTHY, training=TRAINING))
        await until(lambda: judges(run, "v1-r1"))
        watch = run.engine._lanes["default", None].watches[SUBJECT]
        with s3.paused():
            run.clock.skip(3_700)
            await until(lambda: (watch.judged_at_s or 0) > run.clock.now_s() - 180)
            await until(lambda: standing(run).trouble is not None)
            trouble = standing(run).trouble
            assert trouble is not None
            assert trouble.reason == "StoreUnavailable"
            assert judges(run, "v1-r1")
        run.clock.skip(120)
        await until(lambda: judges(run, "v1-r2"))


async def test_what_a_locked_database_does_not_take_nobody_hears_of_until_it_does(
    breaking_shop: LocalPrometheus, tmp_path: Path
) -> None:
    """Another process holds the write lock while an alert is decided: counted, and the same window is told after."""
    async with _running(_settings(tmp_path, breaking_shop.url)) as run:
        run.engine.put(detector())
        await until(lambda: standing(run).revision is not None)
        with capture_logs() as said, sqlite3.connect(tmp_path / "state.db", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            # to the start of a minute, so that the next window is not due before the database is back
            run.clock.skip(TO_THE_FAULT_S + 60 - (run.clock.now_s() + TO_THE_FAULT_S) % 60)
            await until(lambda: any(each["event"] == "nothing was published" for each in said), within_s=150)
            window_s = run.clock.now_s() // 60 * 60
            assert run.events == []
        other.close()
        assert "foreshock_store_unavailable_total 0.0" not in _metrics(run)
        await until(lambda: bool(run.events), within_s=150)
        (event,) = run.events
        (incident,) = run.history.incidents()
        assert (event["status"], event["incident"]) == ("firing", incident.incident_id)
        assert incident.started_at_s <= window_s
        await until(lambda: not run.engine.store_is_away)


async def test_a_restored_backup_judges_on_where_it_was_taken(
    trained: Path, breaking_shop: LocalPrometheus, tmp_path: Path
) -> None:
    """`foreshock backup` and `foreshock restore`, as documented: the same revision judges, nothing is learnt."""
    archive, restored = tmp_path / "foreshock.tar", tmp_path / "restored"
    for command, folder in (("backup", trained), ("restore", restored)):
        state = ["--database", f"sqlite:///{folder}/state.db", "--artifacts", str(folder / "models")]
        assert await asyncio.to_thread(main, [command, str(archive), *state]) == 0
    async with _running(_settings(restored, breaking_shop.url)) as run:
        run.engine.put(detector(query=HEALTHY, training=TRAINING))
        await until(lambda: judges(run, "v1-r2"))
        assert [each.name for each in run.history.models(SUBJECT)] == ["v1-r2", "v1-r1"]
        await until(lambda: standing(run).mark is not None)
