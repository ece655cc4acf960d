"""The vocabulary of the rules: whose series, over which window, and what the recorded ones are called."""

from __future__ import annotations

import json
from dataclasses import dataclass

from guardrails.drift.announce import labels_of
from guardrails.drift.options import seconds
from guardrails.errors import ProfileError
from guardrails.profile.profile import Profile

MODEL, FEATURE, BIN = "model, ref", "model, ref, feature", "model, ref, feature, bin"
"""What series are grouped by: labels that all of them have."""
_UNITS = ((604800, "w"), (86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_RECORDED = {
    "bin_rows": "model_ref_feature_bin:guardrails_feature:increase{}",
    "rows": "model_ref_feature:guardrails_feature:increase{}",
    "weight": "model_ref_feature:guardrails_feature:weight",
    "effective": "model_ref_feature:guardrails_feature:effective{}",
    "share": "model_ref_feature_bin:guardrails_feature:ratio{}",
    "smoothed": "model_ref_feature_bin:guardrails_feature:smoothed{}",
    "reference_share": "model_ref_feature_bin:guardrails_reference:ratio",
    "reference_smoothed": "model_ref_feature_bin:guardrails_reference:smoothed{}",
    "reference_rows": "model_ref_feature:guardrails_reference:rows",
    "smaller": "model_ref_feature:guardrails_drift_smaller_sample:rows{}",
    "gap": "model_ref_feature_bin:guardrails_drift_gap:{}",
    "expected": "model_ref_feature_bin:guardrails_drift_expected:rows{}",
    "psi": "model_ref_feature:guardrails_drift_psi:{}",
    "psi_vs_week": "model_ref_feature:guardrails_drift_psi_vs_week:{}",
    "js": "model_ref_feature:guardrails_drift_js:{}",
    "tv": "model_ref_feature:guardrails_drift_tv:{}",
    "cdf_gap": "model_ref_feature_cut:guardrails_drift_cdf_gap:{}",
    "ks": "model_ref_feature:guardrails_drift_ks:{}",
    "chi2": "model_ref_feature:guardrails_drift_chi2:{}",
    "critical": "model_ref_feature:guardrails_drift_critical_chi2:{}",
    "significant": "model_ref:guardrails_drift_features_significant:ratio{}",
    "accuracy": "model_ref:guardrails_estimated_accuracy:{}",
    "accuracy_change": "model_ref:guardrails_estimated_accuracy_change:{}",
    "accuracy_error": "model_ref:guardrails_estimated_accuracy_error:{}",
    "raw_prior": "model_ref_class:guardrails_estimated_prior_unclipped:{}",
    "prior": "model_ref_class:guardrails_estimated_prior:{}",
}


@dataclass(frozen=True)
class Scope:
    """Whose series are meant, over which window: several models and references may share one Prometheus.

    Attributes:
        model, ref: the labels that a profile's series have.
        window: seconds of traffic that are looked at together.
    """

    model: str
    ref: str
    window: int

    @classmethod
    def of(cls, profile: Profile, window: str | float) -> Scope:
        """The series of a profile.

        Raises:
            ProfileError: the window is no whole number of seconds, or too short for Prometheus.
        """
        span = span_of(window, "window")
        if span < 10 or span != int(span):  # noqa: PLR2004
            raise ProfileError(f"window={window!r} is a whole number of seconds, at least 10: '1h', '30m', ...")
        return cls(*labels_of(profile), int(span))

    @property
    def span(self) -> str:
        """The window as Prometheus writes it."""
        return duration(self.window)

    def name(self, what: str) -> str:
        """What a recorded series is called."""
        return _RECORDED[what].format(self.span)

    def __call__(self, what: str, **labels: str) -> str:
        """Select a recorded series."""
        return self.raw(self.name(what), **labels)

    def raw(self, metric: str, **labels: str) -> str:
        """Select a metric that services export. A label whose value begins with ``~`` is a regular expression."""
        matchers = {"model": self.model, "ref": self.ref, **labels}
        inside = ",".join(
            f"{label}=~{quoted(value[1:])}" if value.startswith("~") and label in labels else f"{label}={quoted(value)}"
            for label, value in matchers.items()
        )
        return f"{metric}{{{inside}}}"


def quoted(text: str) -> str:
    """Text as a string of PromQL and of Go's templates."""
    return json.dumps(text, ensure_ascii=False)


def span_of(value: str | float, name: str) -> float:
    """A time span in seconds.

    Raises:
        ProfileError: it is none.
    """
    try:
        return seconds(value, name)
    except TypeError as error:
        raise ProfileError(str(error)) from error


def duration(span: float) -> str:
    """Seconds as Prometheus writes them, in the largest unit that fits: ``1h``, ``90s``.

    Example:
        >>> duration(3600), duration(90), duration(300.4)
        ('1h', '90s', '5m')
    """
    whole = max(1, round(span))
    return next(f"{whole // size}{unit}" for size, unit in _UNITS if whole % size == 0)
