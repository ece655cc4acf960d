"""Profile: fitted from training data, saved without pickle, loaded by every guard."""

from __future__ import annotations

import hashlib
import io
import json
import platform
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from guardrails import semconv
from guardrails._version import __version__
from guardrails.core.payload import Layout
from guardrails.errors import ProfileError
from guardrails.outliers.calibration import CalibratedDetector
from guardrails.outliers.conformal import Groups
from guardrails.outliers.fitting import DetectorChoice, fit_columns
from guardrails.outliers.kinds import read_detector
from guardrails.profile import answers
from guardrails.profile.bins import Bins
from guardrails.profile.schema import Schema, learn
from guardrails.profile.validated import Validated
from guardrails.profile.watched import OUTLIER
from guardrails.typing import Rows

if TYPE_CHECKING:
    from bentoml import Tag

    from guardrails.profile.reference import ProfileRef

FORMAT = 1
_JSON, _ARRAYS = "profile.json", "arrays.npz"
_RECORDED = ("bento-guardrails", "bentoml", "numpy", "scikit-learn")


@dataclass(frozen=True, eq=False)
class Profile:
    """What training looked like.

    Attributes:
        schema: the columns: names, kinds, ranges, categories, missing shares.
        outliers: the calibrated detector: ``.score(rows)``, ``.p_value(rows)``, ``.is_outlier(rows)``.
        bins: reference counts of every feature, output and of the outlier flag, for drift.
        validated: how right the model was where labels are known; None where none were given.
        model: the tag of the model it belongs to, if it was told.
        versions: what fitted it.
        created: when (UTC, ISO 8601).
        tag: where it is stored, once it is.
    """

    schema: Schema
    outliers: CalibratedDetector
    bins: Bins
    model: str | None
    versions: dict[str, str]
    created: str
    tag: str | None = field(default=None, compare=False)
    validated: Validated | None = None

    @classmethod
    def fit(
        cls,
        X: Any,
        *,
        outputs: Any = None,
        labels: Any = None,
        validation: tuple[Any, Any, Any] | None = None,
        feature_names: Sequence[str] | None = None,
        categorical: Collection[str | int] = (),
        detector: DetectorChoice = "isolation_forest",
        alpha: float = 0.01,
        group_by: str | int | None = None,
        model: str | Tag | None = None,
        calibration: float = 0.3,
        seed: int = 0,
    ) -> Profile:
        """Learn what training looked like.

        Args:
            X: rows the model was trained on (or better: rows like them that it was not), an ``(n, d)`` array or a
                DataFrame. NaN is a missing value. Rows in order of time, or shuffled; sorted by something else they
                look as if each were much like the one before, and count for less in drift detection.
            outputs: the model's own answers to X: ``(n,)`` labels or numbers, or ``(n, K)`` scores.
            labels: the true classes of X, ``(n,)``, numbered as the outputs are; for accuracy without labels later.
                Of rows the model was trained on they promise too much: give ``validation`` instead.
            validation: ``(X, outputs, labels)`` of rows the model was not trained on, instead of outputs and labels of
                X. The reference of the outputs, and accuracies by confidence, then come from these.
            feature_names: ``d`` names; a DataFrame brings its own.
            categorical: names or numbers of the columns that are categories.
            detector: as for `guardrails.outliers.fit`: a name, or a fitted detector, which all of X then calibrates.
            alpha: the share of ordinary traffic that may be called an outlier.
            group_by: the name or number of a column whose value names a row's group: alpha then holds in each group.
            model: the tag of the model this profile belongs to; it labels spans and records.
            calibration: the share of rows kept back to calibrate the detector.
            seed: decides the split and the fit.

        Raises:
            ProfileError: the data does not allow it; the message says what would.

        Example:
            >>> import numpy as np, guardrails as gr
            >>> X = np.random.default_rng(0).normal(size=(1000, 2))
            >>> profile = gr.Profile.fit(X, feature_names=["age", "dose"], alpha=0.05)
            >>> profile.outliers.is_outlier(np.array([[0.1, -0.2], [40.0, 9.0]]))
            array([False,  True])
        """
        schema, rows = learn(X, feature_names, list(categorical))
        codes = [column for column, feature in enumerate(schema.features) if feature.categories]
        group = None if group_by is None else schema.column(group_by)
        calibrated = fit_columns(
            rows, codes, detector=detector, alpha=alpha, calibration=calibration, group_by=group, seed=seed
        )
        bins = Bins.fit(schema.names, rows, [bool(feature.categories) for feature in schema.features])
        said, truth = _answered(rows, outputs, labels, validation)
        validated = None
        if said is not None:
            columns = np.column_stack(list(said.values()))
            bins = bins.beside(Bins.fit(list(said), columns, [name == answers.PREDICTION for name in said]))
        bins = _with_outliers(bins, calibrated)
        if said is not None and truth is not None:
            validated = Validated.fit(bins, said, truth)
        return cls(
            schema=schema,
            outliers=calibrated,
            bins=bins,
            model=None if model is None else str(model),
            versions=_versions(),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            validated=validated,
        )

    @staticmethod
    def ref(tag: str) -> ProfileRef:
        """A profile by its tag, resolved when the worker starts and pinned inside a bento."""
        from guardrails.profile.reference import ProfileRef

        return ProfileRef(tag)

    def with_outliers(self, outliers: CalibratedDetector) -> Profile:
        """The same profile with another calibrated detector, not yet stored."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return replace(self, outliers=outliers, bins=_with_outliers(self.bins, outliers), created=now, tag=None)

    def save(self, name: str) -> Tag:
        """Store it in the BentoML model store, as JSON and npz: nothing in it is executable.

        Raises:
            ProfileError: its detector is somebody's live object, which only code could restore.
        """
        import bentoml

        document, arrays = self._document()
        labels = {"guardrails.kind": "profile", "guardrails.digest": self.digest}
        with bentoml.models.create(name, labels=labels, metadata={"model": self.model or ""}) as stored:
            Path(stored.path_of(_JSON)).write_text(json.dumps(document, indent=1, sort_keys=True), encoding="utf-8")
            Path(stored.path_of(_ARRAYS)).write_bytes(arrays)
        tag: Tag = stored.tag
        return tag

    @classmethod
    def load(cls, where: str | Path | Tag) -> Profile:
        """Load a profile by its tag, or from a folder.

        Raises:
            ProfileError: it is not there, not readable, not a profile, or not the one that was saved.
        """
        import bentoml

        folder = Path(str(where))
        if (folder / _JSON).is_file() or (folder.is_dir() and isinstance(where, Path)):
            return cls._read(folder, None)
        try:
            stored = bentoml.models.get(str(where) or "no tag at all")
        except Exception as error:  # BentoML says in many ways that a tag is none
            raise ProfileError(
                f"no profile {str(where)!r} in the model store ({error}). Save one with "
                "Profile.fit(...).save(name), or set BENTOML_HOME to the store that has it."
            ) from error
        profile = cls._read(Path(stored.path), str(stored.tag))
        promised = stored.info.labels.get("guardrails.digest")
        if promised not in (None, profile.digest):
            raise ProfileError(f"{stored.tag} is not what was saved: its digest is {profile.digest}, not {promised}.")
        return profile

    @cached_property
    def layout(self) -> Layout:
        """How a payload is read by this profile's columns."""
        return self.schema.layout()

    @cached_property
    def digest(self) -> str:
        """A hash of all it contains (12 hex digits): the label of metrics and records."""
        document, arrays = self._document(live=True)
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode() + arrays).hexdigest()[:12]

    @cached_property
    def span_attributes(self) -> dict[str, str]:
        """What every span says about it."""
        attributes = {semconv.PROFILE_TAG: self.tag or self.digest}
        return attributes if self.model is None else {**attributes, semconv.MODEL_TAG: self.model}

    def _document(self, *, live: bool = False) -> tuple[dict[str, Any], bytes]:
        detector: Any = self.outliers.detector
        compiled = is_compiled(detector)
        if not compiled and not live:
            raise ProfileError(
                f"{type(detector).__name__} is a live object, and a profile holds nothing executable. Keep it in the "
                "service instead: check_outliers(lambda self: self.detector), with self.detector = calibrate(...)."
            )
        arrays = {f"detector.{name}": array for name, array in detector.arrays().items()} if compiled else {}
        arrays |= _calibration_arrays(self.outliers) | {
            "bins.edges": self.bins.edges,
            "bins.categorical": self.bins.categorical,
            "bins.counts": self.bins.counts,
            "bins.autocorrelation": self.bins.rho,
        }
        if self.validated is not None:
            arrays |= {f"validated.{name}": array for name, array in vars(self.validated).items()}
        content = _pack(arrays)
        document = {
            "format": FORMAT,
            "schema": self.schema.to_json(),
            "detector": detector.kind if compiled else type(detector).__qualname__,
            "alpha": self.outliers.alpha,
            "group_by": None if self.outliers.groups is None else self.outliers.groups.column,
            "watched": list(self.bins.names),
            "model": self.model,
            "versions": self.versions,
            "created": self.created,
            "arrays_sha256": hashlib.sha256(content).hexdigest(),
        }
        return document, content

    @classmethod
    def _read(cls, folder: Path, tag: str | None) -> Profile:
        try:
            document = json.loads((folder / _JSON).read_text(encoding="utf-8"))
            content = (folder / _ARRAYS).read_bytes()
        except (OSError, ValueError) as error:
            raise ProfileError(f"{folder} holds no readable profile: {error}") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            document = document if isinstance(document, dict) else {}
            raise ProfileError(
                f"the profile in {folder} has format {document.get('format')!r}; this version reads {FORMAT}."
            )
        try:
            return cls._from_document(document, content, tag)
        except ProfileError:
            raise
        except Exception as error:
            raise ProfileError(f"{folder} holds no complete profile: {type(error).__name__} {error}") from error

    @classmethod
    def _from_document(cls, document: dict[str, Any], content: bytes, tag: str | None) -> Profile:
        if hashlib.sha256(content).hexdigest() != document["arrays_sha256"]:
            raise ProfileError(f"{_ARRAYS} is not the file that was saved with {_JSON}: its digest differs.")
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = dict(archive)
        detector = read_detector(document["detector"], _named(arrays, "detector"))
        return cls(
            schema=Schema.from_json(document["schema"]),
            outliers=_calibrated(detector, document, arrays),
            bins=Bins(tuple(document["watched"]), **_named(arrays, "bins")),
            validated=Validated(**_named(arrays, "validated")) if "validated.right" in arrays else None,
            model=document["model"],
            versions=document["versions"],
            created=document["created"],
            tag=tag,
        )

    def __repr__(self) -> str:
        return f"Profile({self.tag or self.digest!r}, features={len(self.schema.features)}, rows={self.bins.rows})"


