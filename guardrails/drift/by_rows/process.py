"""A drift detector in a process of its own: one of alibi-detect's, or anybody's, over sampled rows."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from guardrails.contrib.alibi_drift import DETECTORS, to_npy
from guardrails.drift.by_rows.child import Child, Died
from guardrails.drift.by_rows.suited import Suited, as_matrix
from guardrails.drift.by_rows.verdicts import DriftReport
from guardrails.errors import GuardrailsError

TIMEOUT = 60.0
START_TIMEOUT = 300.0
"""Importing alibi-detect takes 6 s, on a busy machine 25; online detectors then simulate their thresholds."""

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class ProcessDetector:
    """A drift detector in a child process: niceness 10, one thread, killed when it takes too long, started again.

    It lives in another process because alibi-detect takes 6 s and 260 MB to import, needs ``numpy<2``, is not
    thread-safe, changes its own reference (``update_x_ref``), and computes for seconds. Nothing is pickled: rows go
    over a pipe as ``.npy``, verdicts come back as JSON. One call at a time; the others wait. Make it in the process
    that uses it, not before a fork.

    What is particular to the detectors, measured on alibi-detect 0.13:

    - Without PyTorch, those with MMD or LSDD in their name are not available; the error says what is missing. Without
      a ``backend`` among the options it is ``pytorch``, or ``sklearn`` for ClassifierDrift.
    - ClassifierDrift takes ``model`` (an import path such as ``"sklearn.linear_model:LogisticRegression"``; gradient
      boosting by default) and ``model_options``. To it, MMD and LSDD a category is the number of its code.
    - FETDrift and FETDriftOnline see increases only, unless ``alternative`` says otherwise.
    - With ``update_x_ref`` the reference changes with each prediction; a process started again has the first one.
    - ClassifierDrift draws the rows that train it: the same window twice gives slightly different p-values.
    - ``correction`` is ``bonferroni`` or ``fdr``; with ``drift_type="feature"`` nothing is corrected.
    - Online detectors judge row by row with those before: feed each row once, in order. A call reports the first row
      at which there was drift, and drift goes on until the windows have passed it. They need ``ert`` (rows between
      false alarms) and window sizes, and ``n_bootstraps`` well over ``ert`` times the columns, so alarms once a month
      are out of reach. Thresholds are simulated when the process starts; `seed` makes them the same each time. A
      process that had to be started again has empty windows, which the note says. CVMDriftOnline computes with the
      square of the reference's rows: give it a sample of a thousand or so.
    - A saved folder holds its reference already preprocessed, and pickles: to load it is to run what they say, whatever
      alibi-detect's ``enable_unsafe_loading`` is. It needs the package versions it was saved with; the note says when
      alibi-detect's is another.

    Rows with missing numbers are left out, missing and unseen categories are categories of their own, and columns that
    a test is not for are not given to it (`guardrails.drift.by_rows.suited`); a factory's or folder's detector gets all
    rows as they are.

    Args:
        detector: the name of one of alibi-detect's detectors (`DETECTORS`); ``"module:factory"``, where
            ``factory(reference, **options)`` gives an object with ``predict(rows)`` that answers as alibi-detect's
            do; or the folder of a saved detector.
        reference: rows ``(n, d)`` of ordinary data, categories as codes. None for a folder, which has its own, and
            for a factory that needs none.
        options: keyword arguments of the detector, as JSON can hold them.
        python: another interpreter to run it with, which needs NumPy and the detector's package but not this library.
        timeout: seconds that a prediction may take.
        start_timeout: seconds that imports and the detector's preparations may take.
        feature_names: ``d`` names for the reports.
        categorical: names or numbers of the columns that hold codes of categories.
        runs_code: whether loading the folder may run code. Say so only of folders you or somebody you trust saved.
        seed: of what the detector draws.

    Raises:
        GuardrailsError: there is no such detector, it cannot be made, or not in time; the message says why.

    Example:
        >>> from guardrails.drift.by_rows.process import ProcessDetector
        >>> ProcessDetector("somebodys-detector", None)
        Traceback (most recent call last):
        ...
        guardrails.errors.GuardrailsError: loading somebodys-detector runs code: ...
        >>> import numpy as np
        >>> reference = np.random.default_rng(0).normal(size=(1000, 3))
        >>> with ProcessDetector("KSDrift", reference) as detector:  # doctest: +SKIP
        ...     detector.predict(reference[:200] + 1.0).features
        ('feature_2', 'feature_1', 'feature_0')
    """

    def __init__(
        self,
        detector: str | Path,
        reference: Any,
        *,
        options: Mapping[str, Any] | None = None,
        python: str | Path | None = None,
        timeout: float = TIMEOUT,
        start_timeout: float = START_TIMEOUT,
        feature_names: Sequence[str] | None = None,
        categorical: Collection[str | int] = (),
        runs_code: bool = False,
        seed: int = 0,
    ) -> None:
        self.name = str(detector)
        kind = _kind(detector, runs_code=runs_code)
        given = dict(options or {})
        predict = {"drift_type": given.pop("drift_type")} if "drift_type" in given else {}
        if kind == "folder" and (given or reference is not None):
            raise GuardrailsError(f"{detector} was saved with its options and its reference: give none (None).")
        if kind == "name" and reference is None:
            raise GuardrailsError(f"{detector} compares with a reference: give it rows of ordinary data.")
        matrix = None if reference is None else as_matrix(reference, None, "reference rows")
        self._width = None if matrix is None else matrix.shape[1]
        names = _names(feature_names, self._width)
        self._columns = Suited(names)
        note = ""
        if kind == "name" and matrix is not None:
            self._columns = Suited.of(self.name, matrix, names, categorical, given)
            matrix, note = self._columns.take(matrix, None, "reference rows")
        upwards = "sees increases only: alternative is 'greater'"
        self._note = _joined(self._columns.note, upwards if _one_sided(self.name, given) else "", note)
        self._reference = matrix
        self._order = {
            "kind": kind,
            "detector": str(detector.absolute()) if isinstance(detector, Path) else self.name,
            "options": {**self._columns.options, **given},
            "predict": predict,
            "seed": seed,
            "runs_code": runs_code,
            "path": [os.getcwd(), *(sys.path if python is None else ())],  # noqa: PTH109  # text for JSON
        }
        self._python, self._timeout, self._start_timeout = python, timeout, start_timeout
        self._lock = threading.Lock()
        self._closed = False
        self._child = self._start()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    @property
    def online(self) -> bool:
        """Whether it judges row by row."""
        return bool(self._child.facts["online"])

    def predict(self, rows: Any) -> DriftReport:
        """Judge a window.

        Args:
            rows: shape ``(n, d)``, columns as in the reference; online, the rows that came since the last call.

        Raises:
                GuardrailsError: the rows cannot be read, the detector said no, took too long, or its process died twice
                over them. After the last two the next call starts another process.
        """
        matrix, left_out = self._columns.take(rows, self._width)
        with self._lock:
            started = time.perf_counter()
            answer, restarted = self._ask(to_npy(matrix))
            seconds = time.perf_counter() - started
        first = f"first at row {answer['first'] + 1} of {len(matrix)}" if "first" in answer else ""
        known = 0 if self._reference is None else len(self._reference)
        return DriftReport.read(
            answer,
            names=self._columns.names or tuple(f"feature_{i}" for i in range(matrix.shape[1])),
            note=_joined(self._note, restarted, left_out, first),
            detector=self.name if self._order["kind"] != "folder" else str(self._child.facts["name"]),
            rows=len(matrix),
            reference_rows=int(answer.get("reference_rows", known)),
            online=self.online,
            seconds=seconds,
        )

    def close(self) -> None:
        """End the child, whatever it is at; a prediction under way in another thread raises."""
        self._closed = True
        self._child.stop()

    def __enter__(self) -> ProcessDetector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, rows: bytes) -> tuple[dict[str, Any], str]:
        """The answer, and what to note if it is another child's than the last: one that died is replaced, once."""
        note = ""
        for attempt in range(2):
            if not self._closed and not self._child.alive:
                self._child = self._start()
                note = "its process had ended and was started again" + (", with empty windows" * self.online)
            if self._closed:  # perhaps meanwhile
                self._child.stop()
                raise GuardrailsError(f"{self.name} is closed.")
            try:
                return dict(self._child.ask(rows, timeout=self._timeout)["answer"]), note
            except Died:
                # Killed long ago or just now: it takes a while to be seen, so there is no telling before asking.
                if attempt or self._closed:
                    raise
        raise AssertionError  # pragma: no cover

    def _start(self) -> Child:
        child = Child(self.name, self._python)
        order = json.dumps(self._order, default=_no_json).encode()
        child.facts = child.ask(order, to_npy(self._reference), timeout=self._start_timeout)["ready"]
        if child.facts["other_version"]:
            other = "saved with another version of alibi-detect"
            self._note = _joined(*self._note.split("; "), other)
        return child


