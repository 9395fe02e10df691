"""DensityRatioTC: against known total correlations, and which parameters its gradients reach."""

import math
from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tcdecomp import DensityRatioTC
from tcdecomp.density_ratio import permute_dimensions

RHO = 0.8
RING = 0.2  # the standard deviation of the noise around the unit circle


def gaussian(rho, noise):
    """Return samples (M, 2) of two standard normal variables with correlation rho."""
    first, second = noise.T
    return torch.stack([first, rho * first + (1 - rho**2) ** 0.5 * second], 1)


def ring(rows, generator, dtype=torch.float32):
    angle = 2 * math.pi * torch.rand(rows, generator=generator, dtype=dtype)
    noise = torch.randn(rows, 2, generator=generator, dtype=dtype)
    return torch.stack([angle.cos(), angle.sin()], 1) + RING * noise


def ring_tc():
    """The total correlation of the ring: 2 h(x) - h(x, y), with both densities on a grid."""
    axis = torch.linspace(-4, 4, 401, dtype=torch.float64)
    radius = torch.hypot(axis[:, None], axis)
    bessel = torch.special.i0e(radius / RING**2)
    joint = bessel * (-((radius - 1) ** 2) / (2 * RING**2)).exp() / (2 * math.pi * RING**2)
    cell = float(axis[1] - axis[0])
    marginal = joint.sum(1) * cell
    torch.testing.assert_close(float(marginal.sum()) * cell, 1.0, atol=1e-6, rtol=0)
    return float(torch.xlogy(joint, joint / (marginal[:, None] * marginal)).sum()) * cell**2


class BestOfGaussian(nn.Module):
    """The best logit for the correlated pair: log N(z; 0, R) - log N(z; 0, I)."""

    def __init__(self, rho):
        super().__init__()
        self.rho = rho

    def forward(self, z):
        inverse = torch.linalg.inv(torch.tensor([[1, self.rho], [self.rho, 1]], dtype=z.dtype))
        ratio = z.square().sum(1) - torch.einsum("mi,ij,mj->m", z, inverse, z)
        return 0.5 * ratio - 0.5 * math.log(1 - self.rho**2)


def best(rho=RHO):
    ratio = DensityRatioTC(2, width=1, depth=1)
    ratio.discriminator = BestOfGaussian(rho)
    return ratio


