"""Images: strange digits are told from ordinary ones; the parts fit together."""

import numpy as np
import pytest
from scipy.ndimage import rotate
from sklearn.datasets import load_digits, load_sample_images
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors as SklearnNeighbors

from guardrails.errors import ProfileError
from guardrails.outliers import calibrate
from guardrails.outliers.feature_space import Embedded, FeatureSpace
from guardrails.testing import check_detector

IMAGES = load_digits().data[np.random.default_rng(0).permutation(1797)]
TRAIN, TEST = IMAGES[:1000], IMAGES[1000:]


def rotated(images, rng):
    """By 45 to 180 degrees, either way."""
    angles = rng.uniform(45, 180, len(images)) * rng.choice([-1, 1], len(images))
    turned = [
        rotate(image.reshape(8, 8), angle, reshape=False, order=1) for image, angle in zip(images, angles, strict=True)
    ]
    return np.clip(np.reshape(turned, (-1, 64)), 0, 16)


def photographs(images, rng):
    """Patches of photographs, in the digits' size and range."""
    patches = []
    for _ in images:
        photo = load_photographs()[rng.integers(2)]
        top, left = rng.integers(photo.shape[0] - 64), rng.integers(photo.shape[1] - 64)
        patch = photo[top : top + 64, left : left + 64].reshape(8, 8, 8, 8).mean(axis=(1, 3))
        patches.append(16 * (patch - patch.min()).ravel() / max(np.ptp(patch), 1.0))
    return np.array(patches)


def load_photographs(cache=[]):  # noqa: B006
    """The two photographs scikit-learn brings, in grey."""
    if not cache:
        pytest.importorskip("PIL")
        cache.extend(image.mean(axis=2) for image in load_sample_images().images)
    return cache


def shapes(images, rng):
    """Discs of any size, anywhere."""
    down, right = np.mgrid[:8, :8]
    discs = [
        16.0 * ((down - rng.uniform(1, 6)) ** 2 + (right - rng.uniform(1, 6)) ** 2 < rng.uniform(3, 12)) for _ in images
    ]
    return np.reshape(discs, (-1, 64))


STRANGE = {
    "rotated": (rotated, 0.98),
    "noise 4": (lambda images, rng: np.clip(images + rng.normal(0, 4, images.shape), 0, 16), 0.99),
    "noise 6": (lambda images, rng: np.clip(images + rng.normal(0, 6, images.shape), 0, 16), 0.99),
    "inverted": (lambda images, rng: 16 - images, 0.999),
    "shuffled": (lambda images, rng: rng.permuted(images, axis=1), 0.999),
    "photographs": (photographs, 0.999),
    "shapes": (shapes, 0.99),
}


@pytest.fixture(scope="module", params=["knn", "mahalanobis"])
def detector(request):
    """Fitted on ordinary digits."""
    return FeatureSpace.fit(TRAIN, inner=request.param)


@pytest.mark.parametrize("kind", STRANGE)
def test_strange_digits_are_told_from_ordinary_ones(detector, kind):
    """AUROC of fresh digits against the same ones made strange."""
    make, least = STRANGE[kind]
    strange = make(TEST, np.random.default_rng(1))
    truth = np.repeat([0, 1], len(TEST))
    assert roc_auc_score(truth, np.r_[detector.score(TEST), detector.score(strange)]) >= least


@pytest.mark.parametrize(("kind", "least"), [("rotated", 0.85), ("noise 4", 0.97), ("shapes", 0.7)])
def test_at_an_alpha_of_one_percent_most_strange_digits_are_caught(detector, kind, least):
    """Calibrated on digits it has not seen: what a service would send to its fallback."""
    calibrated = calibrate(detector, TEST[:400], alpha=0.01)
    strange = STRANGE[kind][0](TEST[400:], np.random.default_rng(2))
    assert calibrated.is_outlier(strange).mean() >= least
    assert calibrated.is_outlier(TEST[400:]).mean() <= 0.03


def test_ink_on_a_pixel_that_was_always_empty_is_strange(detector):
    """And it is named as the reason."""
    empty = np.flatnonzero(np.ptp(TRAIN, axis=0) == 0)
    assert len(empty)
    usual = np.quantile(detector.score(TEST), 0.99)
    for pixel in empty:
        image = TEST[0].copy()
        image[pixel] = 1.0
        assert 1e3 * usual < detector.score_one(image) < np.inf
        assert detector.contributions(image).argmax() == pixel


@pytest.mark.parametrize("inner", ["knn", "mahalanobis"])
def test_contributions_add_up_to_those_of_the_coordinates(inner):
    """To the squared distance, whichever detector is inside; none is negative."""
    detector = FeatureSpace.fit(TRAIN, inner=inner)
    for image in TEST[:30]:
        parts = detector.contributions(image)
        score = detector.score_one(image)
        assert parts.shape == (64,)
        assert parts.min() >= 0
        assert parts.sum() == pytest.approx(score**2 if inner == "knn" else score, rel=1e-9)


