"""What logged decisions and counts say: what changed guards and policies would have done, how right the model is."""

from guardrails.evaluation.from_log import Evaluation, evaluate
from guardrails.evaluation.label_free import AccuracyEstimate, PriorEstimate, estimate_accuracy, estimate_prior
from guardrails.evaluation.loop import LoopGain, loop_gain
from guardrails.evaluation.off_policy import (
    Check,
    ConfidenceSequence,
    DiffersMonitor,
    Estimate,
    LogIntegrity,
    LowOverlap,
    Overlap,
    balanced_ips,
    check_log,
    confidence_sequence,
    cross_fitted,
    dm,
    dr,
    ips,
    overlap,
    snips,
    switch,
    weights_for_training,
)
from guardrails.evaluation.replay import Change, Replay, replay

__all__ = [
    "AccuracyEstimate",
    "Change",
    "Check",
    "ConfidenceSequence",
    "DiffersMonitor",
    "Estimate",
    "Evaluation",
    "LogIntegrity",
    "LoopGain",
    "LowOverlap",
    "Overlap",
    "PriorEstimate",
    "Replay",
    "balanced_ips",
    "check_log",
    "confidence_sequence",
    "cross_fitted",
    "dm",
    "dr",
    "estimate_accuracy",
    "estimate_prior",
    "evaluate",
    "ips",
    "loop_gain",
    "overlap",
    "replay",
    "snips",
    "switch",
    "weights_for_training",
]