def trained(draw, steps=500):
    """A discriminator trained on fresh samples, and its estimate from 20,000 more."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ratio = DensityRatioTC(2, width=64, depth=2)
    optimizer = torch.optim.Adam(ratio.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = ratio.loss(draw(256, generator), draw(256, generator), generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return ratio.estimate(draw(20_000, generator)).item()


def test_the_best_discriminator_gives_the_closed_form():
    noise = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0)).double()
    truth = -0.5 * math.log(1 - RHO**2)
    assert best().estimate(gaussian(RHO, noise)).item() == pytest.approx(truth, abs=0.01)


def test_the_gradient_is_that_of_the_closed_form():
    noise = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0)).double()
    rho = torch.tensor(RHO, dtype=torch.float64, requires_grad=True)
    best().estimate(gaussian(rho, noise)).backward()
    assert rho.grad.item() == pytest.approx(RHO / (1 - RHO**2), rel=0.02)


@pytest.mark.parametrize(("scale", "high"), [(1, False), (2, True)])
def test_an_estimate_that_lags_may_be_too_low_or_too_high(scale, high):
    """The codes have moved to a correlation of 0.95, and to another scale."""
    noise = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0)).double()
    old, new = 0.9, 0.95
    truth = -0.5 * math.log(1 - new**2)
    # The mean of the old logit: E z_i^2 = scale^2, E z_1 z_2 = scale^2 * new.
    expected = scale**2 * (old * new - old**2) / (1 - old**2) - 0.5 * math.log(1 - old**2)
    assert (expected > truth) == high
    estimate = best(old).estimate(scale * gaussian(new, noise)).item()
    assert estimate == pytest.approx(expected, abs=0.01)


def test_training_reaches_the_gaussian_closed_form():
    def draw(rows, generator):
        return gaussian(RHO, torch.randn(rows, 2, generator=generator))

    assert trained(draw) == pytest.approx(-0.5 * math.log(1 - RHO**2), abs=0.05)


def test_training_reaches_the_ring_whose_dimensions_are_uncorrelated():
    assert trained(ring) == pytest.approx(ring_tc(), abs=0.05)


def test_the_grid_of_the_ring_is_its_sampled_density():
    """By samples, from the density as a mean over angles."""
    z = ring(4000, torch.Generator().manual_seed(1), torch.float64)
    angles = 2 * math.pi * torch.arange(720, dtype=torch.float64) / 720
    centres = torch.stack([angles.cos(), angles.sin()], 1)
    log_parts = -((z[:, None] - centres) ** 2) / (2 * RING**2) - math.log(RING)
    log_joint = log_parts.sum(2).logsumexp(1) - math.log(720)
    log_marginals = (log_parts.logsumexp(1) - math.log(720)).sum(1)
    # The normalizers 1 / sqrt(2 pi) cancel.
    ratios = log_joint - log_marginals
    assert ring_tc() > 0.2
    assert ratios.mean().item() == pytest.approx(ring_tc(), abs=4 * ratios.std().item() / 4000**0.5)


def test_each_step_leaves_the_other_alone():
    ratio = DensityRatioTC(3, width=8, depth=1)
    z = torch.randn(16, 3, requires_grad=True)
    ratio.estimate(z).backward()
    assert z.grad.abs().sum() > 0
    assert all(p.grad is None for p in ratio.parameters())
    z.grad = None
    ratio.loss(z, z).backward()
    assert z.grad is None
    assert all(p.grad.abs().sum() > 0 for p in ratio.parameters())


def test_an_estimate_leaves_the_buffers_alone():
    ratio = DensityRatioTC(3, width=8, depth=1)
    ratio.discriminator = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    z = torch.randn(16, 3) + 5
    before = [buffer.clone() for buffer in ratio.buffers()]
    estimate = ratio.estimate(z)
    assert all(map(torch.equal, ratio.buffers(), before))
    torch.testing.assert_close(estimate, ratio.discriminator(z).mean())  # by the batch's moments
    assert not any(map(torch.equal, ratio.buffers(), before))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("of_network", [torch.float64, torch.float32, torch.bfloat16])
def test_z_may_have_another_dtype_than_the_discriminator(dtype, of_network):
    exact = DensityRatioTC(3, width=8, depth=1).to(of_network).double()
    ratio = deepcopy(exact).to(of_network)
    z = torch.randn(16, 3).to(dtype).requires_grad_()
    double = z.detach().double().requires_grad_()
    tolerance = {"atol": 2e-2, "rtol": 2e-2, "check_dtype": False}
    seeds = [torch.Generator().manual_seed(1) for _ in range(2)]
    got = ratio.estimate(z), ratio.loss(z, z, generator=seeds[0])
    expected = exact.estimate(double), exact.loss(double, double, generator=seeds[1])
    torch.testing.assert_close(got, expected, **tolerance)
    assert {value.dtype for value in got} == {torch.promote_types(of_network, torch.float32)}
    got[0].backward()
    expected[0].backward()
    assert z.grad.dtype == dtype
    torch.testing.assert_close(z.grad, double.grad, **tolerance)


def test_under_autocast_means_are_taken_in_float32():
    ratio = DensityRatioTC(3, width=8, depth=1)
    z = torch.randn(16, 3)
    with torch.autocast("cpu", torch.bfloat16):
        got = ratio.estimate(z.bfloat16()), ratio.loss(z, z)
    assert {value.dtype for value in got} == {torch.float32}
    torch.testing.assert_close(got[0], ratio.estimate(z), atol=2e-2, rtol=2e-2)


def test_the_loss_is_the_mean_of_two_cross_entropies():
    ratio = DensityRatioTC(3, width=8, depth=2).double()
    z, other = torch.randn(2, 16, 3, dtype=torch.float64)
    loss = ratio.loss(z, other, generator=torch.Generator().manual_seed(3))
    permuted = permute_dimensions(other, torch.Generator().manual_seed(3))
    joint, product = (ratio.discriminator(rows).sigmoid() for rows in (z, permuted))
    expected = -(joint.log().mean() + (1 - product).log().mean()) / 2
    torch.testing.assert_close(loss, expected)


def test_a_discriminator_that_knows_nothing_loses_log_2():
    ratio = DensityRatioTC(2, width=4, depth=1)
    nn.init.zeros_(ratio.discriminator.logit.weight)
    nn.init.zeros_(ratio.discriminator.logit.bias)
    z = torch.randn(8, 2)
    assert ratio.loss(z, z).item() == pytest.approx(math.log(2))
    assert ratio.estimate(z).item() == 0


def test_the_default_is_the_network_of_the_paper():
    sizes = [p.shape for p in DensityRatioTC(10).parameters() if p.dim() == 2]
    assert sizes == [(1000, 10), *[(1000, 1000)] * 5, (1, 1000)]


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**31))
def test_permutation_keeps_the_values_of_each_dimension(rows, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, dim, generator=generator)
    permuted = permute_dimensions(z, generator)
    assert torch.equal(permuted.sort(dim=0).values, z.sort(dim=0).values)


def test_permutation_makes_the_dimensions_independent():
    column = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    permuted = permute_dimensions(column.expand(-1, 3), torch.Generator().manual_seed(1))
    correlation = torch.corrcoef(permuted.T) - torch.eye(3)
    assert correlation.abs().max() < 4 / 20_000**0.5
    assert not torch.equal(permuted[:, 0], column[:, 0])


def test_a_generator_fixes_the_permutation_and_spares_the_global_one():
    z = torch.randn(20, 3)
    before = torch.get_rng_state()
    one, two = (permute_dimensions(z, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"latents": 0}, ValueError, "latents must be an int >= 1; got 0"),
        ({"latents": 2.0}, TypeError, "latents must be an int >= 1; got 2.0"),
        ({"latents": 2, "width": 0}, ValueError, "width must be an int >= 1; got 0"),
        ({"latents": 2, "depth": True}, TypeError, "depth must be an int >= 1; got True"),
    ],
)
def test_options_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        DensityRatioTC(**arguments)


@pytest.mark.parametrize(
    ("z", "error", "message"),
    [
        ([[0.0, 1.0]], TypeError, "z must be a torch.Tensor; got list"),
        (torch.ones(4, 2, dtype=torch.long), TypeError, "z must have a floating-point dtype"),
        (torch.ones(4, 3), ValueError, r"z must have shape \(M, 2\) with M >= 1; got \(4, 3\)"),
        (torch.ones(2), ValueError, r"z must have shape \(M, 2\) with M >= 1; got \(2,\)"),
        (torch.ones(0, 2), ValueError, r"z must have shape \(M, 2\) with M >= 1; got \(0, 2\)"),
    ],
)
def test_z_is_checked(z, error, message):
    ratio = DensityRatioTC(2, width=4, depth=1)
    with pytest.raises(error, match=message):
        ratio.estimate(z)
    with pytest.raises(error, match=message):
        ratio.loss(z, torch.ones(4, 2))


def test_one_row_cannot_be_permuted():
    ratio = DensityRatioTC(2, width=4, depth=1)
    with pytest.raises(ValueError, match=r"z_other must have shape \(M, 2\) with M >= 2; got"):
        ratio.loss(torch.ones(4, 2), torch.ones(1, 2))


def test_a_discriminator_of_two_logits_is_refused():
    ratio = DensityRatioTC(2, width=4, depth=1)
    ratio.discriminator = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"one logit for each row.*got \(4, 2\) for M = 4"):
        ratio.estimate(torch.ones(4, 2))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_are_finite(value):
    ratio, z = DensityRatioTC(2, width=4, depth=1), torch.tensor([[0.0, value], [0.0, 1.0]])
    with pytest.raises(ValueError, match=f"z must be finite; got {value} at row 0, column 1"):
        ratio.estimate(z)
    with pytest.raises(ValueError, match="z_other must be finite"):
        ratio.loss(torch.ones(4, 2), z)
