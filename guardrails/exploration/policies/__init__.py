"""Which action, decision or value with which probability: exact, vectorised, stateless."""

from guardrails.exploration.policies._arrays import MAX_EPSILON, among
from guardrails.exploration.policies.floor import Floor
from guardrails.exploration.policies.greedy import EpsilonGreedy, ExploreFirst
from guardrails.exploration.policies.softmax import Softmax
from guardrails.exploration.policies.square import SquareCB
from guardrails.exploration.policies.thompson import GaussianThompson
from guardrails.exploration.policies.threshold import RandomisedCutoff, RejectRate
from guardrails.exploration.policies.truncated import TruncatedGaussian
from guardrails.exploration.policies.values import UniformMixture
from guardrails.exploration.policies.votes import Votes, votes_of

__all__ = [
    "MAX_EPSILON",
    "EpsilonGreedy",
    "ExploreFirst",
    "Floor",
    "GaussianThompson",
    "RandomisedCutoff",
    "RejectRate",
    "Softmax",
    "SquareCB",
    "TruncatedGaussian",
    "UniformMixture",
    "Votes",
    "among",
    "votes_of",
]
