"""Whatever a sound request holds, the answer fits it: properties against a real process with a real model."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.extractor.fleet import END_S, HISTORY_STEPS, STEP_S, detectors, history
from tests.servers.extractor import LocalExtractor, start
from tests.servers.prometheus import serving

from foreshock.core.frame import Frame, as_samples
from foreshock.detectors.model import dump
from foreshock.extractor.wire import PATH, ExtractionAnswer, ExtractionRequest, unpack
from foreshock.features.schema import STATISTICS, Schema
from foreshock.lifecycle.train import train_revision
from foreshock.store.artifacts import ArtifactStore

QUERIES = ("queue", 'wait{job="one"}', 'wait{job="two"}', "1", "vector(time())", "nothing", "sum(queue) / 0", "-queue")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with the model of one detector, and its digest."""
    folder = tmp_path_factory.mktemp("models")
    spec = detectors()[0].spec
    values = as_samples(40 + np.random.default_rng(5).normal(size=(HISTORY_STEPS, 1)))
    frame = Frame(END_S - HISTORY_STEPS * STEP_S, STEP_S, ("wait",), values)
    model = train_revision(spec, frame, np.zeros(HISTORY_STEPS, np.bool_), provisional=True)
    arrays, facts = dump(model)
    return folder, ArtifactStore(folder).put(arrays, {"model": facts})


@pytest.fixture(scope="module")
def extractor(models: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExtractor]:
    with serving(tmp_path_factory.mktemp("prometheus"), history()) as server:
        settings = {"datasources": [{"url": server.url}], "artifacts": str(models[0])}
        running = start(tmp_path_factory.mktemp("extractor"), settings)
        yield running
        assert running.stop() == 0


texts = st.text(st.characters(codec="utf-8"), max_size=8)
numbers = st.floats(width=32, allow_nan=True, allow_infinity=True)


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """Sound requests with odd contents; `REAL` stands for the digest of the model that there is."""
    step_s, window_s = draw(st.sampled_from([(60, 1800), (60, 120), (1, 60), (3600, 86_400), (86_400, 2_592_000)]))
    context = Schema(("m",), step_s, window_s).context_steps
    n_fresh = draw(st.integers(1, min(context, 400)))
    at_s = draw(st.sampled_from([END_S, END_S + 60, 0, 32_503_680_000, 1_711_846_800]))
    n_fresh = min(n_fresh, at_s // step_s + 1)
    n_metrics = draw(st.integers(1, 2))
    rows, asked = 0, []
    for number in range(draw(st.integers(1, 3))):
        by_pod = draw(st.booleans())
        labels = draw(st.lists(texts, max_size=3, unique=True)) if by_pod else [None]
        groups = []
        for label in labels:
            model = draw(st.sampled_from([None, "REAL", "0" * 64]))
            rows += model is not None
            groups.append(({} if label is None else {"labels": [label]}) | ({} if model is None else {"model": model}))
        detector = {
            "name": f"shop/d{number}",
            "metrics": [{"name": f"m{k}", "query": draw(st.sampled_from(QUERIES))} for k in range(n_metrics)],
            "groups": groups,
        }
        asked.append(detector | ({"group_by": ["pod"], "max_groups": 5} if by_pod else {}))
    seed = draw(st.lists(numbers, min_size=1, max_size=20))
    held = np.resize(np.array(seed, "<f4"), rows * (context - n_fresh) * n_metrics)
    shape = {"window_s": window_s, "detectors": asked, "held": base64.b64encode(held.tobytes()).decode()}
    return {
        "version": 1, "datasource": "default", "step_s": step_s, "from_s": at_s - (n_fresh - 1) * step_s, "at_s": at_s,
        "deadline_s": 30.0, "shapes": [shape],
    }  # fmt: skip


@given(requests())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_an_answer_has_the_arrays_that_its_request_asks_for(
    extractor: LocalExtractor, models: tuple[Path, str], asked: dict[str, Any]
) -> None:
    """200, one failure a detector at most, sizes to the byte, and no gap that is longer than the ring."""
    body = json.dumps(asked).replace('"REAL"', f'"{models[1]}"')
    request = urllib.request.Request(f"{extractor.url}{PATH}", body.encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = ExtractionAnswer.model_validate_json(response.read())
    except urllib.error.HTTPError as error:
        with error:
            pytest.fail(f"{error.code} {error.read().decode()}")
    read = ExtractionRequest.model_validate_json(body)
    (shape,), (said,) = read.shapes, answer.shapes
    n_rows, n_modelled = len(shape.digests), sum(digest is not None for digest in shape.digests)
    unpack(said.samples, "<f4", (n_rows + len(said.found), read.n_fresh, shape.n_metrics))
    unpack(said.vectors, "<f8", (n_modelled, shape.n_metrics, len(STATISTICS)))
    gaps = unpack(said.gaps, "<f8", (n_modelled, shape.n_metrics))
    assert ((gaps >= 0) & (gaps <= read.schema_of(shape).context_steps)).all()
    assert len({(each.shape, each.detector) for each in answer.failures}) == len(answer.failures)
    assert {each.digest for each in answer.unusable} <= {"0" * 64, models[1]}
