"""Is the API what its OpenAPI document says? The document is checked, then the API is fuzzed against it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig

from cfbridge.api import openapi
from cfbridge.api.operations import RESOURCES, ROOT
from tests.cfbridge.api.serving import Running
from tests.cfbridge.api.world import FakeFacade

DOCUMENT: dict[str, Any] = json.loads(openapi.document())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(FakeFacade(), tmp_path_factory.mktemp("api"))
    yield running
    running.close()


# 422: parameters that are well each, and together ask for nothing that can be. 412: for another revision.
ACCEPTED = {"expected-statuses": ["2xx", "304", "404", "409", "412", "422", "503"]}
CONFIG = SchemathesisConfig.from_dict({"checks": {"positive_data_acceptance": ACCEPTED}})
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT, config=CONFIG)
OPERATIONS = {each.ok().label: each.ok() for each in SCHEMA.get_all_operations()}


def test_the_document_is_valid_openapi_3_1() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()
    assert DOCUMENT["openapi"].startswith("3.1")


def test_every_operation_declares_its_permission_and_every_resource_is_there() -> None:
    for path in DOCUMENT["paths"].values():
        for method, operation in path.items():
            changing = method != "get" and operation["operationId"] != "plan"
            assert (operation["x-permission"] != "cfbridge.read") == changing
    assert {f"{ROOT}/{name}" for name in RESOURCES} < set(DOCUMENT["paths"])


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("label", OPERATIONS)
def test_the_api_answers_as_it_is_described(served: Running, label: str, mode: GenerationMode) -> None:
    """What fits the description is answered 200, 304 or 404, what doesn't is refused; every answer fits too."""
    headers = {"Authorization": f"Bearer {served.server.token}"}
    url = served.server.addresses[1]

    @given(case=OPERATIONS[label].as_strategy(generation_mode=mode))
    @settings(max_examples=10, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    def ask(case: Any) -> None:
        if mode is GenerationMode.POSITIVE:
            case.query.pop("after", None)  # a cursor is opaque: no schema can say which ones the API gave
        case.call_and_validate(base_url=url, headers=headers)

    ask()
