"""The words of one line of a scenario; every complaint about them names the line."""

from __future__ import annotations

import re

from foreshock.core.durations import parse_duration


class ScenarioError(ValueError):
    """The text breaks the language; the message begins with the line's number."""


class Words:
    """Read from left to right; what is asked for and is not there is a `ScenarioError`."""

    def __init__(self, number: int, line: str) -> None:
        self.number, self.indented, self._words, self._next = number, line[0].isspace(), line.split(), 0

    def error(self, message: str) -> ScenarioError:
        return ScenarioError(f"line {self.number}: {message}")

    @property
    def peek(self) -> str:
        return self._words[self._next] if self._next < len(self._words) else ""

    def word(self, what: str) -> str:
        if not self.peek:
            raise self.error(f"the line ends where {what} should follow")
        self._next += 1
        return self._words[self._next - 1]

    def skip(self, *expected: str) -> None:
        for one in expected:
            if (word := self.word(repr(one))) != one:
                raise self.error(f"{word!r} stands where {one!r} should")

    def takes(self, *expected: str) -> bool:
        """Read these words if they come next."""
        if self._words[self._next : self._next + len(expected)] != list(expected):
            return False
        self._next += len(expected)
        return True

    def name(self) -> str:
        if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", word := self.word("the name of a metric")):
            raise self.error(f"{word!r} is no name of a metric")
        return word

    def number_of(self, what: str) -> float:
        word = self.word(what)
        try:
            return float(word)
        except ValueError:
            raise self.error(f"{word!r} is no number, {what} should stand there") from None

    def duration(self, what: str) -> int:
        return self.as_duration(self.word(what))

    def as_duration(self, word: str) -> int:
        try:
            return parse_duration(word)
        except ValueError as error:
            raise self.error(str(error)) from None

    def assignments(self, *allowed: str) -> dict[str, str]:
        """All `key=value` words that come next; only the `allowed` keys, where any are given."""
        found: dict[str, str] = {}
        while "=" in self.peek:
            key, _, value = self.word("a field").partition("=")
            if (allowed and key not in allowed) or not key or not value or key in found:
                raise self.error(f"{key}={value} is not understood here; known are {', '.join(allowed) or 'key=value'}")
            found[key] = value
        return found

    def end(self) -> None:
        if self.peek:
            raise self.error(f"{self.peek!r} is not understood here")
