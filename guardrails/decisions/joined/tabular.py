"""Logged decisions as a table: one plain value per decision and column, and the same as CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np

from guardrails.decisions.joined.logged import Floats, Logged

CHUNK = 50_000
"""Decisions that are made ready to be written at once."""


def columns(logged: Logged, *, weights: bool = False) -> dict[str, list[Any]]:
    """The columns of `Logged` as lists; what is not known is None.

    Args:
        logged: decisions with their rewards.
        weights: whether to add ``weight``, ``1 / propensity``: only where it may be learned from, None elsewhere.
    """
    learnable = logged.learnable
    count = len(logged)
    table: dict[str, list[Any]] = {
        "decision_id": logged.decision_id,
        "ts": logged.ts.tolist(),
        "api": logged.api,
        "kind": [logged.kind] * count,
        "policy": [policy or None for policy in logged.policy],
        "model": logged.model,
        "unit": logged.unit,
        "cluster": logged.cluster,
        "eligible": logged.eligible.tolist(),
        "ineligible": logged.ineligible,
        "learnable": learnable.tolist(),
        "actions": [None if names is None else list(names) for names in logged.actions],
        "excluded": logged.excluded,
        "scores": _lists(logged.scores),
        "pmf": _lists(logged.pmf),
        "greedy": _numbers(logged.greedy.tolist()),
        "action": _numbers(logged.action.tolist()),
        "served": logged.served,
        "propensity": logged.propensity.tolist(),
        "strength": logged.strength.tolist(),
        "differs": logged.differs.tolist(),
        "overridden": logged.overridden.tolist(),
        "reward": logged.reward.tolist(),
        "rewarded": logged.rewarded.tolist(),
        "label": [None if label is None else json.dumps(label) for label in logged.label],
        "features": logged.features,
    }
    if logged.slot_reward is not None:
        table["slot_reward"] = _lists(logged.slot_reward)
    if weights:
        own = logged.weights()
        table["weight"] = [float(weight) if usable else None for weight, usable in zip(own, learnable, strict=True)]
    return table


def chunks(logged: Logged, size: int = CHUNK) -> Iterator[Logged]:
    """The decisions in parts, so that not all of them have to be made ready at once."""
    for start in range(0, len(logged), size):
        yield logged.select(np.arange(start, min(start + size, len(logged))))


def write_csv(logged: Logged, file: TextIO, *, weights: bool = False) -> None:
    """Write a table with a header; lists are JSON, numbers have all the digits that give the same number back.

    Args:
        logged: decisions with their rewards.
        file: opened with ``newline=""``.
        weights: as in `columns`.

    Example:
        >>> import sys
        >>> from guardrails.decisions.joined.join import join
        >>> decision = {"decision_id": "d1", "ts": 0.0, "policy": "EpsilonGreedy(epsilon=0.5)", "eligible": True,
        ...             "pmf": "[0.75, 0.25]", "greedy": 0, "action": 1, "propensity": 0.25}
        >>> logged = join([decision], [], window="1h", now=3600.0)
        >>> import io, csv; file = io.StringIO(newline=""); write_csv(logged, file, weights=True)
        >>> _ = file.seek(0); row = next(csv.DictReader(file)); row["pmf"], row["weight"]
        ('[0.75, 0.25]', '4.0')
    """
    writer = csv.writer(file)
    for number, part in enumerate(chunks(logged)):
        table = columns(part, weights=weights)
        if number == 0:
            writer.writerow(table)
        table = {name: [_cell(value) for value in values] for name, values in table.items()}
        writer.writerows(zip(*table.values(), strict=True))


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict | bool) else value


def _lists(arrays: list[Floats]) -> list[Any]:
    return [array.tolist() if array.size else None for array in arrays]


def _numbers(values: list[int]) -> list[int | None]:
    return [value if value >= 0 else None for value in values]
