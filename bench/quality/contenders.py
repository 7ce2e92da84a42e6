"""All rows of the table, by name, and the code that each of them rests on."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.quality import ours, store
from bench.quality.detector import Contender

_HERE = Path(__file__).parent
_LIBRARIES = ("numpy", "scipy", "scikit-learn", "pyod", "river", "prophet")


class NoSuchDetector(Exception):
    """A name that is no row of the table."""


@cache
def contenders() -> tuple[Contender, ...]:
    """Ours first, then the peers; the peers' libraries take seconds to import, and ours alone needs none of them."""
    return (*ours.OURS, *_peers())


def _peers() -> tuple[Contender, ...]:
    try:
        from bench.quality.peers.roster import PEERS  # noqa: PLC0415
    except ModuleNotFoundError as error:
        sys.stderr.write(f"bench.quality: no peers, {error.name} is missing; make quality installs it.\n")
        return ()
    return PEERS


def chosen(words: Iterable[str]) -> list[Contender]:
    """The detectors that some words name, each once: names, `ours` and `peers`.

    Raises:
        NoSuchDetector: a word names none.

    """
    result: dict[str, Contender] = {}
    for word in words:
        many = {"ours": lambda: ours.OURS, "peers": _peers}.get(word)
        for each in many() if many else (named(word),):
            result[each.name] = each
    return list(result.values())


def named(name: str) -> Contender:
    """The detector of that name.

    Raises:
        NoSuchDetector: there is none.

    """
    for each in (*ours.OURS, *(_peers() if name not in {each.name for each in ours.OURS} else ())):
        if each.name == name:
            return each
    known = ", ".join(each.name for each in contenders())
    raise NoSuchDetector(f"--detectors {name}: there is no such detector; there are ours, peers, {known}.")


def code_digest(contender: Contender) -> str:
    """Changes whenever the scores of this detector might."""
    if isinstance(contender, ours.Ours):
        return store.digest_of([*ours.source_files(), _HERE / "ours.py", _HERE / "cases.py"], contender.algorithm)
    own = sys.modules[getattr(contender, "fit", type(contender)).__module__].__file__
    assert own is not None
    shared = [_HERE / "peers/base.py", _HERE / "peers/threshold.py", _HERE / "cases.py"]
    return store.digest_of([Path(own), *shared], *map(_installed, _LIBRARIES))


@cache
def measure_digest() -> str:
    """Changes whenever the figures of the same scores might."""
    return store.digest_of(_HERE / name for name in ("measure.py", "vus.py", "summary.py", "cases.py"))


def _installed(library: str) -> str:
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return f"{library} -"
