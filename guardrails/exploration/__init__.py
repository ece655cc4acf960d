"""EXPLORE: a little, recorded randomness. Policies and `draw` work over arrays, without a service."""

from guardrails.exploration.policies import EpsilonGreedy
from guardrails.exploration.randomness import draw

__all__ = ["EpsilonGreedy", "draw"]