def test_scores_are_those_of_the_parts_put_together_by_hand():
    """scikit-learn's PCA, whitened, the residual in units of the mean variance left out, scikit-learn's neighbours."""
    rng = np.random.default_rng(3)
    mixing = rng.normal(size=(4, 12))
    X, rows = (rng.normal(size=(n, 4)) @ mixing + 0.1 * rng.normal(size=(n, 12)) for n in (500, 100))
    detector = FeatureSpace.fit(X, variance=0.9, k=3)
    mean, deviation = X.mean(axis=0), X.std(axis=0)
    pca = PCA().fit((X - mean) / deviation)
    kept = int(np.searchsorted(np.cumsum(pca.explained_variance_ratio_), 0.9)) + 1
    assert len(detector.components) == kept < 12

    def coordinates(raw):
        components = pca.transform((raw - mean) / deviation)
        variance = components_of_train.var(axis=0)
        left = np.sqrt((components[:, kept:] ** 2).sum(axis=1) / variance[kept:].mean())
        return np.column_stack([components[:, :kept] / np.sqrt(variance[:kept]), left])

    components_of_train = pca.transform((X - mean) / deviation)
    tree = SklearnNeighbors(n_neighbors=3, algorithm="kd_tree").fit(coordinates(X))
    np.testing.assert_allclose(detector.score(rows), tree.kneighbors(coordinates(rows))[0][:, -1], rtol=1e-8)
    model = FeatureSpace.fit(X, variance=0.9, inner="mahalanobis")
    np.testing.assert_allclose(model.score(rows), (coordinates(rows) ** 2).sum(axis=1), rtol=1e-8)


def test_components_are_bounded():
    """By the share of variance, and by number."""
    X = np.random.default_rng(4).normal(size=(400, 100))
    assert len(FeatureSpace.fit(X).components) == 64
    assert len(FeatureSpace.fit(X, max_components=7).components) == 7
    assert len(FeatureSpace.fit(X, variance=0.05).components) < 7
    assert len(FeatureSpace.fit(X[:20], variance=1.0, k=1).components) <= 20
    assert FeatureSpace.fit(X, max_rows=50).inner.reference.shape == (50, 65)


def test_what_leaves_the_plane_of_all_reference_rows_is_strange():
    """Nothing is left over in the reference, so the residual has no unit of its own."""
    rng = np.random.default_rng(5)
    plane = rng.normal(size=(2, 6))
    X, rows = rng.normal(size=(300, 2)) @ plane, rng.normal(size=(100, 2)) @ plane
    for inner in ("knn", "mahalanobis"):
        detector = FeatureSpace.fit(X, variance=1.0, inner=inner)
        ordinary = detector.score(rows)
        assert ordinary.max() < 100
        np.testing.assert_allclose(detector.score(rows.astype(np.float32)), ordinary, rtol=1e-3, atol=1e-3)
        assert detector.score(rows + 0.1 * rng.normal(size=rows.shape)).min() > ordinary.max()


def test_rows_without_any_variation():
    """No component at all: whatever differs is left over, and strange."""
    for inner in ("knn", "mahalanobis"):
        same, *others = FeatureSpace.fit(np.ones((20, 3)), inner=inner).score(np.ones((4, 3)) + np.eye(4, 3, -1))
        assert same < 1e-3
        assert 1e3 < min(others) <= max(others) < np.inf


@pytest.mark.parametrize(
    ("options", "n", "message"),
    [
        ({"inner": "forest"}, 30, "'forest' is unknown; there is 'knn', 'mahalanobis'"),
        ({"variance": 0.0}, 30, "a share and a number"),
        ({"variance": 95}, 30, "a share and a number"),
        ({"max_components": 0}, 30, "a share and a number"),
        ({"inner": "mahalanobis"}, 1, "at least two"),
        ({}, 4, "k=5 neighbours"),
    ],
)
def test_what_cannot_be_fitted_is_refused(options, n, message):
    """With a sentence that names it."""
    with pytest.raises(ProfileError, match=message):
        FeatureSpace.fit(TRAIN[:n], **options)


class TestEmbedded:
    """A live detector over what a callable makes of rows."""

    @staticmethod
    def halves(rows):
        """Means of the upper and of the lower half of an image, and its ink."""
        return np.column_stack([rows[:, :32].mean(axis=1), rows[:, 32:].mean(axis=1), (rows > 8).sum(axis=1)]).tolist()

    def test_it_scores_embeddings(self):
        """Whatever the inner detector says of them; a list will do."""
        inner = FeatureSpace.fit(np.array(self.halves(TRAIN)))
        live = Embedded(self.halves, inner)
        np.testing.assert_array_equal(live.score(TEST), inner.score(np.array(self.halves(TEST))))
        check_detector(live, TEST)
        assert calibrate(live, TEST[:400], alpha=0.05).is_outlier(16 - TEST[400:]).mean() > 0.9

    @pytest.mark.parametrize("broken", [np.nan, np.inf])
    def test_a_row_without_an_embedding_is_the_strangest(self, broken):
        """And the others are scored as ever."""

        def embed(rows):
            return np.where(rows[:, :1] > 0, broken, rows[:, 18:21])

        live = Embedded(embed, FeatureSpace.fit(TRAIN[:, 18:21]))
        rows = TEST[:10].copy()
        rows[:, 0] = 0.0
        plain = live.score(rows)
        rows[3, 0] = 1.0
        scores = live.score(rows)
        assert scores[3] == np.finfo(float).max
        np.testing.assert_array_equal(np.delete(scores, 3), np.delete(plain, 3))
        rows[:, 0] = 1.0
        assert (live.score(rows) == np.finfo(float).max).all()

    @pytest.mark.parametrize("embed", [lambda rows: rows.mean(axis=1), lambda rows: rows[:1]], ids=["1-D", "too few"])
    def test_what_is_no_embedding_of_each_row_is_refused(self, embed):
        """The message names the shape."""
        with pytest.raises(ValueError, match="of 5 rows"):
            Embedded(embed, FeatureSpace.fit(TRAIN)).score(TEST[:5])
