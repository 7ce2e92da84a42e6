"""What changed around a service, read off the objects of its namespace and off what was noted as they changed. Pure.

Which pods are meant by a `target_service`: those that the Service of that name chooses; where there is none, those
labelled `app.kubernetes.io/name` or `app` with it; else those of the workload of that name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from foreshock.diagnosis.changes import Change, What
from foreshock.operator.cluster import (
    DEPLOYMENTS,
    PODS,
    Autoscaler,
    Chosen,
    Container,
    Labels,
    NodeState,
    Pod,
    Revision,
    Template,
    Version,
    Warned,
    Workload,
)

NAMING_LABELS = ("app.kubernetes.io/name", "app")
_FIRST_WITHIN_S = 60.0  # a ReplicaSet that is not older than this beside its Deployment came with it
_YOUNG_NODE_S = 600.0  # a node that gets ready within this of its creation was never in trouble


@dataclass(frozen=True, slots=True)
class Noted:
    """A change that no object remembers: noted when it was seen. It concerns pods with these labels, or by `name`."""

    namespace: str
    labels: Labels
    change: Change
    name: str = ""  # "ConfigMap settings": it concerns the pods that refer to it


@dataclass(frozen=True, slots=True)
class Scene:
    """What is known of one namespace, and of the nodes."""

    services: Mapping[str, Chosen]
    workloads: Collection[Workload]
    revisions: Collection[Revision]
    pods: Collection[Pod]
    autoscalers: Collection[Autoscaler]
    warnings: Collection[Warned]
    nodes: Mapping[str, NodeState]
    noted: Collection[Noted]


@dataclass(frozen=True, slots=True)
class Target:
    """The workloads and pods of a service: `selectors` are alternatives, of one of which all labels must match."""

    selectors: tuple[Labels, ...]
    workloads: tuple[Workload, ...]

    def has(self, labels: Labels) -> bool:
        """Whether pods with these labels belong to it."""
        return any(all(pair in labels for pair in selector) for selector in self.selectors)


def target_of(scene: Scene, service: str) -> Target | None:
    """What a `target_service` means in a namespace, or None where nothing there bears its name."""
    chosen = scene.services.get(service)
    if chosen is not None and chosen.selector:
        return _chosen(scene, (chosen.selector,))
    named = tuple(((label, service),) for label in NAMING_LABELS)
    target = _chosen(scene, named)
    if target.workloads or _pods(scene, target):
        return target
    same = tuple(each for each in scene.workloads if each.name == service)
    return Target(tuple(each.selector for each in same if each.selector), same) if same else None


def _chosen(scene: Scene, selectors: tuple[Labels, ...]) -> Target:
    target = Target(selectors, ())
    return Target(selectors, tuple(each for each in scene.workloads if target.has(each.template.labels)))


def changes_of(scene: Scene, target: Target) -> list[Change]:
    """Everything that is known to have changed around the pods of a service, in no order."""
    pods = _pods(scene, target)
    revisions = _revisions(scene, target)
    return [
        *_rollouts(target, revisions),
        *_scalings(scene, target),
        *_node_trouble(scene.nodes, pods),
        *_warnings(scene, target, pods, revisions),
        *(each.change for each in _noted(scene, target)),
    ]


def rollout_s(scene: Scene, target: Target, at_s: float) -> float | None:
    """The newest instant up to `at_s` at which a rollout of the service's workloads was under way."""
    if any(each.is_rolling for each in target.workloads):
        return at_s
    seen = [each.created_s for each in _revisions(scene, target)]
    seen += [each.settled_s for each in target.workloads if each.settled_s is not None]
    kinds = {What.ROLLOUT, What.CONFIGURATION}
    seen += [each.change.at_s for each in _noted(scene, target) if each.change.what in kinds and not each.name]
    return max((min(each, at_s) for each in seen), default=None)


def _pods(scene: Scene, target: Target) -> list[Pod]:
    """The pods of the service; those of one workload share their labels, which are compared once."""
    known: dict[int, bool] = {}
    found = []
    for each in scene.pods:
        which = id(each.labels)
        if which not in known:
            known[which] = target.has(each.labels)
        if known[which]:
            found.append(each)
    return found


