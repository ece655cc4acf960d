"""A test kit for users: let guards' errors out, check plug-ins, serve a bento for real, receive its traces."""

from guardrails.testing.checks import check_detector, check_policy, strict
from guardrails.testing.otlp import OtlpReceiver, ReceivedSpan
from guardrails.testing.rankings import check_ranking
from guardrails.testing.server import BentoServer, free_port

__all__ = [
    "BentoServer",
    "OtlpReceiver",
    "ReceivedSpan",
    "check_detector",
    "check_policy",
    "check_ranking",
    "free_port",
    "strict",
]
