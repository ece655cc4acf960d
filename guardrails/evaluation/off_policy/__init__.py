"""Off-policy evaluation over arrays: what another policy would have earned, and whether the log can tell."""

from guardrails.evaluation.off_policy.balanced import balanced_ips
from guardrails.evaluation.off_policy.betting import DiffersMonitor
from guardrails.evaluation.off_policy.estimate import Estimate
from guardrails.evaluation.off_policy.estimators import ips, snips
from guardrails.evaluation.off_policy.finishing import IntervalKind
from guardrails.evaluation.off_policy.integrity import Check, LogIntegrity, check_log
from guardrails.evaluation.off_policy.intervals import Sums, cressie_read
from guardrails.evaluation.off_policy.models import cross_fitted
from guardrails.evaluation.off_policy.overlap import LowOverlap, Overlap, overlap
from guardrails.evaluation.off_policy.sequences import ConfidenceSequence, confidence_sequence
from guardrails.evaluation.off_policy.training import weights_for_training
from guardrails.evaluation.off_policy.with_model import dm, dr, switch

__all__ = [
    "Check",
    "ConfidenceSequence",
    "DiffersMonitor",
    "Estimate",
    "IntervalKind",
    "LogIntegrity",
    "LowOverlap",
    "Overlap",
    "Sums",
    "balanced_ips",
    "check_log",
    "confidence_sequence",
    "cressie_read",
    "cross_fitted",
    "dm",
    "dr",
    "ips",
    "overlap",
    "snips",
    "switch",
    "weights_for_training",
]