def _revisions(scene: Scene, target: Target) -> list[Revision]:
    names = {each.name for each in target.workloads if each.kind == DEPLOYMENTS.name}
    return [each for each in scene.revisions if each.deployment in names]


def _noted(scene: Scene, target: Target) -> Iterator[Noted]:
    referred = frozenset[str]().union(*(each.template.names for each in target.workloads))
    for each in scene.noted:
        if each.name in referred if each.name else target.has(each.labels):
            yield each


def _rollouts(target: Target, revisions: Iterable[Revision]) -> Iterator[Change]:
    """Each ReplicaSet is a rollout at the time of its creation, told by what it has and its predecessor had not."""
    for workload in target.workloads:
        own = sorted((each for each in revisions if each.deployment == workload.name), key=lambda each: each.number)
        for place, each in enumerate(own):
            before = own[place - 1] if place else None
            is_newest = place == len(own) - 1
            verb = "is rolling out" if is_newest and workload.is_rolling else "rolled out"
            if before is None and each.created_s - workload.created_s < _FIRST_WITHIN_S:
                yield Change(What.ROLLOUT, each.created_s, workload.who, "was created")
                continue
            what, difference = (What.ROLLOUT, "") if before is None else difference_of(before.template, each.template)
            said = f": {difference}" if difference else ""
            yield Change(what, each.created_s, workload.who, f"{verb} revision {each.number}{said}")


def _scalings(scene: Scene, target: Target) -> Iterator[Change]:
    """What autoscalers remember; a scaling that was seen happen is told by the note of it."""
    who = {each.who for each in target.workloads}
    for each in scene.autoscalers:
        if each.target not in who:
            continue
        if each.limited_s is not None:
            how = f"would like more than its {each.most} replicas"
            yield Change(What.SCALING, each.limited_s, f"the autoscaler of {each.target}", how)
        seen = [
            one.change.at_s for one in scene.noted if (one.change.what, one.change.who) == (What.SCALING, each.target)
        ]
        if each.scaled_s is not None and not any(abs(at_s - each.scaled_s) < _FIRST_WITHIN_S for at_s in seen):
            yield Change(
                What.SCALING, each.scaled_s, each.target, f"was scaled by its autoscaler, to {each.wanted} replicas"
            )


def _node_trouble(nodes: Mapping[str, NodeState], pods: Iterable[Pod]) -> Iterator[Change]:
    held: dict[str, int] = {}
    for pod in pods:
        held[pod.node] = held.get(pod.node, 0) + 1
    for name, count in held.items():
        node = nodes.get(name)
        for kind, is_bad, since_s in node.conditions if node is not None else ():
            assert node is not None
            if not is_bad and since_s - node.created_s < _YOUNG_NODE_S:
                continue
            who = f"node {name} (with {count} of the pods)"
            if kind == "Ready":
                how = "is not Ready since then" if is_bad else "was not Ready until then"
            else:
                how = f"has {kind} since then" if is_bad else f"had {kind} until then"
            yield Change(What.NODE, since_s, who, how)


def _warnings(scene: Scene, target: Target, pods: Iterable[Pod], revisions: Iterable[Revision]) -> Iterator[Change]:
    """Warning Events of the service's objects; of pods that are gone, by the name of what made them."""
    named = {("Pod", each.name) for each in pods} | {(each.kind, each.name) for each in target.workloads}
    named |= {("ReplicaSet", each.name) for each in revisions}
    who = {each.who for each in target.workloads}
    named |= {("HorizontalPodAutoscaler", each.name) for each in scene.autoscalers if each.target in who}
    makers = tuple(f"{each.name}-" for each in revisions)
    makers += tuple(f"{each.name}-" for each in target.workloads if each.kind != DEPLOYMENTS.name)
    for each in scene.warnings:
        is_pod = each.kind == PODS.name
        if (each.kind, each.name) in named or (is_pod and makers and each.name.startswith(makers)):
            where = frozenset({each.name}) if is_pod else frozenset[str]()
            yield Change(
                What.WARNING, each.at_s, "Warning", each.reason, times=each.times, where=where, note=each.message
            )


# --- what is noted as it happens --------------------------------------------------------------------------------------


