"""Loop strength of a log: the model's own choices beside those shown, and the loop gain where it can be known."""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.decisions.joined.logged import Logged
from guardrails.evaluation.loop.chosen import Chosen, read
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
from guardrails.exploration.rankings import Boost
from guardrails.exploration.spelled import policy_of

PART = 0.02
"""How much of a log is its start, and its end."""


@dataclass(frozen=True)
class Concentration:
    """How far the choices of one kind are concentrated; NaN where a figure has no meaning.

    Attributes:
        coverage: share of the items chosen at all.
        gini: 0 where all are chosen alike.
        entropy: 1 where all are chosen alike.
        top_share: what the tenth chosen most gets.
        tail_share: what the tail gets; NaN without a tail.
        homogenisation: how alike the segments' items are; NaN without segments.
    """

    coverage: float
    gini: float
    entropy: float
    top_share: float
    tail_share: float
    homogenisation: float


@dataclass(frozen=True, eq=False)
class LoopReport:
    """What a log says about the loop; `print` it, or see `rows` and `document`.

    Attributes:
        decisions: how many it is from.
        left_out: how many say nothing: fallbacks, and what no policy stood ready for.
        items: how many items there are to choose from.
        differs: the share of the decisions in which not exactly the model's own choice was shown.
        explored: the share of the single choices (places of lists) that went to something the model had not chosen.
        greedy, shown: the model's own choices, and those served.
        mechanical_gini: what the Gini coefficient of those shown would be if exploration had spread them and nothing
            else had happened; a shown Gini at it is no evidence.
        rates: rewards by popularity over the second half of the log, popularity being that of the first; None where
            rankings have no rewards by position.
        gain: the loop gain; None where it cannot be known, and `no_gain` says why.
    """

    decisions: int
    left_out: int
    items: int
    differs: float
    explored: float
    greedy: Concentration
    shown: Concentration
    mechanical_gini: float
    rates: PopularityRates | None
    gain: LoopGain | None
    no_gain: str | None

    def rows(self) -> list[tuple[str, str, str]]:
        """A table: what, of the model's own choices, of those shown."""
        own, served = asdict(self.greedy), asdict(self.shown)
        rows = [(name.replace("_", " "), _said(own[name]), _said(served[name])) for name in own]
        rows.append(("gini by mixing alone", "", _said(self.mechanical_gini)))
        return [row for row in rows if any(row[1:])]

    def document(self) -> dict[str, Any]:
        """Everything as plain values for JSON; what is not known is None."""
        rates = None if self.rates is None else {name: getattr(self.rates, name).tolist() for name in _RATES}
        gain = None if self.gain is None else {**asdict(self.gain), "meaning": self.gain.meaning}
        told = {name: getattr(self, name) for name in _NUMBERS}
        document = {**told, "greedy": asdict(self.greedy), "shown": asdict(self.shown), "rates": rates, "gain": gain}
        plain: dict[str, Any] = _plain({**document, "no_gain": self.no_gain})
        return plain

    def __str__(self) -> str:
        head = (
            f"{self.decisions} decisions over {self.items} items ({self.left_out} left out); {self.differs:.1%} differ "
            f"from the model's own, {self.explored:.1%} of the single choices"
        )
        rows = [("", "greedy", "shown"), *self.rows()]
        lines = [f"{name:22}{own:>8}{served:>8}" for name, own, served in rows]
        return "\n".join([head, *lines, f"loop gain: {self.no_gain if self.gain is None else self.gain}"])


_NUMBERS = ("decisions", "left_out", "items", "differs", "explored", "mechanical_gini")
_RATES = ("edges", "items", "greedy_n", "explored_n", "greedy", "explored", "ratio", "low", "high")


