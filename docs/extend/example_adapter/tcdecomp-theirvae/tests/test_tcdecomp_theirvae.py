"""The adapter holds to tcdecomp's contract, and means what theirvae means."""

import pytest
import torch
from theirvae import TheirVAE, fit

from tcdecomp import TCDecomposition, attach, encode
from tcdecomp.plugins import NoAdapterError
from tcdecomp.testing import check_attach, check_encode

IMAGES = torch.rand(128, 12, generator=torch.Generator().manual_seed(0))
BATCH = {"image": IMAGES[:32]}


def test_encode_holds_to_the_contract():
    check_encode(TheirVAE(), BATCH)


@pytest.mark.parametrize("kl_weight", [1.0, 4.0])
def test_attach_holds_to_the_contract(kl_weight):
    check_attach(TheirVAE(kl_weight), lambda model: model(BATCH), 1000, kl_weight=kl_weight)


def test_the_n_that_the_framework_states_is_used():
    check_attach(TheirVAE(), lambda model: model(BATCH, n_items=1000), 1000, stated=True)


def test_the_moments_are_theirs():
    model = TheirVAE()
    mean, std = model.embed(BATCH)
    posterior = encode(model, BATCH)
    torch.testing.assert_close(posterior.mu, mean)
    torch.testing.assert_close(posterior.logvar.exp(), std**2)


def trained(criterion=None):
    torch.manual_seed(0)
    model = TheirVAE()
    if criterion is not None:
        attach(model, criterion)
    fit(model, IMAGES, epochs=5)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_their_own_trainer_trains_with_the_criterion():
    plain = trained()
    torch.testing.assert_close(trained(TCDecomposition()), plain)
    assert not torch.allclose(trained(TCDecomposition(beta=6)), plain)


def test_models_of_others_are_left_to_others():
    with pytest.raises(NoAdapterError):
        attach(torch.nn.Linear(3, 3), TCDecomposition(), 100)
