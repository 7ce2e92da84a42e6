"""What people change while the engine runs: the stage of a revision, the verdict on an incident. Each leaves a notice.

Both doors lead here, the command line's and the operator's. The engine reads the notices before each cycle.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import Connection, Table, and_, delete, or_, select, update

from foreshock.core.verdicts import Subject
from foreshock.store import rows, schema
from foreshock.store.database import Database
from foreshock.store.records import Feedback, Incident, ModelChange, ModelRecord, Notice

MODELS, VERDICT = "models", "verdict"  # what a notice is about


class ByHand:
    """The part of `History` that people write; whoever changes something reads it in the same transaction."""

    _database: Database

    @abstractmethod
    def _fenced(self, epoch: int | None) -> AbstractContextManager[Connection]: ...

    @abstractmethod
    def _upsert(
        self, connection: Connection, table: Table, key: tuple[str, ...], values: list[dict[str, Any]]
    ) -> None: ...

    def change_models(
        self,
        subject: Subject,
        version: str,
        change: ModelChange,
        *,
        forget: ModelChange = lambda _: (),
        noticed_s: float | None = None,
        epoch: int | None = None,
    ) -> tuple[ModelRecord, ...]:
        """Store the records of a line, newest first, that `change` made of them, and then remove those of `forget`.

        One transaction, so that two who change a line at once do it one after the other. `noticed_s` leaves a notice:
        the engine looks before its next cycle.

        Raises:
            ForeshockError: what `change` raises; nothing was written.

        """
        table = schema.models
        with self._fenced(epoch) as connection:
            its = and_(table.c.subject_key == rows.subject_key(subject), table.c.version == version)
            query = select(table).where(its).order_by(table.c.revision.desc()).with_for_update()
            before = tuple(rows.to_model(row) for row in connection.execute(query).mappings())
            changed = {record.revision: record for record in change(before)}
            values = [rows.from_model(record) for record in changed.values()]
            self._upsert(connection, table, ("subject_key", "version", "revision"), values)
            known = {record.revision: record for record in before} | changed
            after = tuple(known[revision] for revision in sorted(known, reverse=True))
            gone = {record.revision for record in forget(after)}
            if gone:
                connection.execute(delete(table).where(its, table.c.revision.in_(gone)))
            if noticed_s is not None:
                self._notice(connection, Notice(subject.namespace, subject.name, MODELS, noticed_s))
            return tuple(record for record in after if record.revision not in gone)

    def give_verdict(
        self, incident_id: str, feedback: Feedback | None, *, now_s: float, epoch: int | None = None
    ) -> Incident | None:
        """Keep what somebody says of an incident, or take it back; the incident as it is then, None without one."""
        table = schema.incidents
        with self._fenced(epoch) as connection:
            query = select(table).where(table.c.id == incident_id).with_for_update()
            row = connection.execute(query).mappings().first()
            if row is None:
                return None
            value = None if feedback is None else rows.from_feedback(feedback)
            if _said(row["feedback"]) != _said(value):
                connection.execute(update(table).where(table.c.id == incident_id).values(feedback=value))
                self._notice(connection, Notice(row["namespace"], row["name"], VERDICT, now_s))
            return rows.to_incident({**row, "feedback": value})

    def notices(self) -> tuple[Notice, ...]:
        """What was changed by hand and not acted upon yet, oldest first."""
        table = schema.notices
        with self._database.reading() as connection:
            found = connection.execute(select(table).order_by(table.c.at_s))
            return tuple(Notice(*row) for row in found)

    def settle_notices(self, done: Collection[Notice], *, epoch: int | None = None) -> None:
        """Forget notices that were acted upon; what was changed again meanwhile stays."""
        if not done:
            return
        table = schema.notices
        each = [
            and_(
                table.c.namespace == one.namespace, table.c.name == one.name, table.c.what == one.what,
                table.c.at_s <= one.at_s,
            )
            for one in done
        ]  # fmt: skip
        with self._fenced(epoch) as connection:
            connection.execute(delete(table).where(or_(*each)))

    def _notice(self, connection: Connection, notice: Notice) -> None:
        values = [{"namespace": notice.namespace, "name": notice.name, "what": notice.what, "at_s": notice.at_s}]
        self._upsert(connection, schema.notices, ("namespace", "name", "what"), values)


def _said(feedback: Mapping[str, Any] | None) -> tuple[object, object] | None:
    """When and through which door it was said changes nothing."""
    return None if feedback is None else (feedback["verdict"], feedback["note"])
