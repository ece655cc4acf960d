"""What watches a stream of counts: the sequential detector, what a row is worth, and what has lately been counted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.drift.alarm import Alarm, findings
from guardrails.drift.sequential import SequentialDetector
from guardrails.errors import ProfileError
from guardrails.profile import serial
from guardrails.profile.bins import Bins, Counts
from guardrails.profile.profile import Profile

Floats = npt.NDArray[np.float64]

HALF_LIFE, LONGEST_HALF_LIFE = 5000, 1_000_000
"""Rows after which what was seen counts half for the autocorrelation of the stream; of a stream that is dealt out among
W workers W^2 times as many, for each sees about a W-th of its autocorrelation."""
SNAPSHOTS = 32
"""How many earlier moments are remembered, to tell what has been counted since a change."""


class Dependence:
    """How much the rows of a stream resemble their neighbours, lately.

    Args:
        bins: the reference.
    """

    def __init__(self, bins: Bins) -> None:
        self._neighbours = serial.Neighbours(bins)
        # What never varied in training has no dependence to be weighed down for: that it varies now is the news.
        self._constant = (bins.counts.max(axis=1) == bins.counts.sum(axis=1)) & (bins.counts.sum(axis=1) > 0)
        self.counts = np.zeros(bins.counts.shape)
        self.distances = np.zeros(len(bins.names))
        self.pairs = np.zeros(len(bins.names))

    def update(self, counts: Counts, distances: Floats, pairs: Floats, workers: int = 1) -> Floats:
        """Take what was counted since the last time; the share of an independent row that a row is worth, ``(f,)``.

        Args:
            counts: shape ``(f, bins)``.
            distances: of neighbours, summed, shape ``(f,)``.
            pairs: how many there were, shape ``(f,)``.
            workers: among how many workers the stream is dealt out; each sees only its own neighbours.
        """
        kept = 0.5 ** (counts[0].sum() / min(HALF_LIFE * workers**2, LONGEST_HALF_LIFE))
        self.counts = self.counts * kept + counts
        self.distances = self.distances * kept + distances
        self.pairs = self.pairs * kept + pairs
        return serial.gamma(self.autocorrelation(workers))

    def autocorrelation(self, workers: int = 1) -> Floats:
        """Of the stream as a whole, shape ``(f,)``; 0 where it is within two standard errors of 0.

        Of an AR(1) stream dealt out at random among W workers, each sees rho_w = rho / (W - rho (W - 1)); this solves
        for rho.
        """
        seen = np.clip(self._neighbours.autocorrelation(self.counts, self.distances, self.pairs), 0.0, serial.LARGEST)
        seen[self._constant | (seen * np.sqrt(self.pairs) < 2.0)] = 0.0  # noqa: PLR2004
        return np.asarray(workers * seen / (1.0 + (workers - 1) * seen))


class Watch:
    """Watches one stream against one reference.

    Args:
        profile: names the columns; its bins cut them.
        run_length: the wanted mean time between false alarms, in the unit of `tick`'s ``elapsed``.
        reference: what to compare with, if not with the profile's own reference rows; shape ``(f, bins)``.
        rho: the autocorrelation of those rows, shape ``(f,)``; 0 by default.
        rows: how many rows come within a run length, if ``elapsed`` does not count rows.

    Attributes:
        evidence: after the last tick.
        worth: what share of an independent row a row of each column was worth at the last tick, shape ``(f,)``.
        window: what has been counted since the detector last started anew, shape ``(f, bins)``.

    Raises:
        ProfileError: no feature has a reference that is worth 500 independent rows.
    """

    def __init__(
        self,
        profile: Profile,
        run_length: float,
        reference: Counts | None = None,
        rho: Floats | None = None,
        *,
        rows: float | None = None,
    ) -> None:
        self.profile, self.run_length = profile, run_length
        self.bins = profile.bins if reference is None else replace(profile.bins, counts=reference, autocorrelation=rho)
        self.detector = SequentialDetector(self.bins, run_length, rows)
        features = range(len(profile.schema.features))
        if not set(features) & set(self.detector.judged):
            raise ProfileError(_too_few(profile, self.bins))
        self.dependence = Dependence(profile.bins)
        self.worth = np.ones(len(profile.bins.names))
        self.evidence = self.detector.evidence()
        self.restart()

    @property
    def unjudged(self) -> tuple[str, ...]:
        """Columns whose reference is too small to bet against."""
        known = set(self.detector.judged)
        return tuple(name for column, name in enumerate(self.bins.names) if column not in known)

    def restart(self) -> None:
        """Forget all evidence; the autocorrelation stays known."""
        self.detector.reset()
        self.evidence = self.detector.evidence()
        self.window = self.bins.empty()
        self._moments: list[tuple[float, Counts]] = [(self.detector.clock, self.window)]

    def mute(self, names: Collection[str]) -> None:
        """Name the columns that are known to have moved: they raise no alarm, and hide none of another column."""
        self.detector.loud[:] = [self.bins.names[column] not in names for column in self.detector.judged]
        self.evidence = self.detector.evidence()

    def recurred(self) -> list[str]:
        """Muted columns that would have raised an alarm by themselves by now; their evidence starts anew."""
        found = self.evidence
        again = np.flatnonzero(~found.loud & (found.columns >= self.detector.due))
        if len(again):
            self.detector.forget(again)
            self.evidence = self.detector.evidence()
        return [self.bins.names[self.detector.judged[place]] for place in again.tolist()]

    def tick(self, counts: Counts, distances: Floats, pairs: Floats, elapsed: float, workers: int = 1) -> Alarm | None:
        """Weigh what was counted since the last tick.

        Args:
            counts: shape ``(f, bins)``.
            distances: of neighbouring rows, summed, shape ``(f,)``.
            pairs: how many there were, shape ``(f,)``.
            elapsed: time or rows since the last tick.
            workers: among how many workers the stream is dealt out.

        Returns:
            An alarm, if one is due; the detector then starts anew.
        """
        self.worth = self.dependence.update(counts, distances, pairs, workers)
        self.window = self.window + counts
        self.evidence = self.detector.update(counts, elapsed, self.worth)
        if self.evidence.total < self.detector.due:
            self._remember()
            return None
        alarm = self._alarm()
        self.restart()
        return alarm

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All it knows, as arrays: for whoever goes on in its place."""
        detector, dependence = self.detector, self.dependence
        return {
            "bets": np.array(detector.fingerprint),
            "clock": np.array(detector.clock),
            "log_evidence": detector.log_evidence,
            "excess": detector.excess,
            "since": detector.since,
            "counts": dependence.counts,
            "distances": dependence.distances,
            "pairs": dependence.pairs,
            "window": self.window,
            "worth": self.worth,
        }

    def go_on_from(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take up what another one knew; of evidence, only what speaks for the very same bets."""
        detector, dependence = self.detector, self.dependence
        if str(state["bets"]) == detector.fingerprint:
            detector.clock = float(state["clock"])
            detector.log_evidence, detector.excess = state["log_evidence"].copy(), state["excess"].copy()
            detector.since = state["since"].copy()
        dependence.counts, dependence.distances = state["counts"].copy(), state["distances"].copy()
        dependence.pairs = state["pairs"].copy()
        self.window, self.worth = state["window"].copy(), state["worth"].copy()
        self._moments = [(detector.clock, self.window)]
        self.evidence = detector.evidence()

    def _remember(self) -> None:
        self._moments.append((self.detector.clock, self.window))
        if len(self._moments) > SNAPSHOTS:  # every other one, but not the latest ones
            half = SNAPSHOTS // 2
            self._moments = self._moments[:half:2] + self._moments[half:]

    def _alarm(self) -> Alarm:
        loud = np.where(self.evidence.loud, self.evidence.columns, -np.inf)
        worst = self.detector.judged[int(np.argmax(loud))]
        _, since = self.detector.best(worst)
        before = max((moment for moment in self._moments if moment[0] <= since), key=lambda m: m[0], default=None)
        lately = self.window - (self._moments[0] if before is None else before)[1]
        moved = findings(self.profile, self.bins.counts, self.detector, self.evidence, lately)
        over = float(np.exp(min(self.evidence.total - self.detector.due, 700.0)))
        return Alarm(moved, over, int(self.window[0].sum()), int(lately[0].sum()))


def _too_few(profile: Profile, bins: Bins) -> str:
    width = len(profile.schema.features)
    worth = bins.effective_rows[:width]
    best = int(np.argmax(worth))
    text = (
        f"the reference is too small to judge drift: at most {worth[best]:.0f} independent rows "
        f"({profile.schema.names[best]!r}, of {bins.counts[best].sum()}), and 500 are needed."
    )
    if bins.rho[:width].any():
        text += (
            f" Neighbouring rows resemble each other (autocorrelation up to {bins.rho[:width].max():.2f}), so each "
            "counts for less: give more rows; or, if they are sorted and not in order of time, shuffle them first."
        )
    else:
        text += " Fit the profile on more rows."
    return text
