"""An isolation forest with its zero elsewhere: PyOD and alibi-detect take scikit-learn's offset into the score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.outliers.forest import IsolationForest
from guardrails.typing import Rows, Scores


@dataclass(frozen=True, eq=False)
class Shifted:
    """A forest's scores plus a constant: ``-decision_function`` of scikit-learn's isolation forest.

    Attributes:
        forest: the compiled forest.
        offset: what is added to its scores; scikit-learn's ``offset_``, which is negative.

    Example:
        >>> import numpy as np
        >>> from sklearn.ensemble import IsolationForest
        >>> fitted = IsolationForest(contamination=0.1, random_state=0).fit(np.arange(60.0).reshape(30, 2))
        >>> row = np.array([[100.0, 0.0]])
        >>> bool(np.isclose(Shifted.compile(fitted).score(row)[0], -fitted.decision_function(row)[0], rtol=1e-12))
        True
    """

    forest: IsolationForest
    offset: float

    kind = "shifted"

    @classmethod
    def compile(cls, fitted: Any) -> Shifted:
        """Turn a fitted `sklearn.ensemble.IsolationForest` into arrays, with the zero of its ``decision_function``.

        Raises:
            TypeError: it is not a fitted isolation forest.
        """
        return cls(IsolationForest.compile(fitted), float(fitted.offset_))

    def score(self, rows: Rows) -> Scores:
        """Score rows of shape ``(n, d)``: shape ``(n,)``, higher is stranger."""
        return self.forest.score(rows) + self.offset

    def score_one(self, row: npt.NDArray[np.float64]) -> float:
        """Score one row of shape ``(d,)``: the same bits as in `score`."""
        return self.forest.score_one(row) + self.offset

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What `from_arrays` needs, as arrays without objects."""
        return self.forest.arrays() | {"offset": np.array([self.offset])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Shifted:
        """The inverse of `arrays`."""
        return cls(IsolationForest.from_arrays(arrays), float(arrays["offset"][0]))
