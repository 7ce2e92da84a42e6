"""What is printed: JSON that programs can read, colours only where they are wanted."""

from __future__ import annotations

import json

import pytest

from foreshock.cli.output import console, print_error, print_json, progress


def test_json_is_never_wrapped_and_refuses_nan(capsys: pytest.CaptureFixture[str]) -> None:
    """A long line stays one line, letters stay letters, and NaN is an error instead of invalid JSON."""
    print_json({"text": "é" * 500})
    out = capsys.readouterr().out
    assert json.loads(out) == {"text": "é" * 500}
    assert out.splitlines()[1] == f'  "text": "{"é" * 500}"'
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json(float("nan"))


def test_no_color_is_honoured_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same terminal has colours without NO_COLOR and none with it."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert console().no_color is False
    monkeypatch.setenv("NO_COLOR", "1")
    assert console().no_color is True


def test_an_error_of_several_problems_has_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    """Markup and styles in user's text are text."""
    print_error("[bold]a\nb")
    assert capsys.readouterr() == ("", "foreshock: [bold]a\nforeshock: b\n")


def test_progress_draws_nothing_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Logs of CI jobs stay clean."""
    with progress() as bar:
        bar.advance(bar.add_task("training", total=2))
    assert capsys.readouterr() == ("", "")
