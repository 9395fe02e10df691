"""Audits of code as it stands in repositories: N in a constructor, TC alone, or a weighted loss."""

import math

import pytest
import torch
from torch import nn

import public_faults as code
from tcdecomp import TCDecomposition, audit
from tcdecomp.auditor import subject

PUBLIC = code.counted_per_dimension(code.wrong_columns)
FIRST = code.weighted_by(code.paper_weights(code.CHOICES["first"]))
FIXED, UNUSED, ORDER = "N is fixed", "N is not used", code.ORDER


@pytest.fixture(autouse=True)
def _short_study(monkeypatch):
    for name, value in {"BATCHES": 8, "BATCH_SIZE": 31, "SAMPLES": 256}.items():
        monkeypatch.setattr(subject, name, value)


def names(result, kind):
    return {verdict.name for verdict in result.verdicts if verdict.kind == kind}


def named(result, name):
    (verdict,) = (v for v in result.verdicts if v.name == name)
    return verdict


class Terms:
    """N is an argument of the constructor, and a fourth argument of the call is ignored."""

    def __init__(self, function, dataset_size):
        self.function, self.dataset_size = function, dataset_size

    def __call__(self, z, mu, logvar, _=None):
        return self.function(z, mu, logvar, self.dataset_size)


class Loss(nn.Module):
    """A weighted beta-TCVAE loss."""

    def __init__(self, function, dataset_size, alpha=1.0, beta=6.0, gamma=1.0):
        super().__init__()
        self.terms = Terms(function, dataset_size)
        self.register_buffer("weights", torch.tensor([alpha, beta, gamma]))

    def forward(self, z, mu, logvar):
        return torch.stack(list(self.terms(z, mu, logvar))) @ self.weights


def weighted(function, alpha=1.0, beta=6.0, gamma=1.0):
    """The loss of code that takes N."""

    def loss(z, mu, logvar, total):
        mi, tc, dimension_wise_kl = function(z, mu, logvar, total)
        return alpha * mi + beta * tc + gamma * dimension_wise_kl

    return loss


def tc_of(function):
    return lambda *inputs: function(*inputs)[1]


# N that is fixed


@pytest.mark.parametrize(
    ("function", "size", "estimator", "faults", "remarks"),
    [
        (code.mss, 737_280, "symmetric MSS", set(), {FIXED}),
        (code.library("mss-jackknife"), 60_000, "MSS with jackknife", set(), {FIXED}),
        (FIRST, 200, "MSS of the paper", set(), {FIXED, ORDER}),
        (code.mws, 162_770, "MWS", {"constant missing"}, {FIXED}),
        (code.public, 60_000, "MSS in the wrong columns", {"inclusive in disguise"}, None),
    ],
)
def test_n_of_a_constructor_is_found(function, size, estimator, faults, remarks):
    result = audit(Terms(function, size))
    assert (result.estimator, names(result, "fault")) == (estimator, faults)
    assert names(result, "remark") == (remarks or {FIXED, ORDER})
    (found,) = {w.dataset_size for w in result.weights}
    assert found == pytest.approx(size, rel=1e-5 if size > 100_000 else 0)
    told = {200: "200", 60_000: "about 60,000", 162_770: "about 162,800", 737_280: "about 737,300"}
    assert f"N is fixed at {told[size]}: " in named(result, FIXED).sentence
    assert result.study is None


def test_the_remedy_for_a_fixed_n_works():
    result = audit(lambda z, mu, logvar, n: Loss(code.mss, n)(z, mu, logvar), returns="loss")
    assert (result.estimator, result.ok, names(result, "remark")) == ("symmetric MSS", True, set())


def test_code_that_needs_no_n_has_no_fixed_one():
    result = audit(Terms(code.inclusive, 60_000))
    assert (result.estimator, names(result, "fault")) == ("inclusive", {"inclusive"})
    assert names(result, "remark") == {UNUSED}
    assert "the code was called without N" in named(result, UNUSED).sentence


