"""Which adapter serves a model: precedence, loading and its failures, and what encode returns."""

import abc
import decimal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, Laplace, Normal
from torch.nn.parallel import DataParallel
from torch.utils.data import DataLoader

from adapter_source import adapter
from tcdecomp import Posterior, TCDecomposition, attach, encode, hookimpl, plugins
from tcdecomp.plugins import Attachment

pytestmark = pytest.mark.usefixtures("no_plugins")

MU, LOGVAR = torch.zeros(4, 2), torch.full((4, 2), -1.0)


class Answering:
    """A plugin that answers every question about a posterior with the same."""

    def __init__(self, answer):
        self.answer = answer

    @hookimpl
    def tcdecomp_encode(self):
        return self.answer


class Model:
    """A model of no package that any adapter serves."""


def marked(value):
    """Return a posterior that shows whose it is."""
    return torch.full((4, 2), float(value)), LOGVAR


def model_of(package, *bases):
    return type("Model", bases, {"__module__": f"{package}.models"})


def mean_of(model):
    return encode(model, None).mu[0, 0].item()


# What encode makes of an answer


@pytest.mark.parametrize(
    "answer",
    [
        (MU, LOGVAR),
        [MU, LOGVAR],
        Normal(MU, (0.5 * LOGVAR).exp()),
        Independent(Normal(MU, (0.5 * LOGVAR).exp()), 1),
        Posterior(MU + 1, MU, LOGVAR),
        (MU + 1, MU, LOGVAR),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_every_form_of_an_answer_becomes_a_posterior(answer):
    plugins.register(Answering(answer))
    posterior = encode(Model(), None)
    assert isinstance(posterior, Posterior)
    torch.testing.assert_close((posterior.mu, posterior.logvar), (MU, LOGVAR))
    drawn = [encode(Model(), None, generator=torch.Generator().manual_seed(3)).z for _ in range(2)]
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], posterior.z)


@pytest.mark.parametrize("form", [lambda p: p, lambda p: (p.z, p.mu, p.logvar)])
def test_z_is_the_models_own_unless_a_generator_is_given(form):
    own = Posterior(MU + 1, MU, LOGVAR)
    plugins.register(Answering(form(own)))
    assert encode(Model(), None).z is own.z


def test_an_error_of_a_kind_that_takes_other_arguments_is_passed_on():
    """A UnicodeDecodeError is a ValueError that cannot be made from a text alone."""

    class Undecodable(Normal):
        @property
        def scale(self):
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

        @scale.setter
        def scale(self, value):
            pass

    plugins.register(Answering(Undecodable(MU, 1.0, validate_args=False)))
    with pytest.raises(ValueError, match=r"Model must give .*: 'utf-8' codec") as caught:
        encode(Model(), None)
    assert isinstance(caught.value.__cause__, UnicodeDecodeError)


def test_a_generator_leaves_the_global_one_alone():
    plugins.register(Answering((MU, LOGVAR)))
    state = torch.get_rng_state()
    encode(Model(), None, generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), state)
    encode(Model(), None)
    assert not torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (3, TypeError, "Model must give a Posterior, .*: got int"),
        ({"mu": MU}, TypeError, "Model must give .*: got dict"),
        ((MU, LOGVAR, MU, MU), TypeError, "Model must give .*: got tuple of 4"),
        ((MU, MU, LOGVAR[:2]), ValueError, r"Model must give .* share one shape \(M, D\); got"),
        (MU, TypeError, "Model must give .*: got Tensor"),
        ((MU, 3), TypeError, "Model must give .*: logvar must be a torch.Tensor; got int"),
        (Laplace(MU, 1.0), TypeError, "Model must give .*Normal.*; got Laplace"),
        ((MU, LOGVAR[:2]), ValueError, r"Model must give .*\(M, D\); got \(4, 2\), \(2, 2\)"),
        ((MU[0], LOGVAR[0]), ValueError, r"Model must give .* share one shape \(M, D\); got"),
    ],
)
def test_other_answers_are_errors_that_name_the_model(answer, error, message):
    plugins.register(Answering(answer))
    with pytest.raises(error, match=message):
        encode(Model(), None)


