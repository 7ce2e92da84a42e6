"""Manifests out of files: what is found, what is refused and where, and that one bad document hides nothing."""

# ruff: noqa: E501 - the sentences of the tables stand as users read them

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from foreshock.core.errors import InvalidManifest
from foreshock.manifests.documents import LARGEST_SIZE_BYTES
from foreshock.manifests.files import load, load_each

HEAD = "apiVersion: devopsroles.com/v1\nkind: AnomalyDetector\n"
EXAMPLES = Path(__file__).parents[2] / "examples"


def detector(name: str = "a", spec: str = "target_service: s, prometheus_query: up") -> str:
    """One document with a sound detector, or with another spec."""
    return f"{HEAD}metadata: {{name: {name}}}\nspec: {{{spec}}}\n"


def problems(file: Path) -> list[tuple[str, str]]:
    """The paths and sentences of what is wrong with a file."""
    return [(problem.path, problem.message) for problem in load_each([file]).problems]


def written(tmp_path: Path, text: str | bytes, name: str = "a.yaml") -> Path:
    """A file with this content."""
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_the_examples_load() -> None:
    """Both examples of the repository are sound, and have the names that the demo shows."""
    names = {loaded.detector.subject.detector: loaded.detector.spec for loaded in load([EXAMPLES])}
    assert set(names) == {"default/payment-service-monitor", "default/checkout-envelope"}
    metrics = [metric.name for metric in names["default/checkout-envelope"].named_metrics]
    assert metrics == ["requests", "latency", "error_ratio", "pool_wait", "cache_hit_ratio"]


def test_a_folder_gives_its_yaml_and_json_files_in_order_of_their_names(tmp_path: Path) -> None:
    """Hidden files, other suffixes and folders inside are not read; a file named twice is read once."""
    written(tmp_path, detector("b"), "b.yml")
    written(tmp_path, detector("c"), "c.yaml")
    written(tmp_path, json.dumps(yaml.safe_load(detector("a")), indent="\t"), "a.json")
    written(tmp_path, "nonsense: [", ".hidden.yaml")
    written(tmp_path, "# notes", "README.md")
    (tmp_path / "inner").mkdir()
    written(tmp_path / "inner", detector("d"))
    assert [loaded.detector.metadata.name for loaded in load([tmp_path, tmp_path / "c.yaml"])] == ["a", "b", "c"]


def test_several_documents_and_lists_say_which_one_is_wrong(tmp_path: Path) -> None:
    """The path leads to the document and the item; the sound ones are given all the same."""
    items = f"apiVersion: v1\nkind: List\nitems:\n- {json.dumps(yaml.safe_load(detector('c', 'target_service: s')))}\n"
    file = written(
        tmp_path, f"# only a comment\n---\n{detector('a')}---\n{detector('b', 'target_service: s')}---\n{items}"
    )
    loaded = load_each([file])
    assert [(one.detector.metadata.name, one.path) for one in loaded.manifests] == [("a", "documents[0]")]
    assert problems(file) == [
        ("documents[1].spec", "Set exactly one of metrics and prometheus_query."),
        ("documents[2].items[0].spec", "Set exactly one of metrics and prometheus_query."),
    ]


def test_other_kinds_are_skipped_with_a_note(tmp_path: Path) -> None:
    """A Service beside a detector is somebody else's and no problem."""
    file = written(tmp_path, f"apiVersion: v1\nkind: Service\n---\n{detector()}")
    loaded = load_each([file])
    assert loaded.problems == ()
    assert loaded.notes == (f"{file}: skipped a v1 Service; only AnomalyDetector is read.",)


def test_a_misspelt_kind_of_our_group_is_a_problem_and_not_skipped(tmp_path: Path) -> None:
    """Otherwise a typing error would silently leave a service unwatched."""
    file = written(tmp_path, detector().replace("AnomalyDetector", "AnomalyDetecter"))
    assert problems(file) == [("kind", "kind must be AnomalyDetector, not 'AnomalyDetecter'.")]


def test_the_same_name_in_two_files_is_a_problem_of_the_second(tmp_path: Path) -> None:
    """The first one is kept, and the sentence says where it is."""
    first, second = written(tmp_path, detector()), written(tmp_path, detector(), "b.yaml")
    loaded = load_each([tmp_path])
    assert [one.file for one in loaded.manifests] == [str(first)]
    assert [(one.file, one.path, one.message) for one in loaded.problems] == [
        (str(second), "metadata.name", f"The detector default/a is defined in {first} already; rename or remove one.")
    ]


def test_load_raises_all_problems_of_all_files_at_once(tmp_path: Path) -> None:
    """Two files, one unsound field and one broken rule each: four problems in one error."""
    for name in ("a", "b"):
        written(
            tmp_path, detector(name, "target_service: s, prometheus_query: up, interval: 5s, step: 40m"), f"{name}.yaml"
        )
    with pytest.raises(InvalidManifest) as raised:
        load([tmp_path])
    assert [problem.path for problem in raised.value.problems] == ["spec.interval", "spec.detection_window"] * 2


