"""Sites as items, against loops over the weights of the design and against decompose itself."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Laplace, MultivariateNormal, Normal

import reference
import tcdecomp
from strategies import batches, draw_posterior
from tcdecomp import TCDecomposition, Terms, decompose
from tcdecomp.kernels import log_sum
from tcdecomp.kernels.components import Components
from tolerances import assert_close

ESTIMATORS = ("mss", "mws", "inclusive", lambda others, size: (0.3, 0.1))
M, C, H, W, N = 3, 2, 2, 2, 20
S = H * W


def images(size=M, shape=(H, W), seed=0, dtype=torch.float64):
    """Return a batch of shape (size, C, *shape)."""
    flat = draw_posterior(seed, size, C * math.prod(shape), dtype)
    return tuple(t.view(size, C, *shape) for t in flat)


def decompose_sites(z, mu, logvar, size, **options):
    """Call the function, with sequences as (M, C, T)."""
    return tcdecomp.decompose_sites(
        z, mu, logvar, size, **({"channels_last": False} if z.dim() == 3 else {}), **options
    )


def rows(*tensors):
    """Return a row for each site, image after image, by indices."""
    return tuple(
        torch.stack([t.flatten(2)[m, :, s] for m in range(len(t)) for s in range(t[0, 0].numel())])
        for t in tensors
    )


def row_of_sites(i, count, dataset_size, sites=S):
    """The table of DESIGN: 1/(N S) on the own image's sites, (N-1)/(N (M-1) S) on all others."""
    size = count // sites
    other = (dataset_size - 1) / (dataset_size * (size - 1) * sites)
    return [1 / (dataset_size * sites) if k // sites == i // sites else other for k in range(count)]


@pytest.mark.parametrize("kernel", ["dense", "blocked", "auto"])
def test_terms_follow_their_definition(kernel):
    batch = images()
    flat = rows(*batch)
    got = decompose_sites(*batch, N, reduction="none", kernel=kernel)
    want = reference.terms(*(t.tolist() for t in flat), N, row_of_sites)
    assert isinstance(got, Terms)
    for term, expected in zip(got[:3], want, strict=True):
        assert term.shape == (M, H, W)
        assert_close(term.flatten(), expected)
    assert_close(got.kl.flatten(), reference.kl(*(t.tolist() for t in flat[1:])))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(batch=batches())
def test_one_site_is_decompose(estimator, batch):
    z, mu, logvar, size = batch
    spatial = (t[:, :, None, None] for t in (z, mu, logvar))
    got = decompose_sites(*spatial, size, estimator=estimator)
    assert_close(torch.stack(got), torch.stack(decompose(*batch, estimator=estimator)))


@pytest.mark.parametrize("estimator", ["mss", "inclusive"])
@given(seed=st.integers(0, 2**31), shape=st.sampled_from([(3,), (2, 2), (1, 3), (2, 1, 2)]))
def test_all_images_are_the_data_set_of_all_sites(estimator, seed, shape):
    batch = images(4, shape, seed)
    got = decompose_sites(*batch, 4, estimator=estimator)
    want = decompose(*rows(*batch), 4 * math.prod(shape))
    assert_close(torch.stack(got), torch.stack(want))


def test_mss_is_unbiased_over_all_batches():
    size, batch = 5, 3
    z, mu, logvar = images(size)
    flat = rows(z, mu, logvar)
    log_qz = log_sum(flat[0], Components(*flat[1:]), keep="all")[0] - math.log(size * S)
    own = Normal(flat[1], (0.5 * flat[2]).exp()).log_prob(flat[0]).sum(1)
    for image in range(size):
        estimates = []
        for chosen in map(list, reference.batches_with(image, size, batch)):
            part = (t[chosen] for t in (z, mu, logvar))
            terms = decompose_sites(*part, size, reduction="none")
            estimates.append((-terms.index_code_mi[chosen.index(image)].flatten()).exp())
        at = slice(image * S, (image + 1) * S)
        mean = own[at].exp() * torch.stack(estimates).mean(0)
        assert_close(mean, log_qz[at].exp())


@pytest.mark.parametrize("estimator", ["mss", "inclusive"])
@given(size=st.integers(2, 5), more=st.integers(0, 9), shape=st.sampled_from([(3,), (2, 3)]))
def test_weights_sum_to_one(estimator, size, more, shape):
    """Where all posteriors are one, q(z) is that one, and the mixture tells nothing."""
    z, *_ = images(size, shape)
    mu, logvar = (t[:1, :, :1].expand_as(z) for t in (torch.zeros_like(z), torch.ones_like(z)))
    terms = decompose_sites(z, mu, logvar, size + more, estimator=estimator, reduction="none")
    assert_close(terms.index_code_mi, torch.zeros(size, *shape))
    assert_close(terms.total_correlation, torch.zeros(size, *shape))


# Laws


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_terms_sum_to_the_sampled_kl(estimator):
    z, mu, logvar = images()
    terms = decompose_sites(z, mu, logvar, N, estimator=estimator, reduction="none", kl="sampled")
    log_qz_n = Normal(mu, (0.5 * logvar).exp()).log_prob(z).sum(1)
    assert_close(terms.sampled_kl, log_qz_n - Normal(0.0, 1.0).log_prob(z).sum(1))
    assert terms.kl is None


@given(st.permutations(range(M)), st.permutations(range(S)), st.permutations(range(C)))
def test_no_order_matters(order, places, channels):
    batch = images(shape=(S,))
    moved = (t[list(order)][:, list(channels)][..., list(places)] for t in batch)
    got = decompose_sites(*moved, N, reduction="none")
    want = decompose_sites(*batch, N, reduction="none")
    for term, expected in zip(got, want, strict=True):
        assert_close(term, expected[list(order)][..., list(places)])


def test_information_is_at_most_that_of_image_and_place():
    """Far-apart posteriors tell all: log(N S), and log M S where the batch is the data set."""
    centres = 1000.0 * torch.arange(M * S, dtype=torch.float64).view(M, 1, H, W)
    z, *_ = images()
    mu = centres.expand(M, C, H, W)
    options = {"estimator": "inclusive"}
    logvar = torch.zeros_like(mu)
    terms = decompose_sites(mu + z, mu, logvar, N)
    assert_close(terms.index_code_mi, math.log(N * S))
    assert_close(decompose_sites(mu + z, mu, logvar, N, **options).index_code_mi, math.log(M * S))


@pytest.mark.parametrize("kernel", ["dense", "blocked"])
def test_reductions(kernel):
    batch = images()
    terms = [decompose_sites(*batch, N, reduction=r, kernel=kernel) for r in ("mean", "sum")]
    each = decompose_sites(*batch, N, reduction="none", kernel=kernel)
    for mean, total, single in zip(*terms, each, strict=True):
        assert_close(mean, single.mean())
        assert_close(total, single.sum())


def test_kl_of_an_image_is_that_of_its_sites():
    batch = images()
    sites = decompose_sites(*batch, N).kl
    assert_close(S * sites, decompose(*(t.flatten(1) for t in batch), N).kl)
    assert_close(TCDecomposition().weigh(decompose_sites(*batch, N)), sites)


def test_a_prior_over_the_channels():
    z, mu, logvar = images()
    prior = Laplace(torch.tensor([0.0, 1.0], dtype=torch.float64), 2.0)
    got = decompose_sites(z, mu, logvar, N, prior=prior, reduction="none")
    plain = decompose_sites(z, mu, logvar, N, reduction="none")
    log_prior = prior.log_prob(z.movedim(1, -1)).sum(-1)
    gaussian = Normal(0.0, 1.0).log_prob(z).sum(1)
    assert_close(got.dimension_wise_kl, plain.dimension_wise_kl + gaussian - log_prior)
    assert_close(got.total_correlation, plain.total_correlation)


# Gradients, precision, memory


@pytest.mark.parametrize("kernel", ["dense", "blocked"])
def test_gradients(kernel):
    inputs = [t.requires_grad_() for t in images(2, (2,))]
    torch.autograd.gradcheck(
        lambda *batch: tuple(decompose_sites(*batch, N, kernel=kernel)), inputs
    )


def test_half_precision_autocast_and_strides():
    batch = images(dtype=torch.bfloat16)
    want = decompose_sites(*(t.double() for t in batch), N)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = decompose_sites(*batch, N)
    assert got.total_correlation.dtype == torch.float32
    assert_close(torch.stack(got), torch.stack(want), torch.bfloat16)
    last = (t.contiguous(memory_format=torch.channels_last) for t in batch)
    assert_close(torch.stack(decompose_sites(*last, N)), torch.stack(got), torch.float32)


def test_a_prior_that_a_layer_makes_is_not_lowered_by_autocast():
    torch.manual_seed(0)
    batch, layer = images(dtype=torch.float32), torch.nn.Linear(2, 2 * C)

    def prior():
        loc, scale = layer(torch.ones(2)).chunk(2)
        return Normal(loc, scale.exp())

    want = decompose_sites(*batch, N, prior=prior)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = decompose_sites(*batch, N, prior=prior)
    assert torch.equal(torch.stack(got), torch.stack(want))


def test_blocked_keeps_no_matrix_of_pairs():
    """What autograd holds between forward and backward is linear in the number of sites."""
    batch = [t.requires_grad_() for t in images(16, (8, 8), dtype=torch.float32)]
    kept = {}
    for kernel in ("blocked", "dense", "auto"):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t
        ):
            terms = decompose_sites(*batch, 100, kernel=kernel)
        terms.total_correlation.backward()
        kept[kernel] = max(sizes)
    pairs = (16 * 64) ** 2
    assert kept["blocked"] <= 16 * 64 * C
    assert kept["auto"] <= 16 * 64 * C
    assert kept["dense"] >= pairs


