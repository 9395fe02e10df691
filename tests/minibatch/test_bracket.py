"""tcdecomp.minibatch.bracket: what two estimates from one batch say about the truth."""

import math
import warnings

import pytest
import torch
from hypothesis import given

from strategies import batches
from tcdecomp import Posterior, decompose, decompose_dataset
from tcdecomp.minibatch.bracket import Bracket
from tolerances import assert_close

TERMS = ("index_code_mi", "total_correlation", "dimension_wise_kl")


def data(size=400, dim=3, correlated=True):
    """Posteriors of a whole data set, its dimensions correlated."""
    g = torch.Generator().manual_seed(0)
    mu = torch.randn(size, dim, generator=g, dtype=torch.float64)
    if correlated:
        mu[:, 1] = 0.9 * mu[:, 0] + 0.4 * mu[:, 1]
    logvar = torch.full_like(mu, -1.5)
    return mu, logvar


def seen(batch_size, passes=4):
    """Return a bracket that has seen some passes over the data."""
    mu, logvar = data()
    g = torch.Generator().manual_seed(1)
    bracket = Bracket()
    for _ in range(passes):
        for items in torch.randperm(len(mu), generator=g).split(batch_size):
            noise = torch.randn(len(items), mu.shape[1], generator=g, dtype=mu.dtype)
            z = mu[items] + (0.5 * logvar[items]).exp() * noise
            bracket.update(z, mu[items], logvar[items], len(mu))
    return bracket


@pytest.fixture(scope="module")
def truth():
    g = torch.Generator().manual_seed(0)
    return decompose_dataset(*data(), num_samples=40_000, generator=g).terms


@pytest.mark.parametrize("batch_size", [20, 50, 100, 200])
def test_the_truth_lies_inside(truth, batch_size):
    bracket = seen(batch_size)
    for term in TERMS:
        interval = bracket.interval(term)
        assert interval.low < getattr(truth, term).item() < interval.high


def sample(mu, logvar, seed):
    return Posterior.from_moments(mu, logvar, generator=torch.Generator().manual_seed(seed)).z


def test_larger_batches_make_it_narrower():
    widths = {size: [seen(size).interval(term) for term in TERMS] for size in (20, 200)}
    for wide, narrow in zip(widths[20], widths[200], strict=True):
        assert narrow.high - narrow.low < wide.high - wide.low


def test_all_items_in_the_batch_leave_the_noise_of_the_samples_only():
    mu, logvar = data(50)
    bracket = Bracket()
    for seed in range(5):
        bracket.update(sample(mu, logvar, seed), mu, logvar, 50)
    for term in ("index_code_mi", "dimension_wise_kl"):
        lower, upper = bracket._sums[0, TERMS.index(term), 1:]
        assert_close(lower, upper)


@given(batches())
def test_one_batch_gives_the_terms_of_two_estimators(batch):
    bracket = Bracket()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        terms = bracket.update(*batch)
    want, low = decompose(*batch), decompose(*batch, estimator="inclusive")
    assert_close(torch.stack(terms), torch.stack(want))
    mi, tc, dw = map(bracket.interval, TERMS)
    assert_close([mi.low, mi.high], ends(want[0], low[0], want[0]))
    assert_close([dw.low, dw.high], ends(want[2], want[2], low[2]))
    # Of the total correlation, with the closed-form KL or with that of the samples.
    most, least = want[0] + low[2], low[0] + want[2]
    assert any(
        torch.allclose(
            torch.tensor([tc.low, tc.high]), ends(want[1], kl - most, kl - least).float()
        )
        for kl in (want.kl, want.sampled_kl)
    )


def ends(value, lower, upper):
    """Return a bracket that holds its value, of a term that is not negative."""
    return torch.stack([torch.minimum(value, lower.clamp(min=0)), torch.maximum(value, upper)])


def test_it_is_widened_by_two_standard_errors():
    mu, logvar = data(40)
    bracket, values = Bracket(), []
    for seed in range(6):
        z = sample(mu, logvar, seed)
        bracket.update(z, mu, logvar, 1000)
        values.append(decompose(z, mu, logvar, 1000).index_code_mi)
    values = torch.stack(values)
    error = values.std() / math.sqrt(6)
    assert_close(bracket.interval("index_code_mi").high, values.mean() + 2 * error)
    assert_close(bracket.interval("index_code_mi").value, values.mean())


