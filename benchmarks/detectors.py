"""Outlier detectors side by side: ``python -m benchmarks.detectors [--quick]``.

Each compiled detector against the scikit-learn original it was compiled from, and against alibi-detect, PyOD and River
where they are installed, on the same rows: one row, 100 and 10,000 rows of 10, 30, 300 and 1,000 features. Arms take
turns; a figure is the median over blocks, a ratio the median over the ratios of one block. Scores are compared with the
original's, and on the sets in ``../shared/data/outlier``, where they are, the areas under the ROC curve with both.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.measure import conditions
from guardrails.outliers.kinds import fitter
from guardrails.typing import Rows, Scores

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "outlier"
WIDTHS, BATCHES = (10, 30, 300, 1000), (1, 100, 10_000)
TRAINING = 2000
ROBUST_WIDTH = 30
"""Beyond so many columns a minimum covariance determinant takes minutes to fit; it is scored like the plain one."""
NEIGHBORS = 5
ORIGINAL = "scikit-learn"

_ALIBI_LIMIT = 10_000 * 30 * 30
"""alibi-detect's Mahalanobis makes a (d, d) matrix for each row of a batch: 10,000 rows of 1,000 columns are 80 GB."""
SLOW = 3.0
"""Seconds for one round of all arms, above which a block is all that is measured."""

Score = Callable[[Rows], Any]


@dataclass(frozen=True)
class Family:
    """One kind of detector: ours, and whoever else has it.

    Attributes:
        name: the kind.
        ours: the compiled one.
        others: the same kind in other libraries, by library; `ORIGINAL` is what ours was compiled from.
        equal: how the original's scores are turned into ours, where there is one.
    """

    name: str
    ours: Any
    others: dict[str, Score]
    equal: Callable[[Scores], Scores] | None = None


def families(X: Rows) -> Iterator[Family]:
    """Everything that can be had here, fitted on the same rows."""
    from sklearn.covariance import EmpiricalCovariance, MinCovDet
    from sklearn.ensemble import IsolationForest
    from sklearn.neighbors import NearestNeighbors

    from guardrails.outliers.forest import IsolationForest as Forest
    from guardrails.outliers.mahalanobis import Mahalanobis
    from guardrails.outliers.neighbors import NearestNeighbors as Neighbors

    forest = IsolationForest(n_estimators=100, random_state=0).fit(X)
    others = {ORIGINAL: forest.score_samples, **_alibi_forest(X), **_pyod("iforest", "IForest", X, random_state=0)}
    yield Family("isolation_forest", Forest.compile(forest), others, np.negative)
    plain = EmpiricalCovariance().fit(X)
    others = {ORIGINAL: plain.mahalanobis, **_alibi_mahalanobis(X)}
    yield Family("mahalanobis", Mahalanobis.compile(plain), others, np.asarray)
    if X.shape[1] <= ROBUST_WIDTH:
        robust = MinCovDet(random_state=0).fit(X)
        others = {ORIGINAL: robust.mahalanobis, **_pyod("mcd", "MCD", X, random_state=0)}
        yield Family("robust_mahalanobis", Mahalanobis.compile(robust), others, np.asarray)
    neighbors = NearestNeighbors(n_neighbors=NEIGHBORS).fit(X)
    others = {ORIGINAL: lambda rows: neighbors.kneighbors(rows)[0][:, -1]}
    others |= _pyod("knn", "KNN", X, n_neighbors=NEIGHBORS)
    yield Family("knn", Neighbors.compile(neighbors), others, np.asarray)
    yield Family("hbos", fitter("hbos")(X, 0), _pyod("hbos", "HBOS", X))
    yield Family("ecod", fitter("ecod")(X, 0), _pyod("ecod", "ECOD", X))
    yield Family("feature_space", fitter("feature_space")(X, 0), _pyod("pca", "PCA", X, random_state=0))
    if half_space := _half_space_trees(X):
        yield Family("half-space trees", None, half_space)


def _alibi_forest(X: Rows) -> dict[str, Score]:
    with contextlib.suppress(ImportError):
        from alibi_detect.od import IForest

        detector = IForest(threshold=0.0, n_estimators=100)
        detector.fit(X)
        return {"alibi-detect": detector.score}
    return {}


def _alibi_mahalanobis(X: Rows) -> dict[str, Score]:
    with contextlib.suppress(ImportError):
        from alibi_detect.od import Mahalanobis

        detector = Mahalanobis(threshold=0.0, n_components=min(X.shape[1], 30))
        detector.score(X[:500])
        return {"alibi-detect": lambda rows: None if rows.shape[1] * rows.size > _ALIBI_LIMIT else detector.score(rows)}
    return {}


def _pyod(module: str, name: str, X: Rows, **options: Any) -> dict[str, Score]:
    with contextlib.suppress(ImportError):
        kind = getattr(__import__(f"pyod.models.{module}", fromlist=[name]), name)
        return {"PyOD": kind(**options).fit(X).decision_function}
    return {}


