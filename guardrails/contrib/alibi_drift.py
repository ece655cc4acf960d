"""What runs in a drift detector's own process: alibi-detect's drift detectors, or anybody's, asked over pipes.

`guardrails.drift.by_rows.process` starts this file by its path, perhaps with an interpreter that has neither this
library nor the same NumPy. So it needs the standard library, NumPy and the detector's own packages, and nothing else.

A message is its length in eight bytes (big-endian) and so many bytes of JSON, or of an array as ``.npy``. The first is
an order (JSON) and the reference (npy, or empty); it is answered with ``{"ready": ...}``. Then each array of rows is
answered with ``{"answer": ...}``; whatever goes wrong, with ``{"error": ...}``.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import io
import json
import os
import queue
import random
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    # Python looks for modules beside the file it runs, and the ones there are named sklearn, pyod, alibi_detect.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != HERE]

DETECTORS = (
    "KSDrift",
    "CVMDrift",
    "ChiSquareDrift",
    "FETDrift",
    "TabularDrift",
    "ClassifierDrift",
    "MMDDrift",
    "LSDDDrift",
    "CVMDriftOnline",
    "FETDriftOnline",
    "MMDDriftOnline",
    "LSDDDriftOnline",
)
"""Those that need nothing but rows and options to be made. The others need kernels, models or contexts."""
KEYS = ("is_drift", "p_val", "distance", "threshold", "test_stat", "time")
"""What is passed on. ClassifierDrift's answer holds the rows, its predictions of them and the model as well."""
BATCH_BYTES = 2**28
"""Memory that CVMDriftOnline may take at a time to simulate its thresholds."""

_PACKAGES = {"pytorch": "torch", "tensorflow": "tensorflow", "keops": "pykeops", "sklearn": "sklearn"}
_MODEL = "sklearn.ensemble:HistGradientBoostingClassifier"
_LENGTH = struct.Struct(">Q")


def write_frame(stream: BinaryIO, body: bytes) -> None:
    """Write one message."""
    stream.write(_LENGTH.pack(len(body)))
    stream.write(body)
    stream.flush()


