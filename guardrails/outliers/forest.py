"""An isolation forest as plain arrays: scikit-learn fits it, NumPy walks it, the scores are the same to 1e-12.

Liu, Ting and Zhou, "Isolation Forest", ICDM 2008: a row that few random splits isolate is strange. The score is
``2 ** (-E[depth] / c(max_samples))``, in (0, 1], higher is stranger (scikit-learn's ``score_samples``, negated).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.typing import Rows, Scores

_CHUNK = 256
"""Rows walked together: a chunk's nodes stay in the first-level caches."""


@dataclass(frozen=True, eq=False)
class IsolationForest:
    """A fitted forest. Trees lie one after the other; the right child of a node is the one after the left.

    Attributes:
        feature: column a node looks at, shape ``(nodes,)``; 0 in leaves.
        threshold: a row goes right when its value is greater; ``inf`` in leaves, so that a row stays there.
        left: the left child, shape ``(nodes,)``; a leaf is its own.
        gap: whether a missing value goes right, shape ``(nodes,)``; 0 in leaves.
        length: a leaf's path length (its depth, plus what its unsplit rows would still need), shape ``(nodes,)``.
        roots: the first node of each tree, shape ``(trees,)``.
        depth: how many steps reach every leaf.
        normaliser: trees times the expected path length, the denominator of the exponent.
        width: columns of a row.
    """

    feature: npt.NDArray[np.intp]
    threshold: npt.NDArray[np.float64]
    left: npt.NDArray[np.intp]
    gap: npt.NDArray[np.bool_]
    length: npt.NDArray[np.float64]
    roots: npt.NDArray[np.intp]
    depth: int
    normaliser: float
    width: int

    kind = "isolation_forest"

    @classmethod
    def fit(cls, X: Rows, *, trees: int = 100, seed: int = 0) -> IsolationForest:
        """Fit a forest of ``trees`` trees on rows ``(n, d)`` with scikit-learn, and compile it."""
        from sklearn.ensemble import IsolationForest as Fitted

        return cls.compile(Fitted(n_estimators=trees, random_state=seed).fit(X))

    @classmethod
    def compile(cls, fitted: Any) -> IsolationForest:
        """Turn a fitted `sklearn.ensemble.IsolationForest` into arrays.

        Raises:
            TypeError: it is not a fitted isolation forest.
        """
        if not hasattr(fitted, "estimators_features_") or not hasattr(fitted, "_decision_path_lengths"):
            raise TypeError(f"{fitted!r} is no fitted scikit-learn IsolationForest.")
        parts, roots, start = [], [], 0
        for estimator, columns, depths, unsplit in zip(
            fitted.estimators_,
            fitted.estimators_features_,
            fitted._decision_path_lengths,  # noqa: SLF001  # the very numbers its own scores are made of
            fitted._average_path_length_per_tree,  # noqa: SLF001
            strict=True,
        ):
            parts.append(_compile_tree(estimator.tree_, np.asarray(columns), depths + unsplit - 1.0, start))
            roots.append(start)
            start += estimator.tree_.node_count
        feature, threshold, left, gap, length = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        depth = max(estimator.tree_.max_depth for estimator in fitted.estimators_)
        normaliser = len(roots) * _average_path_length(fitted.max_samples_)
        starts = np.array(roots, np.intp)
        return cls(feature, threshold, left, gap, length, starts, depth, normaliser, fitted.n_features_in_)

    def score(self, rows: Rows) -> Scores:
        """Score rows of shape ``(n, d)``: shape ``(n,)``, in (0, 1], higher is stranger.

        Values are rounded to float32 before they are compared, as scikit-learn does.
        """
        if len(rows) == 1 and rows[0].dot(rows[0]) < np.inf:
            return np.array([self.score_one(rows[0])])
        values = np.asarray(rows, dtype=np.float64)
        lengths = np.empty(len(values))
        for start in range(0, len(values), _CHUNK):
            lengths[start : start + _CHUNK] = self._lengths_of(values[start : start + _CHUNK])
        return self._score_of(lengths)

    def score_one(self, row: npt.NDArray[np.float64]) -> float:
        """Score one row of shape ``(d,)`` without missing values: the same bits as in `score`."""
        return float(2.0 ** -(self._length_of(row) / self.normaliser)) if self.normaliser else 0.5

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What `from_arrays` needs, as arrays without objects."""
        small = np.array([self.depth, self.width], np.int64)
        return {
            "feature": self.feature.astype(np.int32),
            "threshold": self.threshold,
            "left": self.left.astype(np.int32),
            "gap": self.gap.astype(np.int8),
            "length": self.length,
            "roots": self.roots.astype(np.int32),
            "shape": small,
            "normaliser": np.array([self.normaliser]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> IsolationForest:
        """The inverse of `arrays`."""
        feature, left, roots = (arrays[name].astype(np.intp) for name in ("feature", "left", "roots"))
        depth, width = (int(value) for value in arrays["shape"])
        own = (feature, arrays["threshold"], left, arrays["gap"].astype(bool), arrays["length"], roots)
        return cls(*own, depth, float(arrays["normaliser"][0]), width)

    def _score_of(self, lengths: npt.NDArray[np.float64]) -> Scores:
        # math, one by one: NumPy's vectorised exp2 may differ in the last bit between one row and many, and a row that
        # ties with a calibration row has to tie with it however it is asked for.
        if not self.normaliser:
            return np.full(len(lengths), 0.5)
        normaliser = self.normaliser
        return np.array([2.0 ** -(length / normaliser) for length in lengths.tolist()])

    @cached_property
    def _cut(self) -> npt.NDArray[np.float64]:
        """Where a float64 value goes right, exactly as if it had been rounded to float32 first, as scikit-learn does.

        A value rounds to a float32 above the threshold if it lies above the middle between the last float32 that does
        not exceed the threshold and the next one; the middle itself rounds to the even one of the two. To compare with
        that middle spares each request two conversions.
        """
        below = self._cut32
        above = np.nextafter(below, np.float32(np.inf))
        middle = (below.astype(np.float64) + above.astype(np.float64)) / 2
        even = above.view(np.int32) % 2 == 0
        return np.where(np.isinf(self.threshold), np.inf, np.where(even, np.nextafter(middle, -np.inf), middle))

    @cached_property
    def _cut32(self) -> npt.NDArray[np.float32]:
        """The last float32 that does not exceed the threshold: a float32 exceeds both or neither."""
        near = self.threshold.astype(np.float32)
        return np.where(near > self.threshold, np.nextafter(near, np.float32(-np.inf)), near)

    @cached_property
    def _packed(self) -> tuple[npt.NDArray[Any], ...]:
        """Feature, cut, left child and length, node by node in one block of memory.

        A request finds these arrays cold. Side by side, a node is one line of the cache to fetch, and one line of
        somebody else's to evict, rather than three: in a served request that is half of the walk's price.
        """
        block = np.empty((len(self.feature), 4), np.int64)
        numbers = block.view(np.float64)
        block[:, 0], block[:, 1] = self.feature, self.left
        numbers[:, 2], numbers[:, 3] = self._cut, self.length
        return block[:, 0], numbers[:, 2], block[:, 1], numbers[:, 3]

    @cached_property
    def _ones(self) -> npt.NDArray[np.float64]:
        return np.ones(len(self.roots))

    @cached_property
    def _steps(self) -> range:
        return range(self.depth)

    def _length_of(self, row: npt.NDArray[np.float64]) -> float:
        """One row: all trees walk together, level by level."""
        node = self.roots
        feature, cut, left, length = self._packed
        for _ in self._steps:
            node = left[node] + (row[feature[node]] > cut[node])
        return float(length[node].dot(self._ones))  # a third of what sum() costs for a hundred numbers

    def _lengths_of(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Several rows: the same walk for every pair of tree and row, a tree after the other.

        In float32, as scikit-learn compares: half the memory to fetch. Into arrays made once: half of what a step
        would cost otherwise is making new ones.
        """
        n, trees = len(rows), len(self.roots)
        with np.errstate(over="ignore"):  # what float32 cannot hold goes right, as infinity does
            values = np.ascontiguousarray(rows, dtype=np.float32)
        gaps, flat = bool(np.isnan(values).any()), values.ravel()
        node = self._two_steps(np.ascontiguousarray(values.T), gaps=gaps).ravel()
        offset = np.tile(np.arange(n) * self.width, trees)
        at, right = np.empty_like(node), np.empty(len(node), bool)
        value, cut = np.empty(len(node), np.float32), np.empty(len(node), np.float32)
        for _ in range(self.depth - 2):
            self.feature.take(node, out=at, mode="clip")
            at += offset
            flat.take(at, out=value, mode="clip")
            self._cut32.take(node, out=cut, mode="clip")
            np.greater(value, cut, out=right)
            if gaps:
                right |= np.isnan(value) & self.gap.take(node)
            self.left.take(node, out=at, mode="clip")
            np.add(at, right, out=node)
        # Each row's dot product by itself: the same bits as for a row alone, which a matrix product would not give.
        lengths = np.ascontiguousarray(self.length.take(node).reshape(trees, n).T)
        return np.array([row.dot(self._ones) for row in lengths])

    def _two_steps(self, columns: npt.NDArray[np.float32], *, gaps: bool) -> npt.NDArray[np.intp]:
        """Where rows stand after two steps: node of each tree and row, shape ``(trees, n)``.

        A tree has one node at the top and two below it, so whole columns are compared, and nothing is looked up.

        Args:
            columns: the values, shape ``(d, n)``.
            gaps: whether any of them is missing.
        """
        left, low, high = self._top

        def goes_right(nodes: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
            values = columns[self.feature[nodes]]
            right: npt.NDArray[np.bool_] = values > self._cut32[nodes][:, None]
            return right | (np.isnan(values) & self.gap[nodes][:, None]) if gaps else right

        first = goes_right(self.roots)
        second = np.where(first, goes_right(high), goes_right(low))
        return np.asarray(left[0][:, None] + first * left[1][:, None] + second)

    @cached_property
    def _top(self) -> tuple[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]], Any, Any]:
        """Of each tree: its third level's first node and how far the other half of it lies; the two nodes above."""
        low = self.left[self.roots]
        high = low + (low != self.roots)  # a leaf is its own child, left and right
        return (self.left[low], self.left[high] - self.left[low]), low, high


