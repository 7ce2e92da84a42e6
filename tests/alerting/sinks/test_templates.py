"""The event in the words of its receivers: identity, limits, and what they do not understand left out."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.alerting.sinks.events import AT_S, EVIDENCE, event, firing_and_resolved, transitions

from foreshock.alerting.event import cloud_event
from foreshock.alerting.sinks.templates import alert, pagerduty, slack
from foreshock.alerting.state import AlertPolicy, EndReason, advance, end
from foreshock.core.clock import parse_instant
from foreshock.core.verdicts import Anomalous, Judgement, Subject

NOW_S = AT_S + 300.0
POLICY = AlertPolicy("critical", 0, 0, 60)


def seconds(text: str) -> float:
    return parse_instant(text)


def test_an_alert_carries_exactly_the_labels_of_the_event() -> None:
    """Evidence is in annotations: a score in a label would make a new alert every minute."""
    firing, _ = firing_and_resolved()
    shown = alert(firing, now_s=NOW_S, resend_s=60)
    assert shown["labels"] == firing["data"]["labels"]
    assert shown["labels"]["alertname"] == "Anomaly"
    annotations = shown["annotations"]
    assert annotations["summary"] == "pool_wait is 6 times its usual value"
    assert "pool_wait 75%, latency 25%" in annotations["description"]
    assert "latency no longer follows queue depth" in annotations["description"]
    assert annotations["explain"] == f"foreshock explain {firing['data']['incident']}"
    assert annotations["incident_group"] == firing["data"]["incident_group"]
    assert (annotations["event_id"], annotations["incident"]) == (firing["id"], firing["data"]["incident"])
    assert (annotations["model"], annotations["query"]) == ("v2.1.0-r3", "avg(pool_wait)")


def test_both_ends_of_an_incident_have_equal_labels() -> None:
    """Alertmanager knows an alert by its labels alone."""
    firing, resolved = (alert(one, now_s=NOW_S, resend_s=60) for one in firing_and_resolved())
    assert firing["labels"] == resolved["labels"]


@pytest.mark.parametrize(("interval_s", "resend_s", "lives_s"), [(60, 60, 240), (900, 60, 3_600), (60, 120, 480)])
def test_what_fires_ends_by_itself_after_four_intervals(interval_s: int, resend_s: float, lives_s: float) -> None:
    """As Prometheus: four times the larger of interval and re-send, from the moment of sending."""
    firing, _ = transitions()
    sent = cloud_event(firing, EVIDENCE, cluster="tests", service="s", interval_s=interval_s)
    shown = alert(sent, now_s=NOW_S, resend_s=resend_s)
    assert seconds(shown["startsAt"]) == AT_S
    assert seconds(shown["endsAt"]) == NOW_S + lives_s


def test_an_end_is_the_datasources_instant_and_never_ahead_of_now() -> None:
    """A clock that is ahead by ten minutes gives no alert that ends before it begins, or that is still to end."""
    firing, resolved = firing_and_resolved()
    shown = alert(resolved, now_s=NOW_S, resend_s=60)
    assert seconds(shown["endsAt"]) == AT_S + 60
    for one in (firing, resolved):
        behind = alert(one, now_s=AT_S - 600.0, resend_s=60)
        assert seconds(behind["startsAt"]) <= seconds(behind["endsAt"])
    assert seconds(alert(resolved, now_s=AT_S - 600.0, resend_s=60)["endsAt"]) == AT_S - 600


def test_expired_says_that_nobody_knows_how_it_ended() -> None:
    """Alertmanager has no word for it: the alert ends, and its annotations say why."""
    firing, _ = transitions()
    state, _ = advance(None, Judgement(firing.subject, AT_S, Anomalous(3.5)), POLICY, cluster="tests")
    _, (gone,) = end(state, EndReason.DETECTOR_DELETED, AT_S + 60)
    shown = alert(event(gone), now_s=NOW_S, resend_s=60)
    assert seconds(shown["endsAt"]) == AT_S + 60
    assert (shown["annotations"]["status"], shown["annotations"]["reason"]) == ("expired", "detector_deleted")
    assert shown["annotations"]["summary"].startswith("Nobody knows how this ended (detector_deleted).")


def test_what_is_too_long_is_cut_and_the_rest_arrives() -> None:
    """A receiver that refuses a text of its length would lose the alert."""
    much = replace(EVIDENCE, summary="x" * 3_000, relations=("y" * 500,) * 20, changes=("z" * 500,) * 20)
    firing, _ = transitions()
    sent = event(firing, much)
    assert max(len(text) for text in alert(sent, now_s=NOW_S, resend_s=60)["annotations"].values()) <= 4_096
    message = slack(sent)
    assert all(len(block.get("text", {}).get("text", "")) <= 3_000 for block in message["blocks"])
    assert len(message["text"]) <= 3_000
    assert len(pagerduty(sent, routing_key="r")["payload"]["summary"]) <= 1_024


def test_pagerduty_resolves_what_it_triggered() -> None:
    """Events API v2: `trigger` and `resolve` share the incident as `dedup_key`."""
    firing, resolved = (pagerduty(one, routing_key="r0ut1ng") for one in firing_and_resolved())
    assert (firing["event_action"], resolved["event_action"]) == ("trigger", "resolve")
    assert firing["dedup_key"] == resolved["dedup_key"] == firing_and_resolved()[0]["data"]["incident"]
    assert firing["routing_key"] == resolved["routing_key"] == "r0ut1ng"
    payload = firing["payload"]
    assert {"summary", "source", "severity"} <= set(payload)
    assert payload["severity"] == "critical"
    assert payload["custom_details"]["contributions"][0] == {"metric": "pool_wait", "share": 0.75}


def test_the_graph_is_one_click_away() -> None:
    """Each receiver has a place for a link; without one none is invented."""
    link = "http://prometheus/graph?g0.expr=pool_wait&g0.tab=0"
    plain, _ = firing_and_resolved()
    linked = {**plain, "data": {**plain["data"], "evidence": {"links": {"graph": link}}}}
    assert alert(linked, now_s=NOW_S, resend_s=60)["generatorURL"] == link
    assert pagerduty(linked, routing_key="r")["links"] == [{"href": link, "text": "Graph"}]
    assert f"<{link}|graph>" in slack(linked)["blocks"][-1]["elements"][0]["text"]
    assert alert(plain, now_s=NOW_S, resend_s=60)["generatorURL"] == ""
    assert "links" not in pagerduty(plain, routing_key="r")
    assert "graph" not in json.dumps(slack(plain))


def test_pagerduty_knows_four_severities_only() -> None:
    """An unknown one would be refused with 400."""
    firing, _ = transitions(severity="page")
    assert pagerduty(event(firing), routing_key="r")["payload"]["severity"] == "error"


def test_slack_shows_markup_in_names_as_text() -> None:
    """`<!channel>` in the name of a service pages nobody."""
    firing, _ = transitions()
    sent = cloud_event(firing, EVIDENCE, cluster="tests", service="<!channel> & co")
    text = json.dumps(slack(sent))
    assert "<!channel>" not in text
    assert "&lt;!channel&gt; &amp; co" in text


def test_a_group_label_is_part_of_the_identity() -> None:
    """Two groups of a detector are two alerts."""
    labels = []
    for pod in ("a", "b"):
        subject = Subject("shop", "pods", (("pod", pod),))
        _, (firing,) = advance(None, Judgement(subject, AT_S, Anomalous(3.5)), POLICY, cluster="tests")
        labels.append(alert(event(firing), now_s=NOW_S, resend_s=60)["labels"])
    assert [one["pod"] for one in labels] == ["a", "b"]
