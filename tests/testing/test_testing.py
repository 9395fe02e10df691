"""The contract kit: it passes sound adapters, and catches each way of being wrong."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn

from tcdecomp import Posterior, hookimpl, plugins, testing
from tcdecomp.plugins.attachment import Attachment
from tcdecomp.testing import check_attach, check_encode
from tcdecomp.testing.attach import copiers

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
N = 100


class VAE(nn.Module):
    """Sound in every respect; each test breaks one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.1))
        self.head, self.decoder = nn.Linear(8, 6), nn.Linear(3, 6)

    def moments(self, x):
        return self.head(self.body(x)).chunk(2, dim=1)

    def encode(self, x):
        mu, logvar = self.moments(x)
        z = mu + (0.5 * logvar).exp() * torch.randn_like(mu) if self.training else mu
        return Posterior(z, mu, logvar)

    def kl_loss(self, z, mu, logvar):
        return 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1).mean()

    def objective(self, x, z, mu, logvar, n_items=None):
        error = self.decoder(z) - x
        return error.square().sum(1).mean() + self.kl_loss(z, mu, logvar)

    def loss(self, x, **options):
        posterior = self.encode(x)
        return self.objective(x, posterior.z, posterior.mu, posterior.logvar, **options)


class Weighted(VAE):
    """A loss that is a sum over the rows, with a weight on the KL."""

    def objective(self, x, z, mu, logvar, n_items=None):
        error = self.decoder(z) - x
        return error.square().sum() + 4 * len(x) * self.kl_loss(z, mu, logvar)


class Trainer:
    """No module, but it holds one."""

    def __init__(self):
        self.network = VAE()

    def objective(self, *batch):
        return self.network.objective(*batch)

    def loss(self, x):
        posterior = self.network.encode(x)
        return self.objective(x, posterior.z, posterior.mu, posterior.logvar)


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


# Adapters, sound ones first


def replace(replacement, method="kl_loss", *, kind=Attachment, size=None, **options):
    """Return a tcdecomp_attach that puts the replacement in the method's place."""

    def attach(model, criterion, dataset_size):
        n = size or dataset_size
        return kind(model, method, replacement, criterion, n, **options)

    return attach


def in_place(attachment, *batch):
    return attachment.loss(*batch)


def added(attachment, x, z, mu, logvar, n_items=None):
    loss = attachment.original(x, z, mu, logvar, n_items)
    return loss + attachment.excess(z, mu, logvar, n_items)


def added_to_weighted(attachment, x, *batch):
    return attachment.original(x, *batch) + 4 * len(x) * attachment.excess(*batch[:3])


def added_to_trainers(attachment, x, *batch):
    return attachment.original(x, *batch) + attachment.excess(*batch)


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


def test_models_that_hold_modules_pass(use):
    use(
        encode=lambda model, batch: model.network.encode(batch),
        attach=replace(added_to_trainers, "objective"),
    )
    model = Trainer()
    check_encode(model, X)
    check_attach(model, loss_fn, N)
    assert set(vars(model)) == {"network"}


def test_a_loss_that_weighs_its_kl_passes_with_that_weight(use):
    use(attach=replace(added_to_weighted, "objective"))
    check_attach(Weighted(), loss_fn, N, kl_weight=4 * len(X))
    with pytest.raises(AssertionError, match=r"must be the plain one and 1\.0 times the excess"):
        check_attach(Weighted(), loss_fn, N)


def test_an_adapter_of_a_framework_that_states_n_passes(use):
    use(attach=replace(added, "objective", stated=True))
    check_attach(VAE(), lambda model: model.loss(X, n_items=N), N, stated=True)
    check_attach(VAE(), loss_fn, N)
    with pytest.raises(ValueError, match="VAE did not state it in this step"):
        check_attach(VAE(), loss_fn, N, stated=True)


def test_a_logvar_that_is_not_trained_passes():
    class Fixed(VAE):
        def moments(self, x):
            mu, _ = super().moments(x)
            return mu, torch.full_like(mu, -1.0)

    check_attach(Fixed(), loss_fn, N)


