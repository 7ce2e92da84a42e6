"""The manifests that `foreshock run` was given, read again whenever one of their files changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foreshock.app.settings import Settings
from foreshock.core.errors import Problem
from foreshock.core.verdicts import Subject
from foreshock.manifests.detector import AnomalyDetector
from foreshock.manifests.files import SUFFIXES, LoadedManifest, load_each

_Stamp = tuple[str, int, int, int]


@dataclass(frozen=True, slots=True)
class Reading:
    """What to judge now, what is no longer written anywhere, and what is wrong."""

    detectors: tuple[AnomalyDetector, ...]
    gone: tuple[AnomalyDetector, ...] = ()
    problems: tuple[Problem, ...] = ()


class ManifestFiles:
    """A file that cannot be read, or holds anything wrong, takes back nothing that it said before."""

    def __init__(self, paths: Sequence[Path], settings: Settings) -> None:
        self._paths, self._settings = paths, settings
        self._known: dict[Subject, LoadedManifest] = {}
        self._stamps: frozenset[_Stamp] = frozenset()

    def read_if_changed(self) -> Reading | None:
        """What the files say, or None where none of them was changed, added or removed since they were read."""
        stamps = frozenset(stamp for path in self._paths for stamp in _stamps(path))
        if stamps == self._stamps:
            return None
        self._stamps = stamps
        return self.read()

    def read(self) -> Reading:
        """What the files say, with everything that is wrong with them and with the names that they use."""
        self._stamps = frozenset(stamp for path in self._paths for stamp in _stamps(path))
        loaded = load_each(self._paths)
        problems = list(loaded.problems)
        found: dict[Subject, LoadedManifest] = {}
        for manifest in loaded.manifests:
            objections = tuple(self._settings.objections(manifest.detector))
            problems += [Problem(manifest.file, each.path, each.sentence) for each in objections]
            if not objections:
                found[manifest.detector.subject] = manifest
        wrong = [Path(problem.file) for problem in problems]
        kept = {
            subject: manifest
            for subject, manifest in self._known.items()
            if subject not in found and any(Path(manifest.file).is_relative_to(each) for each in wrong)
        }
        gone = [each for subject, each in self._known.items() if subject not in found and subject not in kept]
        self._known = found | kept
        return Reading(
            tuple(each.detector for each in self._known.values()),
            tuple(each.detector for each in gone),
            tuple(problems),
        )


def _stamps(path: Path) -> list[_Stamp]:
    """What changes with a file; Kubernetes swaps a symbolic link, which changes the inode alone."""
    try:
        files = [each for each in path.iterdir() if each.suffix in SUFFIXES] if path.is_dir() else [path]
        found = []
        for file in files:
            stat = file.stat()
            found.append((str(file), stat.st_mtime_ns, stat.st_ino, stat.st_size))
    except OSError:  # it is being replaced, or gone: whoever reads it says so
        return [(str(path), 0, 0, 0)]
    return found
