"""Decision and reward records: written once (`stores`), joined later (`joined`)."""

from guardrails.decisions.joined import JoinCounts, Logged, join, join_store
from guardrails.decisions.outcomes import feedback
from guardrails.decisions.records import Decision, Reward
from guardrails.decisions.stores import read
from guardrails.decisions.writer import DecisionLog, open_log

__all__ = [
    "Decision",
    "DecisionLog",
    "JoinCounts",
    "Logged",
    "Reward",
    "feedback",
    "join",
    "join_store",
    "open_log",
    "read",
]
