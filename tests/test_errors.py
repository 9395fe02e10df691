"""Bad input: which error, and its text. Every weight meets the same checks."""

import math
import re

import numpy as np
import pytest
import torch
from torch.distributions import (
    Bernoulli,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    Uniform,
)
from torch.distributions import Categorical as Cat

from strategies import draw_posterior
from tcdecomp import TCDecomposition, decompose

Z, MU, LOGVAR = draw_posterior(seed=0, size=8, dim=3, dtype=torch.float32)
ONE = (Z[:1], MU[:1], LOGVAR[:1])


def with_value(tensor, value):
    tensor = tensor.clone()
    tensor[3, 2] = value
    return tensor


N_IS = "the number N of items of the data set that the batch was drawn from"
CALLS = {
    "shapes": (
        (Z, MU[:, :2], LOGVAR, 100),
        ValueError,
        "z, mu and logvar must share one shape (M, D); got (8, 3), (8, 2), (8, 3)",
    ),
    "rank": (
        (Z[0], MU[0], LOGVAR[0], 100),
        ValueError,
        "z, mu and logvar must share one shape (M, D); got (3,), (3,), (3,)",
    ),
    "samples of logvar": (
        (Z[None], MU, LOGVAR[None], 100),
        ValueError,
        "z, mu and logvar must share one shape (M, D); got (1, 8, 3), (8, 3), (1, 8, 3)",
    ),
    "empty": (
        (Z[:0], MU[:0], LOGVAR[:0], 100),
        ValueError,
        "z, mu and logvar must not be empty; got shape (0, 3)",
    ),
    "no dimensions": (
        (Z[:, :0], MU[:, :0], LOGVAR[:, :0], 100),
        ValueError,
        "z, mu and logvar must not be empty; got shape (8, 0)",
    ),
    "data set for N": (
        (Z, MU, LOGVAR, torch.utils.data.TensorDataset(Z)),
        TypeError,
        f"dataset_size must be an int, {N_IS}; got a TensorDataset. Pass len(dataset), or "
        "len(loader.dataset)",
    ),
    "array": (
        (Z, MU.numpy(), LOGVAR, 100),
        TypeError,
        "mu must be a torch.Tensor; got ndarray. Pass torch.as_tensor(mu)",
    ),
    "integers": (
        (Z, MU, LOGVAR.long(), 100),
        TypeError,
        "logvar must have a floating-point dtype; got torch.int64",
    ),
    "devices": (
        (Z, MU.to("meta"), LOGVAR, 100),
        ValueError,
        "z, mu and logvar must be on one device; got cpu, meta, cpu",
    ),
    "nan": (
        (Z, with_value(MU, math.nan), LOGVAR, 100),
        ValueError,
        "mu must be finite; got nan at row 3, column 2",
    ),
    "infinite": (
        (Z, MU, with_value(LOGVAR, -math.inf), 100),
        ValueError,
        "logvar must be finite; got -inf at row 3, column 2",
    ),
    "mean for sample": (
        (MU, MU, LOGVAR, 100),
        ValueError,
        "z must be a sample from N(mu, exp(logvar)); got z equal to mu, as a VAE in eval mode "
        "returns it. Draw one with z = Posterior.from_moments(mu, logvar).z",
    ),
    "N float": ((Z, MU, LOGVAR, 10.0), TypeError, f"an int, {N_IS}; got 10.0 (float)"),
    "N bool": ((Z, MU, LOGVAR, True), TypeError, f"an int, {N_IS}; got True (bool)"),
    "N None": ((Z, MU, LOGVAR, None), TypeError, f"an int, {N_IS}; got None (NoneType)"),
    "N small": (
        (Z, MU, LOGVAR, 7),
        ValueError,
        f"dataset_size must be {N_IS}, at least the batch size M = 8; got 7",
    ),
    "N missing": ((Z, MU, LOGVAR), TypeError, "'dataset_size'"),
    "one row": (
        (*ONE, 100),
        ValueError,
        "z, mu and logvar must have M >= 2 rows for estimator 'mss' when dataset_size is above M; "
        "got M = 1 with dataset_size 100. A DataLoader with drop_last=True makes no small last "
        "batch",
    ),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "weights", [{}, {"beta": 6.0}, {"alpha": 0.0, "beta": 0.0, "gamma": 0.0}, {"gamma": 0.0}]
)
def test_every_weight_meets_the_same_checks(call, weights):
    arguments, error, text = CALLS[call]
    with pytest.raises(error, match=re.escape(text)):
        TCDecomposition(**weights)(*arguments)


@pytest.mark.parametrize("call", CALLS)
def test_decompose_refuses_the_same(call):
    arguments, error, text = CALLS[call]
    with pytest.raises(error, match=re.escape(text)):
        decompose(*arguments)


@pytest.mark.parametrize("size", [np.int64(100), torch.tensor(100)])
def test_any_integer_is_a_size(size):
    want = decompose(Z, MU, LOGVAR, 100)
    assert decompose(Z, MU, LOGVAR, size) == want


