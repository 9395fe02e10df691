"""The one mechanism by which adapters replace a method of a model."""

import copy
import inspect
import pickle

import pytest
import torch
from torch import distributed, nn
from torch.distributions import Normal

from tcdecomp import TCDecomposition
from tcdecomp.plugins import Attachment, check_criterion
from tolerances import assert_close
from versions import compiles_attached


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def step(self, x, batch_idx=0):
        """Scale."""
        return self.scale * x


class Prior(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(3))

    def forward(self):
        return Normal(self.loc, torch.ones(3))


def add_size(attachment, x, **options):
    return attachment.original(x, **options) + attachment.dataset_size


def attached(model, size=100, criterion=None):
    return Attachment(model, "step", add_size, criterion or TCDecomposition(), size)


def test_replaces_the_method_of_one_instance_only():
    model, other = Model(), Model()
    attached(model)
    assert model.step(1).item() == 102
    assert other.step(1).item() == 2


def test_detach_restores_a_method_of_the_class():
    model = Model()
    before = set(vars(model)) | set(model._modules)
    attached(model).detach()
    assert set(vars(model)) | set(model._modules) == before
    assert model.step(1).item() == 2


def test_detach_restores_an_attribute_of_the_instance():
    model = Model()
    model.step = own = lambda x: 7 * x
    handle = attached(model)
    assert model.step(1) == 107
    handle.detach()
    assert vars(model)["step"] is own


def test_a_submodule_in_the_place_of_a_method_is_replaced_and_restored():
    model = Model()
    model.loss = submodule = nn.Identity()
    with Attachment(model, "loss", add_size, TCDecomposition(), 100):
        assert model.loss(1) == 101
    assert model.loss is submodule
    assert model.loss(1) == 1


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_static_and_class_methods_are_replaced(kind):
    owner = type("Owner", (), {"step": kind(lambda *args: args[-1])})
    model = owner()
    with attached(model):
        assert model.step(1) == 101
    assert model.step(1) == 1


def test_any_object_with_a_dict_can_carry_one():
    class Plain:
        def step(self, x):
            return x

    model = Plain()
    with attached(model) as handle:
        assert model.step(1) == 101
        assert Attachment.of(model) is handle
    assert vars(model) == {}


def test_context_manager_detaches_after_an_error():
    model = Model()
    with pytest.raises(RuntimeError, match="inside"), attached(model):
        raise RuntimeError("inside")
    assert Attachment.of(model) is None


def test_detaching_twice_is_an_error():
    handle = attached(Model())
    handle.detach()
    with pytest.raises(
        ValueError, match=r"<Attachment to Model.step, dataset_size=100> .* was detached before"
    ):
        handle.detach()


def wrap(model):
    inner = model.step
    model.step = lambda x: 10 * inner(x)


@pytest.mark.parametrize(
    ("disturb", "got"),
    [
        (wrap, r"wrap\.<locals>\.<lambda>"),
        (lambda model: delattr(model, "step"), r"Model\.step"),
        (lambda model: vars(model).update(step=nn.Identity()), "Identity"),
    ],
    ids=["wrapped", "deleted", "replaced"],
)
def test_detach_refuses_where_something_else_took_the_methods_place(disturb, got):
    model = Model()
    handle = attached(model)
    disturb(model)
    before = dict(vars(model))
    with pytest.raises(
        ValueError, match=rf"step, .* must still stand in .*; got {got} there: take that off"
    ):
        handle.detach()
    assert vars(model) == before
    assert Attachment.of(model) is handle
    vars(model)["step"] = handle
    handle.detach()
    assert model.step(1).item() == 2


def test_an_old_handle_does_not_detach_a_later_attachment():
    model = Model()
    old = attached(model)
    old.detach()
    later = attached(model, size=5)
    with pytest.raises(ValueError, match="detached before"):
        old.detach()
    assert Attachment.of(model) is later
    assert model.step(1).item() == 7


def test_attaching_twice_is_an_error_that_leaves_the_first():
    model = Model()
    first = attached(model)
    with pytest.raises(
        ValueError, match=r"must not carry an attachment; got <Attachment to Model.step, dataset_"
    ):
        attached(model, size=5)
    assert Attachment.of(model) is first
    assert model.step(1).item() == 102


def test_a_model_without_the_method_is_refused():
    with pytest.raises(TypeError, match="must have a method 'absent'; Model has none"):
        Attachment(Model(), "absent", add_size, TCDecomposition(), 100)


def test_a_special_method_is_refused_by_a_remedy_that_works():
    """Python looks it up on the class: what stands on the instance is never called."""
    model = Model()
    with pytest.raises(TypeError, match=r"up __call__ on the class .* as forward of a torch.nn.Mo"):
        Attachment(model, "__call__", add_size, TCDecomposition(), 100)
    assert Attachment.of(model) is None
    model = nn.Identity()
    Attachment(model, "forward", add_size, TCDecomposition(), 100)
    assert model(1) == 101


