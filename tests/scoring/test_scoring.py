"""score: against closed forms, loops and its parts by hand; what it leaves alone; its errors."""

import math
import re
import weakref
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Independent, Laplace, Normal
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
)

import lightning_models
from strategies import draw_posterior, grids, separated
from tcdecomp import (
    Posterior,
    decompose_dataset,
    density_mig_score,
    hookimpl,
    mig_score,
    plugins,
    score,
)
from tcdecomp.metrics import mutual_info_gap
from tcdecomp.plugins import NoAdapterError
from tcdecomp.scoring import collection
from tolerances import assert_close

SIZE, PIXELS, DIM = 60, 6, 3
FEW = {"num_samples": 128}


def images(size=SIZE, seed=0):
    """Return images with two integer factors that show in them."""
    factors = torch.stack([torch.arange(size) % 4, torch.arange(size) // 4 % 3], 1)
    x = torch.rand(size, PIXELS, generator=torch.Generator().manual_seed(seed))
    x[:, :2] += factors
    return x, factors


X, FACTORS = images()


class VAE(nn.Module):
    """A module with an encode of its own, and a mode that matters."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.BatchNorm1d(PIXELS), nn.Linear(PIXELS, 2 * DIM))
        self.seen = []

    def encode(self, x):
        self.seen.append((len(x), self.layers[0].training, torch.is_grad_enabled()))
        return self.layers(x).chunk(2, dim=1)


def moments(model=None):
    model = (model or VAE()).eval()
    with torch.no_grad():
        return model.encode(X)


def loader(*tensors, batch_size=16, **options):
    return DataLoader(TensorDataset(*(tensors or (X, FACTORS))), batch_size, **options)


def assert_same(report, expected):
    for name, value in expected.estimates().items():
        assert_close(report.estimates()[name], value, torch.float32)
    assert_close(report.latent_kl, expected.latent_kl, torch.float32)
    assert_close(report.variance, expected.variance, torch.float32)
    assert (report.mig is None) == (expected.mig is None)
    if expected.mig is not None:
        np.testing.assert_allclose(report.mig.mutual_info, expected.mig.mutual_info, atol=1e-6)


# What is computed


def test_it_is_the_parts_by_hand():
    mu, logvar = moments()
    report = score(VAE(), loader(), num_samples=500, seed=7)
    generator = torch.Generator().manual_seed(7)
    want = decompose_dataset(mu, logvar, num_samples=500, generator=generator)
    for name, value in want.terms._asdict().items():
        assert_close(report.estimates()[name].value, value, torch.float32)
        assert_close(
            report.estimates()[name].standard_error,
            getattr(want.standard_error, name),
            torch.float32,
        )
    assert report.items == SIZE
    assert report.terms.num_samples == 500
    assert report.mig.score == pytest.approx(mig_score(mu, FACTORS), abs=1e-6)


@given(seed=st.integers(0, 2**31), size=st.integers(2, 9), dim=st.integers(1, 4))
def test_kl_and_variance_of_each_latent_are_those_of_a_slow_loop(seed, size, dim):
    _, mu, logvar = draw_posterior(seed, size, dim)
    report = score((mu, logvar), **FEW)
    for j in range(dim):
        kl, column = 0.0, [mu[n, j].item() for n in range(size)]
        for n in range(size):
            v = logvar[n, j].item()
            kl += 0.5 * (column[n] ** 2 + math.exp(v) - 1 - v) / size
        mean = sum(column) / size
        assert_close(report.latent_kl[j], kl)
        assert_close(report.variance[j], sum((value - mean) ** 2 for value in column) / size)
    assert_close(report.latent_kl.sum(), report.terms.terms.kl)


@pytest.mark.parametrize("prior", [Laplace(0.3, 2.0), Normal(torch.arange(3.0).double(), 2.0)])
def test_latents_sum_to_the_kl_to_any_prior(prior):
    _, mu, logvar = draw_posterior(0, 20, 3)
    report = score((mu, logvar), prior=prior, **FEW)
    assert_close(report.latent_kl.sum(), report.terms.terms.kl)
    want = torch.distributions.kl_divergence(Normal(mu, (0.5 * logvar).exp()), prior).mean(0)
    assert_close(report.latent_kl, want)


@given(problem=grids())
def test_a_full_grid_has_no_total_correlation(problem):
    _, mu, logvar = problem
    if len(mu) < 2:
        return
    report = score((mu, logvar), **FEW)
    assert report.estimates()["index_code_mi"].value == pytest.approx(math.log(len(mu)), abs=1e-6)
    for name in ("total_correlation", "tc_active", "tc_passive", "tc_between"):
        assert report.estimates()[name].value == pytest.approx(0, abs=1e-6)


@given(problem=separated(), passive=st.integers(0, 3))
def test_total_correlation_divides_between_active_and_passive_latents(problem, passive):
    """Every latent tells which item it is: log N for each but the first of a group."""
    _, mu, logvar, active = problem
    tiny = (mu[:, :1] * 1e-7).expand(-1, passive)  # far apart for their widths all the same
    widths = torch.cat([logvar, torch.full_like(tiny, -30.0)], 1)
    report = score((torch.cat([mu, tiny], 1), widths), **FEW)
    assert report.active.tolist() == [True] * active + [False] * passive
    log_size, estimates = math.log(len(mu)), report.estimates()
    for name, multiple in (
        ("total_correlation", active + passive - 1),
        ("tc_active", active - 1),
        ("tc_passive", max(passive - 1, 0)),
        ("tc_between", min(passive, 1)),
    ):
        assert estimates[name].value == pytest.approx(multiple * log_size, abs=1e-5)


def test_the_parts_of_total_correlation_sum_to_it_and_tell_their_error():
    g = torch.Generator().manual_seed(0)
    base = torch.randn(150, 1, generator=g, dtype=torch.float64)
    mu = torch.cat([base, base, 0.09 * base, 0.09 * base], 1)
    logvar = torch.full_like(mu, -4.0)
    reports = [score((mu, logvar), num_samples=200, seed=seed) for seed in range(25)]
    parts = [[r.grouped_tc.active, r.grouped_tc.passive, r.grouped_tc.between] for r in reports]
    for report, part in zip(reports, parts, strict=True):
        assert_close(sum(p.value for p in part), report.terms.terms.total_correlation)
    between = torch.tensor([part[2] for part in parts], dtype=torch.float64)
    assert 0.6 < between[:, 0].std() / between[:, 1].mean() < 1.4
    exact = score((mu, logvar), num_samples=20_000, seed=99).grouped_tc.between.value
    assert exact > 0.2
    assert abs(between[:, 0].mean() - exact) < 4 * between[:, 0].std() / math.sqrt(25) + 1e-3


def test_nobody_or_everybody_is_active():
    _, mu, logvar = draw_posterior(0, 20, 3)
    everybody = score((mu, logvar), active_threshold=0, **FEW)
    nobody = score((mu, logvar), factors=FACTORS[:20], active_threshold=1e6, **FEW)
    total = everybody.terms.terms.total_correlation.item()
    assert [part.value for part in everybody.grouped_tc] == [total, 0, 0]
    assert [part.value for part in nobody.grouped_tc] == [0, total, 0]
    assert nobody.active_units == 0
    assert nobody.mig is not None
    assert nobody.mig_active is None


def test_a_constant_latent_is_never_active():
    codes = np.column_stack([np.full(100, 0.1), np.arange(100)])
    report = score(codes, active_threshold=0)
    assert report.variance[0] == 0
    assert report.active.tolist() == [False, True]


def test_dead_latents_are_left_out_of_the_second_mig():
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 5, (200, 2))
    codes = np.column_stack([factors, 1e-3 * rng.standard_normal((200, 6))])[:, ::-1].copy()
    report = score(codes, factors=factors)
    assert report.mig.score == mig_score(codes, factors)
    assert report.mig_active.score == mig_score(codes[:, -2:], factors)
    assert report.mig_active.score > report.mig.score + 0.02
    assert report.mig_active.latent_names == ("z6", "z7")


def test_the_mig_of_densities_is_that_of_the_posteriors():
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 5, (200, 2))
    weight = rng.integers(0, 3, 200)
    mu = torch.tensor(np.column_stack([factors, 1e-3 * rng.standard_normal((200, 2))]))
    logvar = torch.tensor([-4.0, -4.0, 0.0, 0.0]).double().expand(200, 4)
    options = {"num_samples": 100, "mig": {"sample_weight": weight}}
    report = score((mu, logvar), factors=factors, **options)
    want = density_mig_score(mu, logvar, factors, sample_weight=weight)
    assert report.density_mig.score == pytest.approx(want, abs=1e-12)
    assert report.density_mig.score > report.mig.score + 0.02
    numbers = {"discrete_factors": [True, False], "n_bins": 5}
    assert score((mu, logvar), factors=factors, num_samples=100, mig=numbers).density_mig is None


def test_posteriors_too_sharp_for_a_mig_of_densities_have_a_score():
    mu, factors = 1e6 * torch.randn(40, 2), torch.arange(40) % 4
    with pytest.warns(UserWarning, match="there is no MIG of the posterior densities: logvar must"):
        report = score((mu, torch.full((40, 2), -20.0)), factors=factors, num_samples=100)
    assert report.density_mig is None
    assert report.mig is not None


PER_LATENT = [
    {"n_bins": [5, 6, 7, 8]},
    {"discrete_codes": [True, False, False, False]},
    {"convention": "ubisoft"},
    {"correction": "miller-madow"},
]


@pytest.mark.parametrize("options", PER_LATENT)
def test_options_reach_the_gap_of_the_active_latents(options):
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 5, (2000, 2))
    codes = np.column_stack([factors, 1e-3 * rng.standard_normal((2000, 2))])
    report = score(codes, factors=factors, mig=options)
    assert report.mig.score == pytest.approx(mig_score(codes, factors, **options))
    own = {key: value[:2] if isinstance(value, list) else value for key, value in options.items()}
    assert report.mig_active.score == pytest.approx(mig_score(codes[:, :2], factors, **own))


def test_a_warning_about_the_mig_is_given_once():
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 5, (100, 1))
    codes = np.column_stack([factors * 20, 1e-3 * rng.standard_normal((100, 1))])
    codes[:, 0] += rng.integers(0, 20, 100)
    with pytest.warns(UserWarning, match="discrete_codes=True") as told:
        score(codes, factors=factors)
    texts = [str(warning.message) for warning in told]
    assert len(set(texts)) == len(texts)
    assert {warning.filename for warning in told} == {__file__}


def test_options_reach_mig_score():
    options = {"n_bins": 5, "strategy": "quantile", "discrete_factors": [True, False]}
    codes = X[:, :4]
    report = score(codes, factors=FACTORS, mig=options)
    assert report.mig.score == mig_score(codes, FACTORS, **options)
    assert report.mig.score != mig_score(codes, FACTORS)


@pytest.mark.parametrize("kind", ["array", "tensor", "list", "callable", "key"])
def test_the_terms_of_a_conditional_model_are_those_of_each_label(kind):
    labels = FACTORS[:, 1]
    ways = {
        "array": labels.numpy(),
        "tensor": labels,
        "list": labels.tolist(),
        "callable": lambda batch: batch["labels"][:, 1],
        "key": "condition",
    }
    batches = [{"x": X, "labels": FACTORS, "condition": labels}]
    report = score(VAE(), batches, inputs="x", condition=ways[kind], num_samples=300)
    mu, logvar = moments()
    generator = torch.Generator().manual_seed(0)
    want = decompose_dataset(mu, logvar, condition=labels, num_samples=300, generator=generator)
    assert_close(torch.stack(list(report.terms.terms)), torch.stack(list(want.terms)))
    assert_close(report.latent_kl, score((mu, logvar), **FEW).latent_kl, torch.float32)
    assert_close(report.latent_kl.sum(), want.terms.kl, torch.float32)
    assert report.grouped_tc is None
    assert "total correlation" in str(report)
    assert "among active" not in str(report)
    assert report.to_dict()["tc_active"] is None


def test_what_a_label_tells_is_not_in_the_terms_given_the_label():
    """Three clusters, far apart; within a cluster the latents are independent of each other."""
    labels = torch.arange(300) % 3
    mu = 20.0 * labels[:, None] + torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    posteriors = mu, torch.zeros_like(mu)
    plain = score(posteriors, num_samples=3000).estimates()["total_correlation"]
    given = score(posteriors, condition=labels, num_samples=3000).estimates()["total_correlation"]
    assert plain.value - given.value == pytest.approx(math.log(3), abs=0.1)


def test_an_array_of_labels_needs_a_loader_in_order():
    with pytest.raises(ValueError, match=r"in order where condition is an array; .* as condition"):
        score(VAE(), loader(shuffle=True), condition=FACTORS[:, 0])
    report = score(VAE(), loader(shuffle=True), condition=lambda batch: batch[1][:, 0], **FEW)
    assert report.terms is not None


@pytest.mark.parametrize("wrong", [FACTORS, FACTORS[:9, 0], FACTORS[:, 0].double()])
def test_a_condition_is_an_integer_for_each_item(wrong):
    with pytest.raises(ValueError, match="condition must hold an integer for each of the 60 items"):
        score((MU, LOGVAR), condition=wrong, **FEW)


# What can be scored


class WithNormal(VAE):
    def encode(self, x):
        mu, logvar = super().encode(x)
        return Independent(Normal(mu, (0.5 * logvar).exp()), 1)


class Holder:
    """No module, but something that holds one and can be called."""

    def __init__(self):
        self.net = VAE()

    def __call__(self, x):
        return self.net.encode(x)


def function(x):
    """A function's modules are in whatever mode they are in."""
    return Posterior(x[:, :DIM], *VAE().eval().encode(x))


MODELS = {
    "module": VAE,
    "normal": WithNormal,
    "method": lambda: VAE().encode,
    "holder": Holder,
    "function": lambda: function,
}


@pytest.mark.parametrize("kind", MODELS)
def test_models_and_callables(kind):
    assert_same(score(MODELS[kind](), loader(), **FEW), score(moments(), factors=FACTORS, **FEW))


@pytest.mark.parametrize("package", lightning_models.PACKAGES)
def test_a_lightning_vae(package):
    model = lightning_models.vae(lightning_models.framework(package))
    data = lightning_models.data()
    mu, logvar = (moment.detach() for moment in model.encoder(data.tensors[0]))
    report = score(model, lightning_models.loader(), **FEW)
    assert_same(report, score((mu, logvar), factors=data.tensors[1], **FEW))
    assert report.mig is not None


MU, LOGVAR = moments()


class Foreign:
    """An array of another library."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return np.array(self.array, dtype)


VALUES = {
    "pair": (MU, LOGVAR),
    "list": [MU, LOGVAR],
    "numpy": (MU.numpy(), LOGVAR.numpy()),
    "numpy views": (MU.numpy()[::-1].copy()[::-1], LOGVAR.numpy()),
    "graph": (MU.clone().requires_grad_() * 1, LOGVAR),
    "posterior": Posterior(MU, MU, LOGVAR),
    "foreign": (Foreign(MU.numpy()), Foreign(LOGVAR.numpy())),
    "normal": Normal(MU, (0.5 * LOGVAR).exp()),
}


@pytest.mark.parametrize("kind", VALUES)
def test_posteriors_of_the_whole_data_set(kind):
    assert_same(score(VALUES[kind], **FEW), score(VAE(), [X], **FEW))


def test_bfloat16_of_jax():
    dtype = pytest.importorskip("ml_dtypes").bfloat16  # numpy knows it as raw bytes
    given = tuple(moment.numpy().astype(dtype) for moment in (MU, LOGVAR))
    rounded = tuple(moment.bfloat16().float() for moment in (MU, LOGVAR))
    assert_same(score(given, **FEW), score(rounded, **FEW))
    assert_close(score(given[0]).variance, score(rounded[0]).variance)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, pd.DataFrame])
def test_codes_alone(kind):
    codes = MU.double().numpy()
    names = "abc" if kind is pd.DataFrame else ("z0", "z1", "z2")
    given = pd.DataFrame(codes, columns=list("abc")) if kind is pd.DataFrame else kind(codes)
    report = score(given, factors=FACTORS)
    assert report.mig.score == mig_score(codes, FACTORS)
    assert report.latent_names == report.mig.latent_names == tuple(names)
    assert_close(report.variance, codes.var(0))
    assert (report.terms, report.latent_kl, report.grouped_tc) == (None, None, None)
    assert score(given).mig is None


def test_a_function_that_a_plugin_serves_is_not_called():
    class Adapter:
        @hookimpl
        def tcdecomp_encode(self, model, batch):
            return (batch[:, :2], -batch[:, 2:4]) if model is refuse else None

    def refuse(x):
        raise AssertionError

    adapter = Adapter()
    plugins.register(adapter)
    try:
        report = score(refuse, [X], **FEW)
    finally:
        plugins.unregister(adapter)
    assert_same(report, score((X[:, :2], -X[:, 2:4]), **FEW))


EDGES = torch.stack([torch.arange(59), torch.arange(1, 60)])


class GraphVAE(VAE):
    """An encoder with two inputs, of which a loader gives both as one batch."""

    def encode(self, x, edges):
        mu, logvar = super().encode(x)
        return mu + edges.sum() * 1e-4, logvar


class Deterministic(GraphVAE):
    """Returns the means alone, as VGAE of PyTorch Geometric does in eval mode."""

    def encode(self, *inputs):
        return super().encode(*inputs)[0]


@pytest.mark.parametrize("kind", ["module", "function"])
@pytest.mark.parametrize("make", [tuple, list])
def test_an_encoder_with_several_inputs(kind, make):
    model = GraphVAE()
    mu, logvar = model.eval().encode(X, EDGES)
    given = model if kind == "module" else lambda x, edges: model.encode(x, edges)
    batches = [make((X, EDGES))]
    report = score(given, batches, inputs=lambda batch: batch, **FEW)
    assert_same(report, score((mu, logvar), **FEW))
    with pytest.raises(ValueError, match=r"cannot encode the first entry .*inputs=lambda batch: b"):
        score(given, batches, **FEW)


def test_an_encoder_of_means_alone_is_scored_as_codes():
    model = Deterministic()
    batches = [(X, EDGES, FACTORS)]
    report = score(model, batches, lambda batch: batch[2], inputs=lambda batch: batch[:2], **FEW)
    codes = model.eval().encode(X, EDGES)
    assert_close(report.variance, codes.var(0, correction=0), torch.float32)
    assert report.mig.score == mig_score(codes, FACTORS)
    assert report.terms is None
    assert "no terms: codes without log-variances" in str(report)


def test_terms_need_log_variances_in_all_batches():
    with pytest.raises(
        ValueError, match=r"log-variances must be in all batches or in none; .* batch 0"
    ):
        score(lambda x: (x, x) if len(x) < 16 else x, loader(X), **FEW)


def test_what_score_takes_in_place_of_a_model_without_adapter_is_told():
    model = nn.Linear(PIXELS, 2 * DIM)
    with pytest.raises(NoAdapterError, match=r"Or pass a function .* returns \(mu, logvar\)"):
        score(model, [X])
    report = score(lambda x: model(x).chunk(2, dim=1), [X], **FEW)
    assert report.terms is not None


def test_adapters_are_looked_for_once_where_there_is_none(monkeypatch):
    asked = []
    answer_of = collection.answer_of
    monkeypatch.setattr(collection, "answer_of", lambda *a: asked.append(a) or answer_of(*a))
    score(lambda x: (x, -x), loader(), **FEW)
    assert len(asked) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_of_the_posteriors(dtype):
    rounded = tuple(moment.to(dtype) for moment in (MU, LOGVAR))
    want = score(tuple(moment.float() for moment in rounded), **FEW)
    if dtype == torch.float64:
        want = score(tuple(moment.double() for moment in rounded), **FEW)
    assert_same(
        score(
            lambda x: (x[:, :DIM].to(dtype), x[:, DIM:].to(dtype)),
            [torch.cat([MU, LOGVAR], 1)],
            **FEW,
        ),
        want,
    )


def test_standard_deviations_in_place_of_log_variances_are_told():
    def softplus(x):
        return x[:, :DIM], nn.functional.softplus(x[:, DIM:] - 3)

    with pytest.warns(UserWarning, match="standard deviation") as told:
        score(softplus, [X], **FEW)
    assert told[0].filename == __file__
    assert "2 * std.log()" in str(told[0].message)
    score(lambda x: (softplus(x)[0], 2 * softplus(x)[1].log()), [X], **FEW)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    before = torch.cuda.get_rng_state()
    report = score(VAE().cuda(), loader(), device="cuda", num_samples=20_000)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    want = score(VAE(), loader(), num_samples=20_000)
    for name, (value, error) in want.estimates().items():
        spread = math.hypot(error, report.estimates()[name].standard_error)
        assert abs(report.estimates()[name].value - value) < 5 * spread + 1e-4
    with pytest.raises(ValueError, match=r"the model's device, cuda:0; got cpu"):
        score(VAE().cuda(), loader())


# What is taken from a batch


class Pair(NamedTuple):
    x: torch.Tensor
    other: object


BATCHES = {
    "tensor": (lambda x, v: x, None, False),
    "pair": (lambda x, v: (x, v), None, True),
    "list": (lambda x, v: [x, v], None, True),
    "three": (lambda x, v: [x, v, v], None, False),
    "named": (lambda x, v: Pair(x, "a note"), None, False),
    "real targets": (lambda x, v: (x, v.float()), None, False),
    "mapping": (lambda x, v: {"image": x, "factors": v}, lambda batch: batch["image"], True),
    "words": (
        lambda x, v: {"image": x, "factors": [f"{a} {b}" for a, b in v.tolist()]},
        lambda batch: batch["image"],
        True,
    ),
    "second": (lambda x, v: (v, x), lambda batch: batch[1], False),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_inputs_and_factors_of_a_batch(kind):
    make, inputs, has_factors = BATCHES[kind]
    batches = [make(x, v) for x, v in zip(X.split(25), FACTORS.split(25), strict=True)]
    report = score(VAE(), batches, inputs=inputs, **FEW)
    factors = FACTORS if has_factors else None
    if kind == "words":
        factors = [f"{a} {b}" for a, b in FACTORS.tolist()]
    assert_same(report, score(moments(), factors=factors, **FEW))


def test_a_mapping_goes_to_the_model_whole():
    def model(batch):
        return batch["mu"], batch["logvar"]

    report = score(model, [{"mu": MU, "logvar": LOGVAR}], **FEW)
    assert_same(report, score((MU, LOGVAR), **FEW))


FACTOR_SOURCES = {
    "callable": lambda batch: batch[1],
    "numpy": FACTORS.numpy(),
    "tensor": FACTORS,
    "list": FACTORS.tolist(),
    "vector": FACTORS[:, 0],
    "frame": pd.DataFrame({"shape": FACTORS[:, 0], "size": list("abc" * 20)}),
    "frames": lambda batch: pd.DataFrame(batch[1].numpy()),
}


@pytest.mark.parametrize("kind", FACTOR_SOURCES)
def test_factors_that_are_given(kind):
    given = FACTOR_SOURCES[kind]
    report = score(VAE(), loader(), given, **FEW)
    want = mutual_info_gap(moments()[0], FACTORS if callable(given) else given)
    np.testing.assert_allclose(report.mig.mutual_info, want.mutual_info, atol=1e-6)
    assert kind != "frame" or report.mig.factor_names == ("shape", "size")


def test_missing_values_beside_words_are_found():
    batches = [{"x": X, "factors": ["a", math.nan] * 30}]
    with pytest.raises(ValueError, match="factors must have no NaN, infinite or missing values"):
        score(VAE(), batches, inputs=lambda batch: batch["x"])


def test_factors_of_one_value_are_left_out_only_where_they_were_found():
    constant = torch.cat([FACTORS[:, :1], torch.ones_like(FACTORS[:, :1])], 1)
    with pytest.warns(UserWarning, match=r"score leaves the factors \[1\] out of the MIG") as told:
        report = score(VAE(), loader(X, constant), **FEW)
    assert told[0].filename == __file__
    assert len(report.mig.gaps) == 1
    with pytest.warns(UserWarning, match=r"factors \[0\] out"):
        report = score(VAE(), loader(X, constant[:, 1]), **FEW)
    assert report.mig is None
    assert str(report).endswith("no MIG: no factors found that a MIG can use")
    with pytest.raises(ValueError, match="factors must take at least two values"):
        score(VAE(), loader(X, constant), lambda batch: batch[1])


def test_a_shuffling_loader_with_factors_in_its_batches():
    report = score(VAE(), loader(shuffle=True), num_samples=2000)
    want = score(VAE(), loader(), num_samples=2000)
    np.testing.assert_allclose(report.mig.mutual_info, want.mig.mutual_info, atol=1e-6)
    assert_close(report.latent_kl, want.latent_kl, torch.float32)


DATA = TensorDataset(X, FACTORS)


class Odd(BatchSampler):
    pass


UNORDERED = {
    "RandomSampler": {"shuffle": True},
    "SubsetRandomSampler": {"sampler": SubsetRandomSampler(range(SIZE))},
    "Odd": {"batch_sampler": Odd(SequentialSampler(DATA), 16, False)},
    # The loader's own sampler is a SequentialSampler then, which it does not use.
    "RandomSampler ": {"batch_sampler": BatchSampler(RandomSampler(DATA), 16, False)},
    "list": {"batch_sampler": [[0, 1], [2, 3]]},
}


@pytest.mark.parametrize("kind", UNORDERED)
def test_an_array_of_factors_needs_a_loader_in_order(kind):
    batches = DataLoader(DATA, **UNORDERED[kind])
    with pytest.raises(
        ValueError, match=f"a DataLoader with a {kind.strip()}. Pass a function of a batch"
    ):
        score(VAE(), batches, FACTORS)


IN_ORDER = BatchSampler(SequentialSampler(DATA), 16, False)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 16},
        {"batch_sampler": IN_ORDER},
        {"batch_size": None, "sampler": IN_ORDER},
    ],
)
def test_loaders_in_order(options):
    report = score(VAE(), DataLoader(DATA, **options), FACTORS, **FEW)
    assert_same(report, score(moments(), factors=FACTORS, **FEW))


def test_two_batches_are_a_list_or_a_stream():
    want = score(moments(), **FEW)
    for batches in (list(X.split(30)), iter(X.split(30)), X.split(20)):
        assert_same(score(VAE(), batches, **FEW), want)


def test_a_stream_of_batches():
    class Stream(IterableDataset):
        def __iter__(self):
            return zip(X.split(20), FACTORS.split(20), strict=True)

    want = score(moments(), factors=FACTORS, **FEW)
    assert_same(score(VAE(), Stream(), **FEW), want)
    assert_same(score(VAE(), DataLoader(Stream(), batch_size=None), **FEW), want)
    assert_same(score(VAE(), iter(loader()), **FEW), want)


MAPPINGS = [{"image": x, "labels": v} for x, v in zip(X.split(25), FACTORS.split(25), strict=True)]


def test_keys_of_a_mapping():
    report = score(VAE(), MAPPINGS, "labels", inputs="image", **FEW)
    assert_same(report, score(moments(), factors=FACTORS, **FEW))


@pytest.mark.parametrize(
    ("batches", "inputs"),
    [(MAPPINGS, "image"), ([(X, FACTORS, FACTORS)], None), ([(X, FACTORS.float())], None)],
)
def test_factors_that_are_not_recognised_are_named(batches, inputs):
    last = str(score(VAE(), batches, inputs=inputs, **FEW)).splitlines()[-1]
    assert last.startswith("no MIG: no factors found in the batches, each a ")
    remedy = '"labels"' if isinstance(batches[0], dict) else "lambda batch: batch[1]"
    assert f"factors={remedy}" in last
    named = score(VAE(), batches, eval(remedy), inputs=inputs, **FEW)
    assert_same(named, score(moments(), factors=FACTORS, **FEW))


def test_a_mapping_that_the_model_does_not_take_whole():
    message = r"VAE cannot encode a batch .* with the keys 'image', 'labels'; .*inputs=\"image\""
    with pytest.raises(ValueError, match=message):
        score(VAE(), MAPPINGS, **FEW)


def test_an_index_in_the_batches_is_no_factor():
    batches = loader(X, torch.randperm(SIZE))
    with pytest.warns(UserWarning, match=r"leaves the factors \[0\] .*factors=False says") as told:
        report = score(VAE(), batches, **FEW)
    assert report.mig is None
    assert told[0].filename == __file__
    assert score(VAE(), batches, factors=False, **FEW).mig is None
    quantity = {"factors": lambda batch: batch[1], "mig": {"discrete_factors": False}}
    assert score(VAE(), batches, **quantity, **FEW).mig is not None


def test_factors_keep_their_names_beside_an_index():
    mixed = torch.cat([torch.arange(SIZE)[:, None], FACTORS], 1)
    with pytest.warns(UserWarning, match=r"leaves the factors \[0\] out"):
        report = score(VAE(), loader(X, mixed), **FEW)
    assert report.mig.factor_names == ("v1", "v2")


def test_edges_are_no_factors():
    report = score(lambda x: (x, -x), [(X, EDGES)], **FEW)
    assert "Tensor (2, 59) of int64" in str(report)
    assert report.mig is None


# What is left alone


def test_nothing_of_a_batch_is_kept_but_posterior_and_factors():
    """Of views, too: mu, logvar and the factors are columns of the batch here."""
    alive, kept = [], []

    def batches():
        for _ in range(8):
            batch = torch.cat([X.repeat(1, 50), FACTORS], 1)
            alive.append(weakref.ref(batch.untyped_storage()))
            yield batch
            del batch
            kept.append(sum(reference() is not None for reference in alive))

    def model(batch):
        return batch[:, :2], -batch[:, 2:4]

    report = score(model, batches(), lambda batch: batch[:, -2:], **FEW)
    assert kept == [1] * 8
    assert report.items == 8 * SIZE


def modes(model):
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: model.encode])
@pytest.mark.parametrize("fails", [False, True])
def test_every_submodule_is_back_in_its_mode(wrap, fails):
    model = VAE().train()
    model.layers[1].eval()
    before, state = modes(model), {k: v.clone() for k, v in model.state_dict().items()}
    batches = [X[:20], X[20:40, :3] if fails else X[20:40]]
    if fails:
        with pytest.raises(RuntimeError):
            score(wrap(model), batches, **FEW)
    else:
        score(wrap(model), batches, **FEW)
        assert model.seen == [(20, False, False)] * 2  # rows, training, gradient
    assert modes(model) == before
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])


def test_a_module_that_something_holds_is_evaluated():
    holder = Holder()
    score(holder, [X], **FEW)
    assert holder.net.seen == [(SIZE, False, False)]
    assert holder.net.training


class Drawing(VAE):
    def encode(self, x):
        torch.rand(3)
        return Posterior.from_moments(*super().encode(x))


def test_torchs_global_generator_is_left_alone():
    model = Drawing()
    before = torch.get_rng_state()
    score(model, loader(shuffle=True), **FEW)  # the loader draws from it as well
    score((MU, LOGVAR), **FEW)
    score(Normal(MU, 1.0), **FEW)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_score_repeats():
    one, two = (score(Drawing(), loader(), **FEW).to_dict() for _ in range(2))
    assert one == two


def test_another_seed_is_another_sample():
    one, two = (score((MU, LOGVAR), seed=seed, **FEW).estimates() for seed in (0, 1))
    assert one["total_correlation"] != two["total_correlation"]
    assert one["kl"] == two["kl"]


# Devices


class Movable:
    """A batch of a kind of its own, which can move itself."""

    def __init__(self, x, moves=()):
        self.x, self.moves = x, moves

    def to(self, device):
        return Movable(self.x, (*self.moves, device))


def test_inputs_are_moved_in_whatever_they_come():
    def model(batch):
        assert batch["pair"].x.moves == batch["pair"].other[0].moves == ("cpu",)
        assert batch["text"] == "left alone"
        return batch["mu"], batch["mu"]

    pair = Pair(Movable(1), [Movable(2)])
    batch = {"mu": MU, "pair": pair, "text": "left alone"}
    score(model, [batch], device="cpu", **FEW)
    assert pair.x.moves == ()


@pytest.mark.parametrize("wrapped", [lambda x: x, lambda x: {"x": [x]}])
def test_a_batch_on_another_device_is_told_of_with_both(wrapped):
    class Meta(VAE):
        def encode(self, batch):
            return super().encode(batch if isinstance(batch, torch.Tensor) else batch["x"][0])

    message = r"on the model's device, meta; got cpu. score\(..., device=\"meta\"\) moves them"
    with pytest.raises(ValueError, match=message):
        score(Meta().to("meta"), [wrapped(X)])


def test_other_errors_of_a_model_pass_as_they_are():
    with pytest.raises(RuntimeError, match="running_mean"):
        score(VAE(), [X[:, :3]])


# Errors


def nan_in_batch_1(x):
    return (x * (math.nan if len(x) < 16 else 1), x)


NOT_A_MODEL = "score takes a model and batches; or without batches a Posterior"
CALLS = {
    "no batches": ((VAE(),), {}, TypeError, f"{NOT_A_MODEL}, .* got a VAE and .* NoneType"),
    "values and batches": (((MU, LOGVAR), [X]), {}, TypeError, f"{NOT_A_MODEL}, .* got a tuple"),
    "codes and batches": ((MU, [X]), {}, TypeError, f"{NOT_A_MODEL}, .* got a Tensor .* list"),
    "a number": ((3,), {}, TypeError, f"{NOT_A_MODEL}, .* got a int"),
    "nothing in a list": (([],), {}, TypeError, f"{NOT_A_MODEL}, .* got a list"),
    "no encoder": ((nn.Linear(6, 4), [X]), {}, NoAdapterError, r"a method encode\(batch\)"),
    "nothing to call": ((SimpleNamespace(), [X]), {}, NoAdapterError, "SimpleNamespace"),
    "a tensor of batches": ((VAE(), X), {}, TypeError, r"got Tensor. A single batch x is \[x\]"),
    "a pair of tensors": (
        (VAE(), (X, FACTORS)),
        {},
        TypeError,
        r"got a pair of arrays. Of a data set \(x, y\) pass DataLoader\(TensorDataset\(x, y\), ",
    ),
    "a pair of arrays": ((VAE(), (X.numpy(), FACTORS.numpy())), {}, TypeError, "got a pair of arr"),
    "a data set of one tensor": (
        (VAE(), X),
        {},
        TypeError,
        r"data set x pass DataLoader\(x, batch",
    ),
    "indices that differ": (
        (pd.DataFrame(MU), None, pd.DataFrame(FACTORS, index=range(SIZE, 0, -1))),
        {},
        ValueError,
        "factors must have the same index as codes",
    ),
    "a mapping of batches": ((VAE(), {"x": X}), {}, TypeError, "batches must be .* got dict"),
    "a number of batches": ((VAE(), 3), {}, TypeError, "batches must be .* got int"),
    "a data set": ((VAE(), DATA), {}, TypeError, "got a TensorDataset. Pass a DataLoader of it"),
    "an empty loader": ((VAE(), []), {}, ValueError, "batches must yield at least one batch"),
    "one item": ((VAE(), [X[:1]]), {}, ValueError, "score needs at least two items; got 1"),
    "one code": ((MU[:1],), {}, ValueError, "score needs at least two items; got 1"),
    "nan": ((nan_in_batch_1, loader()), {}, ValueError, "mu must be finite; got nan at row 48"),
    "infinite": (((MU, LOGVAR + math.inf),), {}, ValueError, "logvar must be finite; got inf"),
    "nan codes": ((MU * math.nan,), {}, ValueError, "codes must have no NaN"),
    "three values": (((MU, LOGVAR, MU),), {}, TypeError, r"a \(mu, logvar\) pair; got 3"),
    "shapes": (
        ((MU, LOGVAR[:9]),),
        {},
        ValueError,
        r"share one shape \(M, D\); got \(60, 3\), \(9",
    ),
    "whole numbers": (
        ((FACTORS, FACTORS),),
        {},
        TypeError,
        "floating-point dtype; got torch.int64",
    ),
    "flat codes": ((MU[:, 0],), {}, ValueError, r"codes must have shape \(n, columns\)"),
    "an answer of another kind": (
        (lambda x: x[:, 0], [X]),
        {},
        TypeError,
        r"<lambda> must give a Posterior, .*: got Tensor",
    ),
    "another width": (
        (lambda x: (x, x), [X, X[:, :2]]),
        {},
        ValueError,
        r"must have equally many columns .* \(60, 6\) in batch 0 and \(60, 2\) in batch 1",
    ),
    "too few factors": ((VAE(), [X], FACTORS[:9]), {}, ValueError, "one row .*; got 60 and 9 rows"),
    "factors of a batch too few": (
        (VAE(), [(X, FACTORS[:9])], lambda batch: batch[1]),
        {},
        ValueError,
        r"factors must have shape \(60,\) or \(60, K\) in a batch of 60 items; got .*9, 2",
    ),
    "factors in some": (
        (VAE(), [(X, FACTORS), X]),
        {},
        ValueError,
        "factors must be in all batches or in none; got none in batch 1",
    ),
    "factors of two widths": (
        (VAE(), [(X, FACTORS), (X, FACTORS[:, 0])]),
        {},
        ValueError,
        r"factors must have equally many columns .* \(60, 2\) in batch 0 and \(60,\) in batch 1",
    ),
    "no factors": (
        (VAE(), [(X, FACTORS), X], lambda batch: None if batch is X else batch[1]),
        {},
        ValueError,
        "factors must be in all batches or in none; got none in batch 1",
    ),
    "a callable without batches": (
        (MU,),
        {"factors": len},
        TypeError,
        "factors must be an array without batches; got a callable",
    ),
    "inputs without batches": ((MU,), {"inputs": len}, TypeError, "inputs must be None without"),
    "a device without batches": (
        (MU,),
        {"device": "cpu"},
        TypeError,
        "device must be None without",
    ),
    "a device that there is not": (
        (VAE(), [X]),
        {"device": "gpu"},
        ValueError,
        "device must be one that torch has here, such as \"cpu\"; got 'gpu': ",
    ),
    "a data frame for batches": (
        (VAE(), pd.DataFrame(X)),
        {},
        TypeError,
        "batches must be a DataLoader or another iterable of batches; got DataFrame",
    ),
    "a class for the model": ((VAE, [X]), {}, TypeError, "model must be .*; got the class VAE"),
    "prior": ((MU,), {"prior": 3}, TypeError, "prior must be None"),
    "a class for the prior": ((MU,), {"prior": Normal}, TypeError, "prior must .*class Normal"),
    "few samples": ((MU,), {"num_samples": 3}, ValueError, "num_samples must be an int >= 100"),
    "seed": ((MU,), {"seed": 1.5}, TypeError, "seed must be an int; got 1.5"),
    "a bool for a seed": ((MU,), {"seed": True}, TypeError, "seed must be an int; got True"),
    "threshold": ((MU,), {"active_threshold": -1}, ValueError, "active_threshold must be finite"),
    "nan threshold": ((MU,), {"active_threshold": math.nan}, ValueError, "finite .*; got nan"),
    "a word": ((MU,), {"active_threshold": "1"}, TypeError, "must be a number; got str"),
    "mig": (
        (MU,),
        {"mig": 20},
        TypeError,
        "mig must be a mapping of options of mig_score; got int",
    ),
    "mig option": ((MU,), {"mig": {"bins": 9}}, TypeError, r"\(n_bins, .*\); got \['bins'\]"),
    "mig value": ((MU, None, FACTORS), {"mig": {"n_bins": 1}}, ValueError, "n_bins must be"),
}


@pytest.mark.parametrize("case", CALLS)
def test_errors(case):
    arguments, options, error, text = CALLS[case]
    with pytest.raises(error, match=re.compile(text, re.DOTALL)):
        score(*arguments, **options)


def test_three_tensors_in_another_order_are_doubted():
    generator = torch.Generator().manual_seed(0)
    mu = 3 * torch.randn(60, 4, generator=generator)
    z, _, logvar = Posterior.from_moments(mu, torch.full_like(mu, -2.0), generator=generator)
    message = "are read in the order z, mu, logvar, but z does not look like a sample"
    with pytest.warns(UserWarning, match=message):
        score(lambda _: (mu, logvar, z), [X], **FEW)
    score(lambda _: (z, mu, logvar), [X], **FEW)  # silent


@pytest.mark.parametrize("options", [{"num_samples": 3}, {"prior": 3}, {"active_threshold": -1}])
def test_options_are_refused_before_the_model_has_run(options):
    model = VAE()
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        score(model, loader(), **options)
    assert model.seen == []
