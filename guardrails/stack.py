"""@guarded: the usual stack in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from guardrails.core.breaker import Breaker
from guardrails.core.pipeline import compose
from guardrails.drift.guard import sample_drift
from guardrails.exploration.guard import explore
from guardrails.fallbacks.guard import fall_back
from guardrails.outliers.guard import check_outliers
from guardrails.tracing.guard import traced
from guardrails.typing import F, Policy
from guardrails.validation.guard import validate

if TYPE_CHECKING:
    from guardrails.core.targets import Fallbacks
    from guardrails.profile.reference import ProfileSpec


def guarded(
    profile: ProfileSpec,
    *,
    fallback: Fallbacks | None = None,
    on_invalid: Literal["reject"] | Fallbacks = "reject",
    deadline: float | None = None,
    timeout: float | None = None,
    alpha: float | None = None,
    rate: float = 1.0,
    policy: Policy | None = None,
    features: str | None = None,
    breaker: Breaker | None = None,
    enforce: bool = True,
) -> Callable[[F], F]:
    """Trace, validate, check for outliers, fall back and sample for drift; explore, if a policy is given.

    Args:
        profile: a `Profile`, a `Profile.ref`, or ``lambda self: ...``.
        fallback: who answers outliers, errors and timeouts; without one, outliers are refused and errors stay errors.
        on_invalid: ``"reject"``, or who answers invalid rows (in a batchable method, where nothing can be rejected).
        deadline: seconds within which an answer is expected (measured).
        timeout: seconds after which the fallback answers (enforced; needs a fallback).
        alpha: overrides the profile's share of ordinary traffic that may be called an outlier.
        rate: the share of requests sampled for drift.
        policy: how to explore; None does not.
        features: the argument that holds the rows; the first one by default.
        breaker: when to stop asking the method for a while (needs a fallback).
        enforce: False lets every guard judge and record, and changes nothing for any client (shadow mode).

    Example:
        >>> import numpy as np, guardrails as gr
        >>> profile = gr.Profile.fit(np.random.default_rng(0).normal(size=(500, 2)))
        >>> @gr.guarded(profile, fallback=gr.constant([0.0]), deadline=1.0)
        ... def predict(rows: np.ndarray) -> list:
        ...     return rows.sum(axis=1).tolist()
        >>> gr.pipeline_of(predict).stages
        ('validate', 'check_outliers', 'traced', 'sample_drift', 'fall_back')
    """
    guards: list[Callable[[F], F]] = [
        traced(deadline=deadline),
        validate(profile, on_invalid, features=features, in_batch=fallback, enforce=enforce),
    ]
    if fallback is None:
        guards.append(check_outliers(profile, alpha=alpha, features=features, enforce=enforce))
    else:
        guards.append(check_outliers(profile, fallback, alpha=alpha, features=features, enforce=enforce))
        guards.append(fall_back(to=fallback, timeout=timeout, breaker=breaker, enforce=enforce))
    guards.append(sample_drift(profile, rate=rate, features=features))
    if policy is not None:
        guards.append(explore(policy, enforce=enforce))
    return compose(*guards)
