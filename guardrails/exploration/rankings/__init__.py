"""Policies for ranked lists: which candidates stand where, with which probability."""

from guardrails.exploration.rankings.boost import Boost
from guardrails.exploration.rankings.fair_pairs import FairPairs
from guardrails.exploration.rankings.plackett_luce import PlackettLuce
from guardrails.exploration.rankings.pool import PoolInjection
from guardrails.exploration.rankings.ranked import Items, Ranked, RankingPolicy, Uniforms, organic
from guardrails.exploration.rankings.swap import SwapPositions

__all__ = [
    "Boost",
    "FairPairs",
    "Items",
    "PlackettLuce",
    "PoolInjection",
    "Ranked",
    "RankingPolicy",
    "SwapPositions",
    "Uniforms",
    "organic",
]
