"""The database of everything but models: what is firing, incidents with evidence, the outbox, revisions, progress.

The calls block; the event loop makes them in a thread. Reads may run side by side, one write at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    Select,
    Table,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from foreshock.alerting.outbox import BACK_OFF_CAP_S, MAX_RETRY_AFTER_S, Attempt, Delivery, Outcome
from foreshock.alerting.state import AlertState, Kind, Phase
from foreshock.core.errors import LeaseLost
from foreshock.core.verdicts import Subject
from foreshock.store import rows, schema
from foreshock.store.by_hand import ByHand
from foreshock.store.database import BUSY_TIMEOUT_S, Database
from foreshock.store.migrate import MIGRATIONS, assert_writable
from foreshock.store.on_postgresql import PATIENCE, Patience
from foreshock.store.records import Backlog, CycleChanges, Incident, ModelRecord, Progress, Stuck
from foreshock.store.retelling import Retelling

RETENTION_S = 90 * 86_400


@dataclass(frozen=True, slots=True)
class Pruned:
    """How much `prune` removed; `unsent` rows were never delivered, for example because their sink is no more."""

    incidents: int
    deliveries: int
    unsent: int


class History(ByHand, Retelling):
    """What goes in comes out, whole transactions or nothing, also after SIGKILL.

    Where replicas elect a leader, each leadership has an epoch, a number that only grows. A write that carries one is
    refused with `LeaseLost` as soon as the database knows a newer one, so that a leader that was paused and wakes up
    changes nothing. A write carries the `epoch` that it was given, else the one of `begin_epoch`, else none.
    """

    def __init__(
        self,
        url: str,
        *,
        migrations: Path = MIGRATIONS,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        patience: Patience = PATIENCE,
        password_file: Path | None = None,
    ) -> None:
        """Open the database, create or migrate its tables.

        Raises:
            StoreUnavailable: it cannot be opened now.
            DatabaseTooNew: a newer Foreshock wrote it.
            Damaged: it is no database.
            UserError: the URL names none.

        """
        self._database = Database(
            url, migrations=migrations, busy_timeout_s=busy_timeout_s, patience=patience, password_file=password_file
        )
        self._epoch: int | None = None

    def close(self) -> None:
        """Close every connection; calling it twice is harmless."""
        self._database.close()

    @property
    def database(self) -> Database:
        """For what concerns the tables as a whole, as a backup does."""
        return self._database

    def check_writable(self) -> None:
        """Return if a transaction can be committed now, which is what `readyz` asks; raise as `commit_cycle` does."""
        with self._database.writing() as connection:
            assert_writable(connection)

    # --- leadership ----------------------------------------------------------------------------------------------

    def lease_epoch(self) -> int:
        """The newest epoch that anybody began; 0 where nobody did. A new leader's must be larger."""
        with self._database.reading() as connection:
            return int(connection.execute(select(schema.lease_epoch.c.epoch)).scalar() or 0)

    def begin_epoch(self, epoch: int) -> None:
        """Fence off every older leader, and let all later writes of this object carry `epoch`.

        A transaction of an older leader that has already begun is waited for; none begins after this returns.

        Raises:
            LeaseLost: the database knows a newer epoch.
            StoreUnavailable: try again before anything else is written.

        """
        with self._fenced(epoch):
            pass
        self._epoch = epoch

    @contextmanager
    def _fenced(self, epoch: int | None) -> Iterator[Connection]:
        """A transaction that holds the epoch's row to its end, so that a newer leader begins after it or before it."""
        carried = self._epoch if epoch is None else epoch
        with self._database.writing() as connection:
            if carried is not None:
                table = schema.lease_epoch
                statement = self._insert(table)
                held = statement.on_conflict_do_update(
                    index_elements=["name"],
                    set_={"epoch": statement.excluded.epoch},
                    where=table.c.epoch <= statement.excluded.epoch,
                ).returning(table.c.epoch)
                if connection.execute(held, {"name": "leader", "epoch": carried}).first() is None:
                    newer = connection.execute(select(table.c.epoch)).scalar()
                    raise LeaseLost(f"Another replica leads since: its epoch is {newer}, this one's is {carried}.")
            yield connection

    # --- one cycle -----------------------------------------------------------------------------------------------

    def commit_cycle(self, changes: CycleChanges, *, epoch: int | None = None) -> None:
        """Write all that a cycle decided in one transaction; writing the same changes again changes nothing.

        Raises:
            StoreUnavailable: nothing was written; try again, and publish nothing meanwhile.
            LeaseLost: nothing was written, and another replica leads.
            Damaged: the file is not a database any more.
            ValueError: an outbox row names an incident that is neither stored nor among the changes.

        """
        with self._fenced(epoch) as connection:
            for namespace, name in changes.deleted_detectors:
                _forget(connection, namespace, name)
            states = [rows.from_state(state, changes.at_s) for state in changes.states]
            self._upsert(connection, schema.alert_states, ("subject_key",), states)
            progress = [rows.from_progress(one) for one in changes.progress]
            self._upsert(connection, schema.progress, ("subject_key",), progress)
            self._upsert_incidents(connection, changes.incidents)
            self._insert_new(connection, schema.outbox, [rows.from_delivery(row) for row in changes.outbox])
            self._tell_whom_it_began(connection, changes.outbox)

    def load_alert_states(self) -> dict[Subject, AlertState]:
        """Every state that was committed, of all subjects."""
        with self._database.reading() as connection:
            documents = connection.execute(select(schema.alert_states.c.state)).scalars().all()
        states = (AlertState.from_dict(document) for document in documents)
        return {state.subject: state for state in states}

    def load_progress(self) -> dict[Subject, Progress]:
        """How far each subject was judged."""
        with self._database.reading() as connection:
            found = [rows.to_progress(row) for row in connection.execute(select(schema.progress)).mappings()]
        return {progress.subject: progress for progress in found}

    def delete_detector(self, namespace: str, name: str, *, epoch: int | None = None) -> None:
        """Forget states, progress and model records of a detector; its incidents and undelivered events stay."""
        with self._fenced(epoch) as connection:
            _forget(connection, namespace, name)

    # --- incidents -----------------------------------------------------------------------------------------------

    def incidents(
        self,
        *,
        namespace: str | None = None,
        name: str | None = None,
        status: Kind | None = None,
        since_s: float | None = None,
        limit: int = 100,
    ) -> tuple[Incident, ...]:
        """The newest incidents first, at most `limit`; `since_s` keeps those that began at or after it."""
        table = schema.incidents
        query = select(table).order_by(table.c.started_at_s.desc(), table.c.id).limit(limit)
        if namespace is not None:
            query = query.where(table.c.namespace == namespace)
        if name is not None:
            query = query.where(table.c.name == name)
        if status is not None:
            query = query.where(table.c.status == status.value)
        if since_s is not None:
            query = query.where(table.c.started_at_s >= since_s)
        with self._database.reading() as connection:
            return tuple(rows.to_incident(row) for row in connection.execute(query).mappings())

    def incident(self, incident_id: str) -> Incident | None:
        """The incident with this id, or None where there is none."""
        with self._database.reading() as connection:
            query = select(schema.incidents).where(schema.incidents.c.id == incident_id)
            row = connection.execute(query).mappings().first()
        return None if row is None else rows.to_incident(row)

    def incident_ids(self, prefix: str, *, limit: int = 10) -> tuple[str, ...]:
        """The ids that begin with a prefix of hex digits, at most `limit`."""
        ids = schema.incidents.c.id
        query = select(ids).where(ids.startswith(prefix, autoescape=True)).order_by(ids).limit(limit)
        with self._database.reading() as connection:
            return tuple(connection.execute(query).scalars())

    # --- models --------------------------------------------------------------------------------------------------

    def models(self, subject: Subject, *, version: str | None = None) -> tuple[ModelRecord, ...]:
        """All revisions of a subject, of one line where `version` is given, newest first."""
        table = schema.models
        query = select(table).where(table.c.subject_key == rows.subject_key(subject))
        if version is not None:
            query = query.where(table.c.version == version)
        query = query.order_by(table.c.created_s.desc(), table.c.revision.desc())
        with self._database.reading() as connection:
            return tuple(rows.to_model(row) for row in connection.execute(query).mappings())

    def live_digests(self) -> frozenset[str]:
        """The digests that some record still names: artifacts that garbage collection must keep."""
        return self._digests(select(schema.models.c.digest, schema.models.c.details))

    def digests_of(self, namespace: str, name: str) -> frozenset[str]:
        """The digests that the records of one detector name."""
        table = schema.models
        its = and_(table.c.namespace == namespace, table.c.name == name)
        return self._digests(select(table.c.digest, table.c.details).where(its))

    def _digests(self, query: Select[tuple[str, Any]]) -> frozenset[str]:
        """Of a record of several groups the artifacts are those of its members; its own digest names none."""
        with self._database.reading() as connection:
            found = set()
            for digest, details in connection.execute(query):
                found.add(digest)
                found.update(member["digest"] for member in details.get("members", ()))
        return frozenset(found)

    # --- detectors -----------------------------------------------------------------------------------------------

    def detectors(self) -> frozenset[Subject]:
        """Every detector of which a state, progress or a model is remembered."""
        with self._database.reading() as connection:
            found: set[Subject] = set()
            for table in (schema.alert_states, schema.progress, schema.models):
                rows_of = connection.execute(select(table.c.namespace, table.c.name).distinct())
                found.update(Subject(namespace, name) for namespace, name in rows_of)
        return frozenset(found)

    def told(self, subject: Subject) -> tuple[str, tuple[str, ...]]:
        """The service of a detector and the sinks that heard of its newest incident; empty where there was none."""
        table, told = schema.incidents, schema.outbox
        newest = (
            select(table.c.id, table.c.service)
            .where(table.c.namespace == subject.namespace, table.c.name == subject.name)
            .order_by(table.c.started_at_s.desc())
            .limit(1)
        )
        with self._database.reading() as connection:
            incident = connection.execute(newest).first()
            if incident is None:
                return "", ()
            sinks = connection.execute(select(told.c.sink).where(told.c.incident_id == incident.id).distinct())
            return incident.service, tuple(sorted(sinks.scalars()))

    # --- outbox: the port of alerting.outbox ---------------------------------------------------------------------

    def pending(self, sink: str, *, limit: int, now_s: float) -> tuple[Delivery, ...]:
        """The rows due for this sink: per incident only the oldest unsettled one, firing first, at most `limit`."""
        table, earlier = schema.outbox, schema.outbox.alias("earlier")
        blocked = exists().where(
            earlier.c.incident_id == table.c.incident_id,
            earlier.c.sink == table.c.sink,
            earlier.c.status == rows.PENDING,
            earlier.c.sequence < table.c.sequence,
        )
        due = or_(
            table.c.next_attempt_s <= now_s,
            table.c.next_attempt_s > now_s + MAX_RETRY_AFTER_S + BACK_OFF_CAP_S,  # the wall clock was set back since
        )
        firing_first = case((table.c.kind == Kind.FIRING.value, 0), else_=1)
        query = (
            select(table)
            .where(and_(table.c.status == rows.PENDING, table.c.sink == sink, due, ~blocked))
            .order_by(firing_first, table.c.next_attempt_s, table.c.created_s, table.c.event_id)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return tuple(rows.to_delivery(row) for row in connection.execute(query).mappings())

    def standing(self, sink: str, *, ended_after_s: float, after: str, limit: int) -> tuple[Delivery, ...]:
        """What this sink took of incidents that fire, and of ends after an instant: by event id, those past `after`."""
        table, incidents = schema.outbox, schema.incidents
        taken = and_(table.c.sink == sink, table.c.status == Outcome.DELIVERED.value, table.c.event_id > after)
        fires = and_(taken, table.c.kind == Kind.FIRING.value, incidents.c.status == Kind.FIRING.value)
        ended = and_(taken, table.c.kind != Kind.FIRING.value, table.c.settled_s > ended_after_s)
        of_incident = incidents.c.id == table.c.incident_id
        # two queries, since no index serves an OR over two tables
        both = union_all(select(table).join(incidents, of_incident).where(fires), select(table).where(ended)).subquery()
        query = select(both).order_by(both.c.event_id).limit(limit)
        with self._database.reading() as connection:
            return tuple(rows.to_delivery(row) for row in connection.execute(query).mappings())

    def settle(self, attempts: Sequence[Attempt], *, now_s: float, epoch: int | None = None) -> None:
        """Record in one transaction what became of rows: delivered, rejected, given up, or due again later."""
        if not attempts:
            return
        table = schema.outbox
        statement = (
            update(table)
            .where(table.c.event_id == bindparam("of_event"), table.c.sink == bindparam("of_sink"))
            .values(
                {name: bindparam(name) for name in ("attempts", "next_attempt_s", "status", "settled_s", "message")}
            )
        )
        values = [rows.from_attempt(attempt, now_s) for attempt in attempts]
        with self._fenced(epoch) as connection:
            connection.execute(statement, values)

    def mark_delivered(self, delivery: Delivery, *, now_s: float) -> None:
        """Record that the sink took this row."""
        self.settle((Attempt(delivery, Outcome.DELIVERED),), now_s=now_s)

    def mark_failed(self, delivery: Delivery, message: str, *, now_s: float) -> None:
        """Record that the sink will never take this row."""
        self.settle((Attempt(delivery, Outcome.REJECTED, message),), now_s=now_s)

    def backlog(self) -> tuple[Backlog, ...]:
        """What each sink has not taken yet, also sinks that nobody configures any more."""
        table = schema.outbox
        query = (
            select(table.c.sink, func.count(), func.min(table.c.created_s))
            .where(table.c.status == rows.PENDING)
            .group_by(table.c.sink)
            .order_by(table.c.sink)
        )
        with self._database.reading() as connection:
            return tuple(Backlog(*row) for row in connection.execute(query))

    def stuck(
        self, *, pending_before_s: float, refused_after_s: float, limit: int = 10_000
    ) -> dict[Subject, tuple[Stuck, ...]]:
        """By detector the sinks that have not taken an event committed before, or refused one after, an instant."""
        table, incidents = schema.outbox, schema.incidents
        waiting = and_(table.c.status == rows.PENDING, table.c.created_s < pending_before_s)
        refused = and_(table.c.status == Outcome.REJECTED.value, table.c.settled_s > refused_after_s)
        query = (
            select(incidents.c.namespace, incidents.c.name, table.c.sink, table.c.status, func.min(table.c.created_s))
            .join(incidents, incidents.c.id == table.c.incident_id)
            .where(or_(waiting, refused))
            .group_by(incidents.c.namespace, incidents.c.name, table.c.sink, table.c.status)
            .order_by(table.c.sink, table.c.status)
            .limit(limit)
        )
        found: dict[Subject, tuple[Stuck, ...]] = {}
        with self._database.reading() as connection:
            for namespace, name, sink, status, since_s in connection.execute(query):
                subject = Subject(namespace, name)
                found[subject] = (*found.get(subject, ()), Stuck(sink, status != rows.PENDING, since_s))
        return found

    # --- retention -----------------------------------------------------------------------------------------------

    def prune(self, *, now_s: float, keep_s: float = RETENTION_S, epoch: int | None = None) -> Pruned:
        """Remove incidents that ended more than `keep_s` ago, with their deliveries, and subjects not seen since.

        What still fires stays.
        """
        old = schema.incidents.c.ended_at_s < now_s - keep_s
        its_rows = schema.outbox.c.incident_id.in_(select(schema.incidents.c.id).where(old))
        with self._fenced(epoch) as connection:
            unsent = connection.execute(delete(schema.outbox).where(its_rows, schema.outbox.c.status == rows.PENDING))
            settled = connection.execute(delete(schema.outbox).where(its_rows))
            gone = connection.execute(delete(schema.incidents).where(old))
            states, progress = schema.alert_states, schema.progress
            idle = and_(states.c.updated_s < now_s - keep_s, states.c.phase == Phase.INACTIVE.value)
            connection.execute(delete(states).where(idle))
            connection.execute(delete(progress).where(progress.c.judged_at_s < now_s - keep_s))
            return Pruned(gone.rowcount, settled.rowcount, unsent.rowcount)

    # --- SQL that differs between databases ----------------------------------------------------------------------

    def _insert(self, table: Table) -> Any:
        """`INSERT ... ON CONFLICT`, which both databases have and SQLAlchemy spells once for each."""
        return postgresql.insert(table) if self._database.dialect == "postgresql" else sqlite.insert(table)

    def _upsert(self, connection: Connection, table: Table, key: tuple[str, ...], values: list[dict[str, Any]]) -> None:
        if not values:
            return
        statement = self._insert(table)
        changed = {column: statement.excluded[column] for column in values[0] if column not in key}
        connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=changed), values)

    def _insert_new(self, connection: Connection, table: Table, values: list[dict[str, Any]]) -> None:
        if values:
            connection.execute(self._insert(table).on_conflict_do_nothing(), values)

    def _upsert_incidents(self, connection: Connection, incidents: tuple[Incident, ...]) -> None:
        """An update without evidence keeps the evidence of the firing; who the incident is about never changes."""
        if not incidents:
            return
        table = schema.incidents
        statement = self._insert(table)
        new = statement.excluded
        changed = {
            "severity": new.severity,
            "ended_at_s": new.ended_at_s,
            "status": new.status,
            "reason": new.reason,
            "peak_score": new.peak_score,
            "evidence": func.coalesce(new.evidence, table.c.evidence),
            "peak_evidence": func.coalesce(new.peak_evidence, table.c.peak_evidence),
        }
        values = [rows.from_incident(incident) for incident in incidents]
        connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=changed), values)


def _forget(connection: Connection, namespace: str, name: str) -> None:
    for table in (schema.alert_states, schema.progress, schema.models, schema.notices):
        connection.execute(delete(table).where(table.c.namespace == namespace, table.c.name == name))
