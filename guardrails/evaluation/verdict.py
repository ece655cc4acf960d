"""What is known of a watched stream, as one JSON document: its drift, column by column, and what that may cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from guardrails.drift.ledger import Ledger
from guardrails.drift.options import DriftOptions
from guardrails.drift.report import MIN_ROWS, FeatureDrift, compare
from guardrails.evaluation.label_free import estimate_accuracy, estimate_prior
from guardrails.profile.bins import Counts
from guardrails.profile.naming import bin_text
from guardrails.profile.profile import Profile

if TYPE_CHECKING:
    from guardrails.drift.sampler import Sampler


@dataclass(frozen=True)
class Stream:
    """A watched stream at some moment.

    Attributes:
        profile: what it is compared with.
        counts: since the last reset, shape ``(f, bins)``.
        options: how it is judged.
        ledger: what its leader knows; None where nobody has judged it yet.
        dropped: requests that found the queue full.
        unreadable: requests that were no rows.
        workers: how many workers counted.
    """

    profile: Profile
    counts: Counts
    options: DriftOptions
    ledger: Ledger | None = None
    dropped: int = 0
    unreadable: int = 0
    workers: int = 1

    @classmethod
    def of(cls, sampler: Sampler) -> Stream:
        """The stream of a sampler, over all workers of the host."""
        state, ledger = sampler.flush(), sampler.leader.ledger()
        counts = state.counts if ledger is None else np.maximum(state.counts - ledger.forgotten, 0)
        return cls(
            sampler.profile, counts, sampler.options, ledger, state.dropped, state.unreadable, workers=state.workers
        )

    @property
    def rows(self) -> int:
        """Sampled rows."""
        return int(self.counts[0].sum())

    def status(self) -> dict[str, Any]:
        """In short, as it stands in ``/guardrails/status``."""
        features = compare(self.profile.bins, self.counts, self._baseline)
        ledger = self.ledger
        return {
            "profile": self.profile.tag or self.profile.digest,
            "rows": self.rows,
            "dropped": self.dropped,
            "unreadable": self.unreadable,
            "workers": self.workers,
            "verdict": self._verdict(features),
            "drifted": self._drifted(features),
            "known": [] if ledger is None else sorted(ledger.known(ledger.at) - set(self._drifted(features))),
            "run_length": self.options.text,
            "evidence": 0.0 if ledger is None else max(0.0, ledger.judging.get("evidence", 0.0)),
            "alarms": [] if ledger is None else [alarm.to_json() for alarm in ledger.alarms[-5:]],
            "leader": None if ledger is None else ledger.pid,
            "last_command": None if ledger is None else ledger.answer or None,
            "features": [entry.to_json() for entry in features],
            "consequence": self._consequence(),
        }

    def document(self) -> dict[str, Any]:
        """In full, as `guardrails drift report` shows it."""
        profile, ledger = self.profile, self.ledger
        judging = {} if ledger is None else ledger.judging
        short = self.status()
        by_name = {entry["feature"]: entry for entry in short["features"]}
        return {
            **short,
            "digest": profile.digest,
            "model": profile.model,
            "ref": profile.bins.ref,
            "reference_rows": profile.bins.rows,
            "created": profile.created,
            "at": None if ledger is None else ledger.at,
            "alarms": [] if ledger is None else [alarm.to_json() for alarm in ledger.alarms],
            "history": [] if ledger is None else ledger.history,
            "rebased": self._baseline is not None,
            "unjudged": judging.get("unjudged", []),
            "features": [
                by_name.get(name, {"feature": name, "rows": 0, "drifted": False}) | self._column(column, judging)
                for column, name in enumerate(profile.bins.names)
            ],
        }

    @property
    def _baseline(self) -> Counts | None:
        return None if self.ledger is None else self.ledger.baseline

    def _drifted(self, features: tuple[FeatureDrift, ...]) -> list[str]:
        if self._judged:
            active = [] if self.ledger is None else self.ledger.active
            return list(dict.fromkeys(name for alarm in active for name in alarm.features))
        return [entry.feature for entry in features if entry.drifted]

    @property
    def _judged(self) -> bool:
        return self.ledger is not None and self.ledger.problem is None

    def _verdict(self, features: tuple[FeatureDrift, ...]) -> str:
        drifted = self._drifted(features)
        if drifted and self._judged:
            return "drift"
        if self.unreadable > self.rows:
            return f"undecided: {self.unreadable} sampled requests could not be read as rows, and {self.rows} could"
        if self.rows < MIN_ROWS:
            return f"undecided: fewer than {MIN_ROWS} rows"
        if self.ledger is None:
            return "undecided: not judged yet"
        if self.ledger.problem is None:
            return "no drift seen"
        seen = "drift" if drifted else "no drift seen"
        return f"{seen}, by one look that holds once and not for ever: {self.ledger.problem}"

    def _consequence(self) -> dict[str, Any] | None:
        """What the answers say of how right they are; None where nothing is known."""
        if self.profile.validated is None or not self.rows:
            return None
        accuracy, prior = estimate_accuracy(self.profile, self.counts), estimate_prior(self.profile, self.counts)
        return {
            "accuracy": None if accuracy is None else {**accuracy.to_json(), "sentence": accuracy.sentence()},
            "prior": None if prior is None else {**prior.to_json(), "sentence": prior.sentence()},
        }

    def _column(self, column: int, judging: dict[str, Any]) -> dict[str, Any]:
        bins, name = self.profile.bins, self.profile.bins.names[column]
        then, now = (bins.counts if self._baseline is None else self._baseline)[column], self.counts[column]
        return {
            "kind": "category" if bins.categorical[column] else "number",
            "reference_rows": int(then.sum()),
            "effective_reference_rows": round(float(bins.effective_rows[column]), 1),
            "evidence": judging.get("columns", {}).get(name),
            "worth": judging.get("worth", {}).get(name, 1.0),
            "bins": [
                {
                    "bin": bins.label(at),
                    "text": bin_text(self.profile, column, at),
                    "reference": round(float(then[at] / max(then.sum(), 1)), 6),
                    "now": round(float(now[at] / max(now.sum(), 1)), 6),
                    "count": int(now[at]),
                }
                for at in bins.used(column)
            ],
        }
