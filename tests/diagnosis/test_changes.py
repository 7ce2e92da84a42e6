"""What changed, in sentences: relative to the onset, newest first, few, and the likely causes kept."""

from __future__ import annotations

from dataclasses import replace

from foreshock.diagnosis.changes import Change, What, sentences

ONSET_S = 1_700_000_000.0
ROLLOUT = Change(What.ROLLOUT, ONSET_S - 720, "Deployment checkout", "rolled out revision 13: image app from 1 to 2")
OOM = Change(What.OUT_OF_MEMORY, ONSET_S - 60, "container app", "was OOM-killed", where=frozenset({"checkout-1"}))


def test_times_are_relative_to_the_onset_and_the_newest_is_first() -> None:
    """An engineer reads how long before it began, and what came after it."""
    after = replace(OOM, at_s=ONSET_S + 300)
    at_once = replace(OOM, at_s=ONSET_S, who="container proxy")
    assert sentences([ROLLOUT, after, at_once], onset_s=ONSET_S) == (
        "5 minutes after: container app was OOM-killed in pod checkout-1",
        "at the onset: container proxy was OOM-killed in pod checkout-1",
        "12 minutes before: Deployment checkout rolled out revision 13: image app from 1 to 2",
    )


def test_equal_things_are_said_once() -> None:
    """Five kills in two pods are one sentence with the time of the last."""
    kills = [
        replace(OOM, at_s=ONSET_S - 600 + 100 * n, where=frozenset({f"checkout-{n % 2}"}), times=1) for n in range(5)
    ]
    assert sentences(kills, onset_s=ONSET_S) == ("3 minutes before: container app was OOM-killed 5 times in 2 pods",)


def test_a_quantity_that_moved_several_times_is_said_from_its_first_value_to_its_last() -> None:
    """3 to 5 to 4 is one sentence."""
    up = Change(What.SCALING, ONSET_S - 900, "Deployment checkout", "was scaled", "3", "5 replicas")
    down = replace(up, at_s=ONSET_S - 300, before="5", after="4 replicas")
    assert sentences([down, up], onset_s=ONSET_S) == (
        "5 minutes before: Deployment checkout was scaled 2 times, from 3 to 4 replicas",
    )
    assert "was scaled from 3 to 5 replicas" in sentences([up], onset_s=ONSET_S)[0]


def test_what_is_too_much_leaves_out_the_unlikely() -> None:
    """Fifty warnings after the onset leave a rollout of five hours ago in its place."""
    warnings = [
        Change(What.WARNING, ONSET_S + n, "Warning", f"Reason{n}", note="something about it") for n in range(1, 51)
    ]
    said = sentences([*warnings, replace(ROLLOUT, at_s=ONSET_S - 5 * 3600)], onset_s=ONSET_S)
    assert len(said) == 10
    assert said[-1].startswith("5 hours before: Deployment checkout")


def test_what_is_too_old_is_not_said() -> None:
    """A change of yesterday explains nothing of now."""
    assert sentences([replace(ROLLOUT, at_s=ONSET_S - 7 * 3600)], onset_s=ONSET_S) == ()
    assert len(sentences([replace(ROLLOUT, at_s=ONSET_S - 7 * 3600)], onset_s=ONSET_S, look_back_s=86_400)) == 1
