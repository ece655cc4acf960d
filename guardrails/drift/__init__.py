"""OBSERVE: is production still what training was? Counted and judged in the background, never on the request."""

from guardrails.drift.alarm import Alarm, BinMove, Finding
from guardrails.drift.by_rows.process import ProcessDetector
from guardrails.drift.by_rows.verdicts import DriftReport
from guardrails.drift.monitor import Monitor
from guardrails.drift.report import FeatureDrift, compare
from guardrails.drift.sampler import Sampler, sampler_of
from guardrails.drift.two_sample import TwoSample, TwoSampleResult, two_sample

__all__ = [
    "Alarm",
    "BinMove",
    "DriftReport",
    "FeatureDrift",
    "Finding",
    "Monitor",
    "ProcessDetector",
    "Sampler",
    "TwoSample",
    "TwoSampleResult",
    "compare",
    "sampler_of",
    "two_sample",
]
