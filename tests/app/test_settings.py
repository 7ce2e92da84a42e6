"""The settings file: defaults, variables, mounted secrets, overrides, and every problem with its path."""

# ruff: noqa: E501 - the sentences of the tables stand as users read them

from __future__ import annotations

from pathlib import Path

import pytest

from foreshock.app.settings import Overrides, Settings, load_settings
from foreshock.core.errors import InvalidSettings
from foreshock.manifests.detector import AnomalyDetector

URL = "http://127.0.0.1:9090"
SOURCE = f"datasources: [{{url: '{URL}'}}]\n"


def written(tmp_path: Path, text: str) -> Path:
    """A settings file with this content."""
    file = tmp_path / "foreshock.yaml"
    file.write_text(text)
    return file


def problems(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[tuple[str, str]]:
    """The paths and sentences of what is wrong with a settings file."""
    with pytest.raises(InvalidSettings) as raised:
        load_settings(written(tmp_path, text), environ or {})
    return [(problem.path, problem.message) for problem in raised.value.problems]


def test_everything_but_the_url_has_a_default(tmp_path: Path) -> None:
    """One datasource is enough; alerts go to the built-in log."""
    settings = load_settings(written(tmp_path, SOURCE), {})
    assert settings.datasource(None).url == URL
    assert settings.datasource("default").url == URL
    assert [sink.name for sink in settings.sinks_for(None)] == ["log"]
    assert (settings.cluster, settings.external_labels) == ("default", {})
    assert settings.database == "sqlite:///foreshock-data/foreshock.db"
    assert settings.artifacts_folder == Path("foreshock-data/models")
    assert settings.listen_address == ("127.0.0.1", 8080)


def test_the_files_place_is_the_option_or_the_variable(tmp_path: Path) -> None:
    """--config wins over FORESHOCK_CONFIG, and an empty variable names no file."""
    file = written(tmp_path, SOURCE + "cluster: east\n")
    assert load_settings(None, {"FORESHOCK_CONFIG": str(file)}).cluster == "east"
    assert load_settings(file, {"FORESHOCK_CONFIG": "nowhere.yaml"}).cluster == "east"
    given = Overrides(prometheus=URL)
    assert load_settings(None, {"FORESHOCK_CONFIG": ""}, given).cluster == "default"


def test_a_file_with_everything_is_read(tmp_path: Path) -> None:
    """Sinks, labels, several datasources, a file URL and an IPv6 address."""
    (tmp_path / "secret").write_text("s3cret")
    text = f"""
datasources:
  - {{name: default, url: '{URL}', timeout: 20s, concurrency: 2}}
  - {{name: other, url: 'https://prometheus.example.org/prefix/'}}
sinks:
  - {{name: out, type: log}}
  - {{name: hook, type: webhook, url: 'https://example.org/hook', secret_file: secret}}
default_sinks: [hook, log]
cluster: east
external_labels: {{region: eu-1}}
database: sqlite:////var/lib/foreshock/foreshock.db
artifacts: file:///var/lib/fore%20shock/models
listen: '[::1]:0'
"""
    settings = load_settings(written(tmp_path, text), {})
    assert settings.datasource("other").url == "https://prometheus.example.org/prefix"
    assert [sink.name for sink in settings.sinks_for(None)] == ["hook", "log"]
    assert [sink.name for sink in settings.sinks_for(("out", "out"))] == ["out"]
    hook = settings.sinks_by_name["hook"]
    assert hook.type == "webhook"
    assert hook.secret_file == tmp_path / "secret"
    assert settings.artifacts_folder == Path("/var/lib/fore shock/models")
    assert settings.listen_address == ("::1", 0)


def test_a_sink_is_told_of_its_severities_only(tmp_path: Path) -> None:
    """The pager of critical alerts, the channel of all of them."""
    sinks = "sinks: [{name: pager, type: log, severities: [critical]}, {name: channel, type: log}]"
    file = tmp_path / "foreshock.yaml"
    file.write_text(f"datasources: [{{url: 'http://127.0.0.1:9090'}}]\n{sinks}\ndefault_sinks: [pager, channel]\n")
    settings = load_settings(file, {})
    for severity, told in (("critical", ["pager", "channel"]), ("warning", ["channel"]), ("info", ["channel"])):
        assert [sink.name for sink in settings.sinks_for(None, severity)] == told


def test_variables_are_replaced_in_any_value_and_never_twice(tmp_path: Path) -> None:
    """`${NAME}` is the variable, `$${NAME}` the text; what a variable holds is not looked at again."""
    text = "datasources: [{url: 'http://${HOST}:9090'}]\ncluster: '$${HOST}-${OTHER}'\n"
    settings = load_settings(written(tmp_path, text), {"HOST": "prometheus", "OTHER": "${HOST}"})
    assert settings.datasources[0].url == "http://prometheus:9090"
    assert settings.cluster == "${HOST}-${HOST}"


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    """--prometheus changes the URL of `default` and keeps what stands beside it, or adds it."""
    file = written(tmp_path, "datasources: [{url: 'http://a:1', timeout: 7s}]\nlisten: 127.0.0.1:1\n")
    settings = load_settings(
        file, {}, Overrides(prometheus=URL, listen="127.0.0.1:2", database="sqlite:///x.db", artifacts="m")
    )
    assert [(source.name, source.url, source.timeout_s) for source in settings.datasources] == [("default", URL, 7)]
    assert (settings.listen, settings.database, settings.artifacts) == ("127.0.0.1:2", "sqlite:///x.db", "m")
    other = written(tmp_path, "datasources: [{name: other, url: 'http://a:1'}]\n")
    added = load_settings(other, {}, Overrides(prometheus=URL))
    assert (added.datasource(None).url, added.datasource("other").url) == (URL, "http://a:1")
    assert load_settings(None, {}, Overrides(prometheus=URL)).datasource(None).url == URL


def test_an_only_datasource_of_another_name_is_the_default(tmp_path: Path) -> None:
    """Manifests that name none mean the one there is."""
    settings = load_settings(written(tmp_path, f"datasources: [{{name: main, url: '{URL}'}}]"), {})
    assert settings.datasource(None).name == "main"


# (the file, the path of the problem, its sentence)
INVALID = (
    ("", "datasources", "There is no Prometheus; pass --prometheus URL, or set datasources in the settings file."),
    ("[1]", "", "The settings are one mapping; begin with datasources:."),
    ("a: [", "line 1, column 5", "This is not YAML: expected the node content, but found '<stream end>'."),
    ("cluster: a\ncluster: b", "cluster", "The key 'cluster' is given twice, in lines 1 and 2; remove one."),
    (SOURCE + "default_sink: [log]", "default_sink", "Unknown field 'default_sink'; did you mean 'default_sinks'?"),
    ("datasources: {}", "datasources", "datasources must be a list, not a mapping."),
    ("datasources: [{name: default}]", "datasources[0].url", "Set url; it is required."),
    ("datasources: [{urll: x, url: 'http://a'}]", "datasources[0].urll", "Unknown field 'urll'; did you mean 'url'?"),
    ("datasources: [{url: 'prometheus:9090'}]", "datasources[0].url", "Write the address of Prometheus as http://host:port or https://host:port."),
    ("datasources: [{url: 'http://a', name: A_b}]", "datasources[0].name", "name must be made of lower-case letters, digits and '-', beginning and ending with no '-'."),
    ("datasources: [{url: 'http://a', concurrency: 0}]", "datasources[0].concurrency", "concurrency must be at least 1."),
    ("datasources: [{url: 'http://a', basic_auth: {username: a, pasword: b}}]", "datasources[0].basic_auth.pasword", "Unknown field 'pasword'; did you mean 'password'?"),
    ("datasources: [{url: 'http://a'}, {url: 'http://b'}]", "datasources[1].name", "The name 'default' is taken by datasources[0]."),
    ("datasources: [{name: a, url: 'http://a'}, {name: b, url: 'http://b'}]", "datasources", "Name one datasource default; manifests that name none use that one."),
    (SOURCE + "sinks: [{name: bus, type: pigeon}]", "sinks[0]", "This version does not have the type 'pigeon'; use log, webhook, kafka, alertmanager or kubernetes_event."),
    (SOURCE + "sinks: [{name: bus}]", "sinks[0]", "Set type; it is required."),
    (SOURCE + "sinks: [{name: hook, type: webhook}]", "sinks[0].url", "Set url; it is required."),
    (SOURCE + "sinks: [{name: hook, type: webhook, url: 'https://a', secret_fil: x}]", "sinks[0].secret_fil", "Unknown field 'secret_fil'; did you mean 'secret_file'?"),
    (SOURCE + "sinks: [{name: hook, type: webhook, url: ftp://a}]", "sinks[0].url", "url must be an absolute http or https URL such as https://example.org/hook."),
    (SOURCE + "sinks: [{name: a, type: log}, {name: a, type: log}]", "sinks[1].name", "The name 'a' is taken by sinks[0]."),
    (SOURCE + "default_sinks: [hook]", "default_sinks[0]", "The sink 'hook' is not configured; use log, or configure it."),
    (SOURCE + "cluster: ''", "cluster", "cluster must not be empty."),
    (SOURCE + "external_labels: {a-b: c}", "external_labels", "external_labels must have names of letters, digits and '_', not 'a-b'."),
    (SOURCE + "external_labels: {a: 1}", "external_labels.a", "a must be text (put it in quotes), not a number."),
    (SOURCE + "database: mysql://a/b", "database", "database must name one of sqlite:///foreshock-data/foreshock.db or postgresql+psycopg://user:password@host/name."),
    (SOURCE + "database: 'postgresql:///b'", "database", "database must name one of sqlite:///foreshock-data/foreshock.db or postgresql+psycopg://user:password@host/name."),
    (SOURCE + "database: 'postgresql+psycopg://a/b?password=c'", "database", "database must carry its password as user:password@host, or leave it to database_password_file."),
    (SOURCE + "database: here", "database", "database must be a database URL such as sqlite:///foreshock-data/foreshock.db or postgresql+psycopg://user:password@host/name."),
    (SOURCE + "database_password_file: /dev/null", "database_password_file", "SQLite has no password; remove database_password_file."),
    (SOURCE + "database: 'postgresql://a:b@c/d'\ndatabase_password_file: /dev/null", "database_password_file", "Set the password in database or in database_password_file, not both."),
    (SOURCE + "artifacts: ftp://a/b", "artifacts", "artifacts must be a folder (a path, or file:///absolute/path) or s3://bucket/prefix."),
    (SOURCE + "artifacts: s3://B", "artifacts", "artifacts must be s3://bucket or s3://bucket/prefix, with a bucket of 3 to 63 small letters and digits."),
    (SOURCE + "s3: {region: eu-central-1}", "s3", "The models are in a folder; remove s3, or set artifacts to s3://bucket/prefix."),
    (SOURCE + "artifacts: s3://bucket\ns3: {endpoint: nowhere}", "s3.endpoint", "Write the address of the server as http://host:port or https://host:port."),
    (SOURCE + "listen: 8080", "listen", "listen must be text (put it in quotes), not a number."),
    (SOURCE + "listen: ':99999'", "listen", "listen must be HOST:PORT with a port of 0 to 65535, such as 127.0.0.1:8080 or [::1]:8080."),
    (SOURCE + "cluster: '${NOWHERE}'", "cluster", "The environment variable NOWHERE is not set; set it or write the value here."),
    ("datasources: [{url: '${NOWHERE}'}]", "datasources[0].url", "The environment variable NOWHERE is not set; set it or write the value here."),
)  # fmt: skip


@pytest.mark.parametrize(("text", "path", "sentence"), INVALID)
def test_each_invalid_file_has_one_problem_with_its_path_and_sentence(
    tmp_path: Path, text: str, path: str, sentence: str
) -> None:
    """One wrong thing is one problem: where it is, and what to do."""
    assert problems(tmp_path, text) == [(path, sentence)]


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    """A missing variable, a missing secret, an unknown key and a bad port are four problems."""
    text = (
        SOURCE
        + "cluster: ${NOWHERE}\nlistn: x\nlisten: x\nsinks: [{name: a, type: webhook, url: 'https://a', secret_file: none}]"
    )
    assert [path for path, _ in problems(tmp_path, text)] == ["cluster", "sinks[0].secret_file", "listen", "listn"]


def test_a_missing_secret_says_where_it_was_looked_for(tmp_path: Path) -> None:
    """Relative to the settings file and not to the folder that the process was started in."""
    text = SOURCE + "sinks: [{name: a, type: webhook, url: 'https://a', secret_file: none}]"
    message = f"The secret_file {tmp_path / 'none'} does not exist; mount it or correct the path."
    assert problems(tmp_path, text) == [("sinks[0].secret_file", message)]


def test_a_missing_settings_file_is_one_problem(tmp_path: Path) -> None:
    """It names the file."""
    with pytest.raises(InvalidSettings, match=r"none\.yaml: There is no such file or folder; check the path\.$"):
        load_settings(tmp_path / "none.yaml", {})


def test_a_bad_url_on_the_command_line_names_the_option() -> None:
    """Nobody would look for it in the file."""
    with pytest.raises(InvalidSettings) as raised:
        load_settings(None, {}, Overrides(prometheus="localhost:9090"))
    (problem,) = raised.value.problems
    assert str(problem) == "--prometheus: Write the address of Prometheus as http://host:port or https://host:port."


CANARY = "c4nary-s3cret"


@pytest.mark.parametrize(
    "text",
    [
        "datasources: [{url: 'http://a', bearer_token: '${SECRET}', basic_auth: {username: a, password: '${SECRET}'}}]",
        "datasources: [{url: 'http://u:${SECRET}@a'}]",
        "datasources: [{url: '${SECRET}'}]",
        SOURCE + "database: 'mysql://u:${SECRET}@h/d'",
        SOURCE + "database: 'postgresql://u:${SECRET}@h/d'\ndatabase_password_file: /dev/null",
        SOURCE + "sinks: [{name: a, type: '${SECRET}'}]",
        SOURCE + "default_sinks: ['${SECRET}']",
        SOURCE + "external_labels: {a: ['${SECRET}']}",
    ],
)
def test_no_problem_shows_a_value_of_the_environment(tmp_path: Path, text: str) -> None:
    """A secret in the wrong place is refused without being repeated."""
    found = problems(tmp_path, text, {"SECRET": CANARY})
    assert found
    assert CANARY not in str(found)


def test_secrets_print_as_stars(tmp_path: Path) -> None:
    """Neither repr nor a dump of the settings holds one."""
    text = f"""
datasources: [{{url: 'http://a', bearer_token: {CANARY}}}]
sinks: [{{name: hook, type: webhook, url: 'https://a/{CANARY}', secret: {CANARY}}}]
database: postgresql+psycopg://foreshock:{CANARY}@db/foreshock
"""
    settings = load_settings(written(tmp_path, text), {})
    assert CANARY not in repr(settings)
    assert CANARY not in settings.model_dump_json(include={"database"})
    assert CANARY in settings.database
    assert CANARY not in repr(Overrides(database=settings.database))
    assert CANARY not in str(settings.datasources[0])
    token = settings.datasources[0].bearer_token
    assert token is not None
    assert token.get_secret_value() == CANARY


def detector(spec: dict[str, object], namespace: str = "shop") -> AnomalyDetector:
    head = {
        "apiVersion": "devopsroles.com/v1",
        "kind": "AnomalyDetector",
        "metadata": {"name": "a", "namespace": namespace},
    }
    return AnomalyDetector.model_validate(head | {"spec": spec})


def test_names_in_a_manifest_that_nobody_configured_are_found() -> None:
    """With their paths; the built-in log is always there."""
    settings = Settings.model_validate({"datasources": [{"url": URL}]})
    spec = {"target_service": "a", "prometheus_query": "up", "datasource": "main", "sinks": ["log", "hook"]}
    found = list(settings.objections(detector(spec)))
    assert [(broken.path, broken.sentence) for broken in found] == [
        ("spec.datasource", "The datasource 'main' is not configured; use default, or configure it."),
        ("spec.sinks[1]", "The sink 'hook' is not configured; use log, or configure it."),
    ]
