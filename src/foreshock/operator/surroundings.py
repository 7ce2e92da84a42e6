"""Watches the objects around the services that are judged, and answers from memory what changed there.

The leader alone watches, and only namespaces that have detectors: one by one up to ten of them, beyond that the whole
cluster where it may. What may not be read is unknown; that is logged once, and said in the alerts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple

import structlog
from pydantic import BaseModel, ConfigDict, Field

from foreshock.core.clock import Clock
from foreshock.core.errors import ForeshockError, KubernetesRefused
from foreshock.diagnosis.changes import LOOK_BACK_S, Change, sentences
from foreshock.operator import cluster
from foreshock.operator.happened import Noted, Scene, Target, changes_of, noted, rollout_s, target_of
from foreshock.operator.watch import FORBIDDEN, Heard, Key, Kind, Reflector, Requests
from foreshock.prometheus.settings import Seconds

MOST_NAMESPACES = 10  # of which each has watches of its own
MOST_NOTED = 10_000
MOST_OBJECTS: Final = {cluster.PODS: 20_000, cluster.REPLICA_SETS: 20_000, cluster.WARNINGS: 5_000}
MOST_OTHERS = 5_000  # of every other kind
_LOOK_EVERY_S = 5.0
_SWEEP_EVERY_S = 60.0
_ANSWER_HOLDS_S = 2.0
_EVICTED = 10  # one in so many Events leaves where there are too many
_log = structlog.get_logger("foreshock")

Everywhere = None
_TRIMS: Final[dict[Kind, Callable[[dict[str, Any]], Any]]] = {
    **{
        kind: partial(cluster.workload, kind.name)
        for kind in (cluster.DEPLOYMENTS, cluster.STATEFUL_SETS, cluster.DAEMON_SETS)
    },
    cluster.REPLICA_SETS: cluster.revision,
    cluster.AUTOSCALERS: cluster.autoscaler,
    cluster.PODS: cluster.pod,
    cluster.SERVICES: cluster.service,
    cluster.WARNINGS: cluster.warned,
    cluster.CONFIG_MAPS: cluster.version,
}


class ChangesSettings(BaseModel):
    """What an administrator lets the operator read of the cluster for the diagnosis. Secrets are never among it."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, populate_by_name=True)

    enabled: bool = Field(default=True, description="Whether alerts say what changed in the cluster before.")
    look_back_s: Seconds = Field(
        default=int(LOOK_BACK_S), ge=600, le=86_400, alias="look_back",
        description="How long before the onset a change may lie.",
    )  # fmt: skip
    nodes: bool = Field(default=True, description="Also the nodes of the service's pods; they belong to no namespace.")
    config_maps: bool = Field(
        default=False,
        description="Also that a ConfigMap changed that the service refers to: its version is read, never its content.",
    )