def _kind(detector: str | Path, *, runs_code: bool) -> str:
    """``name``, ``factory`` or ``folder``; nothing of a folder is read before it is allowed."""
    if isinstance(detector, str) and detector in DETECTORS:
        return "name"
    if isinstance(detector, str) and _FACTORY.fullmatch(detector):
        return "factory"
    if isinstance(detector, str) and re.fullmatch(r"[A-Z]\w*", detector) and not Path(detector).is_dir():
        raise GuardrailsError(
            f"there is no detector {detector!r} that can be made of rows and options alone; those are "
            f"{', '.join(DETECTORS)}. Others: give 'module:factory', or the folder of a saved one."
        )
    if not runs_code:
        raise GuardrailsError(
            f"loading {detector} runs code: alibi-detect saves detectors with pickles in them, which can do anything "
            "that this user can. If you trust whoever saved it, say runs_code=True."
        )
    if not Path(detector).is_dir():
        raise GuardrailsError(f"there is no folder {detector}.")
    return "folder"


def _joined(*notes: str) -> str:
    """Those that say something, once each."""
    return "; ".join(dict.fromkeys(filter(None, notes)))


def _one_sided(detector: str, options: Mapping[str, Any]) -> bool:
    return detector in ("FETDrift", "FETDriftOnline") and "alternative" not in options


def _names(given: Sequence[str] | None, width: int | None) -> tuple[str, ...]:
    names = tuple(given) if given is not None else tuple(f"feature_{i}" for i in range(width or 0))
    if width is not None and len(names) != width:
        raise GuardrailsError(f"{len(names)} feature names for {width} columns.")
    return names


def _no_json(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise GuardrailsError(f"options go to another process as JSON, which cannot hold {type(value).__name__}.")
