"""`foreshock backtest` as a shell sees it: both forms, their streams, exit codes and files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from tests.servers.prometheus import Samples, serving

from foreshock.cli.main import main
from foreshock.core.clock import parse_instant, rfc3339
from foreshock.prometheus.local_server import LocalPrometheus

STEP_S = 300
START_S = 1_760_000_400
FROM_S = START_S + 2 * 86_400
TO_S = FROM_S + 6 * 3_600
FAULT_S = FROM_S + 2 * 3_600
NOBODY = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def _a_plain_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """80 columns, a folder of the test's own, and no settings file from whoever runs the tests."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("FORESHOCK_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPrometheus]:
    """Two days and six hours of one shop; four hours before the end its queue fills, and after an hour is empty."""
    times_s = np.arange(START_S, TO_S + 1, STEP_S)
    values = 50.0 + np.random.default_rng(5).normal(0.0, 1.0, len(times_s))
    values[(times_s >= FAULT_S) & (times_s < FAULT_S + 3600)] += 50.0
    series: dict[str, Samples] = {
        f'queue{{shop="{place}"}}': list(zip(times_s.tolist(), values.tolist(), strict=True)) for place in ("eu", "us")
    }
    with serving(tmp_path_factory.mktemp("prometheus"), series) as server:
        yield server


def manifest(name: str = "shop", query: str = 'sum(queue{shop="eu"})', **spec: object) -> str:
    """The text of a manifest with a short warm-up."""
    fields = {
        "target_service": "shop",
        "prometheus_query": query,
        "step": "5m",
        "interval": "5m",
        "training": {"window": "2d", "warm_up": "1d"},
        "algorithm": "level",
        **spec,
    }
    head = {"apiVersion": "devopsroles.com/v1", "kind": "AnomalyDetector", "metadata": {"name": name}}
    Path(f"{name}.yaml").write_text(yaml.safe_dump({**head, "spec": fields}), encoding="utf-8")
    return f"{name}.yaml"


def period(server: LocalPrometheus) -> list[str]:
    return ["--prometheus", server.url, "--from", rfc3339(FROM_S), "--to", str(TO_S)]


# --- manifests ------------------------------------------------------------------------------------------------------


