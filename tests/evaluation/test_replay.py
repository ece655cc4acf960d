"""What a changed guard would have done to logged decisions."""

import time

import numpy as np
import pandas as pd
import pytest

import guardrails as gr
from guardrails.errors import GuardrailsError
from guardrails.evaluation import replay

RNG = np.random.default_rng(0)
X = RNG.normal(size=(1000, 3))
TRAFFIC = np.vstack([RNG.normal(size=(300, 3)), RNG.normal(size=(60, 3)) * 5])


def logged(*guards, rows=TRAFFIC, **options):
    """Rows of a decision store, as a guarded method leaves them."""
    records = []
    fn = gr.compose(*guards, gr.explore(gr.EpsilonGreedy(0.0), decisions=records.append, features="store", **options))
    guarded = fn(lambda rows: np.zeros((len(rows), 2)))
    for row in rows:
        guarded([list(row)])
    return [record.row() for record in records]


@pytest.fixture(scope="module")
def profiles():
    """Two profiles of the same data that differ in alpha and in the detector."""
    return gr.Profile.fit(X, alpha=0.02), gr.Profile.fit(X, alpha=0.1, seed=4)


def verdicts(profile, alpha=None, rows=TRAFFIC):
    """What the profile itself says."""
    detector = profile.outliers if alpha is None else profile.outliers.with_alpha(alpha)
    return detector.is_outlier(rows)


def test_another_alpha_needs_the_p_values_only(profiles):
    """Exactly the rows that the other alpha flags would have moved."""
    first, _ = profiles
    records = logged(gr.check_outliers(first, fallback=gr.constant(np.zeros((1, 2)))))
    before, after = verdicts(first), verdicts(first, 0.2)
    done = replay([{**record, "features": None} for record in records], alpha=0.2)
    assert done.rows == len(TRAFFIC)
    assert (done.before["outlier"], done.after["outlier"]) == (before.sum(), after.sum())
    moved = {change.decision_id for change in done.changes}
    assert moved == {record["decision_id"] for record, a, b in zip(records, before, after, strict=True) if a != b}
    assert dict(done.moved()) == {("accepted", "outlier"): int((after & ~before).sum())}
    back = replay(records, alpha=0.005)
    assert set(back.moved()) == {("outlier", "accepted")}


def test_another_profile_is_run_over_the_rows(profiles):
    """The guard itself judges what was kept, whatever was enforced then: the verdicts are the profile's own."""
    first, second = profiles
    for enforce in (True, False):
        guard = gr.check_outliers(first, fallback=gr.constant(np.zeros((1, 2))), enforce=enforce)
        done = replay(logged(guard), gr.check_outliers(second, fallback="a method that is not here"))
        before, after = verdicts(first), verdicts(second)
        assert (done.before["outlier"], done.after["outlier"]) == (before.sum(), after.sum())
        assert done.moved()["accepted", "outlier"] == (after & ~before).sum()
        assert done.moved()["outlier", "accepted"] == (before & ~after).sum()


def test_a_stricter_schema_too(profiles):
    """validate and check_outliers together, in their own order: what is invalid is not called an outlier."""
    first, _ = profiles
    schema = gr.Schema(tuple(gr.Feature(f"feature_{i}", low=-3, high=3) for i in range(3)))
    records = logged(gr.check_outliers(first, enforce=False))
    done = replay(records, gr.validate(schema), gr.check_outliers(first))
    outside = (np.abs(TRAFFIC) > 3).any(axis=1)
    assert done.after["invalid"] == outside.sum()
    assert done.after["outlier"] == (verdicts(first) & ~outside).sum()


def test_categories_are_read_as_the_client_had_sent_them(tmp_path):
    """Codes of one profile mean something else in another."""
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.models import ModelStore

    frame = pd.DataFrame({"x": RNG.normal(size=400), "c": RNG.choice(["b", "c"], 400)})
    wider = pd.concat([frame, pd.DataFrame({"x": [0.0] * 40, "c": ["a"] * 40})])
    (tmp_path / "models").mkdir()
    BentoMLContainer.model_store.set(ModelStore(str(tmp_path / "models")))
    try:
        old = gr.Profile.load(gr.Profile.fit(frame, categorical=["c"], alpha=0.05).save("old"))
        new = gr.Profile.fit(wider, categorical=["c"], alpha=0.05)
        records = logged(gr.check_outliers(old, enforce=False), rows=[[0.0, "a"], [0.0, "b"], [0.0, "c"], [None, "b"]])
        done = replay(records, gr.validate(new))
    finally:
        BentoMLContainer.model_store.reset()
    # "a" was unknown to the old profile, and what it was is lost: still unknown. The gap is a gap.
    assert done.after == {"invalid": 2, "accepted": 2}
    assert done.rows == 4


