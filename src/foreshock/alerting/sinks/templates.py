"""The event in the words of those who receive it: Alertmanager, Slack, PagerDuty, a Kubernetes Event. Pure.

Every text has the limit of its receiver: what is longer is cut, since a receiver that refuses the whole alert for the
length of one sentence loses it.
"""

from __future__ import annotations

from typing import Any, Final

from foreshock.core.clock import parse_instant, rfc3339

MAX_SUMMARY_CHARS: Final = 1_024  # PagerDuty's summary, a Kubernetes Event's message
MAX_DESCRIPTION_CHARS: Final = 4_096
MAX_SLACK_SECTION_CHARS: Final = 3_000
MAX_QUERY_CHARS: Final = 1_024
MAX_NAMED: Final = 5  # contributions that are read out; the event has the others
LEAST_NAMED: Final = 0.005  # share that is read out, unless it is the largest: "0%" tells nobody anything
_SENTENCES: Final = (("Broken", "relations"), ("Changed in the cluster", "changes"), ("Also anomalous", "neighbours"))
_FOR_SLACK = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def alert(event: dict[str, Any], *, now_s: float, resend_s: float) -> dict[str, Any]:
    """One alert of Alertmanager's API v2, its labels those of the event and nothing else.

    What fires ends by itself after four intervals without a re-send, as Prometheus' own alerts do. An instant of a
    datasource whose clock is ahead is cut to now: an alert that ends before it begins would be refused.
    """
    data = event["data"]
    if data["status"] == "firing":
        ends_s = now_s + 4 * max(float(data.get("interval") or 60), resend_s)
    else:
        ends_s = min(parse_instant(data.get("ended_at") or event["time"]), now_s)
    starts_s = min(parse_instant(data["started_at"]), ends_s)
    annotations = {
        "summary": summary(event),
        "description": _cut(description(event), MAX_DESCRIPTION_CHARS),
        "status": data["status"],
        "reason": data.get("reason"),
        "incident": data["incident"],
        "incident_group": data.get("incident_group"),
        "event_id": event["id"],
        "explain": f"foreshock explain {data['incident']}",
        "model": (data.get("model") or {}).get("revision"),
        "query": _cut(_query(data), MAX_QUERY_CHARS),
    }
    return {
        "labels": dict(data["labels"]),
        "annotations": {name: text for name, text in annotations.items() if text},
        "startsAt": rfc3339(starts_s),
        "endsAt": rfc3339(ends_s),
        "generatorURL": graph(event),
    }


def slack(event: dict[str, Any]) -> dict[str, Any]:
    """A message of Slack's incoming webhooks: `text` for notifications, blocks for the channel."""
    data = event["data"]
    title = f"{_headline(event)}: {data['service']}"
    fields = [("Severity", data["severity"]), ("Score", f"{data['score']:.3g}"), ("Since", data["started_at"])]
    shown = "\n".join([f"*{_escaped(title)}*", _escaped(summary(event)), _escaped(description(event))])
    context = _escaped(f"{data['detector']} · foreshock explain {data['incident']}")
    if link := graph(event):
        context += f" · <{link}|graph>"
    return {
        "text": _cut(_escaped(f"{title}. {summary(event)}"), MAX_SLACK_SECTION_CHARS),
        "blocks": [
            {"type": "section", "text": {"type": "mrkdwn", "text": _cut(shown, MAX_SLACK_SECTION_CHARS)}},
            {
                "type": "section",
                "fields": [{"type": "mrkdwn", "text": f"*{name}*\n{_escaped(str(text))}"} for name, text in fields],
            },
            {"type": "context", "elements": [{"type": "mrkdwn", "text": context}]},
        ],
    }


def pagerduty(event: dict[str, Any], *, routing_key: str) -> dict[str, Any]:
    """An event of PagerDuty's Events API v2; `dedup_key` is the incident: its end resolves what it began."""
    data = event["data"]
    firing = data["status"] == "firing"
    severity = data["severity"] if data["severity"] in {"critical", "error", "warning", "info"} else "error"
    common = {
        "routing_key": routing_key,
        "event_action": "trigger" if firing else "resolve",
        "dedup_key": data["incident"],
    }
    if not firing:
        return common
    return {
        **common,
        "client": "Foreshock",
        **({"links": [{"href": graph(event), "text": "Graph"}]} if graph(event) else {}),
        "payload": {
            "summary": summary(event),
            "source": data["detector"],
            "severity": severity,
            "timestamp": event["time"],
            "component": data["service"],
            "class": data["cause"],
            "group": data["labels"].get("namespace", ""),
            "custom_details": {
                "description": _cut(description(event), MAX_DESCRIPTION_CHARS),
                "labels": data["labels"],
                "contributions": data["contributions"][:MAX_NAMED],
                "explain": f"foreshock explain {data['incident']}",
                "event_id": event["id"],
            },
        },
    }


def summary(event: dict[str, Any]) -> str:
    """One sentence: the narrative's own, or what can be said without one."""
    data = event["data"]
    said = data.get("summary") or f"{data['service']} is not as usual."
    if data["status"] == "expired":
        said = f"Nobody knows how this ended ({data.get('reason') or 'no data for a day'}). {said}"
    return _cut(said, MAX_SUMMARY_CHARS)


def description(event: dict[str, Any]) -> str:
    """The evidence in a few lines: score, who contributed, which relations broke, what changed, who else."""
    data = event["data"]
    worth = [one for k, one in enumerate(data["contributions"][:MAX_NAMED]) if k == 0 or one["share"] >= LEAST_NAMED]
    named = ", ".join(f"{one['metric']} {one['share']:.0%}" for one in worth)
    lines = [f"{_headline(event)}, score {data['score']:.3g} (1 is the threshold), since {data['started_at']}."]
    if named:
        lines.append(f"Contributions: {named}.")
    if data.get("maintenance"):
        lines.append(f"It began in a maintenance: {data['maintenance']}.")
    if data.get("likely_origin"):
        lines.append(f"It began most likely at {data['likely_origin']}.")
    for title, key in _SENTENCES:
        sentences = [one for one in data.get(key, ()) if isinstance(one, str)][:MAX_NAMED]
        if sentences:
            lines.append(f"{title}: {'; '.join(sentences)}.")
    return "\n".join(lines)


def _query(data: dict[str, Any]) -> str:
    """The query of the metric that leads; of the first one where none does."""
    by_metric = {query.get("metric", ""): str(query["query"]) for query in reversed(data.get("queries", ()))}
    leader = next((one["metric"] for one in data["contributions"]), "")
    return by_metric.get(leader) or next(reversed(by_metric.values()), "")


def graph(event: dict[str, Any]) -> str:
    """Where the metric that leads is shown, or nothing."""
    links = (event["data"].get("evidence") or {}).get("links", {})
    return str(links.get("graph", ""))


def _headline(event: dict[str, Any]) -> str:
    data = event["data"]
    reason = f" ({data['reason']})" if data.get("reason") else ""
    return f"Anomaly {data['status']}{reason}"


def _escaped(text: str) -> str:
    return text.translate(_FOR_SLACK)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