def _answered(rows: Rows, outputs: Any, labels: Any, validation: Any) -> tuple[answers.Columns | None, Any]:
    """The columns of the model's answers, and the labels to them: of the validation rows, where there are some."""
    n = len(rows)
    if validation is not None:
        if outputs is not None or labels is not None:
            raise ProfileError("give either outputs (and labels) of X, or validation=(X, outputs, labels), not both.")
        if not isinstance(validation, tuple | list) or len(validation) != 3 or any(v is None for v in validation):  # noqa: PLR2004
            raise ProfileError("validation is (X, outputs, labels): rows the model was not trained on, all three.")
        others, outputs, labels = validation
        shape = np.shape(others)
        n = shape[0] if shape else 0
        if len(shape) < 2 or int(np.prod(shape[1:])) != rows.shape[1]:  # noqa: PLR2004
            raise ProfileError(
                f"validation's X has shape {shape}; rows of {rows.shape[1]} columns like X's are needed."
            )
    if outputs is None:
        if labels is not None:
            raise ProfileError("labels say how right the model's answers were: give these, too, as outputs.")
        return None, None
    said = answers.columns(outputs, n)
    if said is None:
        raise ProfileError(f"outputs are numbers (labels, predictions, scores), one entry for each of X's {n} rows.")
    return said, labels