def read_frame(stream: BinaryIO) -> bytes | None:
    """Read one message; None where the other side is gone."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack(head)
    body = stream.read(size)
    return body if len(body) == size else None


def to_npy(array: Any) -> bytes:
    """An array of numbers as ``.npy``; None is empty. Never a pickle."""
    if array is None:
        return b""
    import numpy as np

    held = io.BytesIO()
    np.save(held, array, allow_pickle=False)
    return held.getvalue()


def from_npy(body: bytes) -> Any:
    """The inverse of `to_npy`."""
    if not body:
        return None
    import numpy as np

    return np.load(io.BytesIO(body), allow_pickle=False)


class Asked:
    """A detector, asked for rows: its answers in plain values.

    Args:
        detector: an object with ``predict(rows)`` that answers as alibi-detect's do: a mapping with ``data``, or that
            itself, of ``is_drift`` and any of ``p_val``, ``distance``, ``threshold``, ``test_stat``. With
            ``meta["online"]`` true it is given one row at a time, of shape ``(d,)``.
        options: keyword arguments of its ``predict``.
        cast: give it rows of the type of its own reference, as saved detectors with float32 networks need.
    """

    def __init__(self, detector: Any, options: Mapping[str, Any], *, cast: bool = False) -> None:
        self._detector = detector
        self._inner = getattr(detector, "_detector", detector)  # MMDDrift and others hold the one of their backend
        self._options = dict(options)
        meta = getattr(detector, "meta", None) or {}
        self.online = bool(meta.get("online"))
        self.facts = {
            "name": type(detector).__name__,
            "online": self.online,
            "other_version": bool(meta.get("version_warning")),
        }
        dtype = str(getattr(getattr(self._inner, "x_ref", None), "dtype", "")).rpartition(".")[2]
        self._dtype = dtype if cast and dtype in ("float16", "float32", "float64") else None

    def judge(self, rows: Any) -> dict[str, Any]:
        """What it says of rows ``(n, d)``."""
        if self._dtype is not None:
            rows = rows.astype(self._dtype)
        answer = self._one_by_one(rows) if self.online else summary(self._detector.predict(rows, **self._options))
        reference = getattr(self._inner, "x_ref", None)  # update_x_ref= changes it while it predicts
        if reference is not None and hasattr(reference, "__len__"):
            answer["reference_rows"] = len(reference)
        if getattr(self._inner, "correction", None) == "fdr":
            answer["correction"] = "fdr"
        return answer

    def _one_by_one(self, rows: Any) -> dict[str, Any]:
        """The answer for the first row at which it sees drift, else for the last."""
        first: dict[str, Any] | None = None
        answer: dict[str, Any] = {}
        for number, row in enumerate(rows):
            said = self._detector.predict(row, **self._options)
            trim(self._inner)
            if first is None:
                answer = summary(said)
                if answer["is_drift"]:
                    first = {**answer, "first": number}
        return first or answer


def summary(answer: Any) -> dict[str, Any]:
    """The keys worth passing on, in plain values.

    Example:
        >>> import numpy as np
        >>> from guardrails.contrib.alibi_drift import summary
        >>> summary({"data": {"is_drift": 1, "p_val": np.array([0.001, 0.5]), "model": object()}, "meta": {}})
        {'is_drift': 1, 'p_val': [0.001, 0.5]}
    """
    data = answer.get("data", answer) if isinstance(answer, Mapping) else None
    if not isinstance(data, Mapping) or data.get("is_drift") is None:
        raise TypeError("its predict(rows) has to answer with a mapping that holds is_drift, or with {'data': that}")
    return {key: _plain(data[key]) for key in KEYS if data.get(key) is not None}


def _plain(value: Any) -> Any:
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu()
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, (bool, int)) else float(value)


def trim(detector: Any) -> None:
    """Drop what an online detector remembers beyond its windows: it grows with every row, and is copied at each.

    Of its statistics it reads the last (FETDriftOnline smooths with it), of its rows those of the largest window.
    """
    kept = {"test_stats": 1, "drift_preds": 1, "xs": getattr(detector, "max_ws", None)}
    for name, size in kept.items():
        history: Any = getattr(detector, name, None)
        if size is not None and hasattr(history, "copy") and hasattr(history, "shape") and len(history) > size:
            setattr(detector, name, history[-int(size) :].copy())


def made(order: Mapping[str, Any], reference: Any) -> Asked:
    """The detector that was ordered.

    Args:
        order: ``kind`` (``name``, ``folder`` or ``factory``), ``detector``, ``options``, ``predict``, ``seed``,
            ``runs_code``.
        reference: rows ``(n, d)``; None for a folder, which holds its own.
    """
    kind, name, options = order["kind"], order["detector"], dict(order["options"])
    if kind == "factory":
        make = _imported(name)
        _seed(order["seed"])
        return Asked(make(reference, **options), order["predict"])
    if kind == "folder":
        return Asked(_loaded(name, order), order["predict"], cast=True)
    predict = dict(order["predict"])
    if name == "ClassifierDrift":  # neither is passed on, and the probabilities come with copies of all rows
        predict.update(return_probs=False, return_model=False)
    return Asked(_named(name, reference, options, order["seed"]), predict)


def _loaded(folder: str, order: Mapping[str, Any]) -> Any:
    if order.get("runs_code") is not True:
        raise PermissionError(f"loading {folder} runs code, which was not allowed")
    _alibi()
    from alibi_detect.saving import load_detector

    _seed(order["seed"])  # online detectors simulate their thresholds again while they load
    detector = load_detector(folder)
    if (getattr(detector, "meta", None) or {}).get("detector_type") != "drift":
        raise TypeError(f"{folder} holds a {type(detector).__name__}, which is no drift detector")
    return detector


def _named(name: str, reference: Any, options: dict[str, Any], seed: int) -> Any:
    if name.startswith(("MMD", "LSDD")):
        options.setdefault("backend", "pytorch")
    if name == "ClassifierDrift":
        options.setdefault("backend", "sklearn")
    _require(name, options.get("backend"))  # before seconds of imports
    kind = getattr(_alibi(), name)
    if name == "ClassifierDrift":
        model = options.get("model", _MODEL)
        chosen = options.pop("model_options", {"random_state": 0} if model == _MODEL else {})
        options["model"] = _imported(model)(**chosen)
    if name.endswith("Online"):
        options.setdefault("verbose", False)
    if name == "CVMDriftOnline":
        options.setdefault("batch_size", _batch(len(reference), options.get("window_sizes", ())))
    if isinstance(options.get("categories_per_feature"), dict):  # JSON's keys are text
        options["categories_per_feature"] = {int(k): v for k, v in options["categories_per_feature"].items()}
    if isinstance(options.get("sigma"), (list, float, int)):
        import numpy as np

        options["sigma"] = np.atleast_1d(np.asarray(options["sigma"], dtype=np.float64))
    _seed(seed)
    try:
        return kind(reference, **options)
    except TypeError as error:
        known = [key for key in inspect.signature(kind).parameters if key != "x_ref" and not key.endswith("_fn")]
        raise TypeError(f"{error}. Its options are {', '.join(known)}") from error


def _batch(reference_rows: int, window_sizes: Any) -> int:
    """Streams to simulate at a time: each is a table of bytes, (reference + stream) squared."""
    side = reference_rows + 2 * max(window_sizes, default=1)
    return max(1, min(64, BATCH_BYTES // side**2))


def _alibi() -> Any:
    try:
        return importlib.import_module("alibi_detect.cd")
    except ImportError as error:
        raise ImportError(
            f"alibi-detect cannot be imported by {sys.executable} ({error}); install alibi-detect there, or name an "
            "interpreter that has it"
        ) from error


def _require(name: str, backend: Any) -> None:
    package = _PACKAGES.get(str(backend).lower())
    if package is not None and importlib.util.find_spec(package) is None:
        raise ImportError(
            f"{name} with backend={backend!r} needs the package {package}, which {sys.executable} does not have; "
            f"install {package} there, or name an interpreter that has it"
        )


def _imported(path: str) -> Any:
    """What ``module:name`` or ``module.name`` stands for."""
    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _seed(seed: int) -> None:
    """Thresholds are simulated: with a seed they are the same after a restart."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # it is this one that alibi-detect draws from
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)


