"""The columns that a named detector's test is for, and the values in them that it can read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.errors import GuardrailsError
from guardrails.typing import Rows

_READS = {
    "KSDrift": "numbers",
    "CVMDrift": "numbers",
    "CVMDriftOnline": "numbers",
    "ChiSquareDrift": "categories",
    "FETDrift": "zeros and ones",
    "FETDriftOnline": "zeros and ones",
}
"""What a detector's test is a test of; the others take any column."""
_INSTEAD = "TabularDrift takes numbers and categories"
MISSING, UNKNOWN = -1.0, -2.0
"""Codes of a missing and of an unseen category; alibi-detect compares with NaN, and finds nothing equal to it."""


@dataclass(frozen=True)
class Suited:
    """Which columns go to a detector, and how.

    Attributes:
        names: of those chosen.
        chosen: their numbers; None for all, as they are.
        categories: which of those chosen are categories.
        binary: whether they have to hold zeros and ones.
        note: what was left out.
        options: what they add to the detector's options.
    """

    names: tuple[str, ...]
    chosen: tuple[int, ...] | None = None
    categories: tuple[bool, ...] = ()
    binary: bool = False
    note: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        detector: str,
        reference: Rows,
        names: Sequence[str],
        categorical: Collection[str | int],
        options: Mapping[str, Any],
    ) -> Suited:
        """The columns a named detector can read.

        KSDrift and CVMDrift read numbers, ChiSquareDrift the categories (every column, where none is declared one),
        FETDrift the columns of which the reference holds only zeros and ones; with ``categories_per_feature`` among
        the options, its numbers count all columns, so all are given.

        Raises:
            GuardrailsError: there are none, or a category is no column.
        """
        coded = _coded(names, categorical)
        kind = None if "categories_per_feature" in options else _READS.get(detector)
        if kind == "numbers":
            chosen = [j for j in range(len(names)) if not coded[j]]
        elif kind == "categories":
            chosen = [j for j in range(len(names)) if coded[j] or not any(coded)]
        elif kind == "zeros and ones":
            chosen = [j for j in range(len(names)) if _is_binary(reference[:, j])]
        else:
            chosen = list(range(len(names)))
        if not chosen:
            raise GuardrailsError(f"{detector} reads {kind}, and no column of the reference holds those; {_INSTEAD}.")
        left = [name for j, name in enumerate(names) if j not in set(chosen)]
        binary = kind == "zeros and ones"
        added: dict[str, Any] = {}
        if detector == "TabularDrift" and "categories_per_feature" not in options and any(coded):
            added["categories_per_feature"] = {j: None for j in chosen if coded[j]}
        return cls(
            names=tuple(names[j] for j in chosen),
            chosen=tuple(chosen),
            categories=tuple(not binary and (coded[j] or kind == "categories") for j in chosen),
            binary=binary,
            note=f"{detector} reads {kind}: without {brief(left)}" if left else "",
            options=added,
        )

    def take(self, rows: Any, width: int | None, what: str = "rows") -> tuple[Rows, str]:
        """Rows as the detector gets them, and a note of those left out.

        A missing or unseen category is a category of its own. A row with a missing or infinite number is left out:
        alibi-detect's tests answer NaN for the whole column then, which compares as "no drift".

        Args:
            rows: shape ``(n, d)``; one row of shape ``(d,)`` is a window of one.
            width: how many columns there have to be; None if that is not known.
            what: what to call them.

        Raises:
            GuardrailsError: they are no such rows, or none is left.
        """
        matrix = as_matrix(rows, width, what)
        if self.chosen is None:
            return matrix, ""
        matrix = matrix[:, list(self.chosen)]
        categories = np.array(self.categories)
        if categories.any():
            coded = matrix[:, categories]
            matrix[:, categories] = np.where(np.isnan(coded), MISSING, np.where(np.isinf(coded), UNKNOWN, coded))
        complete = np.isfinite(matrix).all(axis=1)
        if not complete.any():
            raise GuardrailsError(f"each of the {len(matrix)} {what} lacks a value, which no detector can do without.")
        kept = matrix[complete]
        if self.binary:
            self._require_binary(kept, what)
        left = len(matrix) - len(kept)
        return kept, f"{left} of {len(matrix)} {what} left out: a value is missing or infinite" if left else ""

    def _require_binary(self, matrix: Rows, what: str) -> None:
        """alibi-detect would cut .7 down to 0 and say nothing."""
        odd = [name for j, name in enumerate(self.names) if not _is_binary(matrix[:, j])]
        if odd:
            raise GuardrailsError(
                f"a Fisher test counts zeros and ones; the {what} hold something else in {brief(odd)}."
            )


def as_matrix(rows: Any, width: int | None, what: str) -> Rows:
    """A copy, as floats.

    Raises:
        GuardrailsError: it is no matrix of numbers, is empty, or has another width.
    """
    try:
        matrix = np.array(rows, dtype=np.float64, ndmin=2)
    except (TypeError, ValueError) as error:
        raise GuardrailsError(f"the {what} are no numbers: {error}. Categories have to be codes.") from None
    if matrix.ndim != 2 or not matrix.size:  # noqa: PLR2004
        raise GuardrailsError(f"the {what} have shape {matrix.shape}; at least one row of shape (d,) is needed.")
    if width is not None and matrix.shape[1] != width:
        raise GuardrailsError(f"the {what} have {matrix.shape[1]} columns, the reference has {width}.")
    return matrix


def brief(names: Sequence[str]) -> str:
    """A few of them."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")  # noqa: PLR2004


def _coded(names: Sequence[str], categorical: Collection[str | int]) -> list[bool]:
    unknown = [c for c in categorical if c not in names and not (isinstance(c, int) and 0 <= c < len(names))]
    if unknown:
        raise GuardrailsError(f"categorical={unknown!r} names no column; the columns are {brief(names)}.")
    return [name in categorical or j in categorical for j, name in enumerate(names)]


def _is_binary(column: npt.NDArray[np.float64]) -> bool:
    seen = column[np.isfinite(column)]
    return bool(len(seen) and ((seen == 0) | (seen == 1)).all())
