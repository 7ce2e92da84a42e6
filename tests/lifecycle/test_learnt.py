"""When the next training is due."""

from __future__ import annotations

from tests.lifecycle.simulated import DAY_S, HOUR_S, START_S, detector

from foreshock.app.changes import Cohorts, watch_of
from foreshock.lifecycle import lines
from foreshock.lifecycle.learnt import restored
from foreshock.manifests.detector import fingerprint
from foreshock.prometheus.settings import Datasource
from foreshock.store.records import ModelRecord

MANIFEST = detector()


def _record(revision: int, stage: str, trained_to_s: int) -> ModelRecord:
    return ModelRecord(
        subject=MANIFEST.subject, version="v1", revision=revision, digest=f"{revision:064x}", algorithm="ensemble",
        trained_from_s=START_S, trained_to_s=trained_to_s, rows_used=1, rows_excluded={}, created_s=trained_to_s,
        stage=stage, details={"fingerprint": fingerprint(MANIFEST.spec), "active_from_s": trained_to_s},
    )  # fmt: skip


def test_starting_again_does_not_train_whom_a_training_was_rejected_for_an_hour_ago() -> None:
    """Due is a day after the newest candidate, whatever became of it; else each restart would train a fleet at once."""
    watch = watch_of(MANIFEST, Datasource(url="http://127.0.0.1:9"), Cohorts(), ())
    active = _record(1, lines.ACTIVE, START_S)
    rejected = _record(2, lines.REJECTED, START_S + DAY_S)
    now_s = START_S + DAY_S + HOUR_S
    assert restored(watch, active, [rejected, active], now_s).next_s == START_S + 2 * DAY_S
    assert restored(watch, active, [active], now_s).next_s == now_s
