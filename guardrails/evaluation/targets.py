"""Policies to be judged by a log: with which probability each would have done what the log did."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from guardrails.decisions.joined.logged import TOLERANCE, Floats, Logged
from guardrails.decisions.joined.positions import offered

GREEDY, UNIFORM, LOGGED = "greedy", "uniform", "logged"
NAMED = (GREEDY, UNIFORM, LOGGED)
CHUNK = 2000
"""Rankings whose position matrices, ``(k, K)`` each, are in memory at once."""

Target = Any
"""One of `NAMED`, a policy or the text that spells it, or `FromFile`."""


@dataclass(frozen=True, eq=False)
class FromFile:
    """What another policy does in each decision, computed elsewhere.

    Attributes:
        name: the file's.
        pmf: probabilities by decision id, each ``(K,)``.
    """

    name: str
    pmf: Mapping[str, Floats | int]


def target_of(text: str) -> Target:
    """A target out of what somebody wrote: one of `NAMED`, a policy's text, or a file.

    A file (``.npz``, ``.parquet``, ``.arrow``) has ``decision_id`` and ``pmf`` (a row of probabilities each) or
    ``action`` (the number of the one it would choose).

    Raises:
        ValueError: it is none of these, or the file cannot be read.

    Example:
        >>> target_of("EpsilonGreedy(0.05)")
        EpsilonGreedy(epsilon=0.05)
    """
    from guardrails.exploration.spelled import policy_of

    if text in NAMED:
        return text
    if Path(text).suffix in (".npz", ".parquet", ".arrow"):
        return _read(Path(text))
    if "(" not in text:
        raise ValueError(
            f"{text!r} is no policy: give {', '.join(NAMED)}, a policy such as EpsilonGreedy(0.05), or a file (.npz, "
            ".parquet, .arrow) with decision_id and pmf or action."
        )
    return policy_of(text)


def name_of(target: Target) -> str:
    """What to call it in a table."""
    return target if isinstance(target, str) else target.name if isinstance(target, FromFile) else repr(target)


def _read(path: Path) -> FromFile:
    if not path.exists():
        raise ValueError(f"there is no file {path}.")
    columns: dict[str, Any]
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                columns = {name: file[name] for name in ("decision_id", "pmf", "action") if name in file.files}
        else:
            from guardrails.contrib.arrow import read_columns

            columns = read_columns(path, ("decision_id", "pmf", "action"))
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    ids, rows = columns.get("decision_id"), columns.get("pmf", columns.get("action"))
    if ids is None or rows is None or len(ids) != len(rows):
        raise ValueError(f"{path} needs decision_id and, of the same length, pmf or action.")
    if "pmf" in columns:
        pmfs = {str(name): np.asarray(row, dtype=np.float64) for name, row in zip(ids, rows, strict=True)}
        return FromFile(path.name, pmfs)
    return FromFile(path.name, {str(i): int(row) for i, row in zip(ids, rows, strict=True)})


def probabilities(target: Target, logged: Logged) -> list[Floats]:
    """A target's probabilities of all candidates of each choice (or threshold) decision, each ``(K,)``.

    Raises:
        ValueError: they cannot be known: scores were not logged, a decision is missing from a file.
    """
    if isinstance(target, str) and target == LOGGED:
        return logged.pmf
    if isinstance(target, FromFile):
        return [_from_file(target, logged, at) for at in range(len(logged))]
    if target == UNIFORM:
        return [_uniform(len(pmf), out) for pmf, out in zip(logged.pmf, logged.excluded, strict=True)]
    if target == GREEDY:
        if (logged.greedy < 0).any():
            raise ValueError("greedy: the log does not say what the model's own choice was.")
        return [_one_hot(at, len(pmf)) for at, pmf in zip(logged.greedy.tolist(), logged.pmf, strict=True)]
    return _by_policy(target, logged)


def _uniform(size: int, excluded: list[int] | None) -> Floats:
    """All that may be served alike."""
    pmf: Floats = np.ones(size)
    pmf[excluded or []] = 0.0
    pmf /= pmf.sum()
    return pmf


def _one_hot(at: int, size: int) -> Floats:
    pmf = np.zeros(size)
    pmf[at] = 1.0
    return pmf


def _from_file(target: FromFile, logged: Logged, at: int) -> Floats:
    identity, size = logged.decision_id[at], len(logged.pmf[at])
    found = target.pmf.get(identity)
    if found is None:
        raise ValueError(f"{target.name} has no entry for the decision {identity}.")
    if isinstance(found, int):
        if not 0 <= found < size:
            raise ValueError(f"{target.name}: decision {identity} has {size} candidates, and no number {found}.")
        return _one_hot(found, size)
    if len(found) != size or not abs(found.sum() - 1.0) <= TOLERANCE or (found < 0).any():
        raise ValueError(f"{target.name}: the pmf of decision {identity} is no distribution over {size} candidates.")
    return found


def _by_policy(policy: Any, logged: Logged) -> list[Floats]:
    _require(policy, "pmf", logged)
    pmfs: list[Floats] = [np.empty(0)] * len(logged)
    parameters = inspect.signature(policy.pmf).parameters
    if "seen" in parameters:
        raise ValueError(f"{policy!r} depends on what came before, which a log of another policy does not tell.")
    takes_greedy = "greedy" in parameters and bool((logged.greedy >= 0).all()) and logged.kind == "choice"
    sizes = np.array([len(scores) for scores in logged.scores])
    limited = np.array([bool(out) for out in logged.excluded], dtype=bool)
    for row in np.flatnonzero(limited).tolist():
        pmfs[row] = _among_the_rest(policy, logged, row, takes_greedy)
    for size in np.unique(sizes[~limited]).tolist():
        at = np.flatnonzero((sizes == size) & ~limited)
        scores = np.array([logged.scores[row] for row in at])
        options = {"greedy": logged.greedy[at]} if takes_greedy else {}
        found = np.asarray(policy.pmf(scores[:, 0] if logged.kind == "threshold" else scores, **options))
        for row, pmf in zip(at.tolist(), found, strict=True):
            pmfs[row] = pmf
    return pmfs


def _among_the_rest(policy: Any, logged: Logged, row: int, takes_greedy: bool) -> Floats:
    """One decision with candidates that were excluded: the target has to do without them, too."""
    scores = logged.scores[row]
    kept = np.setdiff1d(np.arange(len(scores)), logged.excluded[row] or [])
    options = {"greedy": int((kept < logged.greedy[row]).sum())} if takes_greedy else {}
    pmf = np.zeros(len(scores))
    pmf[kept] = (policy.among(kept.tolist()) if hasattr(policy, "among") else policy).pmf(scores[kept], **options)
    return pmf


def _require(policy: Any, method: str, logged: Logged) -> None:
    if getattr(policy, "kind", "choice") != logged.kind or not callable(getattr(policy, method, None)):
        raise ValueError(f"{policy!r} is no policy for decisions of the kind {logged.kind!r}.")
    if any(not scores.size for scores in logged.scores):
        raise ValueError(f"{policy!r} needs the model's scores, and not all decisions were logged with them.")


def densities(target: Target, logged: Logged) -> Floats:
    """With which density a target serves the logged values, shape ``(n,)``.

    Raises:
        ValueError: it has none.
    """
    if isinstance(target, str) and target == LOGGED:
        return logged.propensity
    if isinstance(target, str | FromFile):
        raise ValueError(  # noqa: TRY004  # the wrong choice, not the wrong type
            f"{name_of(target)}: a value is judged by a policy with a density, such as TruncatedGaussian(...): nobody "
            "ever served exactly the model's own value."
        )
    _require(target, "pdf", logged)
    predictions = np.array([scores[0] for scores in logged.scores])
    return np.asarray(target.pdf(predictions, np.array(logged.served, dtype=np.float64)), dtype=np.float64)


def at_positions(target: Target, logged: Logged) -> Floats:
    """With which probability a target shows each served item where it was shown, shape ``(n, k)``.

    Raises:
        ValueError: it cannot be known.
    """
    slots = len(logged.served[0])
    if isinstance(target, str) and target == LOGGED:
        return np.array([pmf.diagonal() for pmf in logged.pmf]).reshape(len(logged), slots)
    if isinstance(target, FromFile):
        raise ValueError(f"{target.name}: of rankings, files are not read; give a policy.")  # noqa: TRY004
    if isinstance(target, str):
        _require(_Ranks(), "pmf", logged)
        if target == UNIFORM:
            offers = [len(scores) - len(out or ()) for scores, out in zip(logged.scores, logged.excluded, strict=True)]
            return np.repeat(1.0 / np.array(offers, dtype=np.float64)[:, np.newaxis], slots, axis=1)
        own = [np.argsort(-scores, kind="stable")[:slots] for scores in logged.scores]
        same: Floats = (np.array(own) == np.array(logged.served)).astype(np.float64)
        return same
    _require(target, "pmf", logged)
    if target.slots != slots:
        raise ValueError(f"{target!r} makes lists of {target.slots}; those in the log have {slots}.")
    return _by_ranking_policy(target, logged, slots)


class _Ranks:
    """Stands for the named targets: these are computed from scores, too."""

    kind = "ranking"

    def __repr__(self) -> str:
        return "this target"

    def pmf(self) -> None:
        """Not called."""


def _by_ranking_policy(policy: Any, logged: Logged, slots: int) -> Floats:
    found: Floats = np.empty((len(logged), slots))
    rows = np.arange(slots)
    alike = all(names is None for names in logged.actions) and len({len(scores) for scores in logged.scores}) == 1
    alike = alike and not any(logged.excluded)
    step = CHUNK if alike else 1
    for start in range(0, len(logged), step):
        part = slice(start, start + step)
        served = np.array(logged.served[part])
        scores = np.array([offered(logged, at) for at in range(len(logged))[part]])
        # One at a time where lists have candidates of their own: what is boosted hangs on their names.
        given = policy.pmf(scores) if alike else policy.pmf(scores[0], items=logged.actions[start])[np.newaxis]
        found[part] = given[np.arange(len(served))[:, np.newaxis], rows, served]
    return found