def test_mode_and_grad_mode_are_the_callers():
    class Encoder(nn.Linear):
        def encode(self, x):
            self.seen = (self.training, torch.is_grad_enabled())
            return self(x).chunk(2, dim=1)

    model = Encoder(3, 4)
    assert encode(model, torch.zeros(2, 3)).z.requires_grad
    assert model.seen == (True, True)
    with torch.no_grad():
        encode(model.eval(), torch.zeros(2, 3))
    assert model.seen == (False, False)


# Precedence


def test_plugins_by_hand_come_first_and_the_latest_of_them():
    class Encoder(nn.Module):
        def encode(self, batch):
            return marked(1)

    assert mean_of(Encoder()) == 1
    first, second, none = Answering(marked(2)), Answering(marked(3)), Answering(None)
    for plugin in (first, second, none):
        plugins.register(plugin)
    assert mean_of(Encoder()) == 3
    plugins.unregister(second)
    assert mean_of(Encoder()) == 2
    plugins.unregister(first)
    assert mean_of(Encoder()) == 1


def test_adapters_are_asked_in_the_order_of_the_classes_whatever_was_loaded_first(installed):
    installed("base-adapter", {"base_pkg": "base_adapter"}, base_adapter=adapter(1))
    installed("derived-adapter", {"derived_pkg": "derived_adapter"}, derived_adapter=adapter(2))
    base = model_of("base_pkg")
    derived = model_of("derived_pkg", base)
    assert [mean_of(kind()) for kind in (base, derived, base)] == [1, 2, 1]


def test_an_adapter_is_loaded_once(installed):
    installed("once-adapter", {"once_pkg": "once_adapter"}, once_adapter=adapter(1))
    model = model_of("once_pkg")()
    encode(model, None)
    sys.modules.pop("once_adapter")
    encode(model, None)
    assert "once_adapter" not in sys.modules


def test_an_adapter_of_another_package_is_neither_loaded_nor_asked(installed):
    installed("other-adapter", {"other_pkg": "other_adapter"}, other_adapter=adapter(1))
    with pytest.raises(plugins.NoAdapterError):
        encode(model_of("unserved_pkg")(), None)
    assert "other_adapter" not in sys.modules
    encode(model_of("other_pkg")(), None)
    with pytest.raises(plugins.NoAdapterError, match="Loaded: 'other_pkg = other_adapter' of oth"):
        encode(model_of("unserved_pkg")(), None)


def test_an_object_may_be_the_entry_point(installed):
    source = adapter(4) + "\n        import sys\n        plugin = sys.modules[__name__]\n"
    installed("object-adapter", {"object_pkg": "object_adapter:plugin"}, object_adapter=source)
    assert mean_of(model_of("object_pkg")()) == 4


def test_functions_are_models_too():
    class ForFunctions:
        @hookimpl
        def tcdecomp_encode(self, model, batch):
            return model(batch) if type(model).__name__ == "function" else None

    plugins.register(ForFunctions())
    assert encode(lambda batch: (batch, batch), MU).mu is MU


# What goes wrong with adapters


def test_a_broken_adapter_breaks_its_own_packages_models_only(installed):
    installed("broken-adapter", {"broken_pkg": "broken_adapter"}, broken_adapter="import absent_x")
    installed("sound-adapter", {"sound_pkg": "sound_adapter"}, sound_adapter=adapter(1))
    message = (
        "'broken_pkg = broken_adapter' of broken-adapter could not be loaded: "
        "ModuleNotFoundError: No module named 'absent_x'"
    )
    for _ in range(2):
        with pytest.raises(ImportError, match=message) as caught:
            encode(model_of("broken_pkg")(), None)
        assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    assert mean_of(model_of("sound_pkg")()) == 1


def test_two_claims_on_a_package_are_an_error_that_names_both(installed):
    installed("claim-one", {"claimed_pkg": "claim_one"}, claim_one=adapter(1))
    installed("claim-two", {"claimed_pkg": "claim_two"}, claim_two=adapter(2))
    with pytest.raises(ImportError) as caught:
        encode(model_of("claimed_pkg")(), None)
    message = str(caught.value)
    assert message.startswith(
        "entry point 'claimed_pkg' of group 'tcdecomp' must be claimed by one"
    )
    assert "'claimed_pkg = claim_one' of claim-one" in message
    assert "'claimed_pkg = claim_two' of claim-two" in message