def report(
    logged: Logged,
    *,
    items: Sequence[Any] | None = None,
    tail: Sequence[Any] | None = None,
    boost: Boost | None = None,
    segments: Sequence[Any] | npt.NDArray[Any] | None = None,
    adds_up: bool = False,
    part: float = PART,
) -> LoopReport:
    """Describe the loop of a service from its log, for the model's own choices and for those shown.

    The loop gain needs an experiment, a `Boost` in the policy, and several retrains between the start of the log and
    its end. It is over the items that were in none of the model's own choices at the start.

    Args:
        logged: choices or rankings, as `join` gives them.
        items: all items, by name (or number, where the log has no names); default: those the log knows. Those that
            nobody chose belong in it: coverage and Gini are over all.
        tail: which items are the tail, as of a date before the log; the loop gain is then over these.
        boost: the experiment; by default the one that the policy in the log names.
        segments: to whom each decision belongs, shape ``(n,)``; says whether segments are shown the same.
        adds_up: scores are sums since ever (counts of clicks), so the gain is of what came since the start.
        part: the share of the decisions that is the start (where models are named, it is those of the first one), and
            the end. No retrain from explored choices may lie within the start: which items then still count would
            depend on the boost.

    Raises:
        ValueError: thresholds or values, no decision to read, an item that is not in the catalogue.

    Example:
        >>> from guardrails.decisions.joined.join import join
        >>> rows = [{"decision_id": str(i), "ts": i, "kind": "choice", "policy": "EpsilonGreedy(epsilon=0.5)",
        ...          "eligible": 1, "scores": "[0.2, 0.9]", "pmf": "[0.25, 0.75]", "greedy": 1, "action": i % 4 != 0,
        ...          "propensity": 0.75 if i % 4 else 0.25} for i in range(8)]
        >>> rows = [{**row, "action": int(row["action"])} for row in rows]
        >>> loop = report(join(rows, [], window="1h", now=1e6))
        >>> loop.greedy.coverage, loop.shown.coverage, loop.explored
        (0.5, 1.0, 0.25)
        >>> print(loop.no_gain)
        no item was boosted: no policy in the log has a Boost
    """
    chosen = read(logged, items)
    mask = None if tail is None else chosen.mask(tail)
    who = None if segments is None else _of_each(segments, len(logged))[chosen.row]
    outside = chosen.outside()
    greedy, shown = (_concentration(chosen, side, mask, who) for side in (chosen.greedy, chosen.shown))
    gain, no_gain = None, None
    try:
        gain = _gain(chosen, mask, boost or _boost_of(chosen.policy), adds_up, part)
    except ValueError as error:
        no_gain = str(error)
    return LoopReport(
        decisions=len(chosen),
        left_out=len(logged) - len(chosen),
        items=len(chosen.items),
        differs=float(
            np.mean([list(own) != list(served) for own, served in zip(chosen.greedy, chosen.shown, strict=True)])
        ),
        explored=float(np.concatenate(outside).mean()),
        greedy=greedy,
        shown=shown,
        mechanical_gini=mechanical_gini(greedy.gini, float(np.concatenate(outside).mean())),
        rates=_rates(chosen, outside),
        gain=gain,
        no_gain=no_gain,
    )


def _of_each(segments: Sequence[Any] | npt.NDArray[Any], n: int) -> npt.NDArray[Any]:
    given = np.asarray(segments)
    if given.shape != (n,):
        raise ValueError(f"segments of shape {given.shape} for {n} decisions: give one for each")
    return given


def _concentration(chosen: Chosen, side: list[npt.NDArray[np.int64]], tail: Any, who: Any) -> Concentration:
    counts = np.bincount(np.concatenate(side), minlength=len(chosen.items))
    alike = math.nan
    if who is not None:
        sets = [np.concatenate([side[at] for at in np.flatnonzero(who == one)]) for one in np.unique(who)]
        alike = homogenisation(sets) if len(sets) > 1 else math.nan
    return Concentration(
        coverage(counts),
        gini(counts),
        normalised_entropy(counts),
        top_share(counts),
        math.nan if tail is None else tail_share(counts, tail),
        alike,
    )


def _rates(chosen: Chosen, outside: list[npt.NDArray[np.bool_]]) -> PopularityRates | None:
    half = len(chosen) // 2
    if chosen.rewards is None or not half:
        return None
    popularity = np.bincount(np.concatenate(chosen.shown[:half]), minlength=len(chosen.items))
    rewards, shown, explored = (np.concatenate(part[half:]) for part in (chosen.rewards, chosen.shown, outside))
    return hit_rate_by_popularity(rewards, shown, popularity, explored=explored)


def _gain(chosen: Chosen, tail: Any, boost: Boost | None, adds_up: bool, part: float) -> LoopGain:
    if boost is None:
        raise ValueError("no item was boosted: no policy in the log has a Boost")
    size = max(1, int(part * len(chosen)))
    first = slice(0, chosen.of_first_model() or size)
    among = np.ones(len(chosen.items), bool) if tail is None else tail.copy()
    among[np.concatenate(chosen.greedy[first])] = False
    start, end = chosen.mean_scores(first), chosen.mean_scores(slice(len(chosen) - size, None))
    among &= ~np.isnan(end) & ~(np.isnan(start) & adds_up)
    before = start if adds_up else None
    return loop_gain(end, boost.boosted(chosen.items), boost.factor, among=among, before=before)


def _boost_of(policy: str) -> Boost | None:
    """The experiment that a policy's text names: the text is read, never run."""
    try:
        tree = ast.parse(policy, mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Boost":
            # The policy around it may be of somebody else, or weigh its pool by a function: its text is not enough.
            found: Any = policy_of(ast.unparse(node))
            return found if isinstance(found, Boost) else None
    return None


def _said(value: float) -> str:
    return "" if value != value else f"{value:.3f}"  # noqa: PLR0124  # NaN


def _plain(value: Any) -> Any:
    """NaN and infinities are no JSON."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
