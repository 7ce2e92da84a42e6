"""The CRDs are what Kubernetes calls structural, bounded and described, and the chart's copy is equal to them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from foreshock.core.verdicts import Cause, Ignorance
from foreshock.manifests.conditions import REASONS, Because, Condition, ConditionStatus, ConditionType, DetectorStatus
from foreshock.manifests.crd import as_yaml, definitions
from foreshock.manifests.model import model_name

CHART = Path(__file__).parents[2] / "charts/foreshock/crds"
DEFINITIONS = {each["spec"]["names"]["kind"]: each for each in definitions()}


def version(kind: str) -> dict[str, Any]:
    (only,) = DEFINITIONS[kind]["spec"]["versions"]
    return dict(only)


def parts(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a schema below the root, with its path."""
    for name, part in schema.get("properties", {}).items():
        yield f"{path}.{name}", part
        yield from parts(part, f"{path}.{name}")
    if "items" in schema:
        yield f"{path}[]", schema["items"]
        yield from parts(schema["items"], f"{path}[]")


def all_parts() -> Iterator[tuple[str, dict[str, Any]]]:
    for kind in DEFINITIONS:
        schema = version(kind)["schema"]["openAPIV3Schema"]
        yield from ((f"{kind}{path}", part) for path, part in parts(schema))


def test_the_charts_copy_is_what_the_command_writes() -> None:
    """`foreshock crd --folder charts/foreshock/crds` after each change of a model; this test says when."""
    expected = {f"{each['spec']['names']['plural']}.yaml": as_yaml((each,)) for each in definitions()}
    assert {file.name: file.read_text() for file in CHART.iterdir()} == expected


def test_every_string_list_and_count_has_a_bound() -> None:
    """Bounds keep objects small and CEL affordable."""
    unbounded = []
    for path, part in all_parts():
        of = part["type"]
        bounded = {
            "string": "maxLength" in part or "enum" in part,
            "array": "maxItems" in part,
            "integer": "minimum" in part,
        }
        if not bounded.get(of, True) and not path.endswith((".apiVersion", ".kind")):
            unbounded.append(path)
    assert unbounded == []


def test_every_field_is_described_and_typed() -> None:
    """`kubectl explain` has a sentence for each, and a structural schema a type."""
    assert [path for path, part in all_parts() if "type" not in part] == []
    undescribed = [path for path, part in all_parts() if "description" not in part and not path.endswith("[]")]
    assert [path for path in undescribed if not path.endswith(".metadata")] == []


def test_spec_is_snake_case_and_status_camel_case() -> None:
    """As the given manifest is written, and as Kubernetes' tools expect."""
    wrong = []
    for path, _ in all_parts():
        _, _, below = path.partition(".")
        top, _, rest = below.partition(".")
        name = rest.rpartition(".")[2].removesuffix("[]")
        if (top == "spec" and name != name.lower()) or (top == "status" and "_" in name):
            wrong.append(path)
    assert wrong == []


def test_each_kind_has_a_short_name_a_category_and_a_status_of_its_own() -> None:
    """`kubectl get ad,am,an` and `kubectl get foreshock` work, and only our account may write a status."""
    names = {kind: each["spec"]["names"] for kind, each in DEFINITIONS.items()}
    assert {kind: each["shortNames"] for kind, each in names.items()} == {
        "AnomalyDetector": ["ad"],
        "AnomalyModel": ["am"],
        "Anomaly": ["an"],
    }
    assert all(each["categories"] == ["foreshock"] for each in names.values())
    assert all(version(kind)["subresources"] == {"status": {}} for kind in names)


def test_the_yaml_reads_back_as_what_was_written() -> None:
    """Long sentences are folded without a change, and no anchor appears."""
    text = as_yaml(definitions())
    assert list(yaml.safe_load_all(text)) == list(definitions())
    assert "&id" not in text


def test_every_reason_is_documented_and_every_ignorance_has_its_place() -> None:
    """A condition never carries a word that nobody explains, and every verdict can be shown."""
    for kind in ConditionType:
        assert all(reason.isalnum() and text.endswith(".") for reason, text in REASONS[kind].items())
        assert Because.PENDING in REASONS[kind]
    anomalous = REASONS[ConditionType.ANOMALOUS]
    assert [each for each in (*Ignorance, *Cause) if each not in anomalous] == []
    assert {reason for each in REASONS.values() for reason in each} >= set(Because)
    summed_up = (ConditionType.DATA_AVAILABLE, ConditionType.MODEL_READY, ConditionType.SINKS_HEALTHY)
    good = {
        Because.DATA_FLOWS,
        Because.EXTRACTOR_UNAVAILABLE,
        Because.MODEL_ACTIVE,
        Because.DRIFTED,
        Because.DELIVERING,
    }
    bad = {reason for kind in summed_up for reason in REASONS[kind]} - good
    assert bad <= set(REASONS[ConditionType.READY])


def test_a_condition_refuses_a_reason_of_another_one() -> None:
    """The lists are closed for each type."""
    Condition(
        type=ConditionType.READY,
        status=ConditionStatus.TRUE,
        reason=Because.ALL_WELL,
        last_transition_time="2026-01-01T00:00:00Z",
    )
    with pytest.raises(ValueError, match="AllWell is no reason of the condition Anomalous"):
        Condition(
            type=ConditionType.ANOMALOUS,
            status=ConditionStatus.FALSE,
            reason=Because.ALL_WELL,
            last_transition_time="2026-01-01T00:00:00Z",
        )


def test_a_status_of_a_newer_version_is_read_and_written_in_camel_case() -> None:
    """Fields that this version does not know are left alone; what it writes has Kubernetes' spelling."""
    status = DetectorStatus.model_validate({"observedGeneration": 3, "activeModel": "v1-r2", "somethingNew": 1})
    written = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert written == {"observedGeneration": 3, "activeModel": "v1-r2", "conditions": []}


@pytest.mark.parametrize("line", ["v2.1.0", "V2", "v2_1", "v2-1", "v2._1", "v2..1", "a" * 63])
def test_the_name_of_a_model_is_a_kubernetes_name(line: str) -> None:
    """Whatever the line of models is called, and however long the detector's name is."""
    for detector in ("d", "d" * 253, f"{'d' * 200}.{'e' * 52}"):
        name = model_name(detector, line, 12)
        assert len(name) <= 253
        part = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
        assert re.fullmatch(rf"{part}(\.{part})*", name), name


def test_lines_that_differ_have_models_with_names_that_differ() -> None:
    """What is folded into one letter keeps a digest."""
    lines = ("v2.1", "V2.1", "v2_1", "v2-1", "v2..1", "v2.-1")
    assert len({model_name("d", line, 1) for line in lines}) == len(lines)
