"""Requests made from the served OpenAPI: no 5xx, and no kind of failure that the undecorated service has not, too."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from guardrails.testing import BentoServer

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
failures_of = pytest.importorskip("schemathesis.core.failures")

Serve = Callable[..., BentoServer]
EXAMPLES = 30
APIS = ("/diagnose", "/screen")


def failures(server: BentoServer) -> tuple[dict[str, set[str]], dict[str, set[int]]]:
    """By API, the kinds of failure that requests made from its schema run into, and the status codes seen."""
    schema = schemathesis.openapi.from_url(f"{server.url}/docs.json")
    kinds: dict[str, set[str]] = defaultdict(set)
    codes: dict[str, set[int]] = defaultdict(set)
    for found in schema.get_all_operations():
        operation: Any = found.ok()
        if operation.path not in APIS:
            continue
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def ask(case: Any) -> None:
                response = case.call(base_url=server.url)
                codes[case.path].add(response.status_code)
                try:
                    case.validate_response(response)
                except failures_of.FailureGroup as group:
                    kinds[case.path].update(type(failure).__name__ for failure in group.exceptions)

            ask()
    return kinds, codes


def test_generated_requests_find_nothing_that_the_bare_service_does_not_have(serve: Serve) -> None:
    """Valid and invalid bodies alike, made from the schema, the same for both."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    bare, _ = failures(serve("tests.served.bare:Bare"))
    guarded, codes = failures(serve("services.tumor.service:Tumor"))
    assert set(codes) == set(APIS)
    for api in APIS:
        assert not {code for code in codes[api] if code >= 500}, codes
        assert guarded[api] <= bare[api], (api, guarded[api], bare[api])
        assert len(codes[api]) > 1, "only one kind of answer was ever seen"
