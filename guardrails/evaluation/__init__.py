"""What logged decisions and counts say: what a changed guard would have done, and how right the model still is."""

from guardrails.evaluation.label_free import AccuracyEstimate, PriorEstimate, estimate_accuracy, estimate_prior
from guardrails.evaluation.replay import Change, Replay, replay

__all__ = [
    "AccuracyEstimate",
    "Change",
    "PriorEstimate",
    "Replay",
    "estimate_accuracy",
    "estimate_prior",
    "replay",
]
