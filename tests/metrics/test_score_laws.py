"""Laws that every score keeps, and codes whose score is known."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tcdecomp import metrics as m

pytestmark = pytest.mark.filterwarnings("ignore:codes vary", "ignore:codes hold whole")


def shares(codes, factors, **options):
    result = m.matched_information_score(codes, factors, **options)
    return [result.matching, result.average, result.gap]


# Scores that are the same in every call, to rounding
EXACT = {
    "mig": m.mig_score,
    "mig, miller-madow": partial(m.mig_score, correction="miller-madow"),
    "mig, adjusted": partial(m.mig_score, correction="adjusted"),
    "mig, ubisoft": partial(m.mig_score, convention="ubisoft"),
    "mig, quantile": partial(m.mig_score, strategy="quantile"),
    "mig, robust": partial(m.mig_score, strategy="robust", n_bins=5),
    "mig_sup": m.mig_sup_score,
    "mig_sup, live": partial(m.mig_sup_score, dead_latents="ignore"),
    "jemmig": m.jemmig_score,
    "jemmig, nats": partial(m.jemmig_score, normalised=False),
    "dcimig": m.dcimig_score,
    "modularity": m.modularity_score,
    "matched": shares,
    "mcc": m.mcc_score,
    "mcc, spearman": partial(m.mcc_score, method="spearman"),
    "sap": partial(m.sap_score, discrete_factors=False),
    "pairwise": lambda codes, factors, **options: m.pairwise_information_score(codes, **options),
    "active": lambda codes, factors, **options: m.active_units_score(codes, **options),
}
exactly = pytest.mark.parametrize("score", EXACT.values(), ids=EXACT.keys())
close = partial(np.testing.assert_allclose, rtol=0, atol=1e-9)


@st.composite
def problems(draw):
    """Codes (n, D) and factors (n, K) that vary; D and K at least 2."""
    n, n_latents, n_factors = draw(
        st.tuples(*[st.integers(a, b) for a, b in [(4, 30), (2, 4), (2, 3)]])
    )
    codes = draw(arrays(float, (n, n_latents), elements=st.integers(-16, 16).map(lambda i: i / 8)))
    factors = draw(arrays(int, (n, n_factors), elements=st.integers(0, 3)))
    factors[0], factors[1] = 0, 1
    return codes, factors


@exactly
@settings(max_examples=10)
@given(problem=problems(), random=st.randoms(use_true_random=False))
def test_the_order_of_rows_latents_and_factors_does_not_matter(score, problem, random):
    codes, factors = problem
    rows, columns, kinds = (random.sample(range(k), k) for k in (*codes.shape, factors.shape[1]))
    close(score(codes[rows][:, columns], factors[rows][:, kinds]), score(codes, factors))


@exactly
@settings(max_examples=10)
@given(problem=problems(), data=st.data())
def test_a_whole_weight_counts_as_that_many_rows(score, problem, data):
    codes, factors = problem
    weight = data.draw(arrays(int, len(codes), elements=st.integers(0, 3)))
    weight[:2] += 1
    repeated = score(codes.repeat(weight, 0), factors.repeat(weight, 0))
    close(score(codes, factors, sample_weight=weight), repeated)


@pytest.mark.parametrize("name", [name for name in EXACT if name != "active"])
@settings(max_examples=10)
@given(problem=problems(), exponents=st.lists(st.integers(-9, 9), min_size=4, max_size=4))
def test_the_scale_of_a_latent_does_not_matter(name, problem, exponents):
    codes, factors = problem
    scaled = codes * np.exp2(exponents)[: codes.shape[1]]
    close(EXACT[name](scaled, factors), EXACT[name](codes, factors))


@pytest.mark.parametrize("name", ["mig, quantile", "mig, robust", "mcc, spearman"])
@settings(max_examples=25)
@given(problem=problems())
def test_increasing_maps_do_not_matter_for_scores_of_ranks(name, problem):
    codes, factors = problem
    # quantiles between two values are their mean, which a map does not keep: values stay apart
    mapped = np.sign(codes) * codes**2 + 3 * codes
    n = len(codes)
    if name == "mig, quantile" and n % 20 == 0:
        return
    close(EXACT[name](mapped, factors), EXACT[name](codes, factors))


@pytest.mark.parametrize(
    "name", [n for n in EXACT if n not in ("active", "pairwise", "jemmig, nats")]
)
@settings(max_examples=10)
@given(problem=problems())
def test_scores_lie_between_0_and_1(name, problem):
    values = np.asarray(EXACT[name](*problem))
    assert (values >= -1e-12).all()
    assert (values <= 1 + 1e-12).all()


@settings(max_examples=25)
@given(problem=problems(), j=st.integers(0, 1))
def test_a_duplicated_latent(problem, j):
    codes, factors = problem
    twice = np.column_stack([codes, codes[:, j]])
    before, after = (m.mutual_info_gap(z, factors) for z in (codes, twice))
    close(after.gaps[before.best_latent == j], 0)
    close(m.dcimig_score(twice, factors), m.dcimig_score(codes, factors))
    assert m.mcc_score(twice, factors) >= m.mcc_score(codes, factors) - 1e-12
    share = m.pairwise_information(twice)
    close(share[j, -1], share[j, j])


@settings(max_examples=25)
@given(problem=problems(), random=st.randoms(use_true_random=False))
def test_order_scale_and_constant_latents_for_irs(problem, random):
    codes, factors = problem
    score = m.irs_score(codes, factors)
    n, d = codes.shape
    rows, latents = random.sample(range(n), n), random.sample(range(d), d)
    close(m.irs_score(4 * codes[rows][:, latents] - 1, factors[rows][:, ::-1]), score)
    close(m.irs_score(np.column_stack([codes, np.ones(n)]), factors), score)
    assert score <= 1


@settings(max_examples=25)
@given(problem=problems())
def test_a_constant_latent(problem):
    codes, factors = problem
    more = np.column_stack([codes, np.ones(len(codes))])
    for name in ("mig", "mig_sup, live", "jemmig", "dcimig", "matched", "mcc", "sap", "active"):
        close(EXACT[name](more, factors), EXACT[name](codes, factors))
    n_latents = codes.shape[1]
    for score in (m.mig_sup_score, m.modularity_score):
        close(score(more, factors), score(codes, factors) * n_latents / (n_latents + 1))


RNG = np.random.default_rng(0)
FACTORS = np.column_stack([RNG.integers(0, card, 2000) for card in (4, 5, 3)])
PERFECT = FACTORS[:, [1, 2, 0]] * [-1.0, 0.1, 0.5]
NOISE = RNG.random((2000, 3))
FAST = {"n_train": 800, "n_test": 400}


def parts(result, *names):
    return [getattr(result, name) for name in names]


def dci(codes, factors, **options):
    options = {"estimator": "random-forest", "random_state": 0} | options
    return parts(
        m.dci_score(codes, factors, **options),
        "disentanglement",
        "completeness",
        "informativeness",
    )


def infomec(codes, factors, **options):
    result = m.infomec_score(codes, factors, **options)
    return parts(result, "modularity", "explicitness", "compactness")


FITTED = {
    "dci": dci,
    "infomec": infomec,
    "infomec, discrete": partial(infomec, discrete_codes=True),
    "factor_vae": partial(m.factor_vae_score, random_state=0, **FAST),
    "beta_vae": partial(m.beta_vae_score, random_state=0, **FAST),
    "explicitness": partial(m.explicitness_score, random_state=0),
    "linear_r2": partial(m.linear_r2_score, random_state=0),
    "sap, classes": partial(m.sap_score, random_state=0),
}
ALL = EXACT | FITTED

# Codes that are the factors, and codes that have nothing to do with them
KNOWN = {
    "mig": (1, 0),
    "mig, miller-madow": (1, 0),
    "mig, adjusted": (1, 0),
    "mig, ubisoft": (1, 0),
    "mig, robust": (1, 0),
    "mig_sup": (1, 0),
    "jemmig": (1, 0),
    "dcimig": (1, 0),
    "mcc": (1, 0),
    "mcc, spearman": (1, 0),
    "sap": (1, 0),
    "pairwise": (0, 0),
    "active": (2, 3),  # the variance of the second of the perfect latents is 0.0067
    # a forest tries a random part of the latents at each split, so perfect codes stay below 1
    "dci": ([0.92, 0.92, 1], [0, 0, 0.27]),
    "infomec, discrete": ([1, 1, 1], None),
    "factor_vae": (1, 1 / 3),
    "beta_vae": (1, 1 / 3),
    "explicitness": (1, 0.5),
    "linear_r2": (1, 0),
}


@pytest.mark.parametrize("name", KNOWN)
def test_perfect_and_independent_codes(name):
    perfect, independent = KNOWN[name]
    np.testing.assert_allclose(ALL[name](PERFECT, FACTORS), perfect, atol=0.02)
    if independent is not None:
        np.testing.assert_allclose(ALL[name](NOISE, FACTORS), independent, atol=0.06)


def test_perfect_codes_of_categories():
    """A latent for each category tells that category alone."""
    codes = np.eye(4)[FACTORS[:, 0]][:, ::-1]
    result = m.matched_information_score(codes, FACTORS[:, 0])
    assert result.matching == pytest.approx(1)
    assert result.average == pytest.approx(1)
    assert result.categories == ("v0=0", "v0=1", "v0=2", "v0=3")
    np.testing.assert_array_equal(result.share.argmax(0), [3, 2, 1, 0])


def test_perfect_codes_with_noise_for_neighbours():
    codes = FACTORS + 0.02 * RNG.standard_normal((2000, 3))
    np.testing.assert_allclose(infomec(codes, FACTORS), 1, atol=0.05)
    assert abs(infomec(NOISE, FACTORS)[1]) < 0.05


@pytest.mark.parametrize("name", FITTED)
def test_order_and_scale_for_scores_that_fit_models(name):
    noisy = FACTORS + 0.4 * RNG.standard_normal((2000, 3)) + 0.3 * FACTORS[:, [1, 2, 0]]
    noisy = noisy.round() if "discrete" in name else noisy
    if "linear" in name or "explicitness" in name or "sap" in name:
        test = RNG.random(2000) < 0.5
        order = RNG.permutation(2000)
        scores = [
            FITTED[name](noisy, FACTORS, test_size=test),
            FITTED[name](
                noisy[order][:, [2, 0, 1]] * 8, FACTORS[order][:, [1, 0, 2]], test_size=test[order]
            ),
        ]
        tolerance = 5e-3
    else:
        scores = [
            FITTED[name](noisy, FACTORS),
            FITTED[name](noisy[:, [2, 0, 1]] * 8, FACTORS[:, [1, 0, 2]]),
        ]
        tolerance = 1e-3 if "infomec" in name else 0.05
    np.testing.assert_allclose(scores[1], scores[0], atol=tolerance)


@pytest.mark.parametrize("name", ["linear_r2", "explicitness", "sap, classes", "dci"])
def test_weights_count_as_rows_for_scores_that_fit_models(name):
    noisy = FACTORS + 0.4 * RNG.standard_normal((2000, 3))
    weight = RNG.integers(0, 3, 2000)
    test = RNG.random(2000) < 0.5
    options = {"estimator": "gradient-boosting"} if name == "dci" else {}
    rows = np.arange(2000) % 4 == 0 if name == "dci" else np.arange(2000) >= 0
    noisy, factors, weight, test = (a[rows] for a in (noisy, FACTORS, weight, test))
    weighted = FITTED[name](
        noisy, factors, sample_weight=weight, test_size=test[weight > 0], **options
    )
    repeated = FITTED[name](
        noisy.repeat(weight, 0), factors.repeat(weight, 0), test_size=test.repeat(weight), **options
    )
    np.testing.assert_allclose(weighted, repeated, atol=0.03 if name == "dci" else 2e-3)


@pytest.mark.parametrize("name", ["factor_vae", "beta_vae"])
def test_weights_choose_the_rows_of_groups(name):
    """Half of the rows hold codes without information, and have no weight."""
    codes = np.vstack([PERFECT, NOISE])
    factors = np.vstack([FACTORS, FACTORS])
    weight = np.repeat([1.0, 0.0], 2000)
    assert FITTED[name](codes, factors, sample_weight=weight) == pytest.approx(1, abs=0.01)
    small = np.repeat([1.0, 1e-6], 2000)
    assert FITTED[name](codes, factors, sample_weight=small) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", ["dci", "factor_vae", "beta_vae", "linear_r2", "explicitness"])
def test_a_random_state_repeats_the_score(name):
    first, again = (np.asarray(FITTED[name](NOISE, FACTORS)) for _ in range(2))
    np.testing.assert_allclose(first, again, rtol=0, atol=1e-12)


def test_the_public_conventions_of_groups():
    """disentanglement_lib compares the standard deviation itself with the threshold."""
    codes = FACTORS * [1.0, 1.0, 0.01]
    assert FITTED["factor_vae"](FACTORS * 0.01, FACTORS) == pytest.approx(1)
    assert FITTED["factor_vae"](codes, FACTORS, threshold=0) == pytest.approx(1)
    lost = FITTED["factor_vae"](codes, FACTORS, convention="disentanglement_lib")
    assert lost == pytest.approx(2 / 3, abs=0.05)


def test_rotated_codes_keep_information_and_lose_the_axes():
    angle = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])
    rotated = (FACTORS + 0.05 * RNG.standard_normal((2000, 3))) @ angle
    assert m.linear_r2_score(rotated, FACTORS, random_state=0) > 0.98
    assert m.explicitness_score(rotated, FACTORS, random_state=0) > 0.98
    assert m.mig_score(rotated, FACTORS) < 0.5
    assert m.mcc_score(rotated, FACTORS) < 0.95
    assert dci(rotated, FACTORS)[0] < 0.7


def test_sap_of_classes_is_accuracy_over_the_second_best():
    two = FACTORS[:, :2] % 2
    score = m.sap_score(two + 0.01 * NOISE[:, :2], two, random_state=0)
    assert score == pytest.approx(0.5, abs=0.05)


def test_models_of_ones_own_in_dci():
    from sklearn.linear_model import Lasso
    from sklearn.tree import DecisionTreeClassifier

    numbers = {"estimator": Lasso(alpha=0.01), "discrete_factors": False, "random_state": 0}
    assert dci(FACTORS * 1.0, FACTORS, **numbers)[0] > 0.9
    assert min(dci(PERFECT, FACTORS, estimator=DecisionTreeClassifier(random_state=0))) > 0.99


def test_a_single_factor_or_latent_leaves_some_parts_undefined():
    one = m.dci_score(NOISE[:, :1], FACTORS[:, 0], estimator="random-forest", random_state=0)
    assert np.isnan([one.disentanglement, one.completeness]).all()
    part = m.infomec_score(FACTORS[:, :1] + 0.1 * NOISE[:, :1], FACTORS[:, 0])
    assert np.isnan([part.modularity, part.compactness]).all()
    assert part.explicitness > 0.9


def test_more_latents_than_rows():
    codes = RNG.standard_normal((30, 50))
    factors = FACTORS[:30]
    for name in EXACT:
        assert np.isfinite(EXACT[name](codes, factors)).all()
    for name in ("factor_vae", "beta_vae", "linear_r2", "explicitness", "infomec", "dci"):
        assert np.isfinite(FITTED[name](codes, factors)).all()


def test_information_of_neighbours_is_capped():
    """scikit-learn's estimate for a constant, and for a class of 0.1 %, exceeds the entropy."""
    rare = (np.arange(2000) < 2).astype(int)
    codes = np.column_stack([np.ones(2000), FACTORS[:, 0] + 0.1 * NOISE[:, 0]])
    result = m.infomec_score(codes, np.column_stack([rare, FACTORS[:, 0]]))
    assert (result.normalised_information[0] == 0).all()
    assert (result.normalised_information <= 1).all()
    assert result.active.tolist()[0] is False


