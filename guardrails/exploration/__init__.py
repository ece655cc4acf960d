"""EXPLORE: a little, recorded randomness. Policies, `draw` and `replay` work without a service, too."""

from guardrails.exploration.limits import Cap, RegretBudget
from guardrails.exploration.policies import (
    EpsilonGreedy,
    ExploreFirst,
    Floor,
    GaussianThompson,
    RandomisedCutoff,
    RejectRate,
    Softmax,
    SquareCB,
    TruncatedGaussian,
    UniformMixture,
    Votes,
    votes_of,
)
from guardrails.exploration.randomness import draw
from guardrails.exploration.rankings import Boost, FairPairs, PlackettLuce, PoolInjection, Ranked, SwapPositions
from guardrails.exploration.replay import Replay, check_probabilities, replay, replay_all
from guardrails.exploration.spelled import policy_of

__all__ = [
    "Boost",
    "Cap",
    "EpsilonGreedy",
    "ExploreFirst",
    "FairPairs",
    "Floor",
    "GaussianThompson",
    "PlackettLuce",
    "PoolInjection",
    "RandomisedCutoff",
    "Ranked",
    "RegretBudget",
    "RejectRate",
    "Replay",
    "Softmax",
    "SquareCB",
    "SwapPositions",
    "TruncatedGaussian",
    "UniformMixture",
    "Votes",
    "check_probabilities",
    "draw",
    "policy_of",
    "replay",
    "replay_all",
    "votes_of",
]
