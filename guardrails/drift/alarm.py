"""An alarm: which columns moved, how, and in which bins."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from guardrails.drift.alternatives import Bet
from guardrails.drift.sequential import Evidence, SequentialDetector
from guardrails.profile.bins import Counts
from guardrails.profile.naming import bin_text
from guardrails.profile.profile import Profile

SHOWN_BINS = 3


@dataclass(frozen=True)
class BinMove:
    """How full a bin was in the reference, and is now.

    Attributes:
        bin: as it is called in metrics.
        text: as a person would call it.
        reference, now: shares of rows.
    """

    bin: str
    text: str
    reference: float
    now: float


@dataclass(frozen=True)
class Finding:
    """One column that moved.

    Attributes:
        feature: its name.
        share: its share of all evidence.
        direction: what it looks like, in words.
        bins: the bins that moved most, worst first.
    """

    feature: str
    share: float
    direction: str
    bins: tuple[BinMove, ...]


@dataclass(frozen=True)
class Alarm:
    """Production is no longer what training was.

    Attributes:
        findings: the columns that moved, worst first.
        evidence: how many times over the evidence that an alarm needs was there.
        rows: rows weighed since the detector last started anew.
        since: rows since the change seems to have come.
        id: names the alarm to those who acknowledge it.
        at: when (Unix seconds); 0 where nobody asked a clock.
        examples: decision ids of rows in the bins that moved.
        acknowledged: whether somebody has said that they know.
        times: how often the evidence for it came again.
        last: when it last did (Unix seconds).
    """

    findings: tuple[Finding, ...]
    evidence: float
    rows: int
    since: int
    id: str = ""
    at: float = 0.0
    examples: tuple[str, ...] = ()
    acknowledged: bool = False
    times: int = 1
    last: float = 0.0

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the columns that moved, worst first."""
        return tuple(finding.feature for finding in self.findings)

    def sentence(self) -> str:
        """For a log line."""
        worst = self.findings[0]
        others = f", and {len(self.findings) - 1} more" if len(self.findings) > 1 else ""
        moved = "; ".join(f"{move.text}: {move.reference:.1%} then, {move.now:.1%} now" for move in worst.bins)
        return f"{worst.feature} {worst.direction}{others} (over about {self.since} rows; {moved})"

    def to_json(self) -> dict[str, Any]:
        """As it stands in the status."""
        return {**asdict(self), "features": list(self.features), "sentence": self.sentence()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Alarm:
        """The inverse of `to_json`."""
        findings = tuple(
            Finding(f["feature"], f["share"], f["direction"], tuple(BinMove(**move) for move in f["bins"]))
            for f in document["findings"]
        )
        known = {k: v for k, v in document.items() if k not in ("features", "sentence", "findings", "examples")}
        return cls(findings, **known, examples=tuple(document["examples"]))


def findings(
    profile: Profile, reference: Counts, detector: SequentialDetector, evidence: Evidence, window: Counts
) -> tuple[Finding, ...]:
    """The columns that moved: the one with the most evidence, and all that would have raised an alarm alone.

    Args:
        profile: names columns and bins.
        reference: what the detector compares with, shape ``(f, bins)``.
        detector: after the alarm's rows, before it starts anew.
        evidence: its evidence.
        window: what was counted since the change seems to have come, shape ``(f, bins)``.
    """
    columns = np.where(evidence.loud, evidence.columns, -np.inf)
    shares = np.exp(columns - columns.max())
    shares /= shares.sum()
    order = np.argsort(-columns, kind="stable").tolist()
    alone = [place for place in order if columns[place] >= detector.due]
    found = []
    for place in alone or order[:1]:
        column = detector.judged[place]
        bet, _ = detector.best(column)
        moves = _moves(profile, column, reference[column], window[column])
        found.append(Finding(profile.bins.names[column], float(shares[place]), _words(profile, bet), moves))
    return tuple(found)


def _moves(profile: Profile, column: int, reference: Counts, window: Counts) -> tuple[BinMove, ...]:
    then = reference / max(reference.sum(), 1)
    now = window / max(window.sum(), 1)
    worst = np.argsort(-np.abs(now - then), kind="stable")[:SHOWN_BINS].tolist()
    return tuple(
        BinMove(profile.bins.label(b), bin_text(profile, column, b), round(float(then[b]), 4), round(float(now[b]), 4))
        for b in worst
        if then[b] != now[b]
    )


def _words(profile: Profile, bet: Bet) -> str:
    if bet.kind == "shift":
        deviations = "1 standard deviation" if abs(bet.size) == 1 else f"{abs(bet.size):g} standard deviations"
        return f"is {'higher' if bet.size > 0 else 'lower'} by about {deviations}"
    if bet.kind == "spread":
        return f"is {'wider' if bet.size > 1 else 'narrower'} spread, by a factor of about {bet.size:g}"
    at = bin_text(profile, bet.column, bet.bin or 0)
    if bet.kind == "halve":
        return f"is about half as often {at}"
    return f"is more often {at}, by about {bet.size:.0%} of all rows"