@pytest.mark.parametrize("correlation", [0.0, 0.5, -0.9])
def test_information_of_neighbours_for_normal_columns(correlation):
    a, b = np.random.default_rng(1).standard_normal((2, 4000))
    codes = np.column_stack([correlation * a + np.sqrt(1 - correlation**2) * b, np.ones(4000)])
    found = m.neighbour_information(codes, a, discrete_factors=False)
    expected = -np.log1p(-(correlation**2)) / 2
    np.testing.assert_allclose(found[:, 0], [expected, 0], atol=0.04)


def test_information_of_neighbours_for_classes():
    """Three intervals that overlap by half of their length: log 3 less 2/3 of log 2."""
    rng = np.random.default_rng(1)
    label = rng.integers(0, 3, 6000)
    codes = (label / 2 + rng.random(6000))[:, None]
    found = m.neighbour_information(codes, np.array(["a", "b", "c"])[label])
    assert found[0, 0] == pytest.approx(np.log(3) - 2 / 3 * np.log(2), abs=0.03)
    names = np.column_stack([label, rng.permutation(label)])
    both = m.neighbour_information(np.column_stack([codes, 5 * label[:, None]]), names)
    assert (both <= np.log(3) + 1e-3).all()
    np.testing.assert_allclose(both[:, 1], 0, atol=0.03)


@pytest.mark.parametrize(
    "score", [m.mig_score, m.mig_sup_score, m.jemmig_score, m.dcimig_score, m.modularity_score]
)
@pytest.mark.filterwarnings("error:.* rows are few")
def test_every_table_score_warns_of_few_rows(score):
    factors = RNG.integers(0, 10, (300, 2))
    codes = factors + 0.1 * RNG.standard_normal((300, 2))
    with pytest.warns(UserWarning, match="300 rows are few for so many bins"):
        score(codes, factors)
    score(codes, factors, correction="miller-madow")
    score(codes, factors, sample_weight=np.full(300, 0.5))
    score(factors * 1.0, np.column_stack([factors[:, 0] > 4, factors[:, 1] > 4]), n_bins=2)