@pytest.mark.parametrize("kernel", ["dense", "blocked"])
def test_a_nan_that_nobody_looks_at_comes_out(kernel):
    z, mu, logvar = images()
    mu = mu.clone()
    mu[1, 0, 1, 1] = math.nan
    terms = decompose_sites(z, mu, logvar, N, validate=False, kernel=kernel)
    assert all(term.isnan() for term in terms)


# Errors

Z, MU, LOGVAR = images()
MANY = "z, mu and logvar must share one shape (M, C, ...) with dimensions of sites, and must not be"
CASES = {
    "flat": (
        (Z[..., 0, 0], MU[..., 0, 0], LOGVAR[..., 0, 0]),
        {},
        ValueError,
        f"{MANY} empty; got",
    ),
    "shapes": (
        (Z, MU[:, :1], LOGVAR),
        {},
        ValueError,
        "got (3, 2, 2, 2), (3, 1, 2, 2), (3, 2, 2, ",
    ),
    "empty": ((Z[..., :0], MU[..., :0], LOGVAR[..., :0]), {}, ValueError, "got (3, 2, 2, 0)"),
    "array": ((Z, MU.numpy(), LOGVAR), {}, TypeError, "mu must be a torch.Tensor; got ndarray"),
    "integers": ((Z, MU, LOGVAR.long()), {}, TypeError, "logvar must have a floating-point dtype"),
    "devices": ((Z, MU.to("meta"), LOGVAR), {}, ValueError, "must be on one device; got cpu, meta"),
    "mean": ((MU, MU, LOGVAR), {}, ValueError, "z must be a sample from N(mu, exp(logvar)); got z"),
    "nan": ((Z, MU * math.nan, LOGVAR), {}, ValueError, "mu must be finite; got nan at row 0"),
    "jackknife": (
        (Z, MU, LOGVAR),
        {"estimator": "mss-jackknife"},
        ValueError,
        "estimator must not be 'mss-jackknife' where an item has several rows",
    ),
    "estimator": (
        (Z, MU, LOGVAR),
        {"estimator": "x"},
        ValueError,
        "estimator must be one of 'mss'",
    ),
    "N of sites": (
        (Z, MU, LOGVAR),
        {"dataset_size": 2},
        ValueError,
        "at least the batch size M = 3; got 2",
    ),
    "N float": ((Z, MU, LOGVAR), {"dataset_size": 9.0}, TypeError, "dataset_size must be an int"),
    "one image": ((Z[:1], MU[:1], LOGVAR[:1]), {}, ValueError, "must have M >= 2 rows"),
    "kl": ((Z, MU, LOGVAR), {"kl": "open"}, ValueError, "kl must be one of"),
    "reduction": ((Z, MU, LOGVAR), {"reduction": "max"}, ValueError, "reduction must be one of"),
    "kernel": ((Z, MU, LOGVAR), {"kernel": "fast"}, ValueError, "kernel must be one of"),
    "joint prior": (
        (Z, MU, LOGVAR),
        {"prior": MultivariateNormal(torch.zeros(C), torch.eye(C))},
        ValueError,
        "prior must factorise over the D = 2 latent dimensions",
    ),
    "no closed form": (
        (Z, MU, LOGVAR),
        {"prior": torch.distributions.StudentT(4.0)},
        ValueError,
        'prior must have a closed-form KL from a Normal in torch.distributions when kl="closed"',
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_errors(case):
    batch, options, error, text = CASES[case]
    options = {"dataset_size": N, **options}
    with pytest.raises(error, match=re.escape(text)):
        decompose_sites(*batch, options.pop("dataset_size"), **options)


# Sequences: a mask, and the channels last


def test_padding_counts_for_nothing():
    """A sequence's terms are those of its own steps, whatever is behind them."""
    z, mu, logvar = draw_posterior(0, 5, 2)
    steps = torch.tensor([3, 2])
    mask = torch.arange(4) < steps[:, None]
    padded = []
    for tensor, filler in ((z, math.nan), (mu, 1e30), (logvar, -math.inf)):
        full = torch.full((2, 4, 2), filler, dtype=tensor.dtype)
        full[mask] = tensor
        padded.append(full)
    got = tcdecomp.decompose_sites(*padded, N, mask=mask, channels_last=True, reduction="none")
    items = torch.tensor([0, 0, 0, 1, 1])
    want = decompose(z, mu, logvar, N, items=items, reduction="none")
    for term, expected in zip(got, want, strict=True):
        assert_close(term[mask], expected)
        assert (term[~mask] == 0).all()
    mean = tcdecomp.decompose_sites(*padded, N, mask=mask, channels_last=True)
    assert_close(torch.stack(mean), torch.stack(want).mean(1))


def test_padding_gets_no_gradient():
    z, mu, logvar = (t.view(2, 3, 2).requires_grad_() for t in draw_posterior(0, 6, 2))
    mask = torch.tensor([[True, True, False], [True, True, True]])
    terms = tcdecomp.decompose_sites(z, mu, logvar, N, mask=mask, channels_last=True)
    for gradient in torch.autograd.grad(terms.total_correlation, (z, mu, logvar)):
        assert (gradient[~mask] == 0).all()
        assert (gradient[mask] != 0).any()


def test_channels_last_is_the_same_with_the_dimensions_moved():
    batch = images()
    want = decompose_sites(*batch, N, reduction="none")
    moved = (t.movedim(1, -1) for t in batch)
    got = tcdecomp.decompose_sites(*moved, N, channels_last=True, reduction="none")
    for term, expected in zip(got, want, strict=True):
        assert_close(term, expected)


MASK = torch.ones(M, H, W, dtype=torch.bool)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"mask": MASK.float()}, TypeError, "mask must be a torch.Tensor of dtype bool"),
        ({"mask": MASK[:, :1]}, ValueError, r"shape of the sites, \(3, 2, 2\), .*got \(3, 1, 2\)"),
        ({"mask": MASK & (torch.arange(M) != 1)[:, None, None]}, ValueError, "image 1 has none"),
    ],
)
def test_masks_that_are_none(options, error, text):
    with pytest.raises(error, match=text):
        tcdecomp.decompose_sites(*images(), N, **options)


def test_three_dimensions_must_say_where_the_channels_are():
    batch = [t.flatten(2) for t in images()]
    with pytest.raises(ValueError, match="channels_last=True for 2 sites of 4 channels, False"):
        tcdecomp.decompose_sites(*batch, N)