def test_a_model_without_a_dict_is_refused():
    with pytest.raises(TypeError, match="must have a __dict__ to carry an attachment; int has"):
        attached(3)


def test_a_wrapper_that_passes_the_method_on_is_refused():
    class Wrapper(nn.Module):
        def __init__(self, wrapped):
            super().__init__()
            self.wrapped = wrapped

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("wrapped"), name)

    outer = Wrapper(Model())
    with pytest.raises(
        TypeError, match=r"'step' of its own; Wrapper passes .* attach to the model that it wraps"
    ):
        attached(outer)
    with attached(outer.wrapped):
        assert outer.step(1).item() == 102


def test_of_finds_none_on_other_objects():
    assert Attachment.of(Model()) is None
    assert Attachment.of(3) is None


def test_a_criterion_without_parameters_adds_nothing_to_the_state_dict():
    model = Model()
    state = model.state_dict()
    attached(model)
    assert list(model.state_dict()) == list(state)
    model.load_state_dict(state)


def test_a_learned_prior_is_trained_moved_and_saved_with_the_model():
    model, prior = Model(), Prior()
    with attached(model, criterion=TCDecomposition(prior=prior)) as handle:
        assert any(parameter is prior.loc for parameter in model.parameters())
        assert "tcdecomp_criterion.prior.loc" in model.state_dict()
        model.to(torch.float64)
        assert handle.criterion.prior.loc.dtype == torch.float64
    assert len(list(model.parameters())) == 1


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["deep", "pickle"],
)
def test_a_copy_carries_an_attachment_of_its_own(copied):
    model = Model()
    handle = attached(model, criterion=TCDecomposition(beta=6))
    other = copied(model)
    with torch.no_grad():
        other.scale.fill_(5)
    own = Attachment.of(other)
    assert own.model is other
    assert own.criterion is other.tcdecomp_criterion is not handle.criterion
    assert own.criterion.beta == 6
    assert (model.step(1).item(), other.step(1).item()) == (102, 105)
    handle.detach()
    assert (model.step(1).item(), other.step(1).item()) == (2, 105)
    own.detach()
    assert other.step(1).item() == 5


def test_a_handle_pickles_with_its_model():
    handle = pickle.loads(pickle.dumps(attached(Model())))
    assert handle.model.step(1).item() == 102
    handle.detach()
    assert handle.model.step(1).item() == 2


def test_torch_saves_and_loads_an_attached_model(tmp_path):
    model = Model()
    attached(model)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert loaded.step(1).item() == 102


def test_a_replacement_that_cannot_be_pickled_says_so():
    model = Model()
    Attachment(model, "step", lambda attachment, x: x, TCDecomposition(), 100)
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(model)


def test_the_signature_of_the_original_shows():
    model = Model()
    attached(model)
    assert list(inspect.signature(model.step).parameters) == ["x", "batch_idx"]
    assert inspect.getfullargspec(model.step.__wrapped__).args == ["self", "x", "batch_idx"]


def test_the_signature_shows_through_a_decorator_of_the_original():
    class Decorated(Model):
        step = torch.no_grad()(Model.step)

    model = Decorated()
    attached(model)
    assert list(inspect.signature(model.step).parameters) == ["x", "batch_idx"]


@compiles_attached
def test_a_compiled_model_sees_attach_and_detach():
    class Callable(Model):
        def forward(self, x):
            return self.step(x)

    model = Callable()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    x = torch.ones(())
    assert compiled(x).item() == 2
    handle = attached(model)
    assert compiled(x).item() == 102
    handle.detach()
    assert compiled(x).item() == 2


# What the replacements of adapters are made of


def add_excess(attachment, z, mu, logvar, size=None):
    return attachment.excess(z, mu, logvar, size)


class Summed(nn.Module):
    def step(self, z, mu, logvar, size=None):
        """Return nothing of its own."""
        return z.new_zeros(())


