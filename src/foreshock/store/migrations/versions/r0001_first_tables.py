"""The tables of the first Foreshock."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "meta", sa.Column("key", sa.String(64), primary_key=True), sa.Column("value", sa.Text, nullable=False)
    )
    op.create_table(
        "alert_states",
        *_subject(primary_key=True),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("state", sa.JSON, nullable=False),
        sa.Column("updated_s", sa.Double, nullable=False),
        sa.Index("alert_states_detector", "namespace", "name"),
    )
    op.create_table(
        "progress",
        *_subject(primary_key=True),
        sa.Column("judged_at_s", sa.BigInteger, nullable=False),
        sa.Column("memory", sa.JSON, nullable=False),
        sa.Index("progress_detector", "namespace", "name"),
    )
    op.create_table(
        "incidents",
        sa.Column("id", sa.String(32), primary_key=True),
        *_subject(primary_key=False),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("severity", sa.String(32), nullable=False),
        sa.Column("started_at_s", sa.BigInteger, nullable=False),
        sa.Column("ended_at_s", sa.BigInteger),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(32)),
        sa.Column("peak_score", sa.Double, nullable=False),
        sa.Column("evidence", sa.JSON),
        sa.Index("incidents_started", "started_at_s"),
        sa.Index("incidents_detector", "namespace", "name", "started_at_s"),
    )
    op.create_table(
        "outbox",
        sa.Column("event_id", sa.String(96), primary_key=True),
        sa.Column("sink", sa.String(63), primary_key=True),
        sa.Column("incident_id", sa.String(32), sa.ForeignKey("incidents.id"), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("event", sa.JSON, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_attempt_s", sa.Double, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("settled_s", sa.Double),
        sa.Column("message", sa.Text),
        sa.Index("outbox_status", "status", "sink", "next_attempt_s"),
        sa.Index("outbox_incident", "incident_id", "sink", "status", "sequence"),
    )
    op.create_table(
        "models",
        *_subject(primary_key=True),
        sa.Column("version", sa.String(128), primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("algorithm", sa.String(64), nullable=False),
        sa.Column("trained_from_s", sa.BigInteger, nullable=False),
        sa.Column("trained_to_s", sa.BigInteger, nullable=False),
        sa.Column("rows_used", sa.BigInteger, nullable=False),
        sa.Column("rows_excluded", sa.JSON, nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Index("models_detector", "namespace", "name"),
    )


def _subject(*, primary_key: bool) -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("subject_key", sa.String(64), primary_key=primary_key, nullable=False),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("label_group", sa.JSON, nullable=False),
    )
