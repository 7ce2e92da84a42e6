"""What is read off the objects of a namespace: which pods are meant, what differs, whether a rollout is under way."""

from __future__ import annotations

from typing import Any

import pytest
from tests.operator import objects

from foreshock.core.clock import rfc3339
from foreshock.diagnosis.changes import What
from foreshock.operator import cluster
from foreshock.operator.happened import Scene, changes_of, difference_of, noted, rollout_s, target_of

NOW_S = 1_700_000_000


def scene(*documents: dict[str, Any]) -> Scene:
    """Everything that these documents say of one namespace."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for each in documents:
        each["metadata"].setdefault("creationTimestamp", rfc3339(NOW_S - 86_400))
        by_kind.setdefault(each["kind"], []).append(each)

    def of(kind: str) -> list[dict[str, Any]]:
        return by_kind.get(kind, [])

    kinds = ("Deployment", "StatefulSet", "DaemonSet")
    return Scene(
        {each["metadata"]["name"]: cluster.service(each) for each in of("Service")},
        [cluster.workload(kind, each) for kind in kinds for each in of(kind)],
        [found for each in of("ReplicaSet") if (found := cluster.revision(each)) is not None],
        [cluster.pod(each) for each in of("Pod")],
        [cluster.autoscaler(each) for each in of("HorizontalPodAutoscaler")],
        [cluster.warned(each) for each in of("Event")],
        {each["metadata"]["name"]: cluster.node(each) for each in of("Node")},
        [],
    )


def _meant(*documents: dict[str, Any]) -> set[str] | None:
    found = target_of(scene(*documents), "checkout")
    return None if found is None else {each.who for each in found.workloads}


def test_the_service_of_the_name_says_which_pods_are_meant() -> None:
    """Its selector counts, whatever the workload is called and whatever else bears the name as a label."""
    api, named = objects.workload(name="api-v2", app="api"), objects.workload(name="checkout", app="checkout")
    assert _meant(objects.service("checkout", app="api"), api, named) == {"Deployment api-v2"}


def test_without_a_service_labels_say_it_and_then_the_name() -> None:
    """`app` or `app.kubernetes.io/name`, else the workload of that name with its own selector."""
    labelled = objects.workload(name="api-v2", app="checkout")
    standard = objects.workload("StatefulSet", "store", app="x")
    standard["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"] = "checkout"
    same_name = objects.workload("DaemonSet", "checkout", app="other")
    assert _meant(labelled, standard, same_name) == {"Deployment api-v2", "StatefulSet store"}
    assert _meant(same_name) == {"DaemonSet checkout"}
    assert _meant(objects.workload(name="other", app="other")) is None
    assert _meant(objects.service("checkout"), same_name) == {"DaemonSet checkout"}  # a Service without a selector


@pytest.mark.parametrize(
    ("before", "now", "what", "words"),
    [
        ({"image": "a:1"}, {"image": "a:2"}, What.ROLLOUT, "image a from 1 to 2"),
        ({"memory": "512Mi"}, {"memory": "256Mi"}, What.ROLLOUT, "memory limit of app from 512Mi to 256Mi"),
        ({"refers_to": "a"}, {"refers_to": "b"}, What.CONFIGURATION, "to ConfigMap b and no more to ConfigMap a"),
        (
            {"annotations": {"checksum/config": "1"}}, {"annotations": {"checksum/config": "2"}},
            What.CONFIGURATION, "checksum/config changed",
        ),
        (
            {"annotations": {"kubectl.kubernetes.io/restartedAt": "1"}},
            {"annotations": {"kubectl.kubernetes.io/restartedAt": "2"}}, What.ROLLOUT, "restarted by hand",
        ),
        ({"env": {"A": "s3cret"}}, {"env": {"A": "t0psecret"}}, What.ROLLOUT, "changed in something else"),
    ],
)  # fmt: skip
def test_what_differs_in_a_pod_template(before: dict[str, Any], now: dict[str, Any], what: What, words: str) -> None:
    """Images, limits, references and checksums are named; a value of the environment is neither said nor held."""
    old, new = cluster.template(objects.template(**before)), cluster.template(objects.template(**now))
    found, said = difference_of(old, new)
    assert (found, words in said) == (what, True), said
    assert "secret" not in repr((old, new))


def _deployment(reason: str, **more: Any) -> dict[str, Any]:
    document = objects.workload(**more)
    document["status"] = {
        "conditions": [{"type": "Progressing", "reason": reason, "lastUpdateTime": rfc3339(NOW_S - 400)}]
    }
    return document


def test_a_rollout_is_under_way_until_its_controller_says_that_it_is_complete() -> None:
    """While new pods come up the instant is now; then the one at which the last of them was there."""
    service, revision = objects.service("checkout", app="checkout"), objects.replica_set(2, objects.workload())
    revision["metadata"]["creationTimestamp"] = rfc3339(NOW_S - 700)
    first = objects.replica_set(1, objects.workload(), image="a:1")
    under_way = scene(service, _deployment("ReplicaSetUpdated"), revision, first)
    target = target_of(under_way, "checkout")
    assert target is not None
    assert rollout_s(under_way, target, NOW_S) == NOW_S
    assert any("is rolling out revision 2" in each.said for each in changes_of(under_way, target))
    complete = scene(service, _deployment("NewReplicaSetAvailable"), revision, first)
    target = target_of(complete, "checkout")
    assert target is not None
    assert rollout_s(complete, target, NOW_S) == NOW_S - 400
    assert any("rolled out revision 2" in each.said for each in changes_of(complete, target))


def test_going_back_to_an_old_revision_is_noticed() -> None:
    """`kubectl rollout undo` gives an old ReplicaSet a new number: its age says nothing, the number does."""
    document = objects.replica_set(3, objects.workload())
    before = cluster.revision(document)
    document["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "5"
    (note,) = noted(before, cluster.revision(document), now_s=NOW_S, key=("", "checkout-h3"))
    assert note.change.said == "Deployment checkout went back to the pods of revision 3, as revision 5"


def test_an_autoscaler_at_its_limit_is_said() -> None:
    """It would like more replicas than it may have, and since when."""
    scaler = {
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "checkout"},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "checkout"}, "maxReplicas": 10},
        "status": {
            "desiredReplicas": 10,
            "lastScaleTime": rfc3339(NOW_S - 900),
            "conditions": [
                {
                    "type": "ScalingLimited", "status": "True", "reason": "TooManyReplicas",
                    "lastTransitionTime": rfc3339(NOW_S - 600),
                }
            ],
        },
    }  # fmt: skip
    known = scene(objects.workload(), scaler)
    target = target_of(known, "checkout")
    assert target is not None
    assert [each.said for each in changes_of(known, target)] == [
        "the autoscaler of Deployment checkout would like more than its 10 replicas",
        "Deployment checkout was scaled by its autoscaler, to 10 replicas",
    ]


def test_a_node_that_has_just_come_was_never_in_trouble() -> None:
    """Every node gets ready once; one that was lost and came back is said."""
    pods = objects.pod("checkout-1", node="n1")

    def trouble(born_s: int) -> list[str]:
        node = objects.node("n1", ready=True, since_s=NOW_S)
        node["metadata"]["creationTimestamp"] = rfc3339(born_s)
        known = scene(pods, node)
        target = target_of(known, "checkout")
        assert target is not None
        return [each.said for each in changes_of(known, target)]

    assert trouble(NOW_S - 60) == []
    assert trouble(NOW_S - 86_400) == ["node n1 (with 1 of the pods) was not Ready until then"]
