"""Every name that leaves the process: span attributes, metrics, headers. Strings are written here and nowhere else."""

from __future__ import annotations

from typing import Final

# Span attributes. Low-cardinality values only where a metric has the same label; never a raw input.
SPAN_NAME: Final = "guardrails {api}"
DECISION_ID: Final = "guardrails.decision.id"
ROUTE: Final = "guardrails.route"
REASON: Final = "guardrails.reason"
ROWS: Final = "guardrails.rows"
DIVERTED_ROWS: Final = "guardrails.rows.diverted"
OUTLIER_SCORE: Final = "guardrails.outlier.score"
OUTLIER_P_VALUE: Final = "guardrails.outlier.p_value"
OUTLIER_THRESHOLD: Final = "guardrails.outlier.threshold"
IS_OUTLIER: Final = "guardrails.outlier.is_outlier"
DRIFT_SAMPLED: Final = "guardrails.drift.sampled"
POLICY: Final = "guardrails.exploration.policy"
EXPLORED: Final = "guardrails.exploration.explored"
PROPENSITY: Final = "guardrails.exploration.propensity"
ACTION: Final = "guardrails.exploration.action"
GREEDY_ACTION: Final = "guardrails.exploration.greedy_action"
PROFILE_TAG: Final = "guardrails.profile.tag"
MODEL_TAG: Final = "guardrails.model.tag"
DEADLINE_MET: Final = "guardrails.deadline.met"
STREAM_ITEMS: Final = "guardrails.stream.items"
CANCELLED: Final = "guardrails.cancelled"
GUARD_ERRORS: Final = "guardrails.guard.errors"
KEPT: Final = "guardrails.kept"
ERROR_TYPE: Final = "error.type"

# Routes and reasons: the values of ROUTE and REASON, of the headers and of the metric labels.
PRIMARY: Final = "primary"
REJECTED: Final = "rejected"
MIXED: Final = "mixed"
FALLBACK_PREFIX: Final = "fallback:"
OUTLIER: Final = "outlier"
INVALID: Final = "invalid"
ERROR: Final = "error"
TIMEOUT: Final = "timeout"
OVERLOAD: Final = "overload"

# Response headers.
HEADER_DECISION_ID: Final = "Guardrails-Decision-Id"
HEADER_ROUTE: Final = "Guardrails-Route"
HEADER_REASON: Final = "Guardrails-Reason"

# Prometheus metrics, on BentoML's own /metrics.
REQUEST_DURATION: Final = "guardrails_request_duration_seconds"
GUARD_DURATION: Final = "guardrails_guard_duration_seconds"
GUARD_ERRORS_TOTAL: Final = "guardrails_guard_errors"
TRACES_KEPT_TOTAL: Final = "guardrails_traces_kept"
TRACES_OVERFLOWED_TOTAL: Final = "guardrails_traces_overflowed"
DECISIONS_WRITTEN_TOTAL: Final = "guardrails_decisions_written"
DECISIONS_DROPPED_TOTAL: Final = "guardrails_decisions_dropped"
DRIFT_ROWS_TOTAL: Final = "guardrails_drift_rows"
DRIFT_DROPPED_TOTAL: Final = "guardrails_drift_dropped"
OVERRUNS_TOTAL: Final = "guardrails_overruns"
