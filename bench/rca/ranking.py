"""Which of the services that are anomalous together the trouble came from: who calls whom is followed downwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Suspect:
    """How unusual a service is, and whether it became so together with the others rather than long before."""

    score: float  # calibrated, so that services compare; anomalous from 1.0
    is_new: bool = True

    @property
    def is_part(self) -> bool:
        """Whether it belongs to this trouble, and not to an older one."""
        return self.is_new and self.score >= 1.0


def rank(suspects: Mapping[str, Suspect], calls: Iterable[tuple[str, str]] = ()) -> list[str]:
    """The services, the likeliest origin first: who is part of it by score, then the others by score.

    `calls` are (caller, callee). Who is part of it hands on to the worst of its callees that are part of it too, and
    so on: who waits for another is unusual because of it, often more so. A service that is well hands on nothing and is
    handed nothing, however often it is called.

    >>> rank({"front": Suspect(9.0), "store": Suspect(2.0), "mail": Suspect(0.3)}, [("front", "store")])
    ['store', 'front', 'mail']
    """
    callees: dict[str, list[str]] = {}
    for caller, callee in calls:
        if caller in suspects and callee in suspects and suspects[callee].is_part:
            callees.setdefault(caller, []).append(callee)
    ranked: dict[str, None] = {}
    for name in sorted(suspects, key=lambda each: (not suspects[each].is_part, -suspects[each].score, each)):
        chain = [name]
        while suspects[name].is_part:
            onward = [each for each in callees.get(chain[-1], ()) if each not in chain]  # calls may go in a circle
            if not onward:
                break
            chain.append(max(onward, key=lambda each: (suspects[each].score, each)))
        ranked.update(dict.fromkeys(reversed(chain)))
    return list(ranked)