def test_parts_merge_into_the_whole():
    mu, logvar = data(60)
    whole, parts = Bracket(), [Bracket(), Bracket()]
    for index, seed in enumerate(range(4)):
        z = sample(mu, logvar, seed)
        whole.update(z, mu, logvar, 100)
        parts[index % 2].update(z, mu, logvar, 100)
    parts[0].merge(parts[1])
    assert parts[0].num_batches == 4
    for term in TERMS:
        merged, want = parts[0].interval(term), whole.interval(term)
        assert_close([merged.low, merged.high], [want.low, want.high])


def test_a_bracket_is_of_one_data_set():
    mu, logvar = data(60)
    bracket, other = Bracket(), Bracket()
    bracket.update(sample(mu, logvar, 0), mu, logvar, 100)
    other.update(sample(mu, logvar, 1), mu, logvar, 200)
    message = "dataset_size must be the same for all batches of a Bracket; got 200 after 100"
    with pytest.raises(ValueError, match=message):
        bracket.update(sample(mu, logvar, 1), mu, logvar, 200)
    for part in (other, other.seen()):
        with pytest.raises(ValueError, match=message):
            bracket.merge(part)
    assert bracket.num_batches == 1
    with pytest.raises(TypeError, match="other must be a Bracket; got dict"):
        bracket.merge({})


def test_a_batch_too_small_is_told_once():
    mu = 100.0 * torch.arange(8.0)[:, None]
    bracket = Bracket()
    with pytest.warns(UserWarning, match=r"a batch of 8 items is too small .* log 8 = 2.08"):
        bracket.update(mu + 0.1, mu, torch.zeros(8, 1), 1000)
    bracket.update(mu + 0.1, mu, torch.zeros(8, 1), 1000)


def test_text():
    bracket = Bracket()
    assert str(bracket) == "no batches yet"
    mu, logvar = data(60)
    for count in (1, 2):
        z = sample(mu, logvar, count)
        bracket.update(z, mu, logvar, 100)
        text = str(bracket)
        assert ("an estimate from one batch of 60 items" in text) == (count == 1)
        assert (" in [" in text) == (count == 2)


def test_no_graph_is_kept():
    mu, logvar = (t.requires_grad_() for t in data(10))
    assert not Bracket().update(mu.detach() + 0.5, mu, logvar, 100).kl.requires_grad


def test_bad_input():
    bracket = Bracket()
    with pytest.raises(ValueError, match="update must have been called"):
        bracket.interval("total_correlation")
    with pytest.raises(ValueError, match=r"term must be one of 'index_code_mi', .*; got 'kl'"):
        bracket.interval("kl")
    mu, logvar = data(10)
    with pytest.raises(ValueError, match="z must be a sample"):
        bracket.update(mu, mu, logvar, 100)
    assert bracket.num_batches == 0


@pytest.mark.parametrize(
    ("option", "error"),
    [({"kl": "exact"}, ValueError), ({"kernel": "fast"}, ValueError), ({"prior": 0}, TypeError)],
)
def test_options_are_checked_when_it_is_made(option, error):
    with pytest.raises(error, match=f"{next(iter(option))} must be"):
        Bracket(**option)


def test_wide_posteriors_keep_the_value_inside_and_the_truth_nearly_always():
    """Where the closed-form KL's noise is larger than the bracket of the samples."""
    g = torch.Generator().manual_seed(0)
    mu, logvar = 2.5 * torch.randn(200, 2, generator=g), torch.full((200, 2), 0.3)
    with pytest.warns(UserWarning, match="no value below 0"):
        exact = decompose_dataset(mu.double(), logvar.double(), num_samples=40_000, generator=g)
    truth = exact.terms.total_correlation.item()
    missed = 0
    for _ in range(200):
        bracket = Bracket()
        for rows in torch.randperm(200, generator=g).split(50):
            q = Posterior.from_moments(mu[rows], logvar[rows], generator=g)
            bracket.update(*q, 200)
        interval = bracket.interval("total_correlation")
        assert interval.low <= interval.value <= interval.high
        missed += not interval.low <= truth <= interval.high
    assert missed <= 10
