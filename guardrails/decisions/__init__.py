"""Decision and reward records: written once, joined later."""

from guardrails.decisions.records import Decision, Reward
from guardrails.decisions.writer import DecisionLog, open_log

__all__ = ["Decision", "DecisionLog", "Reward", "open_log"]
