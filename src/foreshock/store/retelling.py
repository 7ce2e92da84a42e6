"""What becomes of the outbox when the configuration names other sinks while an incident goes on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import Connection, Table, and_, exists, func, or_, select, update

from foreshock.alerting.outbox import Delivery, Outcome
from foreshock.alerting.state import Kind
from foreshock.store import rows, schema

_REMOVED = Outcome.SINK_REMOVED.value
_WHY = "The sink is configured no more."


class Retelling:
    """The part of `History` that follows the sinks: who left is owed nothing, who came hears of what stands."""

    @abstractmethod
    def _fenced(self, epoch: int | None) -> AbstractContextManager[Connection]: ...

    @abstractmethod
    def _insert(self, table: Table) -> Any: ...

    def end_removed(self, sinks: Collection[str], *, now_s: float, epoch: int | None = None) -> dict[str, int]:
        """End what waits for any sink but these, and count it by sink; of what goes on none of them hears the end."""
        table, incidents = schema.outbox, schema.incidents
        goes_on = exists().where(incidents.c.id == table.c.incident_id, incidents.c.status == Kind.FIRING.value)
        waits = table.c.status == rows.PENDING
        told = and_(table.c.status == Outcome.DELIVERED.value, table.c.kind == Kind.FIRING.value, goes_on)
        gone = table.c.sink.not_in(sinks)
        with self._fenced(epoch) as connection:
            counted = select(table.c.sink, func.count()).where(gone, waits).group_by(table.c.sink)
            found = {str(sink): int(n) for sink, n in connection.execute(counted)}
            ended = {"status": _REMOVED, "settled_s": now_s, "message": _WHY}
            connection.execute(update(table).where(gone, or_(waits, told)).values(ended))
            return found

    def tell_standing(
        self, incident_ids: Collection[str], sinks: Sequence[str], *, now_s: float, epoch: int | None = None
    ) -> int:
        """Let these sinks hear of incidents that fire, where they have not yet; how many events that is."""
        table, incidents = schema.outbox, schema.incidents
        query = select(incidents.c.id, incidents.c.evidence).where(
            incidents.c.id.in_(incident_ids), incidents.c.status == Kind.FIRING.value, incidents.c.evidence.is_not(None)
        )
        with self._fenced(epoch) as connection:
            standing = [
                Delivery(event["id"], incident_id, sink, Kind.FIRING, 1, event, now_s)
                for incident_id, event in connection.execute(query)
                for sink in sinks
            ]
            if not standing:
                return 0
            insert = self._insert(table)
            fresh = {name: insert.excluded[name] for name in ("status", "created_s", "attempts", "next_attempt_s")}
            again = insert.on_conflict_do_update(
                index_elements=["event_id", "sink"],
                set_={**fresh, "settled_s": None, "message": None},
                where=table.c.status == _REMOVED,  # it left and came back: whatever else became of it stays
            )
            added = again.returning(table.c.event_id)
            return sum(
                connection.execute(added, [rows.from_delivery(row)]).first() is not None for row in standing
            )  # fmt: skip

    def _tell_whom_it_began(self, connection: Connection, outbox: Sequence[Delivery]) -> None:
        """Let everybody hear of an end who heard of its beginning, also who is named no more."""
        ends = {row.incident_id: row for row in outbox if row.kind is not Kind.FIRING}
        if not ends:
            return
        table = schema.outbox
        heard = select(table.c.incident_id, table.c.sink).where(
            table.c.incident_id.in_(ends),
            table.c.kind == Kind.FIRING.value,
            table.c.status.in_((rows.PENDING, Outcome.DELIVERED.value)),
        )
        more = [
            Delivery(end.event_id, incident_id, sink, end.kind, end.sequence, end.event, end.created_s)
            for incident_id, sink in connection.execute(heard)
            for end in (ends[incident_id],)
        ]
        if more:
            connection.execute(
                self._insert(table).on_conflict_do_nothing(), [rows.from_delivery(row) for row in more]
            )  # fmt: skip