def moments(size=8):
    g = torch.Generator().manual_seed(0)
    return torch.randn(3, size, 2, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weights", [{"beta": 6.0}, {"alpha": 0.0, "beta": 2.0, "gamma": 0.5}])
def test_excess_is_that_of_the_terms(weights, reduction):
    criterion = TCDecomposition(**weights, reduction=reduction)
    handle = Attachment(Summed(), "step", add_excess, criterion, 100)
    want = criterion.excess(criterion.decompose(*moments(), 100))
    assert_close(handle.model.step(*moments()), want)


def test_excess_is_nothing_with_weights_of_one():
    handle = Attachment(Summed(), "step", add_excess, TCDecomposition(), 100)
    assert handle.model.step(*moments()).item() == 0


def test_terms_are_those_of_the_last_step_and_carry_no_graph():
    criterion = TCDecomposition(beta=6)
    handle = Attachment(Summed(), "step", add_excess, criterion, 100)
    assert handle.terms() is None
    z, mu, logvar = moments().requires_grad_()
    handle.model.step(z, mu, logvar)
    assert_close(torch.stack(handle.terms()), torch.stack(criterion.decompose(z, mu, logvar, 100)))
    assert not handle.terms().kl.requires_grad
    copy.deepcopy(handle.model)


def test_terms_stay_away_where_the_loss_goes_past_the_method():
    handle = attached(model := Model())
    Model.step(model, 1)
    assert handle.terms() is None


def test_the_framework_may_state_the_dataset_size():
    criterion = TCDecomposition(beta=6)
    handle = Attachment(Summed(), "step", add_excess, criterion, None, stated=True)
    with pytest.raises(ValueError, match="since Summed did not state it in this step"):
        handle.model.step(*moments())
    stated = handle.model.step(*moments(), 50)
    assert_close(stated, criterion.excess(criterion.decompose(*moments(), 50)))


def test_in_training_the_stated_size_must_be_the_given_one():
    model = Summed()
    Attachment(model, "step", add_excess, TCDecomposition(beta=6), 100, stated=True)
    assert_close(model.step(*moments(), 100), model.step(*moments()))
    with pytest.raises(ValueError, match="the Summed states for its training set, 50; got 100"):
        model.step(*moments(), 50)
    validation = model.eval().step(*moments(), 50)
    Attachment.of(model).detach()
    Attachment(model, "step", add_excess, TCDecomposition(beta=6), 50)
    assert_close(validation, model.step(*moments()))


def test_a_dataset_size_that_nobody_states_must_be_given():
    model = Summed()
    with pytest.raises(ValueError, match=r"dataset_size must be given, .* a Summed does not state"):
        Attachment(model, "step", add_excess, TCDecomposition(), None)
    assert Attachment.of(model) is None


def test_decompose_gives_the_terms_with_their_graph_and_keeps_the_posterior():
    criterion = TCDecomposition(beta=6)
    handle = Attachment(Summed(), "step", add_excess, criterion, 100)
    moved = moments().requires_grad_()
    terms = handle.decompose(*moved)
    want = criterion.decompose(*moments(), 100)
    assert_close(torch.stack(terms), torch.stack(want))
    assert terms.total_correlation.requires_grad
    assert_close(torch.stack(handle.terms()), torch.stack(want))


@pytest.mark.parametrize("copied", [lambda model: model, copy.deepcopy], ids=["it", "a copy"])
def test_another_signature_may_show_in_place_of_the_originals(copied):
    signature = inspect.signature(lambda x, n_obs: None)
    model = Model()
    handle = Attachment(
        model, "step", add_size, TCDecomposition(), None, stated=True, signature=signature
    )
    assert list(inspect.signature(copied(model).step).parameters) == ["x", "n_obs"]
    handle.detach()
    assert list(inspect.signature(model.step).parameters) == ["x", "batch_idx"]


def test_terms_end_with_the_attachment():
    handle = Attachment(Summed(), "step", add_excess, TCDecomposition(), 100)
    handle.model.step(*moments())
    handle.detach()
    with pytest.raises(ValueError, match="must be attached to have terms; it was detached"):
        handle.terms()


def test_a_refused_batch_leaves_the_terms_of_the_last():
    model = Model()
    handle = Attachment(model, "step", add_size, TCDecomposition(beta=6), 100)
    mu, logvar = torch.zeros(5, 2), torch.full((5, 2), -1.0)
    z = mu + (0.5 * logvar).exp() * torch.randn(5, 2)
    handle.loss(z, mu, logvar)
    before = handle.terms()
    with pytest.raises(ValueError, match="mu must be finite"):
        handle.loss(z, mu * torch.nan, logvar)
    assert handle.terms() == before


@pytest.fixture
def alone_in_a_group(tmp_path):
    """A process group with this process alone."""
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_terms_of_own_rows_ask_no_other_process(alone_in_a_group, monkeypatch):
    criterion = TCDecomposition(beta=6, process_group="world")
    handle = Attachment(Summed(), "step", add_excess, criterion, 100)
    handle.model.step(*moments())
    want = TCDecomposition().decompose(*moments(), 100)
    # With one process both ask for the same rows.
    assert_close(torch.stack(handle.terms(all_processes=True)), torch.stack(want))
    monkeypatch.setattr(distributed, "all_gather", None)
    monkeypatch.setattr(distributed, "all_reduce", None)
    assert_close(torch.stack(handle.terms()), torch.stack(want))
    assert handle.criterion.process_group == "world"
    with pytest.raises(TypeError, match="not callable"):
        handle.terms(all_processes=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "sum"}, "criterion must have reduction=\"mean\" with Theirs; got 'sum'"),
        ({"prior": Normal(0.0, 2.0)}, "criterion must have prior=None with Theirs, .*; got Normal"),
    ],
)
def test_a_criterion_that_a_framework_cannot_add_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check_criterion(TCDecomposition(**options), "Theirs", prior=False)


def test_a_criterion_that_a_framework_can_add_passes():
    check_criterion(TCDecomposition(beta=6), "Theirs", prior=False)
    check_criterion(TCDecomposition(prior=Prior()), "Theirs")