def test_json_is_the_contract_and_nothing_else_is_written(
    shop: LocalPrometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is printed is one JSON value; no report is written unless it is asked for."""
    assert main(["backtest", manifest(), *period(shop), "--output", "json"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    (detector,) = json.loads(said.out)["detectors"]
    assert (detector["namespace"], detector["name"]) == ("default", "shop")
    (alert,) = detector["alerts"]
    assert FAULT_S <= parse_instant(alert["started_at"]) < parse_instant(alert["ended_at"]) <= FAULT_S + 4 * 3600
    assert alert["contributions"] == [{"metric": "queue", "share": 1.0}]
    assert [path.name for path in Path().iterdir()] == ["shop.yaml"]


def test_text_is_a_timeline_in_80_columns_and_the_report_lies_in_the_folder(
    shop: LocalPrometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shares of the verdicts, what was learnt from, each alert with its sentence, silence in words, the report last."""
    healthy = manifest("calm-" + "x" * 50, query="vector(1) * on() sum(queue < 0) or vector(1)")
    assert main(["backtest", manifest(), healthy, *period(shop)]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"default/shop\n  \d+ normal \(\d+\.\d%\), \d+ anomalous \(", text)
    assert f"learnt from {rfc3339(START_S)} to {rfc3339(FROM_S)}" in text
    assert re.search(r"\n  2025-10-11T1\dZ?[^\n]* +warning +peak \S+\n      queue 100%\n      queue is ", text)
    assert "nothing would have fired" in text
    assert text.endswith("Report: foreshock-report.html\n")
    assert "default/shop" in Path("foreshock-report.html").read_text(encoding="utf-8")


def test_the_report_goes_where_it_is_told_with_json_as_well(
    shop: LocalPrometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a folder that is not there is one sentence."""
    arguments = ["backtest", manifest(), *period(shop), "--output", "json"]
    assert main([*arguments, "--report", "page.html"]) == 0
    assert "<html" in Path("page.html").read_text(encoding="utf-8")
    assert main([*arguments, "--report", "none/page.html"]) == 1
    assert capsys.readouterr().err == (
        "foreshock: The report none/page.html cannot be written: No such file or directory.\n"
    )


def test_bad_detectors_end_1_and_the_others_go_on(shop: LocalPrometheus, capsys: pytest.CaptureFixture[str]) -> None:
    """A broken manifest, a query of several series, and a datasource that nobody configured: a sentence each."""
    files = [manifest(), manifest("many", "queue"), manifest("elsewhere", datasource="prod")]
    files.append(manifest("broken", alert_severity="loud"))
    assert main(["backtest", *files, *period(shop), "--output", "json"]) == 1
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("foreshock: ") for line in lines)
    assert "broken.yaml: spec.alert_severity" in lines[0]
    assert "default/many: the query of queue returns several series" in lines[1]
    assert "default/elsewhere: the datasource 'prod' is not configured" in lines[2]
    detectors = json.loads(said.out)["detectors"]
    assert [each["name"] for each in detectors] == ["shop", "many", "elsewhere"]
    assert [each.get("error", {}).get("reason") for each in detectors] == [None, "TooManySeries", "UserError"]
    assert len(detectors[0]["alerts"]) == 1


def test_another_datasource_may_be_asked_and_sinks_need_not_exist(
    shop: LocalPrometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    """What pages in production is of no account here."""
    named = manifest(datasource="prod", sinks=["oncall"])
    arguments = ["backtest", named, *period(shop), "--datasource", "default", "--output", "json"]
    assert main(arguments) == 0
    assert len(json.loads(capsys.readouterr().out)["detectors"][0]["alerts"]) == 1


def test_an_unreachable_prometheus_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """However many detectors would have asked it."""
    assert main(["backtest", manifest("a"), manifest("b"), "--prometheus", NOBODY, "--output", "json"]) == 1
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "foreshock: datasource default: Prometheus is not available: it takes no connection"
    ]
    assert [each["error"]["reason"] for each in json.loads(said.out)["detectors"]] == ["PrometheusUnavailable"] * 2


def test_no_sound_manifest_ends_1_with_every_problem(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is asked and nothing is printed on stdout."""
    assert main(["backtest", manifest(detection_window="1m"), "--prometheus", NOBODY]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "shop.yaml: spec.detection_window" in said.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--from", "2026-01-02", "--to", "2026-01-01"], "--from must lie before --to"),
        (["--from", "-1h", "--to", "-1d"], "--from must lie before --to"),
        (["--from", "now-1y"], "--from takes RFC 3339"),
        (["--to", "1e300"], "--to takes RFC 3339"),
        (["--to", "nan"], "--to takes RFC 3339"),
        (["--step", "1m"], "--step is an option of .parquet files"),
        (["--frozen"], "--adapt is an option of .parquet files"),
        (["--out", "o.parquet"], "one .parquet file at a time"),
    ],
)
def test_wrong_usage_ends_2_before_anything_is_asked(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence that names the option."""
    assert main(["backtest", manifest(), *arguments]) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert len(said.err.splitlines()) == 1


def test_no_prometheus_at_all_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither an option nor a settings file names one."""
    assert main(["backtest", manifest(), "--from", "now-3h"]) == 1
    assert "pass --prometheus URL" in capsys.readouterr().err


# --- files ----------------------------------------------------------------------------------------------------------


def parquet(**columns: object) -> str:
    values = 100.0 + np.random.default_rng(7).normal(0.0, 2.0, 420)
    values[370:] += 60.0
    pq.write_table(pa.table({"timestamp": START_S + 60 * np.arange(420), "m": values, **columns}), "in.parquet")
    return "in.parquet"


FILE = ("--train-rows", "300", "--out", "out.parquet", "--algorithm", "level")


def test_a_file_is_answered_with_the_facts_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Counts of the rows behind the training rows, and where the answers lie."""
    assert main(["backtest", parquet(), *FILE, "--output", "json"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    facts = json.loads(said.out)
    answers = pq.read_table("out.parquet")
    assert answers.column_names == ["timestamp", "score", "anomalous", "contribution_m"]
    assert (facts["rows"], facts["metrics"], facts["step"], facts["window"]) == (120, 1, "1m", "1h")
    assert facts["anomalous_rows"] == sum(answers["anomalous"].to_pylist()) > 30
    assert (facts["incidents"], facts["trainings"], facts["inconclusive_rows"]) == (1, 1, 0)
    assert facts["anomalous_share"] == pytest.approx(facts["anomalous_rows"] / 120, abs=1e-6)


def test_a_file_is_answered_with_a_few_lines_of_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Every option of files in one call."""
    options = ["--step", "2m", "--window", "30m", "--budget", "1/1d", "--ignore", "note", "--frozen"]
    file = parquet(note=["x"] * 420)
    assert main(["backtest", file, *FILE, *options]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^rows +120$", text, re.MULTILINE)
    assert re.search(r"^window +30m$", text, re.MULTILINE)


def test_what_had_to_be_assumed_is_said_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """A plain index counts minutes, unless --step says how long a step is."""
    file = parquet(timestamp=np.arange(420))
    assert main(["backtest", file, *FILE]) == 0
    assert "a row is taken as 1m" in capsys.readouterr().err
    assert main(["backtest", file, *FILE, "--step", "5m"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--train-rows", "300"], 2, "with --train-rows N and --out OUT.parquet"),
        (["--out", "o.parquet"], 2, "with --train-rows N and --out OUT.parquet"),
        ([*FILE, "other.parquet"], 2, "one .parquet file at a time"),
        ([*FILE, "--algorithm", "magic"], 2, "--algorithm must be one of ensemble"),
        ([*FILE, "--budget", "often"], 2, "--budget"),
        ([*FILE, "--window", "0"], 2, "--window must be longer than 0"),
        ([*FILE, "--step", "fast"], 2, "--step"),
        ([*FILE, "--prometheus", NOBODY], 2, "--prometheus is an option of manifests"),
        ([*FILE, "--out", "in.parquet"], 2, "--out is the file that is read"),
        ([*FILE, "--out", "none/out.parquet"], 1, "the folder none does not exist"),
        ([*FILE, "--train-rows", "1000"], 1, "--train-rows must lie between 1 and 419"),
        ([*FILE, "--algorithm", "correlation"], 1, "correlation"),
    ],
)
def test_bad_input_with_a_file_is_one_sentence_and_no_answers(
    arguments: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """2 where the call is wrong, 1 where the file is."""
    assert main(["backtest", parquet(), *arguments]) == code
    said = capsys.readouterr()
    assert sentence in said.err
    assert (said.out, len(said.err.splitlines())) == ("", 1)
    assert not Path("out.parquet").exists()


def test_a_file_of_any_name_may_be_meant_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    """--train-rows says so, and a manifest is then no Parquet."""
    assert main(["backtest", manifest(), *FILE]) == 1
    assert "it is damaged, or no Parquet file" in capsys.readouterr().err
