"""The port to what is known around a service: the engine asks, and is answered from memory, at once."""

from __future__ import annotations

from typing import Protocol


class Surroundings(Protocol):
    """What happens in the cluster around the service that a detector names."""

    def changes(self, namespace: str, service: str, *, onset_s: float) -> tuple[str, ...]:
        """What changed before and since the onset of an incident, in sentences."""
        ...

    def rollout_s(self, namespace: str, service: str, *, at_s: float) -> float | None:
        """The newest instant up to `at_s` at which a rollout was under way, or None where there was none."""
        ...


class NoSurroundings:
    """Nobody looks at a cluster, as in `foreshock run`."""

    def changes(self, namespace: str, service: str, *, onset_s: float) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    def rollout_s(self, namespace: str, service: str, *, at_s: float) -> float | None:  # noqa: ARG002
        return None