def test_an_adapter_with_a_wrong_hook_is_an_error_that_names_it(installed):
    source = "from tcdecomp import hookimpl\n@hookimpl\ndef tcdecomp_encoed(model): pass"
    installed("wrong-adapter", {"wrong_pkg": "wrong_adapter"}, wrong_adapter=source)
    with pytest.raises(
        TypeError, match=r"'wrong_pkg = wrong_adapter' of wrong-adapter .*unknown hook 'tcdecomp_"
    ):
        encode(model_of("wrong_pkg")(), None)


def test_an_adapter_installed_after_the_error_is_found(installed):
    model = model_of("late_pkg")()
    with pytest.raises(plugins.NoAdapterError):
        encode(model, None)
    installed("late-adapter", {"late_pkg": "late_adapter"}, late_adapter=adapter(1))
    assert mean_of(model) == 1


# Registering by hand


class UnknownHook:
    @hookimpl
    def tcdecomp_encoed(self, model, batch):
        """Misspelt."""


class UnknownArgument:
    @hookimpl
    def tcdecomp_encode(self, model, data):
        """Takes an argument that the hook has not."""


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (UnknownHook(), "plugin 'UnknownHook' must implement .*unknown hook 'tcdecomp_encoed'"),
        (UnknownArgument(), r"plugin 'UnknownArgument' .*'tcdecomp_encode'(.|\n)*{'data'}"),
        (object(), "plugin must mark tcdecomp_encode and tcdecomp_attach, .*@hookimpl; got 'obje"),
        (np, "@hookimpl; got 'numpy'"),
        (None, "@hookimpl; got 'NoneType'"),
        (Answering, "plugin must be a module or an instance; got the class 'Answering'"),
    ],
)
def test_what_is_no_plugin_is_refused_and_leaves_nothing_behind(plugin, message):
    with pytest.raises(TypeError, match=message):
        plugins.register(plugin)
    assert "registered" not in {status.state for status in plugins.survey()}


def test_registering_twice_and_unregistering_a_stranger_are_errors():
    plugin = Answering((MU, LOGVAR))
    plugins.register(plugin)
    with pytest.raises(ValueError, match=r"plugin must be registered only once; got .*Answering"):
        plugins.register(plugin)
    plugins.unregister(plugin)
    with pytest.raises(ValueError, match=r"must be what was given to register\(\), .*; got"):
        plugins.unregister(plugin)


def test_an_unhashable_plugin_is_no_worse():
    class Unhashable(Answering):
        __hash__ = None

    plugins.register(Unhashable(marked(1)))
    plugins.register(Unhashable(None))
    assert mean_of(Model()) == 1


def test_no_adapter_says_what_to_do():
    plugin = Answering(None)
    plugins.register(plugin)
    with pytest.raises(plugins.NoAdapterError) as caught:
        encode(Model(), None)
    message = str(caught.value)
    for part in (
        "no plugin implements tcdecomp_encode for a model of type",
        ".Model.",
        "(1) pass seam=tcdecomp.find_seam(model, batch), which serves",
        "(2) call criterion(z, mu, logvar, dataset_size) in your own training loop",
        "(3) give the model, a torch.nn.Module, a method encode(batch) that returns (mu, logvar)",
        "(4) tcdecomp.plugins.register() an object with tcdecomp_encode marked @tcdecomp.hookimpl",
        "(5) install, or publish, a distribution with an entry point in the group 'tcdecomp'",
        "Loaded: 'Answering'",
    ):
        assert part in message
    plugins.unregister(plugin)
    with pytest.raises(
        plugins.NoAdapterError, match=r"the model's package\. Loaded: .*plain' of tcdecomp$"
    ):
        encode(nn.Identity(), None)


def test_no_adapter_is_advised_for_the_standard_library():
    with pytest.raises(plugins.NoAdapterError, match=r"named like the model's package\. Loaded"):
        encode(decimal.Decimal(1), None)
    named = type("Theirs", (abc.ABC,), {"__module__": "theirs.models"})()
    with pytest.raises(plugins.NoAdapterError, match=r"the model's package \('theirs'\)\. Loaded"):
        encode(named, None)


# Attach


