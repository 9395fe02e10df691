"""Groups of dimensions: against closed forms, loops over column slices, and laws of the parts."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Laplace, Normal, kl_divergence

import reference
from strategies import batches, draw_posterior, grids, separated
from tcdecomp import TCDecomposition, decompose, decompose_dataset
from tcdecomp.dataset.groups import decompose_groups, split_tc
from tolerances import assert_close

TERMS = ("index_code_mi", "total_correlation", "dimension_wise_kl", "kl")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def names(labels):
    """Return groups, by name, of the dimensions that have equal labels."""
    groups = {}
    for j, label in enumerate(labels):
        groups.setdefault(f"group {label}", []).append(j)
    return groups


def partitions(dim):
    labels = st.lists(st.integers(0, dim - 1), min_size=dim, max_size=dim)
    return labels.map(names)


@st.composite
def data_sets(draw):
    """(mu, logvar, groups) of up to 5 dimensions."""
    size, dim = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    _, mu, logvar = draw_posterior(draw(st.integers(0, 2**31)), size, dim)
    return mu, logvar, draw(partitions(dim))


def few(*arguments, seed=0, **options):
    return decompose_groups(*arguments, num_samples=100, generator=generator(seed), **options)


def sums(results, name):
    return sum(getattr(result.terms, name) for result in results)


# A data set: closed forms


@given(problem=grids(), data=st.data())
def test_a_full_grid_has_independent_dimensions(problem, data):
    _, mu, logvar = problem
    result = few(mu, logvar, data.draw(partitions(mu.shape[1])))
    assert abs(result.between.value) < 1e-7
    for part in (*result.groups.values(), *result.dimensions):
        assert abs(part.terms.total_correlation) < 1e-7
    for j, dimension in enumerate(result.dimensions):
        side = len(mu[:, j].unique())
        assert abs(dimension.terms.index_code_mi - math.log(side)) < 1e-7


@given(problem=separated(), data=st.data())
def test_far_apart_posteriors(problem, data):
    """Each dimension tells which item it is: log N for every one but the first of a group."""
    _, mu, logvar, dim = problem
    groups = data.draw(partitions(dim))
    result, log_size = few(mu, logvar, groups), math.log(len(mu))
    assert abs(result.between.value - (len(groups) - 1) * log_size) < 1e-7
    assert result.between.standard_error < 1e-7
    for name, part in groups.items():
        terms = result.groups[name].terms
        assert abs(terms.total_correlation - (len(part) - 1) * log_size) < 1e-7
        assert abs(terms.index_code_mi - log_size) < 1e-7


VARIANCE = 0.2  # of each posterior, within marginals of variance 1
R = torch.tensor([[1, 0.6, 0.3, 0.1], [0.6, 1, 0.2, 0.3], [0.3, 0.2, 1, -0.5], [0.1, 0.3, -0.5, 1]])


def log_det(*rows):
    return torch.logdet(R[list(rows)][:, list(rows)].double()).item()


def test_a_gaussian_has_the_logarithm_of_its_determinant():
    """TC = -log det R / 2, and I(n; z) = log det R / 2 - D log(VARIANCE) / 2."""
    normal = torch.quasirandom.SobolEngine(4, scramble=True, seed=0).draw(2**12).double()
    normal = torch.special.ndtri(normal.clamp(1e-6, 1 - 1e-6))
    root = torch.linalg.cholesky(R.double() - VARIANCE * torch.eye(4).double())
    mu, logvar = normal @ root.T, torch.full((2**12, 4), math.log(VARIANCE)).double()
    groups = {"a": [0, 1], "b": [3, 2]}
    result = decompose_groups(mu, logvar, groups, num_samples=4000, generator=generator())
    inner = {"a": -log_det(0, 1) / 2, "b": -log_det(2, 3) / 2}
    between = -log_det(0, 1, 2, 3) / 2 - sum(inner.values())
    assert abs(result.between.value - between) < 4 * result.between.standard_error
    assert result.between.standard_error < 0.06 * between
    for name, rows in groups.items():
        (mi, tc, dimension_wise, _), (error, *_), _ = result.groups[name]
        assert abs(tc - inner[name]) < 4 * error
        assert abs(mi - (log_det(*rows) / 2 - math.log(VARIANCE))) < 4 * error
        assert error < 0.08 * tc
        assert abs(dimension_wise) < 1e-3
    for dimension in result.dimensions:
        assert abs(dimension.terms.index_code_mi + math.log(VARIANCE) / 2) < 1e-3


def test_each_dimension_of_a_gaussian():
    """q(z_j) = N(m, s^2): I = log(s^2 / v) / 2, and KL(q(z_j) || p(z_j)) is that of two Normals."""
    mean, scale = torch.tensor([0.0, 1.0, -2.0]).double(), torch.tensor([1.0, 0.5, 3.0]).double()
    variance = torch.tensor([0.5, 0.2, 1.0]).double()
    quantiles = torch.special.ndtri((torch.arange(2000).double() + 0.5) / 2000)
    mu = mean + (scale**2 - variance).sqrt() * quantiles[:, None]
    logvar = variance.log().expand_as(mu)
    dimensions = few(mu, logvar, {"all": range(3)}, prior=Normal(0.5, 2.0)).dimensions
    mi = torch.stack([d.terms.index_code_mi for d in dimensions])
    dimension_wise = torch.stack([d.terms.dimension_wise_kl for d in dimensions])
    assert (mi - 0.5 * (scale**2 / variance).log()).abs().max() < 3e-3
    want = kl_divergence(Normal(mean, scale), Normal(0.5, 2.0))
    assert (dimension_wise - want).abs().max() < 3e-3
    assert all(max(d.standard_error) == 0 for d in dimensions)


def blocks():
    """Two independent blocks, of every pair of whose items there is one; each has correlation."""
    left, right = (torch.randn(n, 2, generator=generator(n)).double() for n in (20, 30))
    left[:, 1] += left[:, 0]
    right[:, 1] -= right[:, 0]
    mu = torch.cat([left.repeat_interleave(30, 0), right.repeat(20, 1)], 1)
    return mu, torch.full_like(mu, -3.0)


def test_independent_blocks_share_nothing_to_the_last_digit():
    result = few(*blocks(), {"left": [0, 1], "right": [2, 3]})
    assert abs(result.between.value) < 1e-9
    assert result.between.standard_error < 1e-9
    assert result.groups["left"].terms.total_correlation > 0.3


def test_dependent_groups_share_something():
    result = few(*blocks(), {"even": [0, 2], "odd": [1, 3]})
    assert result.between.value > 0.5
    assert abs(result.groups["even"].terms.total_correlation) < 1e-9


# A data set: laws


@given(problem=data_sets(), seed=st.integers(0, 2**31))
def test_the_parts_sum_to_the_whole(problem, seed):
    result = few(*problem, seed=seed)
    groups, dimensions, whole = result.groups.values(), result.dimensions, result.whole.terms
    assert_close(sums(groups, "total_correlation") + result.between.value, whole.total_correlation)
    assert_close(sums(groups, "index_code_mi") - result.between.value, whole.index_code_mi)
    assert_close(sums(dimensions, "index_code_mi"), whole.index_code_mi + whole.total_correlation)
    for name in ("dimension_wise_kl", "kl"):
        assert_close(sums(groups, name), getattr(whole, name))
        assert_close(sums(dimensions, name), getattr(whole, name))
    for part in (*groups, *dimensions):
        assert_close(part.terms.sampled_kl, part.terms.kl)


@given(problem=data_sets(), seed=st.integers(0, 2**31))
def test_the_whole_is_that_of_decompose_dataset(problem, seed):
    got = few(*problem, seed=seed).whole
    want = decompose_dataset(*problem[:2], num_samples=100, generator=generator(seed))
    for actual, expected in zip(got[:2], want[:2], strict=True):
        assert_close(torch.stack(actual), torch.stack(expected))
    assert got.num_samples == want.num_samples == 100


@given(problem=data_sets())
def test_one_group_and_single_dimensions(problem):
    mu, logvar, _ = problem
    one = few(mu, logvar, {"all": range(mu.shape[1])})
    assert_close(torch.stack(one.groups["all"].terms), torch.stack(one.whole.terms))
    assert_close(one.between.value, 0)
    singles = few(mu, logvar, {str(j): [j] for j in range(mu.shape[1])})
    assert_close(singles.between.value, singles.whole.terms.total_correlation)
    assert_close(singles.between.standard_error, singles.whole.standard_error.total_correlation)
    for group, dimension in zip(singles.groups.values(), singles.dimensions, strict=True):
        assert group.terms == dimension.terms
        assert group.terms.total_correlation == 0


@given(problem=data_sets(), data=st.data())
def test_the_order_of_dimensions_and_groups_does_not_matter(problem, data):
    """What a dimension is called changes neither what is known nor, beyond errors, the rest."""
    mu, logvar, groups = problem
    order = data.draw(st.permutations(range(mu.shape[1])))
    moved = {name: [order.index(j) for j in part] for name, part in reversed(groups.items())}
    result, other = few(mu, logvar, groups), few(mu[:, order], logvar[:, order], moved)
    for j, dimension in enumerate(other.dimensions):
        assert_close(torch.stack(dimension.terms), torch.stack(result.dimensions[order[j]].terms))
    for name in groups:
        one, two = result.groups[name], other.groups[name]
        assert_close(one.terms.dimension_wise_kl, two.terms.dimension_wise_kl)
        assert_close(one.terms.kl, two.terms.kl)
    backwards = {name: part[::-1] for name, part in reversed(groups.items())}
    again = few(mu, logvar, backwards)
    assert_close(again.between.value, result.between.value)
    for name in groups:
        assert_close(torch.stack(again.groups[name].terms), torch.stack(result.groups[name].terms))


@pytest.mark.parametrize("prior", [None, Laplace(torch.arange(4.0).double(), 1.5)])
def test_a_group_is_a_data_set_of_its_columns(prior):
    """Against decompose_dataset on the columns alone, at samples of its own."""
    _, mu, logvar = draw_posterior(3, 60, 4)
    groups = {"a": [3, 0], "b": [1, 2]}
    result = decompose_groups(
        mu, logvar, groups, num_samples=6000, generator=generator(), prior=prior
    )
    for name, rows in groups.items():
        own = None if prior is None else Laplace(prior.loc[rows], prior.scale[rows])
        want = decompose_dataset(
            mu[:, rows], logvar[:, rows], num_samples=6000, generator=generator(1), prior=own
        )
        got = result.groups[name]
        assert_close(got.terms.dimension_wise_kl, want.terms.dimension_wise_kl)
        assert_close(got.terms.kl, want.terms.kl)
        for term in TERMS[:2]:
            off = getattr(got.terms, term) - getattr(want.terms, term)
            told = getattr(got.standard_error, term), getattr(want.standard_error, term)
            assert abs(off) < 4 * math.hypot(*told)


def test_standard_errors_are_what_repetition_shows():
    g = generator(5)
    base = torch.randn(80, 2, generator=g).double()
    mu = torch.cat([base, base + 0.5 * torch.randn(80, 2, generator=g).double()], 1)
    logvar, groups = torch.full_like(mu, -2.0), {"a": [0, 1, 2], "b": [3]}
    results = [
        decompose_groups(mu, logvar, groups, num_samples=200, generator=generator(seed))
        for seed in range(150)
    ]
    within = [r.groups["a"] for r in results]
    for pairs in (
        [r.between for r in results],
        [(part.terms.total_correlation, part.standard_error.total_correlation) for part in within],
    ):
        values, told = torch.tensor(pairs).T
        assert 0.6 < values.std() / told.mean() < 1.25  # drawing without replacement helps
    exact = decompose_groups(mu, logvar, groups, num_samples=40_000, generator=g)
    values = torch.tensor([r.between.value for r in results])
    assert abs(values.mean() - exact.between.value) < 4 * values.std() / math.sqrt(150) + 2e-3


def test_without_one_grid_for_all_dimensions_are_sampled():
    _, mu, logvar = draw_posterior(3, 60, 3)
    logvar[0, 1] = -60.0
    result = decompose_groups(
        mu, logvar, {"a": [0, 1], "b": [2]}, num_samples=6000, generator=generator()
    )
    assert_close(sums(result.groups.values(), "kl"), result.whole.terms.kl)
    assert_close(sums(result.dimensions, "dimension_wise_kl"), result.whole.terms.dimension_wise_kl)
    for j, dimension in enumerate(result.dimensions):
        assert dimension.terms.total_correlation == 0
        want = few(mu[:, [j]], logvar[:, [j]], {"only": [0]}).dimensions[0]
        told = [d.standard_error.dimension_wise_kl for d in (dimension, want)]
        assert told[0] > 0
        assert abs(want.terms.dimension_wise_kl - dimension.terms.dimension_wise_kl) < (
            4 * math.hypot(*told)
        )


def test_float32_sums_too():
    _, mu, logvar = draw_posterior(0, 300, 4, torch.float32)
    result = few(mu, logvar, {"a": [0, 2], "b": [1, 3]})
    within = sums(result.groups.values(), "total_correlation")
    assert_close(within + result.between.value, result.whole.terms.total_correlation)
    want = few(mu.double(), logvar.double(), {"a": [0, 2], "b": [1, 3]})
    for name in result.groups:
        assert_close(result.groups[name].terms.kl, want.groups[name].terms.kl, torch.float32)


def test_printing_shows_a_table_whose_columns_sum():
    result = few(*draw_posterior(6, 20, 3)[1:], {"a": [0, 1], "long name": [2]})
    head, *lines = str(result).splitlines()
    assert head.split() == ["KL", "DWKL", "MI", "TC", "+-"]
    assert [re.split(r"\s{2,}", line)[0] for line in lines] == [
        "a",
        "long name",
        "(between)",
        "(all)",
    ]
    *parts, whole = (list(map(float, line.split()[-5:])) for line in lines)
    assert np.sum(parts, 0)[:4] == pytest.approx(whole[:4], abs=2e-4)
    assert whole[:4] == pytest.approx(
        [result.whole.terms[i].item() for i in (3, 2, 0, 1)], abs=1e-4
    )
    assert parts[-1][3:] == pytest.approx([*result.between], abs=1e-4)


def test_rows_of_the_table_differ_whatever_the_groups_are_called():
    result = few(*draw_posterior(6, 20, 3)[1:], {"all": [0, 1], "between": [2]})
    names = [line.split()[0] for line in str(result).splitlines()[1:]]
    assert names == ["all", "between", "(between)", "(all)"]


# A batch


@given(batch=batches(), data=st.data(), estimator=st.sampled_from(["mss", "mws", "inclusive"]))
def test_parts_of_a_batch_are_those_of_a_slow_loop(batch, data, estimator):
    z, mu, logvar, size = batch
    groups = data.draw(partitions(z.shape[1]))
    got = split_tc(*batch, groups, estimator=estimator, reduction="none")
    row = reference.ROWS[estimator]

    def loop(columns):
        own = (t[:, columns].tolist() for t in (z, mu, logvar))
        return torch.tensor(reference.terms(*own, size, row)[1], dtype=torch.float64)

    for name, part in groups.items():
        assert_close(got.within[name], loop(part))
    want = loop(list(range(z.shape[1]))) - sum(loop(part) for part in groups.values())
    assert_close(got.between, want)


@given(batch=batches(min_size=3), data=st.data())
def test_parts_of_a_batch_sum_to_its_total_correlation(batch, data):
    groups = data.draw(partitions(batch[0].shape[1]))
    for estimator in ("mss", "mss-jackknife", "mws"):
        got = split_tc(*batch, groups, estimator=estimator)
        want = decompose(*batch, estimator=estimator).total_correlation
        assert_close(sum(got.within.values()) + got.between, want)


@given(batch=batches())
def test_one_group_and_single_dimensions_of_a_batch(batch):
    dim, whole = batch[0].shape[1], decompose(*batch).total_correlation
    one = split_tc(*batch, {"all": range(dim)})
    assert_close(one.between, 0)
    assert_close(one.within["all"], whole)
    singles = split_tc(*batch, {str(j): [j] for j in range(dim)})
    assert_close(singles.between, whole)
    assert_close(torch.stack(list(singles.within.values())), torch.zeros(dim))


@given(problem=separated(), data=st.data())
def test_far_apart_posteriors_of_a_batch(problem, data):
    z, mu, logvar, dim = problem
    groups = data.draw(partitions(dim))
    got = split_tc(z, mu, logvar, len(z), groups)
    for name, part in groups.items():
        assert abs(got.within[name] - (len(part) - 1) * math.log(len(z))) < 1e-7
    assert abs(got.between - (len(groups) - 1) * math.log(len(z))) < 1e-7


def test_gradients():
    inputs = [t.requires_grad_() for t in draw_posterior(0, 5, 3)]

    def parts(*batch):
        split = split_tc(*batch, 100, {"a": [2, 0], "b": [1]}, validate=False)
        return split.within["a"], split.between

    torch.autograd.gradcheck(parts, inputs)


def test_a_penalty_within_a_group_leaves_the_others_alone():
    z, mu, logvar = (t.requires_grad_() for t in draw_posterior(0, 6, 4))
    criterion, groups = TCDecomposition(beta=2), {"a": [0, 1], "b": [2, 3]}
    penalty = split_tc(z, mu, logvar, 100, groups).within["a"]
    with_it = torch.autograd.grad(criterion(z, mu, logvar, 100) + penalty, (z, mu, logvar))
    without = torch.autograd.grad(criterion(z, mu, logvar, 100), (z, mu, logvar))
    for more, less in zip(with_it, without, strict=True):
        assert torch.equal(more[:, 2:], less[:, 2:])
        assert (more[:, :2] - less[:, :2]).abs().max() > 1e-3


def test_options_reach_every_part():
    z, mu, logvar = draw_posterior(0, 8, 3)
    groups, labels = {"a": [0, 1], "b": [2]}, torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    options = {"condition": labels, "reduction": "sum", "estimator": "inclusive"}
    options["kernel"] = "blocked"
    got = split_tc(z, mu, logvar, {0: 50, 1: 70}, groups, **options)
    want = decompose(z[:, :2], mu[:, :2], logvar[:, :2], {0: 50, 1: 70}, **options)
    assert_close(got.within["a"], want.total_correlation)
    whole = decompose(z, mu, logvar, {0: 50, 1: 70}, **options)
    assert_close(got.within["a"] + got.within["b"] + got.between, whole.total_correlation)
    with pytest.raises(ValueError, match="process_group must be None before"):
        split_tc(z, mu, logvar, 100, groups, process_group="world")


# Errors


@pytest.mark.parametrize(
    "groups",
    [
        {"a": range(2), "b": {2}},
        {"a": torch.tensor([1, 0]), "b": np.array([2])},
        {"a": (0, np.int64(1)), "b": iter([2])},
    ],
)
def test_any_integers_will_do(groups):
    _, mu, logvar = draw_posterior(0, 8, 3)
    want = few(mu, logvar, {"a": [0, 1], "b": [2]})
    assert_close(few(mu, logvar, groups).between.value, want.between.value)


WHAT = "groups must map 'a' to a list of dimensions, integers of 0 to 2; got "
GROUPS = {
    "list": (
        [[0, 1], [2]],
        TypeError,
        "groups must map names to lists of latent dimensions; got [",
    ),
    "none": (None, TypeError, "groups must map names to lists of latent dimensions; got None"),
    "name": ({0: [0, 1, 2]}, TypeError, "groups must have names of type str; got 0"),
    "integer": ({"a": 0}, TypeError, WHAT + "0"),
    "text": ({"a": "012"}, TypeError, WHAT + "'012'"),
    "float": ({"a": [0, 1.0, 2]}, TypeError, WHAT + "[0, 1.0, 2]"),
    "mask": ({"a": [True, False]}, TypeError, WHAT + "[True, False]"),
    "tensor mask": ({"a": torch.tensor([True, False])}, TypeError, WHAT + "tensor([ True, False])"),
    "array mask": ({"a": np.array([True, False])}, TypeError, WHAT + "array([ True, False])"),
    "negative": ({"a": [0, -1]}, ValueError, WHAT + "[0, -1]"),
    "too large": ({"a": [0, 3]}, ValueError, WHAT + "[0, 3]"),
    "empty": ({"a": [], "b": [0, 1, 2]}, ValueError, WHAT + "[]"),
    "missing": (
        {"a": [1]},
        ValueError,
        "groups must hold each of the D = 3 dimensions; [0, 2] are in none",
    ),
    "no groups": ({}, ValueError, "[0, 1, 2] are in none"),
    "doubled": (
        {"a": [0, 1], "b": [1, 2]},
        ValueError,
        "groups must hold each dimension once; [1] are in them repeatedly",
    ),
    "doubled within": ({"a": [0, 1, 2, 2]}, ValueError, "[2] are in them repeatedly"),
}


@pytest.mark.parametrize("case", GROUPS)
def test_what_is_no_partition(case):
    groups, error, text = GROUPS[case]
    z, mu, logvar = draw_posterior(0, 8, 3)
    for call in (lambda: few(mu, logvar, groups), lambda: split_tc(z, mu, logvar, 100, groups)):
        with pytest.raises(error, match=re.escape(text)):
            call()


_, MU, LOGVAR = draw_posterior(0, 8, 3)
OTHERS = {
    "samples": ((MU, LOGVAR), {"num_samples": 99}, ValueError, "num_samples must be an int >= 100"),
    "shapes": ((MU, LOGVAR[:, :2]), {}, ValueError, "mu and logvar must share one shape (M, D)"),
    "array": ((MU.numpy(), LOGVAR), {}, TypeError, "mu must be a torch.Tensor; got ndarray"),
    "nan": ((MU * math.nan, LOGVAR), {}, ValueError, "mu must be finite; got nan at row 0"),
    "prior": ((MU, LOGVAR), {"prior": 3}, TypeError, "prior must be None"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_decompose_dataset_refuses(case):
    arguments, options, error, text = OTHERS[case]
    with pytest.raises(error, match=re.escape(text)):
        decompose_groups(*arguments, {"all": range(3)}, **options)


def test_what_decompose_refuses():
    with pytest.raises(ValueError, match="z must be a sample"):
        split_tc(MU, MU, LOGVAR, 100, {"all": range(3)})
    with pytest.raises(ValueError, match="at least the batch size M = 8; got 3"):
        split_tc(MU + 1, MU, LOGVAR, 3, {"all": range(3)})