def _half_space_trees(X: Rows) -> dict[str, Score]:
    with contextlib.suppress(ImportError):
        from river.anomaly import HalfSpaceTrees

        low, high = X.min(axis=0), X.max(axis=0)
        detector = HalfSpaceTrees(seed=0, limits={i: (low[i], high[i]) for i in range(X.shape[1])})
        for row in X[:500]:
            detector.learn_one(dict(enumerate(row.tolist())))
        return {"River": lambda rows: np.array([detector.score_one(dict(enumerate(r))) for r in rows.tolist()])}
    return {}


def timed(arms: dict[str, Score], rows: Rows, seconds: float) -> dict[str, list[float]]:
    """Microseconds a call, by arm: one figure a block, arms in turns, for about so many seconds in all."""
    once = {}
    for name, score in list(arms.items()):
        if score(rows) is None:
            del arms[name]
            continue
        began = time.perf_counter()
        score(rows)
        once[name] = time.perf_counter() - began
    if sum(once.values()) > SLOW:
        return {name: [took * 1e6] for name, took in once.items()}
    blocks = max(3, min(15, int(seconds / sum(once.values()))))
    calls = {name: max(1, int(seconds / len(arms) / blocks / took)) for name, took in once.items()}
    taken: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for block in range(blocks):
        shift = block % len(names)
        for name in names[shift:] + names[:shift]:
            score = arms[name]
            began = time.perf_counter()
            for _ in range(calls[name]):
                score(rows)
            taken[name].append((time.perf_counter() - began) / calls[name] * 1e6)
    return taken


def measure(width: int, batches: tuple[int, ...], seconds: float, table: Table) -> None:
    """One table row for each family and batch size."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(width, width)) / np.sqrt(width)
    X = rng.normal(size=(max(TRAINING, 2 * width), width)) @ mixing
    fresh = rng.normal(size=(max(batches), width)) @ mixing
    for family in families(X):
        for n in batches:
            rows = np.ascontiguousarray(fresh[:n])
            arms = dict(family.others)
            if family.ours is not None:
                one = family.ours.score_one
                arms["ours"] = family.ours.score if n > 1 else lambda rows, one=one: one(rows[0])
            taken = timed(arms, rows, seconds)
            cells = [_cell(taken, library) for library in (ORIGINAL, "alibi-detect", "PyOD", "River")]
            ours = f"{median(taken['ours']):,.1f}" if "ours" in taken else "-"
            table.add_row(family.name, str(width), f"{n:,}", ours, *cells, _difference(family, rows))


def _cell(taken: dict[str, list[float]], library: str) -> str:
    if library not in taken:
        return "-"
    shown = f"{median(taken[library]):,.0f}"
    if "ours" not in taken:
        return shown
    ratio = median(other / ours for other, ours in zip(taken[library], taken["ours"], strict=True))
    return f"{shown} ({ratio:,.1f})" if ratio < 10 else f"{shown} ({ratio:,.0f})"


def _difference(family: Family, rows: Rows) -> str:
    if family.equal is None:
        return "-"
    original = family.equal(family.others[ORIGINAL](rows))
    return f"{np.max(np.abs(family.ours.score(rows) - original) / np.maximum(np.abs(original), 1e-300)):.0e}"


def areas(console: Console) -> None:
    """Areas under the ROC curve on the published sets: fitted on 60 % of the ordinary rows, means of three splits."""
    if not DATA.is_dir():
        console.print("No ../shared/data/outlier here: areas under the ROC curve are left out.")
        return
    from sklearn.metrics import roc_auc_score

    table = Table("set", "detector", "ours", "scikit-learn", "PyOD", box=None)
    for path in sorted(DATA.glob("*.npz")):
        with np.load(path) as data:
            X, y = data["X"].astype(np.float64), data["y"].astype(bool)
        found: dict[str, dict[str, list[float]]] = {}
        for seed in range(3):
            ordinary = np.random.default_rng(seed).permutation(np.flatnonzero(~y))
            cut = int(0.6 * len(ordinary))
            rest = np.concatenate([ordinary[cut:], np.flatnonzero(y)])
            training = X[ordinary[:cut]]
            for family in families(training):
                arms = {"ours": None if family.ours is None else family.ours.score, **family.others}
                for library, score in arms.items():
                    if score is not None and library in ("ours", ORIGINAL, "PyOD"):
                        scores = np.nan_to_num(np.asarray(score(X[rest]), np.float64))
                        sign = -1 if library == ORIGINAL and family.name == "isolation_forest" else 1
                        area = roc_auc_score(y[rest], sign * scores)
                        found.setdefault(family.name, {}).setdefault(library, []).append(float(area))
        for name, by_library in found.items():
            cells = [f"{np.mean(by_library[k]):.3f}" if k in by_library else "-" for k in ("ours", ORIGINAL, "PyOD")]
            table.add_row(path.stem, name, *cells)
    console.print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke: 30 features, 1 and 100 rows")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    console = Console(width=150)
    console.print(conditions())
    for width in (30,) if options.quick else WIDTHS:
        table = Table(
            "detector", "features", "rows", "ours us", f"{ORIGINAL} us (times ours)", "alibi-detect", "PyOD", "River",
            "largest difference", box=None,
        )  # fmt: skip
        batches = (1, 100) if options.quick else BATCHES
        measure(width, batches, 0.2 if options.quick else 1.0, table)
        console.print(table)
    if not options.quick:
        areas(console)


if __name__ == "__main__":
    main()
