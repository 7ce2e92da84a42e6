"""What an older Foreshock does beside a newer one: run by its own code, told by lines on stdin, answering in JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from tests.store.records_for_tests import SINKS, cycle, model

import foreshock
from foreshock.store.artifacts import ArtifactStore
from foreshock.store.history import History


def answer(history: History, artifacts: ArtifactStore, command: str, argument: str) -> object:
    """One command."""
    if command == "commit":
        history.commit_cycle(cycle(int(argument)))
        new = model(int(argument) + 1)
        if hasattr(history, "record_model"):  # the version before has no other way
            history.record_model(new)
        else:
            history.change_models(new.subject, new.version, lambda _: (new,))
    elif command == "put":
        return artifacts.put({"values": np.arange(float(argument))}, {"of": "the older"})
    elif command == "get":
        facts, arrays = artifacts.get(argument)
        return [facts["of"], arrays["values"].tolist()]
    return sorted(
        [
            *(str(subject) for subject in history.load_alert_states()),
            *(incident.incident_id for incident in history.incidents(limit=100)),
            *(row.event_id for sink in SINKS for row in history.pending(sink, limit=100, now_s=4e9)),
            *(record.name for record in history.models(model(1).subject)),
        ]
    )


def main(url: str, folder: str) -> None:
    """Until stdin ends."""
    print(json.dumps(str(Path(foreshock.__file__).parent)), flush=True)
    history, artifacts = History(url), ArtifactStore(Path(folder))
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        print(json.dumps(answer(history, artifacts, command, argument)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