def _compile_tree(
    tree: Any, columns: npt.NDArray[Any], lengths: npt.NDArray[np.float64], start: int
) -> tuple[npt.NDArray[Any], ...]:
    """Renumber a tree so that siblings are neighbours (left first), beginning at node ``start``."""
    children_left, children_right = tree.children_left, tree.children_right
    order, queue = [0], [0]
    for node in queue:
        if children_left[node] >= 0:
            pair = [children_left[node], children_right[node]]
            order += pair
            queue += pair
    old = np.array(order)
    new = np.empty_like(old)
    new[old] = np.arange(len(old)) + start
    leaf = children_left[old] < 0
    feature = np.where(leaf, 0, columns[np.where(leaf, 0, tree.feature[old])]).astype(np.intp)
    threshold = np.where(leaf, np.inf, tree.threshold[old])
    left = np.where(leaf, new[old], new[children_left[old]]).astype(np.intp)
    goes_left = getattr(tree, "missing_go_to_left", np.zeros(len(old)))
    gap = ~leaf & ~goes_left[old].astype(bool)
    return feature, threshold, left, gap, lengths[old]


def _average_path_length(n: int) -> float:
    """c(n) of the paper: the expected path length of an unsuccessful search among n rows."""
    if n <= 1:
        return 0.0
    if n == 2:  # noqa: PLR2004
        return 1.0
    return float(2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n)