def serve(receive: Callable[[], bytes], send: Callable[[dict[str, Any]], None]) -> None:
    """Make the detector, then answer until nobody asks any more."""
    try:
        order = json.loads(receive())
        sys.path += [entry for entry in order["path"] if entry not in sys.path]
        asked = made(order, from_npy(receive()))
    except BaseException as error:  # noqa: BLE001  # SystemExit as well: there is one answer to every message
        send({"error": sentence(error)})
        return
    send({"ready": asked.facts})
    answer: dict[str, Any]
    while True:
        rows = from_npy(receive())
        try:
            answer = {"answer": asked.judge(rows)}
        except Exception as error:  # noqa: BLE001
            answer = {"error": sentence(error)}
        send(answer)


def sentence(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())[:600]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def main() -> None:
    """Serve over the standard streams, politely, and end with whoever started this."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # whatever prints, in Python or in C, must not get into the answers
    if hasattr(os, "nice"):
        os.nice(10)
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        while True:
            frame = read_frame(requests)
            if frame is None:  # the parent is gone, or has closed the detector: there is nobody to finish for
                os._exit(0)
            waiting.put(frame)

    threading.Thread(target=listen, daemon=True).start()
    serve(waiting.get, lambda answer: write_frame(answers, json.dumps(answer).encode()))
    os._exit(1)


if __name__ == "__main__":
    main()
