"""Exit codes, streams and sentences of the command line, as a shell sees them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from foreshock import __version__
from foreshock.cli.main import COMMANDS, main

EXAMPLES = Path(__file__).parents[2] / "examples"
RUN = [sys.executable, "-c", "import sys; from foreshock.cli.main import main; sys.exit(main())"]


@pytest.fixture(autouse=True)
def _a_plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 columns, and no settings file from whoever runs the tests."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("FORESHOCK_CONFIG", raising=False)


@pytest.mark.parametrize("name", [module.NAME for module in COMMANDS])
def test_every_command_has_help_with_an_example_within_80_columns(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--help` ends 0 and shows how the command is called."""
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert "For example:" in text
    assert f"      foreshock {name}" in text
    assert max(map(len, text.splitlines())) <= 80


def test_no_command_at_all_shows_the_help_and_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """A script that forgot its command must not go on as if it had run."""
    assert main([]) == 2
    assert "Usage: foreshock" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["chekc"], "No such command 'chekc'. Did you mean 'check'? See foreshock --help."),
        (["check"], "Missing argument 'MANIFEST'; see foreshock check --help."),
        (
            ["version", "--outptu"],
            "No such option: --outptu (Possible options: --output); see foreshock version --help.",
        ),
        (
            ["version", "--output", "xml"],
            "Invalid value for '--output': 'xml' is not one of 'text', 'json'; see foreshock version --help.",
        ),
    ],
)
def test_wrong_usage_ends_2_with_one_sentence_on_stderr(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is printed to stdout, and the sentence says where help is."""
    assert main(arguments) == 2
    assert capsys.readouterr() == ("", f"foreshock: {sentence}\n")


def test_an_error_of_ours_is_a_sentence_and_never_a_traceback(tmp_path: Path) -> None:
    """The whole program, as installed: broken settings end 1, and stderr holds the sentences alone."""
    manifest = tmp_path / "a.yaml"
    manifest.write_text("kind: AnomalyDetector\nspec: {target_service: s}\n")
    done = subprocess.run([*RUN, "check", str(manifest)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr == ""
    assert "Set exactly one of metrics and prometheus_query." in done.stdout
    assert "Traceback" not in done.stdout


def test_check_of_the_examples_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Both forms end 0."""
    assert main(["check", str(EXAMPLES)]) == 0
    assert capsys.readouterr().out == "2 sound detectors, no problems.\n"
    assert main(["check", str(EXAMPLES), "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"problems": []}


def test_check_prints_every_problem_with_file_path_and_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As JSON, and as text that fits 80 columns; both end 1."""
    manifest = tmp_path / "a.yaml"
    manifest.write_text(
        "apiVersion: devopsroles.com/v1\nkind: AnomalyDetector\nmetadata: {name: a}\n"
        "spec: {target_service: s, promethues_query: up, sinks: ['http://a/b']}\n"
        "---\napiVersion: v1\nkind: Service\n"
    )
    assert main(["check", str(manifest), "--output", "json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "problems": [
            {
                "file": str(manifest),
                "path": "documents[0].spec.sinks[0]",
                "message": "sinks takes names the administrator configured; a manifest never carries a URL. "
                "Put the address into the settings file.",
            },
            {
                "file": str(manifest),
                "path": "documents[0].spec.promethues_query",
                "message": "Unknown field 'promethues_query'; did you mean 'prometheus_query'?",
            },
        ]
    }
    assert err == f"foreshock: {manifest}: skipped a v1 Service; only AnomalyDetector is read.\n"
    assert main(["check", str(manifest)]) == 1
    assert capsys.readouterr().out == (
        f"{manifest}\n"
        "  documents[0].spec.sinks[0]\n"
        "      sinks takes names the administrator configured; a manifest never carries a\n"
        "      URL. Put the address into the settings file.\n"
        "  documents[0].spec.promethues_query\n"
        "      Unknown field 'promethues_query'; did you mean 'prometheus_query'?\n"
        "0 sound detectors, 2 problems.\n"
    )


MANIFEST = """
apiVersion: devopsroles.com/v1
kind: AnomalyDetector
metadata: {name: a}
spec: {target_service: s, prometheus_query: up, sinks: [log, hook], datasource: main}
"""


def test_check_with_settings_finds_names_that_nobody_configured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --config or FORESHOCK_CONFIG the names must exist; without either they cannot be known."""
    manifest, config = tmp_path / "a.yaml", tmp_path / "foreshock.yml"
    manifest.write_text(MANIFEST)
    config.write_text("datasources: [{url: 'http://127.0.0.1:9090'}]\n")
    expected = [
        ("spec.datasource", "The datasource 'main' is not configured; use default, or configure it."),
        ("spec.sinks[1]", "The sink 'hook' is not configured; use log, or configure it."),
    ]
    assert main(["check", str(manifest), "--output", "json", "--config", str(config)]) == 1
    found = json.loads(capsys.readouterr().out)["problems"]
    assert [(problem["path"], problem["message"]) for problem in found] == expected
    monkeypatch.setenv("FORESHOCK_CONFIG", str(config))
    assert main(["check", str(manifest), "--output", "json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"] == found
    monkeypatch.delenv("FORESHOCK_CONFIG")
    assert main(["check", str(manifest)]) == 0


def test_check_reports_problems_of_the_settings_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are problems like the others, with the settings as their file."""
    config = tmp_path / "foreshock.yml"
    config.write_text("listn: 127.0.0.1:1\n")
    assert main(["check", str(EXAMPLES), "--output", "json", "--config", str(config)]) == 1
    assert json.loads(capsys.readouterr().out)["problems"] == [
        {"file": str(config), "path": "listn", "message": "Unknown field 'listn'; did you mean 'listen'?"}
    ]


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    """In both forms, with the Python that runs it."""
    assert main(["version"]) == 0
    assert capsys.readouterr().out.startswith(f"foreshock {__version__} (Python 3.")
    assert main(["version", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == __version__


def test_a_reader_that_leaves_early_is_no_error() -> None:
    """`foreshock check | head` ends without a traceback: the pipe is closed before anything is written."""
    with subprocess.Popen([*RUN, "version"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode == 1