def test_attach_wants_an_attachment():
    class Attaching:
        @hookimpl
        def tcdecomp_attach(self):
            return "attached"

    plugins.register(Attaching())
    with pytest.raises(TypeError, match="must return an Attachment for a Model, or None; got str"):
        attach(Model(), TCDecomposition(), 10)


class Seam(nn.Module):
    def kl_loss(self, z, mu, logvar):
        return z.sum()


@pytest.mark.parametrize("size", [10.5, True, "10"])
def test_attach_refuses_a_dataset_size_of_another_type(size):
    with pytest.raises(TypeError, match="dataset_size must be an int, the number N of items"):
        attach(Seam(), TCDecomposition(), size)


def test_attach_needs_a_dataset_size_where_no_framework_states_it():
    with pytest.raises(ValueError, match=r"dataset_size must be given, .* a Seam does not state"):
        attach(Seam(), TCDecomposition())


def test_attach_refuses_a_model_with_a_criterion_inside():
    model = Seam()
    model.inner = nn.Sequential(TCDecomposition())
    with pytest.raises(ValueError, match=r"must not have a TCDecomposition; got Seam.inner.0"):
        attach(model, TCDecomposition(), 10)


@pytest.mark.parametrize("size", [0, -3])
def test_attach_refuses_an_empty_data_set(size):
    with pytest.raises(ValueError, match=f"dataset_size must be .*; got {size}"):
        attach(Seam(), TCDecomposition(), size)


def test_attach_refuses_another_loss():
    with pytest.raises(TypeError, match="criterion must be a TCDecomposition; got MSELoss"):
        attach(Seam(), nn.MSELoss(), 10)
    with pytest.raises(TypeError, match="criterion must be an object; got the class TCDecomp"):
        attach(Seam(), TCDecomposition, 10)


def test_classes_and_loaders_are_refused():
    with pytest.raises(TypeError, match=r"model must be an object; got the class Encoder. Pass E"):
        encode(Encoder, torch.zeros(8, 5))
    with pytest.raises(TypeError, match=r"batch must be one batch; got a DataLoader. Pass next\("):
        encode(Encoder(5, 6), DataLoader(torch.zeros(8, 5)))


def test_attach_keeps_an_index_as_an_int():
    handle = attach(Seam(), TCDecomposition(), np.int64(10))
    assert type(handle.dataset_size) is int


# Wrapped models


class Encoder(nn.Linear):
    def encode(self, x):
        return self(x).chunk(2, dim=1)

    def kl_loss(self, z, mu, logvar):
        return z.sum()


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def wrapped(model, wrapper):
    if wrapper == "compile":
        return torch.compile(model, backend="eager")
    if wrapper == "DataParallel":
        return DataParallel(model)
    ddp = nn.parallel.DistributedDataParallel(model)
    return torch.compile(ddp, backend="eager") if wrapper == "compiled DDP" else ddp


@pytest.mark.parametrize("wrapper", ["compile", "DataParallel", "DDP", "compiled DDP"])
def test_wrappers_are_taken_off(wrapper, process_group):
    model = Encoder(3, 4)
    outer = wrapped(model, wrapper)
    x = torch.zeros(2, 3)
    torch.testing.assert_close(encode(outer, x).mu, model.encode(x)[0])
    with attach(outer, TCDecomposition(), 10) as handle:
        assert Attachment.of(model) is handle


def test_a_learned_prior_is_refused_once_ddp_has_taken_its_parameters(process_group):
    class Prior(nn.Linear):
        def forward(self):
            return Normal(self.bias, 1.0)

    ddp = nn.parallel.DistributedDataParallel(Encoder(3, 4))
    with pytest.raises(ValueError, match="must not be wrapped in DistributedDataParallel before"):
        attach(ddp, TCDecomposition(prior=Prior(1, 2)), 10)


def test_importing_and_encoding_load_no_framework():
    code = """
        import sys, torch, tcdecomp
        class Encoder(torch.nn.Linear):
            def encode(self, x):
                return self(x).chunk(2, dim=1)
        before = [name for name in sys.modules if "tcdecomp_adapters" in name]
        tcdecomp.encode(Encoder(3, 4), torch.zeros(2, 3))
        after = [name for name in sys.modules if "lightning" in name or name == "torch._dynamo"]
        print(before, after)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"
