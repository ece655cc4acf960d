"""Loop strength: how concentrated the choices are, and how much of what is shown comes back as score."""

from guardrails.evaluation.loop.describe import (
    PopularityRates,
    coverage,
    gini,
    hit_rate_by_popularity,
    homogenisation,
    mechanical_gini,
    normalised_entropy,
    tail_share,
    top_share,
)
from guardrails.evaluation.loop.gain import LoopGain, loop_gain
from guardrails.evaluation.loop.report import Concentration, LoopReport, report

__all__ = [
    "Concentration",
    "LoopGain",
    "LoopReport",
    "PopularityRates",
    "coverage",
    "gini",
    "hit_rate_by_popularity",
    "homogenisation",
    "loop_gain",
    "mechanical_gini",
    "normalised_entropy",
    "report",
    "tail_share",
    "top_share",
]
