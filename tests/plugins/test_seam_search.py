"""find_seam: the seam of every structure, and a true word where there is none."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader

import structures
from structures import DIM, PIXELS, images, pictures, sample
from tcdecomp import Seam, TCDecomposition, attach, find_seam

KNOWN = structures.structures()


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("seed", range(2))
def test_finds_the_seam_of_each_structure(name, seed):
    known = KNOWN[name]
    torch.manual_seed(seed)
    assert find_seam(known.kind(), known.batch, quiet=True) == Seam(**known.seam)


def trained(model, batch, steps=50):
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss_of(batch).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("name", ["log_sd", "variance", "a pair"])
def test_finds_it_after_training_too(name):
    known = KNOWN[name]
    torch.manual_seed(0)
    assert find_seam(trained(known.kind(), known.batch), known.batch, quiet=True) == Seam(
        **known.seam
    )


@pytest.mark.parametrize(
    ("scale", "spread"),
    [
        ("logvar", lambda raw: (raw / 2).exp()),
        ("log_sd", torch.exp),
        ("softplus", F.softplus),
    ],
)
def test_tells_freshly_made_heads_apart(scale, spread):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.decoder = nn.Linear(PIXELS, 2 * DIM), nn.Linear(DIM, PIXELS)
            nn.init.normal_(self.head.weight, std=1e-3)

        def forward(self, x):
            mu, raw = self.head(x).chunk(2, dim=1)
            return self.decoder(mu + spread(raw) * torch.randn_like(mu))

    assert find_seam(Model(), images(), quiet=True).scale == scale


def test_latents_of_another_shape_are_found_where_they_stand():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.decoder = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(2 * 64, 64)

        def forward(self, x):
            mu, logvar = self.head(x).chunk(2, dim=1)
            # The sites first, then the channels.
            return self.decoder(sample(mu, logvar).flatten(2).mT.flatten(1))

    seam = find_seam(Model(), pictures(), quiet=True)
    assert (seam.moments, seam.z) == ("head", "decoder")


def test_sequences_are_cut_along_their_last_axis():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.decoder = nn.Linear(4, 6), nn.Linear(3, 4)

        def forward(self, x):
            return self.decoder(sample(*self.head(x).chunk(2, dim=-1)))

    assert find_seam(Model(), torch.rand(8, 5, 4), quiet=True) == Seam("head", "decoder")


def test_a_torch_normal_may_be_what_a_layer_returns():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(PIXELS, 2 * DIM)

        def forward(self, x):
            loc, raw = self.head(x).chunk(2, dim=1)
            return torch.distributions.Normal(loc, raw.clamp(-1, 1).exp() + 0.1)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = Encoder(), nn.Linear(DIM, PIXELS)

        def forward(self, x):
            return self.decoder(self.encoder(x).rsample())

    assert find_seam(Model(), images(), quiet=True) == Seam("encoder", "decoder", "sd")


def test_run_says_how_the_model_runs():
    model = structures.LatentDist()
    with pytest.raises(ValueError, match="it draws no noise, and gives the same for two seeds"):
        find_seam(model, pictures(), quiet=True)
    seam = find_seam(model, pictures(), run=lambda model, x: model.loss_of(x), quiet=True)
    assert seam == Seam("quant_conv", "post_quant_conv")


def test_prints_the_evidence(capsys):
    find_seam(structures.LogSD(), images())
    printed = capsys.readouterr().out
    assert printed.startswith("LogSD: Seam(moments=('fc_mu', 'fc_var'), z='decoder_input', ")
    assert re.search(
        r"fc_var, as log_sd: off the gradient by \de-0\d \(as \w+: by 0\.\d+\)", printed
    )
    assert re.search(r"noise +mean -?\d\.\d+ \+- 0\.102, variance \d\.\d+ \+- 0\.144", printed)


def test_leaves_the_model_as_it_was():
    model, refused = structures.Steps(), structures.Experts()
    model.history = [1]
    before = copy.deepcopy(vars(model)), copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    find_seam(model, [images(), None], quiet=True)
    with pytest.raises(ValueError, match="no seam"):
        find_seam(refused, images())
    after = vars(model), model.state_dict()
    assert before[0].keys() == after[0].keys()
    assert (model.counted, model.history) == (0, [1])
    assert all(
        torch.equal(x, y) for x, y in zip(before[1].values(), after[1].values(), strict=True)
    )
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


class Scaled(structures.TwoHeads):
    """Its noise is half as wide as it says."""

    def forward(self, x):
        hidden = self.encoder(x)
        mu, logvar = self.fc_mu(hidden), self.fc_var(hidden)
        z = mu + 0.5 * (0.5 * logvar).exp() * torch.randn_like(mu)
        return [self.decoder(self.decoder_input(z))]


class Twice(structures.TwoHeads):
    """Encodes two views."""

    def forward(self, x):
        return super().forward(x), super().forward(x.flip(1))


class TwoDecoders(structures.TwoHeads):
    """z goes to two layers."""

    def __init__(self):
        super().__init__()
        self.critic = nn.Linear(DIM, 1)

    def forward(self, x):
        hidden = self.encoder(x)
        z = sample(self.fc_mu(hidden), self.fc_var(hidden))
        return [self.decoder(self.decoder_input(z)), self.critic(z)]


class Scripted(nn.Module):
    """A scripted encoder."""

    def __init__(self):
        super().__init__()
        encoder = nn.Sequential(nn.Linear(PIXELS, 2 * DIM))
        self.encoder, self.decoder = torch.jit.script(encoder), nn.Linear(DIM, PIXELS)

    def forward(self, x):
        return self.decoder(sample(*self.encoder(x).chunk(2, dim=1)))


REFUSED = {
    "no noise": (
        structures.Plain,
        images(),
        "it draws no noise, and gives the same for two",
    ),
    "experts": (structures.Experts, images(), "no layer gives a mean that .* A product of experts"),
    "direct": (
        structures.Direct,
        images(),
        "not seen to run: fc_mu, fc_var, decoder_input. Hooks fire where a layer is called",
    ),
    "two seams": (
        structures.TwoLevels,
        images(),
        "must single out one seam; got two: lower -> upper, and upper -> middle. Name the one",
    ),
    "two decoders": (
        TwoDecoders,
        images(),
        r"one layer that takes z; got decoder_input and critic. .* Seam\(moments=\('fc_mu', 'fc_v",
    ),
    "twice": (Twice, images(), "fc_mu and fc_var -> decoder_input would be one, but not all of"),
    "scaled noise": (Scaled, images(64), r"variance 1; in fc_mu and .* it has logvar: .*0\.2\d\d"),
    "small": (
        structures.TwoHeads,
        images(5),
        "at least 16 latent values to tell .*; got 15",
    ),
    "other batch": (
        structures.TwoHeads,
        images()[:, :5],
        "must run on the batch; tried forward",
    ),
    "no batch": (structures.TwoHeads, None, "must run on the batch; tried forward: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_says_why_there_is_no_seam(name):
    kind, batch, text = REFUSED[name]
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=text):
        find_seam(kind(), batch)


@pytest.mark.filterwarnings("ignore:`torch.jit.* is deprecated:DeprecationWarning")
def test_scripted_layers_are_named():
    with pytest.raises(ValueError, match=r"not seen to run: encoder.0. .* in a scripted module"):
        find_seam(Scripted(), images())


def test_eval_mode_is_named():
    with pytest.raises(ValueError, match=r"draws no noise in eval mode. Call model.train\(\)"):
        find_seam(structures.LatentDist().eval(), pictures())


def test_an_attached_model_is_refused():
    model = structures.Pair()
    attach(model, TCDecomposition(), 100, seam=Seam("encoder", "decoder", "sd"))
    with pytest.raises(ValueError, match="must not carry an attachment; got <Attachment to Pair"):
        find_seam(model, images())


@pytest.mark.parametrize(
    ("model", "batch", "error", "message"),
    [
        (images, images(), TypeError, "model must be a torch.nn.Module; got function"),
        (
            structures.TwoHeads,
            images(),
            TypeError,
            r"model must be an object; got the class TwoHeads. Pass TwoHeads\(...\)",
        ),
        (
            structures.TwoHeads(),
            DataLoader(images()),
            TypeError,
            r"batch must be one batch; got a DataLoader. Pass next\(iter\(loader\)\)",
        ),
        (
            structures.TwoHeads(),
            [images().numpy()],
            ValueError,
            r"batch holds a ndarray; torch.as_tensor\(array\).float\(\) makes a tensor",
        ),
    ],
)
def test_other_objects_are_refused_with_a_remedy(model, batch, error, message):
    with pytest.raises(error, match=message):
        find_seam(model, batch)
