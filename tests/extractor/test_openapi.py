"""Schemathesis against a real process: no request that it makes up gets a 5xx, or an answer beside the schema."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import positive_data_acceptance
from tests.servers.extractor import LocalExtractor, start
from tests.servers.prometheus import serving

from foreshock.extractor.service import Service, create_app
from foreshock.extractor.settings import ExtractorSettings
from foreshock.extractor.wire import PATH
from foreshock.store.artifacts import ArtifactStore


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExtractor]:
    folder = tmp_path_factory.mktemp("extractor")
    with serving(tmp_path_factory.mktemp("prometheus")) as server:
        running = start(folder, {"datasources": [{"url": server.url}], "artifacts": str(folder)})
        yield running
        assert running.stop() == 0  # it lived through all of it


_app = create_app(Service((), ArtifactStore(Path("nowhere")), ExtractorSettings()))
schema = schemathesis.openapi.from_dict(_app.openapi())


@schema.parametrize()
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_described(case: schemathesis.Case, extractor: LocalExtractor) -> None:
    """Sound and unsound requests alike: a documented status, type and body; no server error but a passed deadline."""
    response = case.call(base_url=extractor.url)
    if case.path == PATH and response.status_code == 504:
        return  # a deadline of milliseconds is sound, and passes
    # A schema cannot say that an array has as many bytes as its rows ask for: such a document gets a 422
    case.validate_response(response, excluded_checks=[positive_data_acceptance])