def _with_outliers(bins: Bins, calibrated: CalibratedDetector) -> Bins:
    """The same bins with the outlier flag as a column: its reference are the rows that calibrated the detector."""
    known = [j for j, name in enumerate(bins.names) if name != OUTLIER]
    if len(known) < len(bins.names):
        names = tuple(bins.names[j] for j in known)
        bins = Bins(names, bins.edges[known], bins.categorical[known], bins.counts[known], bins.rho[known])
    if not is_compiled(calibrated.detector):
        return bins  # somebody's live object may take milliseconds a row: too much for the background
    n = len(calibrated.calibration)
    flags = (np.arange(n) < round(calibrated.share * n)).astype(float)
    # Both values have a bin, also where so few rows calibrate that none of them is an outlier.
    edges = np.array([[0.0, 1.0]])
    # Where rows resemble their neighbours, so do their flags; no more than the features do.
    rho = np.array([bins.rho.max()])
    flag = Bins((OUTLIER,), edges, np.array([True]), np.zeros((1, 5), np.int64), rho)
    return bins.beside(replace(flag, counts=flag.count(flags[:, None])))


def _calibration_arrays(calibrated: CalibratedDetector) -> dict[str, npt.NDArray[Any]]:
    arrays = {"calibration": calibrated.calibration, "fill": calibrated.fill}
    if calibrated.centre is not None:
        arrays["centre"] = calibrated.centre
    if calibrated.groups is not None:
        scores = [*calibrated.groups.scores.values(), calibrated.groups.rest]
        arrays["groups.codes"] = np.array(list(calibrated.groups.scores))
        arrays["groups.sizes"] = np.array([len(own) for own in scores], np.int64)
        arrays["groups.scores"] = np.concatenate(scores)
    return arrays


def _calibrated(detector: Any, document: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> CalibratedDetector:
    groups = None
    if document.get("group_by") is not None:
        *scores, rest = np.split(arrays["groups.scores"], np.cumsum(arrays["groups.sizes"])[:-1])
        own = dict(zip(arrays["groups.codes"].tolist(), scores, strict=True))
        groups = Groups(document["group_by"], own, rest)
    return CalibratedDetector(
        detector, arrays["calibration"], document["alpha"], arrays["fill"], arrays.get("centre"), groups
    )


def _named(arrays: dict[str, npt.NDArray[Any]], group: str) -> dict[str, Any]:
    """The arrays of a group, ``<group>.<name>``, by their names."""
    prefix = f"{group}."
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def is_compiled(detector: Any) -> bool:
    """Whether a detector is plain arrays: such a one can be stored, and costs little in the background."""
    return hasattr(detector, "arrays") and hasattr(detector, "kind")


def _pack(arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    """An npz whose bytes depend on its content alone: np.savez writes the time of day, a compressor its version."""
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            entry = io.BytesIO()
            np.save(entry, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), entry.getvalue())
    return buffer.getvalue()


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _RECORDED:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = __version__ if package == "bento-guardrails" else "unknown"
    return versions
