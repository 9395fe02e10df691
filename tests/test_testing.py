"""The contract kit: it passes sound adapters, and catches each way of being wrong."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn

from tcdecomp import Posterior, hookimpl, plugins, testing
from tcdecomp.attachment import Attachment
from tcdecomp.testing import check_attach, check_encode

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
N = 100


class VAE(nn.Module):
    """Sound in every respect; each test breaks one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.1))
        self.head = nn.Linear(8, 6)

    def moments(self, x):
        return self.head(self.body(x)).chunk(2, dim=1)

    def encode(self, x):
        mu, logvar = self.moments(x)
        z = mu + (0.5 * logvar).exp() * torch.randn_like(mu) if self.training else mu
        return Posterior(z, mu, logvar)

    def kl_loss(self, z, mu, logvar):
        return 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1).mean()

    def loss(self, x):
        self.last = self.encode(x)
        return x.square().mean() + self.kl_loss(self.last.z, self.last.mu, self.last.logvar)


def loss_fn(model):
    return model.loss(X)


@pytest.fixture
def use():
    """Return a function that registers a plugin for the test."""
    used = []

    def register(**hooks):
        members = {f"tcdecomp_{name}": staticmethod(hookimpl(hook)) for name, hook in hooks.items()}
        used.append(type("Broken", (), members)())
        plugins.register(used[-1])

    yield register
    for plugin in used:
        plugins.unregister(plugin)


def test_a_sound_adapter_passes_and_nothing_is_changed():
    model = VAE()
    model.head.weight.grad = gradient = torch.ones(6, 8)
    model.body[1].eval()
    state, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    check_encode(model, X)
    check_attach(model, loss_fn, N)
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.head.weight.grad is gradient
    assert (model.training, model.body[1].training) == (True, False)


@pytest.mark.parametrize(
    "batch", [(X, X), {"x": X, "label": X}, list(X)], ids=["pair", "dict", "items"]
)
def test_batches_of_several_forms_pass(batch, use):
    use(encode=lambda model: model.moments(X))
    check_encode(VAE(), batch)


def test_models_that_are_no_modules_pass(use):
    use(encode=lambda model, batch: model(batch))
    check_encode(lambda batch: (batch, torch.zeros_like(batch)), X)


# What check_encode catches


def leave_in_train_mode(model, batch):
    posterior = model.eval().moments(batch)
    model.train()
    return posterior


def leave_a_gradient(model, batch):
    with torch.enable_grad():
        posterior = model.moments(batch)
        posterior[0].sum().backward()
    return posterior


def drawn(scale):
    def encode(model, batch):
        mu, logvar = model.moments(batch)
        std = (0.5 * logvar).exp()
        return Posterior(mu + std * torch.randn_like(mu), mu, scale(std))

    return encode


ENCODERS = {
    "rows": (lambda model, batch: model.moments(batch[:5]), "row for each item; got 5 rows for a "),
    "not finite": (lambda model, batch: (model.moments(batch)[0] / 0, X[:, :3]), "mu must be fini"),
    "random moments": (
        lambda model, batch: (torch.randn(32, 3), torch.zeros(32, 3)),
        "mu must come out the same twice in eval mode",
    ),
    "mode": (leave_in_train_mode, "it changed the mode of the model"),
    "gradient": (leave_a_gradient, "it changed the gradient of body.0.weight"),
    "standard deviation": (drawn(lambda std: std), "logvar is the logarithm of the variance"),
    "variance": (drawn(torch.square), "must be standard normal; its mean square is 0"),
    "mu for z": (
        lambda model, batch: Posterior(X[:, :3], X[:, :3], X[:, 3:]),
        "z must be a sample in train mode, not mu",
    ),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_check_encode_catches(kind, use):
    encode, message = ENCODERS[kind]
    use(encode=encode)
    with pytest.raises(AssertionError, match=message):
        check_encode(VAE(), X)


def test_check_encode_catches_a_moved_buffer(use):
    class Counting(VAE):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def moments(self, x):
            self.calls += 1
            return super().moments(x)

    use(encode=lambda model, batch: model.moments(batch))
    with pytest.raises(AssertionError, match="leave the model as it is; it changed calls"):
        check_encode(Counting(), X)


# What check_attach catches


def replace(replacement, size=None):
    def attach(model, criterion, dataset_size):
        return Attachment(model, "kl_loss", replacement, criterion, size or dataset_size)

    return attach


def sound(attachment, z, mu, logvar):
    return attachment.criterion(z, mu, logvar, attachment.dataset_size)


def detached(attachment, z, mu, logvar):
    return sound(attachment, z.detach(), mu.detach(), logvar.detach())


def detached_excess(attachment, z, mu, logvar):
    criterion = attachment.criterion
    excess = criterion.excess(criterion.decompose(z, mu, logvar, attachment.dataset_size))
    return attachment.original(z, mu, logvar) + excess.detach()


class Leaving(Attachment):
    def detach(self):
        super().detach()
        self.model.trace = True


class Forgetting(Attachment):
    def detach(self):
        model = self.model
        super().detach()
        model.kl_loss = lambda z, mu, logvar: z.sum()


class Ungrateful(Attachment):
    """Lets itself be attached a second time."""

    def __init__(self, model, *options):
        previous = vars(model).pop("_tcdecomp_attachment", None)
        super().__init__(model, *options)
        if previous is not None:
            vars(model).update(_tcdecomp_attachment=previous, kl_loss=previous)


def attaching(kind):
    return lambda model, criterion, dataset_size: kind(
        model, "kl_loss", sound, criterion, dataset_size
    )


ATTACHMENTS = {
    "unused": (replace(lambda attachment, *args: attachment.original(*args)), "must use the crit"),
    "twice": (
        replace(lambda attachment, *args: attachment.original(*args) + sound(attachment, *args)),
        r"the loss with _Recorder\(alpha=1.0, .* must be the plain one and the excess: expected",
    ),
    "scaled": (replace(lambda *args: 0.5 * sound(*args)), "must be the plain one and the excess"),
    "size": (replace(sound, size=50), "the criterion must get N = 100; got 50"),
    "detached": (replace(detached), "z and mu must reach the criterion with their graph"),
    "detached excess": (
        replace(detached_excess),
        "must be the plain one and the excess, in its gradients, too: they are off by",
    ),
    "trace": (attaching(Leaving), "detach must restore the model's attributes"),
    "forgotten": (attaching(Forgetting), "detach must restore|the plain one and the excess"),
    "again": (attaching(Ungrateful), "attach must refuse a model that carries an attachment, by a"),
}


@pytest.mark.parametrize("kind", ATTACHMENTS)
def test_check_attach_catches(kind, use):
    attach, message = ATTACHMENTS[kind]
    use(attach=attach)
    with pytest.raises(AssertionError, match=message):
        check_attach(VAE(), loss_fn, N)


def test_check_attach_wants_the_same_loss_twice():
    count = iter(range(100))
    with pytest.raises(
        AssertionError, match="loss_fn must give the same loss twice: expected 0; g"
    ):
        check_attach(VAE(), lambda model: torch.tensor(float(next(count))), N)


def test_check_attach_passes_a_model_without_gradients():
    with torch.no_grad():
        check_attach(VAE(), loss_fn, N)


def test_the_contract_holds_under_python_without_asserts():
    for path in Path(testing.__file__).parent.glob("*.py"):
        assert not any(
            isinstance(node, ast.Assert) for node in ast.walk(ast.parse(path.read_text()))
        )