def test_a_model_that_cannot_be_copied_need_not_be_when_attached():
    class Local(VAE):
        def encode(self, x):
            self.last = super().encode(x)  # with its graph
            return self.last

    model = Local()
    assert set(copiers(model)) == {"deep"}
    check_attach(model, loss_fn, N)
    assert copiers(model) == {}
    assert set(copiers(VAE())) == {"deep", "pickled"}


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


def leave_the_grad_mode(model, batch):
    torch.set_grad_enabled(True)
    return model.moments(batch)


def drawn(scale):
    def encode(model, batch):
        mu, logvar = model.moments(batch)
        std = (0.5 * logvar).exp()
        return Posterior(mu + std * torch.randn_like(mu), mu, scale(std))

    return encode


def reverse(model, batch):
    posterior = model.encode(batch)
    z, mu = (posterior.mu, posterior.z) if model.training else (posterior.z, posterior.mu)
    return Posterior(z, mu, posterior.logvar)


ENCODERS = {
    "rows": (lambda model, batch: model.moments(batch[:5]), "row for each item; got 5 rows for a "),
    "not finite": (lambda model, batch: (model.moments(batch)[0] / 0, X[:, :3]), "mu must be fini"),
    "random moments": (
        lambda model, batch: (torch.randn(32, 3), torch.zeros(32, 3)),
        "mu must come out the same twice in eval mode",
    ),
    "mode": (leave_in_train_mode, "it changed the mode of the model"),
    "gradient": (leave_a_gradient, "it changed the gradient of body.0.weight"),
    "grad mode": (leave_the_grad_mode, "it changed the grad mode"),
    "standard deviation": (drawn(lambda std: std), "logvar is the logarithm of the variance"),
    "variance": (drawn(torch.square), "must be standard normal; its mean square is 0"),
    "mu for z": (
        lambda model, batch: Posterior(X[:, :3], X[:, :3], X[:, 3:]),
        "z must be a sample in train mode, not mu",
    ),
    "reverse": (reverse, "z must be the sample, and mu its mean, not the reverse"),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_check_encode_catches(kind, use):
    encode, message = ENCODERS[kind]
    use(encode=encode)
    with pytest.raises(AssertionError, match=message):
        check_encode(VAE(), X)
    assert torch.is_grad_enabled()


class Counting(VAE):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def moments(self, x):
        self.calls += 1
        return super().moments(x)


def test_check_encode_catches_a_moved_buffer(use):
    use(encode=lambda model, batch: model.moments(batch))
    with pytest.raises(AssertionError, match="leave all as it is; it changed calls"):
        check_encode(Counting(), X)


def test_check_encode_looks_into_a_model_that_is_no_module(use):
    use(encode=lambda model, batch: model.network.moments(batch))
    model = Trainer()
    model.network = Counting()
    with pytest.raises(AssertionError, match=r"leave all as it is; it changed network\.calls"):
        check_encode(model, X)
    assert model.network.calls == 0


# What check_attach catches


def direct(attachment, *batch):
    return attachment.criterion(*batch, attachment.dataset_size)


def detached(attachment, *batch):
    return attachment.loss(*(tensor.detach() for tensor in batch))


def detached_logvar(attachment, x, z, mu, logvar, n_items=None):
    excess = attachment.excess(z, mu, logvar.detach())
    return attachment.original(x, z, mu, logvar, n_items) + excess


def half_of_logvars_graph(attachment, x, z, mu, logvar, n_items=None):
    excess = attachment.excess(z, mu, 0.5 * (logvar + logvar.detach()))
    return attachment.original(x, z, mu, logvar, n_items) + excess


def shifted(attachment, *batch):
    return attachment.loss(*batch) + 5e-4


def detached_excess(attachment, *batch):
    return attachment.original(*batch) + attachment.excess(*batch).detach()


def standard_deviation(attachment, x, z, mu, logvar, n_items=None):
    excess = attachment.excess(z, mu, (0.5 * logvar).exp())
    return attachment.original(x, z, mu, logvar, n_items) + excess


def reversed_excess(attachment, x, z, mu, logvar, n_items=None):
    excess = attachment.excess(mu, z, logvar)
    return attachment.original(x, z, mu, logvar, n_items) + excess


def batch_size(attachment, x, z, mu, logvar, n_items=None):
    return added(attachment, x, z, mu, logvar, len(x))


def leave_a_graph(attachment, *batch):
    attachment.model.trace = batch[0] + 0
    return attachment.loss(*batch)


def over_the_handle(model, criterion, dataset_size):
    def replacement(attachment, *batch):
        return handle.loss(*batch)

    handle = Attachment(model, "kl_loss", replacement, criterion, dataset_size)
    return handle


def over_the_model(model, criterion, dataset_size):
    original = model.objective

    def replacement(attachment, x, *batch):
        return original(x, *batch) + attachment.excess(*batch[:3])

    return Attachment(model, "objective", replacement, criterion, dataset_size)


class Leaving(Attachment):
    def detach(self):
        super().detach()
        self.model.trace = True


def nothing(z, mu, logvar):
    return 0 * z.sum()


class Forgetting(Attachment):
    def detach(self):
        model = self.model
        super().detach()
        model.kl_loss = nothing


class ForgettingCopies(Attachment):
    """Knows its first model only."""

    def __init__(self, model, *options):
        super().__init__(model, *options)
        self.first = id(model)

    def detach(self):
        model = self.model
        super().detach()
        if id(model) != self.first:
            model.kl_loss = nothing


class Miscounting(Attachment):
    def __setstate__(self, state):
        vars(self).update(state, dataset_size=50)


class Vanishing(Attachment):
    def __reduce__(self):
        return type(None), ()


class Ungrateful(Attachment):
    """Lets itself be attached a second time."""

    def __init__(self, model, *options):
        previous = vars(model).pop("_tcdecomp_attachment", None)
        super().__init__(model, *options)
        if previous is not None:
            vars(model).update(_tcdecomp_attachment=previous, kl_loss=previous)


ATTACHMENTS = {
    "unused": (replace(lambda attachment, *batch: attachment.original(*batch)), "must use the cri"),
    "twice": (
        replace(lambda attachment, *batch: attachment.original(*batch) + attachment.loss(*batch)),
        r"the loss with Recorder\(alpha=1.0, .* must be the plain one and .* the excess: expected",
    ),
    "scaled": (
        replace(lambda *batch: 0.5 * in_place(*batch)),
        "must be the plain one and 1.0 times the excess",
    ),
    "size": (replace(in_place, size=50), "the criterion must get N = 100; got 50"),
    "detached": (replace(detached), "z and mu must reach the criterion with their graph"),
    "detached logvar": (
        replace(detached_logvar, "objective"),
        "logvar must reach the criterion with its graph, that by which it moves z, in its grad",
    ),
    "half of logvar's graph": (
        replace(half_of_logvars_graph, "objective"),
        "logvar must reach the criterion with its graph",
    ),
    "shifted": (
        replace(shifted),
        r"with Recorder\(alpha=1.0, beta=1.0, gamma=1.0\) must be the plain one and .*: expected",
    ),
    "detached excess": (
        replace(detached_excess),
        "must be the plain one and 1.0 times the excess, in its gradients, too: they are off by",
    ),
    "standard deviation": (
        replace(standard_deviation, "objective"),
        "logvar is the logarithm of the variance, not the variance or the standard deviation",
    ),
    "reverse": (
        replace(reversed_excess, "objective"),
        "z must be the sample, and mu its mean, not the reverse",
    ),
    "terms": (replace(direct), r"the handle's terms\(\) must be those of the step"),
    "graph": (
        replace(leave_a_graph),
        "a deep copy of an attached model must be possible, as it is of the plain one: Only Tens",
    ),
    "lambda": (
        replace(lambda *batch: in_place(*batch)),
        "a pickled copy of an attached model must be possible, as it is of the plain one: .*lambda",
    ),
    "over the handle": (
        over_the_handle,
        "a deep copy of an attached model must use its own criterion, not the original's",
    ),
    "over the model": (
        over_the_model,
        "the loss of a deep copy .* must be that of the original, in its gradients, too",
    ),
    "miscounting": (
        replace(in_place, kind=Miscounting),
        "the loss of a deep copy of an attached model must be that of the original: expected",
    ),
    "vanishing": (
        replace(in_place, kind=Vanishing),
        "a deep copy of an attached model must carry an attachment of its own; it carries none",
    ),
    "copies": (
        replace(in_place, kind=ForgettingCopies),
        "detach must restore the loss of a deep copy",
    ),
    "trace": (replace(in_place, kind=Leaving), "detach must restore the model's attributes"),
    "forgotten": (replace(in_place, kind=Forgetting), "detach must restore the loss: expected"),
    "again": (
        replace(in_place, kind=Ungrateful),
        "attach must refuse a model that carries an attachment, by a",
    ),
}


# A replacement that passes something else as z is warned of, too.
@pytest.mark.filterwarnings("ignore:z does not look like a sample")
@pytest.mark.parametrize("kind", ATTACHMENTS)
def test_check_attach_catches(kind, use):
    attach, message = ATTACHMENTS[kind]
    use(attach=attach)
    model = VAE()
    state = set(vars(model))
    with pytest.raises(AssertionError, match=message):
        check_attach(model, loss_fn, N)
    assert kind in ("trace", "graph", "forgotten", "again") or set(vars(model)) == state


def test_check_attach_catches_a_batch_size_that_is_stated_as_n(use):
    use(attach=replace(batch_size, "objective", stated=True))
    with pytest.raises(AssertionError, match="the criterion must get N = 100; got 32"):
        check_attach(VAE(), loss_fn, N, stated=True)
    with pytest.raises(ValueError, match="VAE states for its training set, 32; got 100"):
        check_attach(VAE(), loss_fn, N)


def test_check_attach_finds_an_attachment_to_a_part(use):
    def attach(model, criterion, dataset_size):
        if isinstance(model, Trainer):
            model = model.network
        return Attachment(model, "objective", added, criterion, dataset_size)

    use(attach=attach)
    check_attach(Trainer(), loss_fn, N)


def test_check_attach_catches_a_lost_graph_in_a_model_that_is_no_module(use):
    def without_graph(attachment, *batch):
        return attachment.original(*batch) + attachment.excess(*batch[1:]).detach()

    use(attach=replace(without_graph, "objective"))
    with pytest.raises(AssertionError, match="times the excess, in its gradients, too"):
        check_attach(Trainer(), loss_fn, N)


def test_check_attach_wants_the_same_loss_twice():
    count = iter(range(100))
    with pytest.raises(
        AssertionError, match="loss_fn must give the same loss twice: expected 0; g"
    ):
        check_attach(VAE(), lambda model: torch.tensor(float(next(count))), N)


@pytest.mark.parametrize(
    ("loss", "got"), [(torch.zeros(32), r"shape \(32,\)"), (1.0, "float"), (None, "NoneType")]
)
def test_check_attach_wants_a_scalar_loss(loss, got):
    with pytest.raises(AssertionError, match=f"loss_fn must return a scalar tensor; got {got}"):
        check_attach(VAE(), lambda model: loss, N)


def test_check_attach_refuses_a_loss_that_is_not_finite(use):
    use(attach=replace(lambda *batch: in_place(*batch) * torch.nan))
    with pytest.raises(
        AssertionError, match=r"the plain one and 1\.0 times the excess: .*; got nan"
    ):
        check_attach(VAE(), loss_fn, N)


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf")])
def test_check_attach_refuses_a_weight_that_weighs_nothing(weight):
    with pytest.raises(ValueError, match=f"kl_weight must be finite and above 0; got {weight}"):
        check_attach(VAE(), loss_fn, N, kl_weight=weight)


def test_check_attach_passes_a_model_without_gradients():
    with torch.no_grad():
        check_attach(VAE(), loss_fn, N)


def test_the_contract_holds_under_python_without_asserts():
    for path in Path(testing.__file__).parent.glob("*.py"):
        assert not any(
            isinstance(node, ast.Assert) for node in ast.walk(ast.parse(path.read_text()))
        )