def test_an_unknown_form_with_a_fixed_n_is_judged_by_that_n():
    result = audit(Terms(code.corrected, 60_000))
    assert (result.estimator, names(result, "fault")) == ("unknown", set())
    assert names(result, "remark") == {"unknown form", UNUSED}
    wrong = code.misread(lambda v: v[:1].expand_as(v))
    sentence = named(audit(Terms(wrong, 60_000)), "unknown form").sentence
    assert "every component has its own mu and logvar" in sentence
    assert "weights are wrong" not in sentence


# The total correlation alone


@pytest.mark.parametrize(
    ("function", "estimator", "faults", "remarks"),
    [
        (code.mss, "symmetric MSS", set(), set()),
        (code.with_closed_form_kl(1), "symmetric MSS", set(), set()),
        (code.clamped(), "symmetric MSS", set(), {"perhaps clamped at 0"}),
        (code.unweighted, "no weights", {"constant missing"}, set()),
        (code.leave_one_out, "leave-one-out", {"own component left out"}, set()),
        (PUBLIC, "MSS in the wrong columns", {"inclusive in disguise", "weights counted D times"},
         {ORDER}),
        (code.scaled(lambda size, dim: size), "symmetric MSS", {"summed over the batch"}, set()),
        (code.signed(1, -1, 1), "symmetric MSS", {"sign flipped"}, set()),
        (code.underflow, "symmetric MSS", {"underflow in many dimensions"}, set()),
        (code.corrected, "unknown", set(), {"unknown form"}),
        (code.gradient_times(1, 1, -1), "symmetric MSS", {"gradient wrong"}, set()),
    ],
)  # fmt: skip
def test_the_total_correlation_alone(function, estimator, faults, remarks):
    result = audit(tc_of(function), returns="tc")
    assert (result.estimator, names(result, "fault")) == (estimator, faults)
    assert names(result, "remark") == remarks


def test_another_term_than_the_total_correlation_is_named():
    sentence = named(
        audit(lambda *inputs: code.mss(*inputs)[0], returns="tc"), "terms in the wrong order"
    ).sentence
    assert sentence == "The code returns index_code_mi instead of total_correlation."


def test_a_total_correlation_that_is_off_is_not_cleared():
    result = audit(lambda *inputs: code.mss(*inputs)[1] + 0.01, returns="tc")
    assert names(result, "fault") == {"unknown form"}


def test_the_report_of_one_answer_has_one_row():
    report = str(audit(tc_of(code.mss), returns="tc"))
    assert "total_correlation " in report
    assert "index_code_mi" not in report


# A weighted loss


@pytest.mark.parametrize(
    ("loss", "estimator", "faults", "remarks", "weights"),
    [
        (TCDecomposition(beta=6), "symmetric MSS", set(), set(), (1, 6, 1)),
        (TCDecomposition(alpha=-1, beta=4, gamma=2, estimator="mws"), "MWS", {"constant missing"},
         set(), (-1, 4, 2)),
        (TCDecomposition(beta=6, reduction="sum"), "symmetric MSS", {"summed over the batch"},
         set(), (1, 6, 1)),
        (weighted(PUBLIC), "MSS in the wrong columns",
         {"inclusive in disguise", "weights counted D times"}, {ORDER}, (1, 6, 1)),
        (weighted(code.misread(lambda v: 0.5 * v), 0.5, 2), "symmetric MSS",
         {"log-variance misread"}, set(), (0.5, 2, 1)),
        (weighted(code.detached_tc), "symmetric MSS", set(), {"gradient cut"}, (1, 6, 1)),
        (weighted(code.gradient_times(0, 1, 1)), "symmetric MSS", {"gradient wrong"}, set(),
         (1, 6, 1)),
    ],
)  # fmt: skip
def test_the_weights_of_a_loss_are_measured(loss, estimator, faults, remarks, weights):
    result = audit(loss, returns="loss")
    assert (result.estimator, names(result, "fault")) == (estimator, faults)
    assert names(result, "remark") == remarks
    assert result.loss == pytest.approx(weights, rel=1e-3)
    assert f"loss: {weights[0]:.4g} MI + {weights[1]:.4g} TC" in str(result)