class _Kept(Reflector[Any]):
    """A reflector with a limit, which notes what changes; `in_namespace` are its objects once more, by name."""

    def __init__(
        self,
        owner: ClusterSurroundings,
        kind: Kind,
        trim: Callable[[dict[str, Any]], Any],
        namespaces: tuple[str, ...],
    ) -> None:
        heard: Heard[Any] = Heard(
            lambda _, __: None, lambda _, __: None,
            relisted=owner.relisted, changed=owner.counted, trouble=partial(owner.trouble, kind),
        )  # fmt: skip
        super().__init__(owner.api, kind, trim, heard, owner.clock, namespaces=namespaces)
        self._owner, self._most = owner, MOST_OBJECTS.get(kind, MOST_OTHERS)
        self.in_namespace: dict[str, dict[str, Any]] = {}

    def put(self, key: Key, trimmed: Any) -> None:
        before = self.objects.get(key)
        if trimmed is None or (isinstance(trimmed, cluster.Warned) and trimmed.at_s < self._owner.oldest_s):
            self.drop(key)
            return
        if before is None and len(self.objects) >= self._most and not self._make_room():
            return
        self._owner.note(noted(before, trimmed, now_s=self._owner.clock.now_s(), key=key))
        self.in_namespace.setdefault(key[0], {})[key[1]] = trimmed
        super().put(key, trimmed)

    def drop(self, key: Key) -> None:
        super().drop(key)
        of_namespace = self.in_namespace.get(key[0], {})
        of_namespace.pop(key[1], None)
        if not of_namespace:
            self.in_namespace.pop(key[0], None)

    def _make_room(self) -> bool:
        """The oldest Events leave for new ones; of everything else what is known stays."""
        if self.kind is not cluster.WARNINGS:
            self._owner.full(self.kind)
            return False
        by_age = sorted(self.objects, key=lambda key: self.objects[key].at_s)
        for key in by_age[: len(by_age) // _EVICTED + 1]:
            self.drop(key)
            self._owner.full(self.kind)
        return True

    def sweep(self, oldest_s: float) -> None:
        """Drop what is too old to be said."""
        if self.kind is cluster.WARNINGS:
            for key in [key for key, each in self.objects.items() if each.at_s < oldest_s]:
                self.drop(key)


class _Around(NamedTuple):
    scene: Scene
    target: Target | None
    changes: list[Change]


@dataclass(slots=True)
class ClusterSurroundings:
    """The engine's `Surroundings`, as the API server shows them; `wanted` are the namespaces that have detectors."""

    api: Requests
    clock: Clock
    wanted: Callable[[], Collection[str]]
    settings: ChangesSettings = field(default_factory=ChangesSettings)
    is_restricted: bool = False  # the whole cluster may not be read
    dropped: Callable[[str], None] = lambda reason: None  # noqa: ARG005
    shown: Callable[[str, int], None] = lambda kind, count: None  # noqa: ARG005
    relisted: Callable[[str, str], None] = lambda kind, reason: None  # noqa: ARG005
    counted: Callable[[str, int], None] = lambda kind, count: None  # noqa: ARG005
    _watched: dict[str | None, tuple[dict[Kind, _Kept], asyncio.Task[None]]] = field(default_factory=dict)
    _nodes: _Kept | None = None
    _noted: dict[Noted, None] = field(default_factory=dict)  # oldest first
    _said: set[str] = field(default_factory=set)
    _found_s: float = float("-inf")
    _complete: dict[str, int] = field(default_factory=dict)  # by namespace, how many kinds were listed then
    _scenes: dict[str, Scene] = field(default_factory=dict)
    _found: dict[tuple[str, str], _Around] = field(default_factory=dict)

    # --- what the engine asks -------------------------------------------------------------------------------------

    def changes(self, namespace: str, service: str, *, onset_s: float) -> tuple[str, ...]:
        """What changed before and since the onset, newest first; at the end what is not known."""
        kinds = self._kinds_of(namespace)
        around = self._around(namespace, service)
        said = sentences(around.changes, onset_s=onset_s, look_back_s=self.settings.look_back_s)
        unknown = sorted(kind.plural for kind, each in kinds.items() if each is None or not each.is_complete)
        return (*said, f"Not known, since they could not be read: {', '.join(unknown)}") if unknown else said

    def rollout_s(self, namespace: str, service: str, *, at_s: float) -> float | None:
        """The newest instant up to `at_s` at which a rollout of the service was under way."""
        around = self._around(namespace, service)
        return rollout_s(around.scene, around.target, at_s) if around.target is not None else None

    def _around(self, namespace: str, service: str) -> _Around:
        """Looked up once in a few seconds, so that a storm of alerts is no storm of look-ups."""
        now_s = self.clock.monotonic_s()
        complete = sum(each is not None and each.is_complete for each in self._kinds_of(namespace).values())
        if now_s - self._found_s > _ANSWER_HOLDS_S or complete != self._complete.get(namespace):
            self._found_s, self._complete[namespace] = now_s, complete
            self._scenes.clear()
            self._found.clear()
        around = self._found.get((namespace, service))
        if around is None:
            scene = self._scenes.get(namespace)
            if scene is None:
                scene = self._scenes[namespace] = self._scene(namespace, self._kinds_of(namespace))
            target = target_of(scene, service)
            found = changes_of(scene, target) if target is not None else []
            around = self._found[namespace, service] = _Around(scene, target, found)
        return around

    def _kinds_of(self, namespace: str) -> dict[Kind, _Kept | None]:
        watched = self._watched.get(namespace) or self._watched.get(Everywhere)
        kinds: dict[Kind, _Kept | None] = dict.fromkeys(self._kinds)
        kinds |= watched[0] if watched is not None else {}
        return kinds | ({cluster.NODES: self._nodes} if self.settings.nodes else {})

    @property
    def _kinds(self) -> tuple[Kind, ...]:
        return tuple(kind for kind in _TRIMS if kind is not cluster.CONFIG_MAPS or self.settings.config_maps)

    def _scene(self, namespace: str, kinds: Mapping[Kind, _Kept | None]) -> Scene:
        def of(*wanted: Kind) -> dict[str, Any]:
            found: dict[str, Any] = {}
            for kind in wanted:
                kept = kinds.get(kind)
                for name, each in (kept.in_namespace.get(namespace, {}) if kept is not None else {}).items():
                    found[name if len(wanted) == 1 else f"{kind.name} {name}"] = each
            return found

        nodes = kinds.get(cluster.NODES)
        return Scene(
            of(cluster.SERVICES),
            of(cluster.DEPLOYMENTS, cluster.STATEFUL_SETS, cluster.DAEMON_SETS).values(),
            of(cluster.REPLICA_SETS).values(),
            of(cluster.PODS).values(),
            of(cluster.AUTOSCALERS).values(),
            of(cluster.WARNINGS).values(),
            nodes.in_namespace.get("", {}) if nodes is not None else {},
            [each for each in self._noted if each.namespace == namespace],
        )

    @property
    def held(self) -> dict[str, int]:
        """How many objects of each kind are known."""
        counts: dict[str, int] = {}
        for kinds, _ in self._watched.values():
            for kind, kept in kinds.items():
                counts[kind.name] = counts.get(kind.name, 0) + len(kept.objects)
        return counts | ({cluster.NODES.name: len(self._nodes.objects)} if self._nodes is not None else {})

    # --- life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Watch where detectors are, until cancelled; no answer of the API server ends it."""
        swept_s = self.clock.monotonic_s()
        try:
            async with asyncio.TaskGroup() as tasks:
                if self.settings.nodes:
                    self._nodes = _Kept(self, cluster.NODES, cluster.node, ())
                    tasks.create_task(self._nodes.run())
                while True:
                    self._follow(tasks)
                    if self.clock.monotonic_s() - swept_s > _SWEEP_EVERY_S:
                        swept_s = self.clock.monotonic_s()
                        self.sweep()
                    await self.clock.sleep(_LOOK_EVERY_S)
        finally:
            self._watched.clear()

    def _follow(self, tasks: asyncio.TaskGroup) -> None:
        scopes = self._scopes(self.wanted())
        for scope in [scope for scope in self._watched if scope not in scopes]:
            _, task = self._watched.pop(scope)
            task.cancel()
        for scope in scopes:
            if scope not in self._watched:
                where = () if scope is Everywhere else (scope,)
                kinds = {kind: _Kept(self, kind, _TRIMS[kind], where) for kind in self._kinds}
                self._watched[scope] = kinds, tasks.create_task(_run(kinds.values()))

    def _scopes(self, namespaces: Collection[str]) -> set[str | None]:
        if len(namespaces) <= MOST_NAMESPACES:
            return set(namespaces)
        if not self.is_restricted:
            return {Everywhere}
        self._say_once(
            "namespaces", f"only the first {MOST_NAMESPACES} namespaces are watched for what changed in them"
        )
        return set(sorted(namespaces)[:MOST_NAMESPACES])

    def sweep(self) -> None:
        """Forget what is too old to be said."""
        oldest_s = self.oldest_s
        for each in [each for each in self._noted if each.change.at_s < oldest_s]:
            del self._noted[each]
        for kinds, _ in self._watched.values():
            for kept in kinds.values():
                kept.sweep(oldest_s)
        for name, count in self.held.items():
            self.shown(name, count)

    # --- what the reflectors say ----------------------------------------------------------------------------------

    @property
    def oldest_s(self) -> float:
        """Before this nothing is said: an incident may begin an hour before it fires."""
        return self.clock.now_s() - self.settings.look_back_s - 3_600.0

    def note(self, happened: Any) -> None:
        """Remember what no object will."""
        for each in happened:
            if each.change.at_s >= self.oldest_s:
                self._noted[each] = None
        while len(self._noted) > MOST_NOTED:
            del self._noted[next(iter(self._noted))]
            self.dropped("changes_noted")

    def full(self, kind: Kind) -> None:
        """There is more of a kind than is kept."""
        self.dropped(f"changes_{kind.plural}")
        self._say_once(f"full {kind.name}", f"there are more {kind.plural} than are kept")

    def trouble(self, kind: Kind, _: str, error: ForeshockError) -> None:
        """What may not be read is unknown, and that is said once."""
        if isinstance(error, KubernetesRefused) and error.status == FORBIDDEN:
            self._say_once(f"refused {kind.name}", f"{kind.plural} may not be read: what changed of them is unknown")
        else:
            self._say_once(
                f"{kind.name} {str(error)[:80]}", f"watching {kind.plural} goes on with what is known: {error}"
            )

    def _say_once(self, key: str, message: str) -> None:
        if key not in self._said and len(self._said) < 1_000:
            self._said.add(key)
            _log.warning(message)


async def _run(reflectors: Collection[_Kept]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for each in reflectors:
            tasks.create_task(each.run())