def noted(before: object, now: object, *, now_s: float, key: tuple[str, str]) -> Iterator[Noted]:
    """What is to be noted of an object that was `before` (None: never seen) and is `now`."""
    match before, now:
        case Workload(), Workload():
            yield from _of_workload(before, now, now_s)
        case Revision(), Revision() if before.number != now.number:
            how = f"went back to the pods of revision {before.number}, as revision {now.number}"
            who = f"{DEPLOYMENTS.name} {now.deployment}"
            yield Noted(now.namespace, now.template.labels, Change(What.ROLLOUT, now_s, who, how))
        case _, Pod():
            ended = {each.name: each for each in before.restarted} if isinstance(before, Pod) else {}
            for each in now.restarted:
                last = ended.get(each.name)
                if last is None or last.ended_s != each.ended_s:
                    yield Noted(now.namespace, now.labels, _ended(now, each, last))
        case Version(), Version() if before != now:
            change = Change(What.CONFIGURATION, now_s, f"ConfigMap {key[1]}", "was changed")
            yield Noted(key[0], (), change, name=f"ConfigMap {key[1]}")
        case _:
            return


def _of_workload(before: Workload, now: Workload, now_s: float) -> Iterator[Noted]:
    def note(change: Change) -> Noted:
        return Noted(now.namespace, now.template.labels, change)

    if before.template.digest != now.template.digest and now.kind != DEPLOYMENTS.name:  # those have ReplicaSets
        what, difference = difference_of(before.template, now.template)
        yield note(Change(what, now_s, now.who, f"rolled out: {difference}"))
    if before.replicas != now.replicas:
        change = Change(
            What.SCALING, now_s, now.who, "was scaled", before=f"{before.replicas}", after=f"{now.replicas} replicas"
        )
        yield note(change)


def _ended(pod: Pod, container: Container, last: Container | None) -> Change:
    """What a container ended of; where it did so several times between two looks, all of them."""
    is_oom = container.reason == "OOMKilled"
    how = f"ended ({container.reason or 'no reason given'}, exit code {container.exit_code})"
    return Change(
        What.OUT_OF_MEMORY if is_oom else What.RESTART, container.ended_s, f"container {container.name}",
        "was OOM-killed" if is_oom else how, times=max(1, container.restarts - last.restarts if last else 1),
        where=frozenset({pod.name}),
    )  # fmt: skip


def difference_of(before: Template, now: Template) -> tuple[What, str]:
    """What is different in a pod template, and whether that is code or configuration."""
    code = [
        *(_image(old, new) for _, old, new in _changed(before.images, now.images)),
        *(f"memory limit of {name} from {old} to {new}" for name, old, new in _changed(before.memory, now.memory)),
    ]
    configuration = [f"{name} changed" for name, _, _ in _changed(before.marks, now.marks)]
    came, went = sorted(now.names - before.names), sorted(before.names - now.names)
    if came or went:
        words = [f"refers to {', '.join(came)}"] if came else []
        words += [f"no more to {', '.join(went)}"] if went else []
        configuration.append(" and ".join(words))
    if code or configuration:
        return What.ROLLOUT if code else What.CONFIGURATION, "; ".join([*code, *configuration])
    if before.restarted != now.restarted:
        return What.ROLLOUT, "restarted by hand"
    return What.ROLLOUT, "the pod template changed in something else"


def _changed(before: Labels, now: Labels) -> Iterator[tuple[str, str, str]]:
    old = dict(before)
    for name, value in now:
        if old.get(name, value) != value:
            yield name, old[name], value


def _image(old: str, new: str) -> str:
    """The tags alone where the repository is the same.

    >>> _image("shop/checkout:1.4.1", "shop/checkout:1.4.2"), _image("a:1", "b:1")
    ('image shop/checkout from 1.4.1 to 1.4.2', 'image from a:1 to b:1')
    """
    (old_place, _, old_tag), (new_place, _, new_tag) = old.rpartition(":"), new.rpartition(":")
    if old_place == new_place and old_place and "/" not in new_tag:
        return f"image {new_place} from {old_tag} to {new_tag}"
    return f"image from {old} to {new}"
