"""OBSERVE: is production still what training was? Counted in the background, never on the request."""

from guardrails.drift.report import FeatureDrift, compare
from guardrails.drift.sampler import Sampler, sampler_of

__all__ = ["FeatureDrift", "Sampler", "compare", "sampler_of"]
