"""The served OpenAPI names the refusal: a client generator should know of the 422 before its users do."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from guardrails import semconv

PATH = "/docs.json"
SCHEMA = "GuardrailsRefusal"
_REFUSAL: dict[str, Any] = {
    "type": "object",
    "title": SCHEMA,
    "required": ["error", "reason", "decision_id", "details"],
    "properties": {
        "error": {"type": "string", "description": "One sentence for a person."},
        "reason": {"type": "string", "enum": [semconv.OUTLIER, semconv.INVALID, semconv.ERROR, semconv.TIMEOUT,
                                              semconv.BREAKER_OPEN]},
        "decision_id": {"type": "string", "description": "Names this decision in traces, records and feedback."},
        "details": {"type": "array", "items": {"type": "object"}},
    },
}  # fmt: skip


def with_refusals(document: bytes, routes: Collection[str]) -> bytes:
    """The document with a 422 for each of these routes; as it is where it cannot be read.

    Args:
        document: BentoML's OpenAPI document, as JSON.
        routes: the paths of the guarded methods.
    """
    try:
        spec = json.loads(document)
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{SCHEMA}"}}}
        for route in routes:
            for operation in spec["paths"].get(route, {}).values():
                operation["responses"].setdefault("422", {"description": "Refused by a guard", "content": content})
        spec.setdefault("components", {}).setdefault("schemas", {})[SCHEMA] = _REFUSAL
    except (ValueError, KeyError, TypeError, AttributeError):
        return document
    return json.dumps(spec).encode()