def test_a_loss_with_equal_weights_is_the_kl():
    result = audit(TCDecomposition(alpha=2, beta=2, gamma=2), returns="loss")
    assert (result.estimator, result.ok, result.weights) == ("none", True, ())
    assert result.verdicts[0].name == "plain KL"


def test_a_loss_of_an_unknown_form_is_not_cleared():
    result = audit(weighted(code.corrected), returns="loss")
    assert (result.estimator, names(result, "fault"), result.loss) == (
        "unknown",
        {"unknown form"},
        None,
    )
    assert "total correlation, on its own" in named(result, "unknown form").remedy


@pytest.mark.parametrize(("size", "told"), [(500, "500"), (50_000, "about 50,000")])
def test_a_loss_with_n_in_its_constructor(size, told):
    result = audit(Loss(code.mss, size, beta=4), returns="loss")
    assert (result.estimator, names(result, "fault")) == ("symmetric MSS", set())
    assert names(result, "remark") == {FIXED}
    assert f"N is fixed at {told}:" in named(result, FIXED).sentence
    assert result.loss == pytest.approx((1, 4, 1), rel=1e-3)


class WarmingUp(Loss):
    """A loss whose weights grow with the number of calls, in train mode."""

    steps = 0

    def forward(self, z, mu, logvar):
        self.steps += self.training
        return super().forward(z, mu, logvar) * (min(self.steps / 1000, 1) if self.training else 1)


def test_a_warm_up_is_no_form_and_its_remedy_works():
    loss = WarmingUp(code.mss, 500)
    verdicts = audit(loss, returns="loss").verdicts
    assert [verdict.name for verdict in verdicts] == ["unknown form", "not repeatable"]
    assert "as a warm-up does" in verdicts[1].sentence
    result = audit(loss.eval(), returns="loss")
    assert (result.estimator, names(result, "fault")) == ("symmetric MSS", set())


# How code is called


class WithSize(nn.Module):
    def forward(self, z, mu, logvar, dataset_size):
        return code.mss(z, mu, logvar, dataset_size)


def test_a_module_gets_n_where_its_forward_takes_it():
    assert audit(WithSize()).verdicts[0].name == "unbiased"
    assert names(audit(WithSize()), "remark") == set()


@pytest.mark.parametrize(
    "function", [lambda z: z, lambda z, mu, logvar, n, beta: z, nn.Linear(2, 2)]
)
def test_other_signatures_are_refused(function):
    with pytest.raises(TypeError, match=r"must take \(z, mu, logvar, N\) or \(z, mu, logvar\); it"):
        audit(function)


@pytest.mark.parametrize(
    ("result", "got"),
    [
        ((1.0, 2.0, 3.0), "tuple"),
        ({"loss": 1.0}, "dict"),
        (torch.ones(2, 3), r"shape \(2, 3\) for M = 7"),
        (True, "bool"),
    ],
)
@pytest.mark.parametrize("returns", ["tc", "loss"])
def test_one_number_is_wanted_of_code_that_returns_one(result, got, returns):
    with pytest.raises(TypeError, match=rf'with returns="{returns}"; got {got}\.'):
        audit(lambda *inputs: result, returns=returns)


def test_what_code_returns_is_one_of_three():
    with pytest.raises(ValueError, match='returns must be "terms", "tc" or "loss"; got \'kl\''):
        audit(code.mss, returns="kl")
    with pytest.raises(TypeError, match=r'got Tensor\..*pass returns="tc"'):
        audit(tc_of(code.mss))


def test_a_loss_that_is_not_finite_is_told():
    result = audit(lambda *inputs: math.nan * code.mss(*inputs)[0], returns="loss")
    assert names(result, "fault") == {"not finite"}
