"""The tables, in types that SQLite and PostgreSQL share; `migrations/` holds the way from older ones to these."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()
_Json = JSON(none_as_null=True)

meta = Table("meta", metadata, Column("key", String(64), primary_key=True), Column("value", Text, nullable=False))


def _subject_columns(*, primary_key: bool) -> tuple[Column[Any], ...]:
    """`subject_key` is a digest, because the labels of a group can be longer than an index allows."""
    return (
        Column("subject_key", String(64), primary_key=primary_key, nullable=False),
        Column("namespace", Text, nullable=False),
        Column("name", Text, nullable=False),
        Column("label_group", _Json, nullable=False),
    )


alert_states = Table(
    "alert_states",
    metadata,
    *_subject_columns(primary_key=True),
    Column("phase", String(16), nullable=False),  # also in the state: retention asks for it in SQL
    Column("state", _Json, nullable=False),
    Column("updated_s", Double, nullable=False),
    Index("alert_states_detector", "namespace", "name"),
)

progress = Table(
    "progress",
    metadata,
    *_subject_columns(primary_key=True),
    Column("judged_at_s", BigInteger, nullable=False),
    Column("memory", _Json, nullable=False),
    Index("progress_detector", "namespace", "name"),
)

incidents = Table(
    "incidents",
    metadata,
    Column("id", String(32), primary_key=True),
    *_subject_columns(primary_key=False),
    Column("service", Text, nullable=False),
    Column("severity", String(32), nullable=False),
    Column("started_at_s", BigInteger, nullable=False),
    Column("ended_at_s", BigInteger),
    Column("status", String(16), nullable=False),
    Column("reason", String(32)),
    Column("peak_score", Double, nullable=False),
    Column("evidence", _Json),
    Column("peak_evidence", _Json),  # of the worst window since
    Column("feedback", _Json),  # what somebody says that it was
    Index("incidents_started", "started_at_s"),
    Index("incidents_status", "status"),
    Index("incidents_detector", "namespace", "name", "started_at_s"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("event_id", String(96), primary_key=True),
    Column("sink", String(63), primary_key=True),
    Column("incident_id", String(32), ForeignKey("incidents.id"), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("event", _Json, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_s", Double, nullable=False),
    Column("status", String(16), nullable=False),  # pending, delivered, rejected, given_up, sink_removed
    Column("settled_s", Double),
    Column("message", Text),
    Index("outbox_status", "status", "sink", "next_attempt_s"),
    Index("outbox_settled", "sink", "status", "settled_s"),
    Index("outbox_incident", "incident_id", "sink", "status", "sequence"),
)

models = Table(
    "models",
    metadata,
    *_subject_columns(primary_key=True),
    Column("version", String(128), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("algorithm", String(64), nullable=False),
    Column("trained_from_s", BigInteger, nullable=False),
    Column("trained_to_s", BigInteger, nullable=False),
    Column("rows_used", BigInteger, nullable=False),
    Column("rows_excluded", _Json, nullable=False),
    Column("details", _Json, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("stage", String(16), nullable=False),
    Index("models_detector", "namespace", "name"),
)

# What was changed by hand and the engine has not acted upon: usually none
notices = Table(
    "notices",
    metadata,
    Column("namespace", String(63), primary_key=True),
    Column("name", String(253), primary_key=True),
    Column("what", String(16), primary_key=True),  # models, verdict
    Column("at_s", Double, nullable=False),
)

# The newest leadership that anybody began: writes that carry an older one are refused. One row, or none where nobody
# elects a leader.
lease_epoch = Table(
    "lease_epoch", metadata, Column("name", String(16), primary_key=True), Column("epoch", BigInteger, nullable=False)
)
