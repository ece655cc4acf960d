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
        bins: reference counts of every feature and output, for drift.
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

    @classmethod
    def fit(
        cls,
        X: Any,
        *,
        outputs: Any = None,
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
                DataFrame. NaN is a missing value.
            outputs: the model's own answers to X: ``(n,)`` labels or numbers, or ``(n, K)`` scores.
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
        names = [feature.name for feature in schema.features]
        kinds = [bool(feature.categories) for feature in schema.features]
        watched = rows
        if outputs is not None:
            columns = answers.columns(outputs, len(rows))
            if columns is None:
                raise ProfileError(
                    f"outputs are numbers (labels, predictions, scores), one entry for each of X's {len(rows)} rows."
                )
            names += list(columns)
            kinds += [name == answers.PREDICTION for name in columns]
            watched = np.column_stack([rows, *columns.values()])
        return cls(
            schema=schema,
            outliers=calibrated,
            bins=Bins.fit(names, watched, kinds),
            model=None if model is None else str(model),
            versions=_versions(),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )

    @staticmethod
    def ref(tag: str) -> ProfileRef:
        """A profile by its tag, resolved when the worker starts and pinned inside a bento."""
        from guardrails.profile.reference import ProfileRef

        return ProfileRef(tag)

    def with_outliers(self, outliers: CalibratedDetector) -> Profile:
        """The same profile with another calibrated detector, not yet stored."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return replace(self, outliers=outliers, created=now, tag=None)

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
        compiled = hasattr(detector, "arrays") and hasattr(detector, "kind")
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
        }
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
        own = {name.removeprefix("detector."): array for name, array in arrays.items() if name.startswith("detector.")}
        detector = read_detector(document["detector"], own)
        return cls(
            schema=Schema.from_json(document["schema"]),
            outliers=_calibrated(detector, document, arrays),
            bins=Bins(
                tuple(document["watched"]), arrays["bins.edges"], arrays["bins.categorical"], arrays["bins.counts"]
            ),
            model=document["model"],
            versions=document["versions"],
            created=document["created"],
            tag=tag,
        )

    def __repr__(self) -> str:
        return f"Profile({self.tag or self.digest!r}, features={len(self.schema.features)}, rows={self.bins.rows})"


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