def test_rewards_are_said_of_what_would_have_moved(profiles):
    """The mean over all rewards of a decision; a join that repeats decisions counts each once."""
    first, _ = profiles
    records = logged(gr.check_outliers(first, enforce=False))
    joined = [{**r, "reward": reward} for r in records for reward in (0.0, 1.0)]
    done = replay(joined, alpha=0.5)
    assert done.rows == len(TRAFFIC)
    assert {change.reward for change in done.changes} == {0.5}


def test_what_cannot_be_judged_is_counted(profiles):
    """Hashes, and rows that no outlier check saw, are skipped and said so; asking for nothing is refused."""
    first, _ = profiles
    records = logged(gr.check_outliers(first, enforce=False))
    hashed = [{**record, "features": "a" * 32} for record in records[:3]]
    done = replay(hashed, gr.check_outliers(first))
    assert (done.rows, done.skipped.total()) == (0, 3)
    assert replay([{**records[0], "outlier_p_value": None}], alpha=0.1).skipped.total() == 1
    for wrong in ({}, {"alpha": 0.1, "guard": True}):
        with pytest.raises(GuardrailsError, match="replay"):
            replay(records, *([gr.check_outliers(first)] if wrong.pop("guard", False) else []), **wrong)


def test_from_the_command_line(tmp_path, profiles):
    """replay and recalibrate read the store a service wrote; nothing is changed unless it is asked for."""
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.models import ModelStore
    from click.testing import CliRunner

    from guardrails.cli import main
    from guardrails.decisions.writer import open_log

    (tmp_path / "models").mkdir()
    BentoMLContainer.model_store.set(ModelStore(str(tmp_path / "models")))
    url = f"sqlite:///{tmp_path}/decisions.db"

    def run(*arguments):
        return CliRunner().invoke(main, list(arguments))

    try:
        missing = run("replay", url, "--alpha", "0.1")
        assert missing.exit_code == 1
        assert "holds no decisions" in missing.output
        profile = gr.Profile.load(profiles[0].save("people"))
        log = open_log(url)
        guarded = gr.compose(
            gr.check_outliers(profile, enforce=False),
            gr.explore(gr.EpsilonGreedy(0.0), decisions=log, features="store"),
        )(lambda rows: np.zeros((len(rows), 2)))
        for row in TRAFFIC:
            guarded([list(row)])
        log.close()
        told = run("replay", url, "--alpha", "0.2")
        assert told.exit_code == 0, told.output
        assert f"{len(TRAFFIC)} decisions judged again" in told.output
        moved = int((verdicts(profile, 0.2) & ~verdicts(profile)).sum())
        assert f"{moved} accepted -> outlier" in told.output
        assert "none would have been another" in run("replay", url, "--profile", "people").output
        assert run("replay", url).exit_code == 2
        assert "0 decisions" in run("replay", url, "--alpha", "0.1", "--api", "other").output
        assert "write e.g. 90m" in run("replay", url, "--alpha", "0.1", "--since", "soon").output

        dry = run("recalibrate", "people", "--decisions", url, "--since", "1h")
        assert dry.exit_code == 0, dry.output
        assert "nothing was changed" in dry.output
        assert f"{len(TRAFFIC)} recent rows" in dry.output
        saved = run(
            "recalibrate", "people", "--decisions", url, "--all-ordinary", "--alpha", "0.05", "--save", "people"
        )
        assert saved.exit_code == 0, saved.output
        again = gr.Profile.load("people:latest")
        assert again.tag != profile.tag
        assert again.outliers.is_outlier(TRAFFIC).mean() == pytest.approx(0.05, abs=0.01)
        time.sleep(0.01)
        other = run("recalibrate", again.tag, "--decisions", url)
        assert other.exit_code == 1
        assert "was judged by" in other.output
        few = run("recalibrate", profile.tag, "--decisions", url, "--alpha", "0.0001")
        assert few.exit_code == 1
        assert "cannot be promised" in few.output
    finally:
        BentoMLContainer.model_store.reset()
