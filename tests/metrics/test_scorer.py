"""The MIG as a scorer: by itself, in a search, in a Pipeline, in several processes."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.cluster import KMeans, SpectralClustering
from sklearn.decomposition import PCA, FastICA
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tcdecomp import mig_score
from tcdecomp.metrics import mig_scorer

RNG = np.random.default_rng(0)
# Of equal variance, so that PCA cannot tell them apart, and not Gaussian, so that ICA can.
FACTORS = RNG.integers(0, 4, size=(3000, 2))
ROTATION = np.array([[0.8, 0.6], [-0.6, 0.8]])
IMAGES = FACTORS @ ROTATION + 0.02 * RNG.standard_normal((3000, 2))
ICA = FastICA(whiten="unit-variance", random_state=0)
FOLDS = KFold(3, shuffle=True, random_state=0)


def test_the_score_is_mig_score_of_the_codes_of_a_fold():
    options = {"n_bins": 7, "strategy": "quantile", "discrete_factors": [True, False]}
    scores = cross_val_score(ICA, IMAGES, FACTORS, scoring=mig_scorer(**options), cv=FOLDS)
    expected = [
        mig_score(clone(ICA).fit(IMAGES[train]).transform(IMAGES[test]), FACTORS[test], **options)
        for train, test in FOLDS.split(IMAGES)
    ]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-12)


def test_a_search_finds_the_estimator_that_separates():
    pipeline = make_pipeline(StandardScaler(), PCA())
    search = GridSearchCV(pipeline, {"pca": [PCA(), ICA]}, scoring=mig_scorer(), cv=FOLDS)
    search.fit(IMAGES, FACTORS)
    assert search.best_params_["pca"] is ICA
    by_pca, by_ica = search.cv_results_["mean_test_score"]
    assert by_ica > 0.9
    assert by_pca < 0.3
    assert search.score(IMAGES, FACTORS) > 0.9
    assert clone(search).scoring == search.scoring


def test_processes_score_alike():
    one, two = (
        cross_val_score(ICA, IMAGES, FACTORS, scoring=mig_scorer(), cv=FOLDS, n_jobs=n_jobs)
        for n_jobs in (1, 2)
    )
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-12)


def test_one_factor_among_several_scores():
    scoring = {"mig": mig_scorer(), "other": lambda estimator, images, factors: 0.5}
    scores = cross_validate(ICA, IMAGES, FACTORS[:, 0], scoring=scoring, cv=FOLDS)
    assert scores["test_mig"].min() > 0.8
    assert set(scores["test_other"]) == {0.5}


def test_frames_of_labels_are_factors():
    names = pd.DataFrame(FACTORS, columns=["shape", "size"]).replace({"shape": {0: "disc"}})
    scorer, fitted = mig_scorer(), clone(ICA).fit(IMAGES)
    assert scorer(fitted, IMAGES, names) == pytest.approx(
        scorer(fitted, IMAGES, FACTORS), abs=1e-12
    )


def test_a_frame_that_a_transform_makes_is_paired_by_order():
    order = RNG.permutation(len(IMAGES))
    factors = pd.DataFrame(FACTORS).iloc[order]
    model = clone(ICA).set_output(transform="pandas").fit(IMAGES)
    scorer = mig_scorer()
    want = scorer(model, IMAGES, FACTORS)
    assert scorer(model, IMAGES[order], factors) == pytest.approx(want, abs=1e-12)


def test_a_scorer_can_be_pickled_compared_and_read():
    scorer = mig_scorer(n_bins=40)
    assert pickle.loads(pickle.dumps(scorer)) == scorer != mig_scorer()
    expected = "mig_scorer(n_bins=40, strategy='uniform', discrete_codes=None, "
    expected += "discrete_factors=True, correction=None)"
    assert repr(scorer) == expected
    assert eval(repr(scorer)) == scorer


def test_an_estimator_without_transform_is_refused():
    clusters = SpectralClustering(2)
    message = "estimator must have a method transform, whose result is scored; SpectralClustering"
    with pytest.raises(TypeError, match=message):
        mig_scorer()(clusters, IMAGES, FACTORS)
    with pytest.raises(TypeError, match="transform, whose result is scored; Pipeline has none"):
        mig_scorer()(make_pipeline(StandardScaler(), clusters), IMAGES, FACTORS)
    assert mig_scorer()(KMeans(3, n_init=1).fit(IMAGES), IMAGES, FACTORS) >= 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_bins": 1}, ValueError, "n_bins must be an integer >= 2; got 1"),
        ({"n_bins": 2.5}, TypeError, "n_bins must be an integer >= 2; got 2.5"),
        ({"strategy": "kmeans"}, ValueError, "strategy must be 'uniform', 'quantile' or 'robust'"),
        ({"bins": 20}, TypeError, "unexpected keyword argument 'bins'"),
    ],
)
def test_options_are_checked_at_once(options, error, message):
    with pytest.raises(error, match=message):
        mig_scorer(**options)


def test_without_factors_the_error_names_them():
    with pytest.raises((TypeError, ValueError), match="factors must"):
        mig_scorer()(clone(ICA).fit(IMAGES), IMAGES, None)
