"""The columns of a profile: names, kinds, ranges, categories, missing shares; and training data read by them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.core.payload import Layout, is_missing
from guardrails.errors import ProfileError
from guardrails.typing import Rows

MAX_CATEGORIES = 1000
_layouts: dict[Any, Layout] = {}
"""Every layout there is, by its content."""
_CATEGORIES = (str, int, float, bool)
_NUMERIC = ("number", "integer", "boolean")


@dataclass(frozen=True)
class Feature:
    """One column.

    Attributes:
        name: its name; ``feature_<i>`` where the data had none.
        low, high: the range seen; None for a category, and where there is no bound.
        missing: the share of rows without a value; where it is zero, a missing value is out of order.
        categories: the values seen, in the order of their codes; empty for a number.
        numeric: ``number``, ``integer`` or ``boolean`` (0 or 1).

    Raises:
        ProfileError: the bounds or the kind make no sense.
    """

    name: str
    low: float | None = None
    high: float | None = None
    missing: float = 0.0
    categories: tuple[Any, ...] = ()
    numeric: str = "number"

    def __post_init__(self) -> None:
        if self.numeric not in _NUMERIC:
            raise ProfileError(f"feature {self.name!r}: numeric={self.numeric!r}; it is one of {', '.join(_NUMERIC)}.")
        if self.low is not None and self.high is not None and not self.low <= self.high:
            raise ProfileError(f"feature {self.name!r}: no value is between low={self.low} and high={self.high}.")

    @property
    def kind(self) -> str:
        """``number``, ``integer``, ``boolean`` or ``category``."""
        return "category" if self.categories else self.numeric

    @property
    def constant(self) -> bool:
        """Whether training saw one value only."""
        return len(self.categories) == 1 or (self.low is not None and self.low == self.high)


@dataclass(frozen=True)
class Schema:
    """All columns, in order: learned by `Profile.fit`, or given by hand.

    Raises:
        ProfileError: there is no column, or two have the same name.

    Example:
        >>> import guardrails as gr
        >>> schema = gr.Schema((gr.Feature("age", low=0, high=120, numeric="integer"), gr.Feature("dose", low=0.0)))
        >>> @gr.validate(schema)
        ... def predict(patient: dict) -> float:
        ...     return 0.5
        >>> predict({"age": 150, "dose": 1.0})
        Traceback (most recent call last):
        ...
        guardrails.errors.Rejected: Invalid input: in the input field 'age', between 0 and 120 expected, larger found.
    """

    features: tuple[Feature, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(self.features))
        names = [feature.name for feature in self.features]
        if not names or len(set(names)) != len(names):
            raise ProfileError(f"a schema has at least one column, and no name twice: {names[:20]}.")

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(feature.name for feature in self.features)

    def layout(self) -> Layout:
        """How a payload is read by these columns."""
        codes = {
            column: {value: code for code, value in enumerate(feature.categories)}
            for column, feature in enumerate(self.features)
            if feature.categories
        }
        # The same columns are the same layout, whoever asks: guards then read a request once for all of them.
        return _layouts.setdefault(
            (self.names, tuple((c, tuple(known)) for c, known in codes.items())), Layout(self.names, codes)
        )

    def column(self, which: str | int) -> int:
        """The number of a column, from its name or its number.

        Raises:
            ProfileError: there is no such column.
        """
        if which in self.names:
            return self.names.index(str(which))
        if isinstance(which, int) and 0 <= which < len(self.names):
            return which
        raise ProfileError(f"{which!r} names no column; the columns are {', '.join(self.names[:20])}.")

    def to_json(self) -> list[dict[str, Any]]:
        """As it stands in ``profile.json``."""
        return [asdict(feature) for feature in self.features]

    @classmethod
    def from_json(cls, features: Sequence[dict[str, Any]]) -> Schema:
        """The inverse of `to_json`."""
        return cls(tuple(Feature(**{**f, "categories": tuple(f["categories"])}) for f in features))


def learn(X: Any, feature_names: Sequence[str] | None, categorical: Collection[str | int]) -> tuple[Schema, Rows]:
    """Learn the columns of training data, and read it by them.

    Args:
        X: an ``(n, d)`` array or a DataFrame.
        feature_names: ``d`` names; a DataFrame has its own.
        categorical: names or numbers of the columns that are categories.

    Returns:
        The schema, and X as a float matrix in which categories are codes and missing values NaN.

    Raises:
        ProfileError: X is no matrix, the names do not fit, a column is neither numeric nor declared categorical.
    """
    names, columns = _columns(X, feature_names)
    categorical = [c.item() if isinstance(c, np.generic) else c for c in categorical]
    unknown = [c for c in categorical if c not in names and not (isinstance(c, int) and 0 <= c < len(names))]
    if unknown:
        raise ProfileError(f"categorical={unknown!r} names no column; the columns are {', '.join(names[:20])}.")
    chosen = {names[c] if isinstance(c, int) else c for c in categorical}
    features, arrays = [], []
    # A matrix has one type for all its columns, which says little about any of them.
    types = [X.dtypes.iloc[i] for i in range(len(names))] if hasattr(X, "iloc") else [None] * len(names)
    for name, column, typed in zip(names, columns, types, strict=True):
        feature, array = (_category if name in chosen else _number)(name, column)
        if typed is not None and feature.kind == "number":
            feature = replace(feature, numeric=_numeric(column, getattr(typed, "kind", "O")))
        features.append(feature)
        arrays.append(array)
    return Schema(tuple(features)), np.column_stack(arrays)


def _columns(X: Any, feature_names: Sequence[str] | None) -> tuple[list[str], list[npt.NDArray[Any]]]:
    if hasattr(X, "iloc") and hasattr(X, "columns"):
        frame_names = [str(name) for name in X.columns]
        columns = [np.asarray(X.iloc[:, i]) for i in range(len(frame_names))]
        names = frame_names if feature_names is None else list(feature_names)
    else:
        matrix = np.asarray(X)
        if matrix.ndim > 2:  # noqa: PLR2004  # images: one column per pixel, as the request path reads them
            matrix = matrix.reshape(len(matrix), -1)
        if matrix.ndim != 2:  # noqa: PLR2004
            raise ProfileError(f"X has shape {matrix.shape}; rows of shape (n, d) are needed.")
        columns = list(matrix.T)
        names = list(feature_names) if feature_names is not None else [f"feature_{i}" for i in range(len(columns))]
    if len(names) != len(columns) or len(set(names)) != len(names):
        raise ProfileError(f"{len(names)} feature names for {len(columns)} columns, or a name twice: {names[:20]}.")
    if not columns or not len(columns[0]):
        raise ProfileError("X holds no rows.")
    reserved = [name for name in names if str(name).startswith("__") and str(name).endswith("__")]
    if reserved:
        raise ProfileError(
            f"the names {reserved} are kept for what is watched beside the features; rename the columns."
        )
    return [str(name) for name in names], columns


def _number(name: str, column: npt.NDArray[Any]) -> tuple[Feature, npt.NDArray[np.float64]]:
    try:
        values = np.array([_as_number(value) for value in column.tolist()], dtype=np.float64)
    except (TypeError, ValueError):
        raise ProfileError(
            f"column {name!r} holds values that are no numbers ({column.dtype}). Declare it: categorical=[{name!r}]."
        ) from None
    missing = np.isnan(values)
    if missing.all():
        raise ProfileError(f"column {name!r} holds no value at all; leave it out.")
    if np.isinf(values).any():
        raise ProfileError(f"column {name!r} holds infinities; remove these rows.")
    seen = values[~missing]
    return Feature(name, float(seen.min()), float(seen.max()), float(missing.mean())), values


def _numeric(column: npt.NDArray[Any], kind: str) -> str:
    if kind == "O":
        kinds = {type(value) for value in column.tolist() if not is_missing(value)}
        return "boolean" if kinds <= {bool} else "integer" if kinds <= {int} else "number"
    return {"b": "boolean", "i": "integer", "u": "integer"}.get(kind, "number")


def _as_number(value: Any) -> Any:
    if is_missing(value):
        return np.nan
    if isinstance(value, str):  # NumPy would read the text "1.5" as a number
        raise TypeError("text")
    return value


def _category(name: str, column: npt.NDArray[Any]) -> tuple[Feature, npt.NDArray[np.float64]]:
    values = [value.item() if isinstance(value, np.generic) else value for value in column.tolist()]
    odd = {type(value).__name__ for value in values if not is_missing(value) and not isinstance(value, _CATEGORIES)}
    if odd:
        raise ProfileError(f"column {name!r} holds {', '.join(sorted(odd))}; a category is text, a number or a bool.")
    seen = sorted({value for value in values if not is_missing(value)}, key=lambda value: (str(type(value)), value))
    if not seen:
        raise ProfileError(f"column {name!r} holds no value at all; leave it out.")
    if len(seen) > MAX_CATEGORIES:
        raise ProfileError(f"column {name!r} has {len(seen)} categories; more than {MAX_CATEGORIES} are no categories.")
    codes = {value: float(code) for code, value in enumerate(seen)}
    array = np.array([codes.get(value, np.nan) for value in values])
    return Feature(name, missing=float(np.isnan(array).mean()), categories=tuple(seen)), array
