"""Drift of stored decisions: rebuilt in order of time, as if a service had watched them."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails import semconv
from guardrails.drift.alarm import Alarm
from guardrails.drift.by_rows.rows import OF_ONE_REQUEST, stored_rows
from guardrails.drift.leader import LEAST_PAUSE, MOST_AT_ONCE, judging_of
from guardrails.drift.ledger import Ledger
from guardrails.drift.options import DriftOptions
from guardrails.drift.tables import EXAMPLES, SHOWN_EXAMPLES, Totals
from guardrails.drift.watch import Watch
from guardrails.errors import GuardrailsError, ProfileError
from guardrails.evaluation.verdict import Stream
from guardrails.profile import answers
from guardrails.profile.bins import Codes
from guardrails.profile.profile import Profile
from guardrails.profile.serial import Neighbours
from guardrails.profile.watched import OUTLIER, table
from guardrails.typing import Rows

Record = Mapping[str, Any]

TICKS = 400
"""How often the evidence is looked at, at most: as many moments as a history keeps."""
SOURCE = "rebuilt from stored decisions"
REFUSED = "were refused as invalid, with a cell that was missing or that nobody could read"


@dataclass(frozen=True)
class ReplayedDrift:
    """What a service would have seen.

    Attributes:
        stream: as one that is watched; its moments and alarms are at the times of the decisions.
        skipped: decisions that are not part of it, by the reason why.
    """

    stream: Stream
    skipped: Counter[str]

    def document(self) -> dict[str, Any]:
        """As ``GET /guardrails/drift`` has one for each stream, and where it is from."""
        return {**self.stream.document(), "source": SOURCE}


def replay_drift(records: Iterable[Record], profile: Profile, options: DriftOptions | None = None) -> ReplayedDrift:
    """Watch logged decisions for drift, in order of time.

    Of each request one row counts, as when serving. What the model said is known where its scores were recorded
    (`explore` records them); elsewhere the columns of the answers stay empty.

    Args:
        records: rows of a decision store with their features (``install(features="store")``), in any order.
        profile: what to compare with; rows that another profile of the model store had read are read anew.
        options: how drift is judged; by default with one false alarm in 30 days.

    Raises:
        GuardrailsError: there is no row to judge; the message says why.

    Example:
        >>> import json, numpy as np, guardrails as gr
        >>> from guardrails.evaluation.replayed_drift import replay_drift
        >>> rng = np.random.default_rng(0)
        >>> profile = gr.Profile.fit(rng.normal(size=(2000, 2)), feature_names=["age", "dose"])
        >>> rows = (rng.normal(size=(1500, 2)) + np.outer(np.arange(1500) > 1000, [0, 1])).tolist()
        >>> shared = {"profile": profile.digest, "reason": None, "scores": None}
        >>> records = [
        ...     {"decision_id": f"{i:032x}", "ts": 60.0 * i, "features": json.dumps(row), **shared}
        ...     for i, row in enumerate(rows)
        ... ]
        >>> document = replay_drift(records, profile).document()
        >>> document["verdict"], document["drifted"][0], document["alarms"][0]["at"] > 60_000
        ('drift', 'dose', True)
    """
    ordered = sorted({str(r["decision_id"]): r for r in records}.values(), key=lambda record: float(record["ts"]))
    # Their places stand in for their times: so each row says which decision it is of.
    found = stored_rows([{**record, "ts": float(at)} for at, record in enumerate(ordered)], profile)
    chosen = [ordered[int(at)] for at in found.ts]
    clear = [at for at, record in enumerate(chosen) if not _doubtful(record, found.matrix[at])]
    skipped = found.skipped + Counter({REFUSED: len(chosen) - len(clear)})
    if not clear:
        why = "".join(f"\n  {count} {reason}" for reason, count in skipped.items())
        raise GuardrailsError(f"there is no row to judge for drift among {len(ordered)} decisions.{why}")
    start, end = (float(chosen[clear[at]]["ts"]) for at in (0, -1))
    watched = _Watched(profile, options or DriftOptions(), start, len(clear) / max(end - start, 1.0))
    for part in _parts(clear):
        watched.tick(found.matrix[part], [chosen[at] for at in part])
    return ReplayedDrift(watched.stream(unreadable=skipped.total() - skipped[OF_ONE_REQUEST]), skipped)


def _doubtful(record: Record, row: npt.NDArray[np.float64]) -> bool:
    """Whether an empty cell may be one that could not be read: a service does not count such a row either."""
    return record.get("reason") == semconv.INVALID and bool(np.isnan(row).any())


def _parts(places: list[int]) -> Iterator[list[int]]:
    step = -(-len(places) // TICKS)
    return (places[at : at + step] for at in range(0, len(places), step))


class _Watched:
    """A stream, its leader and its ledger in one, by the clock of the decisions."""

    def __init__(self, profile: Profile, options: DriftOptions, start: float, rate: float) -> None:
        self._profile, self._options = profile, options
        shape = profile.bins.counts.shape
        nothing = Totals(np.zeros(shape, np.int64), np.zeros(shape[0]), np.zeros(shape[0], np.int64))
        self._ledger = Ledger(0, start, start, nothing, np.zeros(shape, np.int64))
        self._counts = profile.bins.empty()
        self._neighbours = Neighbours(profile.bins)
        self._before: Codes | None = None
        self._recent: deque[tuple[str, Codes]] = deque(maxlen=EXAMPLES)
        self._watch: Watch | None = None
        try:
            rows = options.run_length * (1.0 if options.in_rows else rate)
            self._watch = Watch(profile, options.run_length, rows=rows)
        except ProfileError as error:
            self._ledger.problem = str(error)

    def tick(self, rows: Rows, decisions: Sequence[Record]) -> None:
        """Weigh the next rows, ``(n, d)``, and what was said of them."""
        codes = _codes(self._profile, rows, decisions)
        counts = self._profile.bins.tally(codes)
        self._counts = self._counts + counts
        distances, pairs = self._neighbours.distances(codes, self._before)
        self._before = codes[-1]
        ids = [str(record["decision_id"]) for record in decisions]
        self._recent.extend(zip(ids[-EXAMPLES:], codes[-EXAMPLES:].astype(np.int8), strict=True))
        elapsed = self._elapsed(float(decisions[-1]["ts"]), len(rows))
        if self._watch is not None:
            self._watch.mute(self._ledger.known(self._ledger.at))
            self._weigh(self._watch, self._watch.tick(counts, distances, pairs.astype(float), elapsed))

    def stream(self, unreadable: int) -> Stream:
        """What is known in the end."""
        return Stream(self._profile, self._counts, self._options, self._ledger, unreadable=unreadable)

    def _weigh(self, watch: Watch, alarm: Alarm | None) -> None:
        """Write down what the detector has seen."""
        ledger = self._ledger
        ledger.again(watch.recurred(), ledger.at)
        share = 1.0 if alarm else watch.evidence.total / watch.detector.due
        ledger.note(ledger.at, int(self._counts[0].sum()), max(0.0, share))
        ledger.judging = judging_of(watch)
        if alarm is not None:
            name = f"{self._profile.bins.ref}-{len(ledger.alarms) + 1}"
            ledger.record(
                replace(alarm, id=name, at=round(ledger.at, 3), last=ledger.at, examples=self._examples(alarm))
            )

    def _elapsed(self, now: float, rows: int) -> float:
        """What a leader would have said has passed since the last tick."""
        ledger, run_length = self._ledger, self._options.run_length
        pause = max(now - ledger.ticked, LEAST_PAUSE)
        ledger.at = ledger.ticked = now
        return float(rows) if self._options.in_rows else min(pause, run_length * MOST_AT_ONCE)

    def _examples(self, alarm: Alarm) -> tuple[str, ...]:
        """Decisions whose rows lie in bins that have filled up, latest first."""
        bins = self._profile.bins
        fuller = {
            bins.names.index(finding.feature): {move.bin for move in finding.bins if move.now > move.reference}
            for finding in alarm.findings
        }
        found = (
            decision
            for decision, codes in reversed(self._recent)
            if any(codes[column] >= 0 and bins.label(int(codes[column])) in full for column, full in fuller.items())
        )
        return tuple(decision for decision, _ in zip(found, range(SHOWN_EXAMPLES), strict=False))


def _codes(profile: Profile, rows: Rows, decisions: Sequence[Record]) -> Codes:
    """The bins of rows and of what was said of them, shape ``(n, f)``."""
    names = profile.bins.names
    outliers = profile.outliers.is_outlier(rows) if OUTLIER in names else None
    codes = profile.bins.codes(*table(names, rows, None, outliers))
    alike: dict[tuple[str, ...], list[tuple[int, answers.Columns]]] = {}
    for at, record in enumerate(decisions):
        said = _said(record.get("scores"))
        if said is not None:
            alike.setdefault(tuple(said), []).append((at, said))
    for columns, entries in alike.items():
        own = [place for place, _ in entries]
        told = {name: np.concatenate([said[name] for _, said in entries]) for name in columns}
        codes[own] = profile.bins.codes(*table(names, rows[own], told, None if outliers is None else outliers[own]))
    return codes


def _said(scores: Any) -> answers.Columns | None:
    """The columns of a recorded answer; None where none was recorded."""
    if scores is None:
        return None
    return answers.columns(np.atleast_2d(json.loads(scores) if isinstance(scores, str) else scores), 1)
