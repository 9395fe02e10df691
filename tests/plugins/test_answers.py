"""The forms in which an encoder may answer."""

from types import SimpleNamespace

import pytest
import torch
from torch.distributions import Independent, Laplace, Normal

from tcdecomp.plugins import as_posterior

MEAN = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0))
SD = torch.rand(6, 2, 3, generator=torch.Generator().manual_seed(1)) + 0.5


@pytest.mark.parametrize(
    "answer",
    [
        SimpleNamespace(mean=MEAN, logvar=2 * SD.log()),
        SimpleNamespace(loc=MEAN, scale=SD),
        Normal(MEAN, SD),
        Independent(Normal(MEAN, SD), 2),
        Independent(Independent(Normal(MEAN, SD), 1), 1),
        SimpleNamespace(mean=MEAN.flatten(1), logvar=2 * SD.log().flatten(1)),
    ],
    ids=["mean, logvar", "loc, scale", "Normal", "Independent", "nested", "flat"],
)
def test_objects_that_hold_moments_are_flattened(answer):
    generator = torch.Generator().manual_seed(2)
    posterior = as_posterior(answer, "Model", generator=generator)
    torch.testing.assert_close(posterior.mu, MEAN.reshape(6, 6))
    torch.testing.assert_close(posterior.logvar, 2 * SD.reshape(6, 6).log())
    noise = torch.randn(6, 6, generator=generator.manual_seed(2))
    torch.testing.assert_close(posterior.z, MEAN.reshape(6, 6) + SD.reshape(6, 6) * noise)


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (Laplace(MEAN, SD), TypeError, "must be a torch Normal, .*; got Laplace"),
        (SimpleNamespace(mean=MEAN), TypeError, "got SimpleNamespace"),
        (SimpleNamespace(mean=MEAN, logvar="x"), TypeError, "got SimpleNamespace"),
        (
            SimpleNamespace(mean=MEAN, logvar=MEAN[:, :1]),
            ValueError,
            r"must share one shape \(M, D\); got \(6, 2, 3\), \(6, 1, 3\)",
        ),
        (Normal(torch.zeros(3), 1.0), ValueError, r"must share one shape \(M, D\); got \(3,\)"),
    ],
)
def test_others_are_refused(answer, error, text):
    with pytest.raises(error, match=text):
        as_posterior(answer, "Model")
