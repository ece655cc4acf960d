"""Decorators that make a BentoML model service fail safely.

Each request is timed and traced, checked by an outlier detector that routes edge cases to fallbacks, sampled for drift,
and tagged with the exploration randomness that weakens degenerate feedback loops.
"""

from guardrails import decisions, drift, exploration, outliers
from guardrails._version import __version__
from guardrails.core.call import Call, Stage
from guardrails.core.host import set_host
from guardrails.core.pipeline import Pipeline, compose, pipeline_of
from guardrails.decisions.outcomes import feedback
from guardrails.errors import (
    BreakerOpen,
    DecisionStoreError,
    DecorationError,
    GuardrailsError,
    GuardrailsWarning,
    ProfileError,
    Rejected,
)
from guardrails.exploration import EpsilonGreedy
from guardrails.fallbacks import Breaker, constant, last_good, reject, within
from guardrails.serving.host import BentoHost

set_host(BentoHost())  # before any guard is attached: guards ask it what an APIMethod is

from guardrails.drift.guard import sample_drift  # noqa: E402
from guardrails.exploration.guard import explore  # noqa: E402
from guardrails.fallbacks.guard import fall_back  # noqa: E402
from guardrails.outliers.guard import check_outliers  # noqa: E402
from guardrails.profile import Feature, Profile, Schema  # noqa: E402
from guardrails.serving.install import install  # noqa: E402
from guardrails.stack import guarded  # noqa: E402
from guardrails.tracing.guard import traced  # noqa: E402
from guardrails.validation.guard import validate  # noqa: E402

__all__ = [
    "Breaker",
    "BreakerOpen",
    "Call",
    "DecisionStoreError",
    "DecorationError",
    "EpsilonGreedy",
    "Feature",
    "GuardrailsError",
    "GuardrailsWarning",
    "Pipeline",
    "Profile",
    "ProfileError",
    "Rejected",
    "Schema",
    "Stage",
    "__version__",
    "check_outliers",
    "compose",
    "constant",
    "decisions",
    "drift",
    "exploration",
    "explore",
    "fall_back",
    "feedback",
    "guarded",
    "install",
    "last_good",
    "outliers",
    "pipeline_of",
    "reject",
    "sample_drift",
    "traced",
    "validate",
    "within",
]