def test_a_rule_is_not_believed_where_one_of_its_fields_is_unsound(tmp_path: Path) -> None:
    """The step is not a duration, so nobody says anything about the steps in a window."""
    file = written(tmp_path, detector("a", "target_service: s, prometheus_query: up, step: 2w, detection_window: 1m"))
    assert [path for path, _ in problems(file)] == ["spec.step"]


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(f'*{a}' for _ in range(10))}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "path", "sentence"),
    [
        ("spec: {a: 1, b: 2, a: 3}", "spec.a", "The key 'a' is given twice, in lines 1 and 1; remove one."),
        ("spec:\n  metrics:\n  - {name: x}\n  - {name: y,\n     name: z}", "spec.metrics[1].name", "The key 'name' is given twice, in lines 4 and 5; remove one."),
        ("on: 1", "", "The key in line 1 is not text to YAML; put it in quotes."),
        ("? [a]\n: 1", "", "The key in line 1 is not text to YAML; put it in quotes."),
        ("a: &a\n  b: *a", "a.b", "An alias contains itself; write the value out."),
        ("[" * 70 + "]" * 70, "[0]" * 65, "The file nests values deeper than 64 levels; flatten it."),
        ("[" * 5000, "", "The file nests values deeper than 64 levels; flatten it."),
        ("a: [1, 2", "line 1, column 9", "This is not YAML: expected ',' or ']', but got '<stream end>'."),
        ("a: *nowhere", "line 1, column 4", "This is not YAML: found undefined alias 'nowhere'."),
        ("a: !!python/object:os.system x", "line 1, column 4", "This is not YAML: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object:os.system'."),
        ("a: \x01", "", "This is not YAML: it holds a character that YAML does not allow."),
        (b"a: \xff", "", "The file is not UTF-8 text (byte 3); save it as UTF-8."),
        ("x" * (LARGEST_SIZE_BYTES + 1), "", "The file is larger than 1048576 bytes; split it."),
        ("just text", "", "This is not a manifest; begin with apiVersion: devopsroles.com/v1 and kind: AnomalyDetector."),
        ("datasources: []", "", "This is not a manifest; begin with apiVersion: devopsroles.com/v1 and kind: AnomalyDetector."),
    ],
    ids=lambda value: None if len(value) > 40 else repr(value),
)  # fmt: skip
def test_a_file_that_is_no_manifest_has_one_sentence(
    tmp_path: Path, content: str | bytes, path: str, sentence: str
) -> None:
    """Whatever is in a file, it is one problem that says what to do, and never a traceback."""
    assert problems(written(tmp_path, content)) == [(path, sentence)]


def test_aliases_that_grow_a_small_file_without_bounds_are_refused(tmp_path: Path) -> None:
    """A thousand million values in 400 bytes cost nothing but the sentence."""
    ((_, sentence),) = problems(written(tmp_path, BOMB))
    assert sentence == "The file's aliases grow it beyond 200000 values; write the values out."


def test_plain_aliases_and_merges_are_read_as_kubectl_does(tmp_path: Path) -> None:
    """An anchor that is used twice is no bomb."""
    text = (
        HEAD
        + "metadata: {name: a}\nspec:\n  target_service: s\n  metrics:\n  - &m {name: a, query: up}\n  - {<<: *m, name: b}\n"
    )
    (loaded,) = load([written(tmp_path, text)])
    assert [(metric.name, metric.query) for metric in loaded.detector.spec.metrics] == [("a", "up"), ("b", "up")]


@pytest.mark.parametrize(
    ("content", "path", "sentence"),
    [
        ('{"a": 1, "a": 2}', "", "The key 'a' is given twice in one object; remove one."),
        ('{"a": NaN}', "", "NaN is not JSON; write a number."),
        ('{"a": }', "line 1, column 7", "This is not JSON: Expecting value."),
        ("[" * 200_000, "", "The file nests values deeper than 64 levels; flatten it."),
    ],
    ids=["twice", "nan", "syntax", "deep"],
)
def test_json_is_held_to_the_same_rules(tmp_path: Path, content: str, path: str, sentence: str) -> None:
    """A JSON file has no more liberties than a YAML file."""
    assert problems(written(tmp_path, content, "a.json")) == [(path, sentence)]


def test_paths_that_hold_nothing_are_problems(tmp_path: Path) -> None:
    """A missing file, an empty folder and something that is no file each say so."""
    assert problems(tmp_path / "none.yaml") == [("", "There is no such file or folder; check the path.")]
    assert problems(tmp_path) == [("", "The folder holds no *.yaml, *.yml or *.json file; add a manifest.")]
    assert problems(Path("/dev/zero")) == [("", "This is not a regular file; give a *.yaml, *.yml or *.json file.")]


def test_numbers_with_an_exponent_and_instants_are_read_as_kubernetes_reads_them(tmp_path: Path) -> None:
    """`1e1` is a number although YAML 1.1 calls it text, and an unquoted instant stays text."""
    spec = "target_service: s, prometheus_query: up, throttle: {sigma: 1e1}, training: {exclude: [{start: 2026-01-01T00:00:00Z, end: 2026-01-02T00:00:00Z}]}"
    (loaded,) = load([written(tmp_path, detector("a", spec))])
    assert loaded.detector.spec.throttle.sigma == 10.0
    assert loaded.detector.spec.training.exclude[0].start == 1_767_225_600