OPTIONS = {
    "estimator": (
        "mmm",
        ValueError,
        "estimator must be one of 'mss', 'mss-jackknife', 'mws', 'inclusive', or a",
    ),
    "estimator type": (3, TypeError, "estimator must be a name or a callable"),
    "kl": ("open", ValueError, "kl must be one of 'closed', 'sampled'; got 'open'"),
    "reduction": ("max", ValueError, "reduction must be one of 'mean', 'sum', 'none'; got 'max'"),
    "kernel": (
        "fast",
        ValueError,
        "kernel must be one of 'auto', 'dense', 'blocked', 'linear', 'triton'; got 'fast'",
    ),
    "prior": ("normal", TypeError, "prior must be None (standard normal), a torch Distribution"),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_unknown_options(option):
    value, error, text = OPTIONS[option]
    keyword = {option.split()[0]: value}
    with pytest.raises(error, match=re.escape(text)):
        TCDecomposition(**keyword)
    with pytest.raises(error, match=re.escape(text)):
        decompose(Z, MU, LOGVAR, 100, **keyword)


@pytest.mark.parametrize("result", [None, (1, 2, 3), (-1.0, 1.0), (0, 0), (math.nan, 1), ("a", 1)])
def test_an_estimator_must_return_weights(result):
    with pytest.raises(ValueError, match=r"two finite weights \(own, other\) >= 0, not both 0"):
        decompose(Z, MU, LOGVAR, 100, estimator=lambda others, size: result)


WEIGHTS = {
    "alpha nan": ({"alpha": math.nan}, ValueError, "alpha must be finite; got nan"),
    "beta negative": ({"beta": -1}, ValueError, "beta must be finite and at least 0; got -1"),
    "gamma negative": ({"gamma": -0.5}, ValueError, "gamma must be finite and at least 0; got -"),
    "beta infinite": ({"beta": math.inf}, ValueError, "beta must be finite and at least 0; got i"),
    "beta text": ({"beta": "6"}, TypeError, "beta must be a number; got str"),
    "beta bool": ({"beta": True}, TypeError, "beta must be a number; got bool"),
    "beta tensor": ({"beta": torch.tensor(6.0)}, TypeError, "beta must be a number; got Tensor"),
    "typo": ({"betta": 6}, TypeError, "betta"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights(case):
    keywords, error, text = WEIGHTS[case]
    with pytest.raises(error, match=re.escape(text)):
        TCDecomposition(**keywords)


def test_a_weight_set_later_is_checked_when_used():
    criterion = TCDecomposition(beta=6)
    terms = criterion.decompose(Z, MU, LOGVAR, 100)
    criterion.beta = math.nan
    for call in (
        lambda: criterion(Z, MU, LOGVAR, 100),
        lambda: criterion.weigh(terms),
        lambda: criterion.excess(terms),
    ):
        with pytest.raises(ValueError, match="beta must be finite"):
            call()


TWO = Normal(torch.zeros(3, 2), torch.ones(3, 2))
PRIORS = {
    "joint": (
        MultivariateNormal(torch.zeros(3), torch.eye(3)),
        ValueError,
        "prior must factorise over the D = 3 latent dimensions, like Normal with batch shape "
        "(3,); got MultivariateNormal with batch shape () and event shape (3,)",
    ),
    "other size": (Normal(torch.zeros(4), 1.0), ValueError, "got Normal with batch shape (4,)"),
    "one per item, of other rows": (
        Normal(torch.zeros(7, 3), 1.0),
        ValueError,
        "prior must have batch shape (3,), or (8, 3) for a prior of each row; got Normal with "
        "batch shape (7, 3)",
    ),
    "no closed form": (
        MixtureSameFamily(Cat(torch.ones(3, 2)), TWO),
        ValueError,
        'closed-form KL from a Normal in torch.distributions when kl="closed"; MixtureSameFamily '
        'has none. decompose and TCDecomposition take kl="sampled"',
    ),
    "other device": (
        Normal(torch.zeros(3, device="meta"), torch.ones(3, device="meta"), validate_args=False),
        ValueError,
        "prior must be on the device of z, cpu; got meta",
    ),
    "bounded": (
        Uniform(-1.0, 1.0),
        ValueError,
        "prior must have a density on all real numbers, as z has; got Uniform",
    ),
    "discrete": (
        Bernoulli(torch.tensor(0.5)),
        ValueError,
        "prior must have a density on all real numbers, as z has; got Bernoulli",
    ),
    "half precision": (
        Normal(torch.zeros(3).bfloat16(), torch.ones(3).bfloat16()),
        ValueError,
        "prior must have parameters of float32 or float64; got torch.bfloat16",
    ),
    "callable": (
        lambda: 3,
        TypeError,
        "prior must return a torch Distribution when called; got int",
    ),
}


@pytest.mark.parametrize("case", PRIORS)
@pytest.mark.parametrize("beta", [1, 6])
def test_priors(case, beta):
    prior, error, text = PRIORS[case]
    with pytest.raises(error, match=re.escape(text)):
        TCDecomposition(beta=beta, prior=prior)(Z, MU, LOGVAR, 100)


def test_an_estimator_must_weigh_the_only_component():
    with pytest.raises(ValueError, match=r"own > 0 where there is no other; got .* for 0 others"):
        decompose(*ONE, 100, estimator=lambda others, size: (0.0, 1.0))


def test_a_sample_that_its_dtype_rounds_to_the_mean_is_no_mean():
    sharp = torch.full_like(MU, -20.0)
    assert TCDecomposition(beta=6)(MU.bfloat16(), MU.bfloat16(), sharp, 100).isfinite()


def test_heavy_tailed_prior_is_sampled():
    terms = decompose(Z, MU, LOGVAR, 100, prior=StudentT(4.0), kl="sampled")
    assert terms.kl is None
    assert all(term.isfinite() for term in terms[:3])


def test_validate_false_looks_at_no_value():
    assert TCDecomposition(beta=6, validate=False)(MU, MU, LOGVAR, 100).isfinite()
    with pytest.raises(ValueError, match="one device"):
        TCDecomposition(beta=6, validate=False)(MU, MU, LOGVAR.to("meta"), 100)
