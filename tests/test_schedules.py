"""Schedules of weights and targets of terms: values by hand, laws, and what they make a loop do."""

import math
import pickle
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strategies import draw_posterior
from tcdecomp import Posterior, TCDecomposition, Terms
from tcdecomp.schedules import Capacity, Cyclic, WarmUp, known_values
from tolerances import assert_close
from versions import compiles_schedules

NUMBERS = st.floats(-1e6, 1e6)
STEPS = st.integers(0, 10**6)
BATCH = draw_posterior(seed=0, size=16, dim=3)
TERMS = Terms(*torch.tensor([5.0, 1.0, 2.0, 8.5], dtype=torch.float64))


@st.composite
def warm_ups(draw):
    return WarmUp(draw(NUMBERS), draw(STEPS), start=draw(NUMBERS))


@st.composite
def cycles(draw):
    low, high = sorted([draw(NUMBERS), draw(NUMBERS)])
    ramp = draw(st.floats(0, 1, exclude_min=True))
    return Cyclic(high, draw(st.integers(2, 10**6)), low=low, ramp=ramp)


# Values


def test_a_warm_up_by_hand():
    schedule = WarmUp(6.0, 4, start=1.0)
    assert [schedule(step) for step in range(7)] == [1, 2.25, 3.5, 4.75, 6, 6, 6]
    assert [WarmUp(0, 2, start=1)(step) for step in range(4)] == [1, 0.5, 0, 0]
    assert WarmUp(3, 0)(0) == 3


def test_cycles_by_hand():
    schedule = Cyclic(5.0, 4, low=1.0)
    assert [schedule(step) for step in range(9)] == [1, 3, 5, 5, 1, 3, 5, 5, 1]
    sawtooth = Cyclic(1.0, 4, ramp=1.0)
    assert [sawtooth(step) for step in range(6)] == [0, 0.25, 0.5, 0.75, 0, 0.25]


@pytest.mark.parametrize(("total", "cycles_"), [(40, 4), (100, 5), (64, 2)])
def test_cycles_are_those_of_the_paper(total, cycles_):
    schedule = Cyclic(1.0, total // cycles_)
    for t in range(1, total + 1):  # whose steps count from 1
        tau = ((t - 1) % (total // cycles_)) / (total / cycles_)
        assert schedule(t - 1) == pytest.approx(tau / 0.5 if tau <= 0.5 else 1.0)


@given(warm_ups(), st.lists(STEPS, min_size=2))
def test_a_warm_up_is_monotone_between_its_ends(schedule, steps):
    values = [schedule(step) for step in [0, *sorted(steps), schedule.steps + max(steps)]]
    slack = 1e-9 * max(abs(schedule.start), abs(schedule.end))
    up = 1 if schedule.end >= schedule.start else -1
    assert all(up * (b - a) >= -slack for a, b in pairwise(values))
    assert values[0] == (schedule.start if schedule.steps else schedule.end)
    assert values[-1] == schedule.end


@given(cycles(), STEPS, st.integers(0, 1000))
def test_cycles_are_periodic_and_within_their_ends(schedule, step, many):
    value = schedule(step)
    slack = 1e-9 * max(abs(schedule.low), abs(schedule.high))
    assert schedule.low <= value <= schedule.high + slack
    assert schedule(step + many * schedule.period) == value
    assert schedule(many * schedule.period) == schedule.low


@given(st.one_of(warm_ups(), cycles()), STEPS)
def test_every_value_lies_between_the_known_ones(schedule, step):
    low, high = sorted(known_values(schedule))
    slack = 1e-9 * max(abs(low), abs(high))
    assert low - slack <= schedule(step) <= high + slack


@given(st.floats(0, 1e6), st.floats(0, 1e6), STEPS, STEPS)
def test_from_weights_that_are_allowed_come_weights_that_are_allowed(start, end, steps, step):
    TCDecomposition(beta=WarmUp(end, steps, start=start)(step))


def test_of_another_schedule_the_first_value_is_known():
    assert known_values(lambda step: 3.0 + step) == (3.0,)


@pytest.mark.parametrize(
    "schedule", [WarmUp(6, 10), Cyclic(1, 10, low=0.5), Capacity("kl", WarmUp(25, 10), 100)]
)
def test_they_are_values(schedule):
    copied = pickle.loads(pickle.dumps(schedule))
    assert copied == schedule
    assert hash(copied) == hash(schedule)
    with pytest.raises(AttributeError):
        schedule.end = 3


@pytest.mark.parametrize("step", [np.int64(2), torch.tensor(2)])
def test_a_step_is_whatever_counts(step):
    for schedule in (WarmUp(6, 4), Cyclic(6, 8), WarmUp(6.0, np.int32(4))):
        assert schedule(step) == 3
        assert type(schedule(step)) is float


# Capacity


@pytest.mark.parametrize(
    ("term", "step", "distance"),
    [
        ("kl", 0, 8.5),
        ("kl", 500, 4.0),
        ("kl", 10**6, 16.5),
        ("index_code_mi", 100, 2.5),
        ("total_correlation", 1000, 24.0),
        ("dimension_wise_kl", 80, 0.0),
        ("sampled_kl", 0, 8.0),
        ("aggregate_kl", 0, 3.0),
    ],
)
def test_distances_by_hand(term, step, distance):
    assert_close(Capacity(term, WarmUp(25, 1000), 100)(TERMS, step), 100 * distance)


def test_a_target_may_be_a_number_or_any_function():
    assert_close(Capacity("kl", 10, 2)(TERMS, 123), 3.0)
    assert_close(Capacity("kl", lambda step: step**0.5, 2)(TERMS, 4), 13.0)


def test_items_are_compared_one_by_one():
    terms = TCDecomposition(reduction="none").decompose(*BATCH, 100)
    losses = Capacity("kl", 1.5, 10)(terms, 0)
    assert_close(losses, [10 * abs(kl - 1.5) for kl in terms.kl.tolist()])


@pytest.mark.parametrize("term", ["kl", "index_code_mi", "total_correlation"])
@pytest.mark.parametrize("target", [0.0, 50.0])
def test_its_gradient_is_that_of_the_term_towards_the_target(term, target):
    leaves = [t.clone().requires_grad_() for t in BATCH]
    terms = TCDecomposition().decompose(*leaves, 100)
    plain = torch.autograd.grad(getattr(terms, term), leaves, retain_graph=True, allow_unused=True)
    got = torch.autograd.grad(Capacity(term, target, 7)(terms, 0), leaves, allow_unused=True)
    sign = 1 if getattr(terms, term) > target else -1
    for a, b in zip(got, plain, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert_close(a, sign * 7 * b)


# Loops


def test_a_loop_sets_a_weight():
    criterion, beta = TCDecomposition(), WarmUp(6.0, 4, start=1.0)
    terms = criterion.decompose(*BATCH, 100)
    for step in range(6):
        criterion.beta = beta(step)
        excess = criterion(*BATCH, 100) - terms.kl
        assert_close(excess, (min(1 + 1.25 * step, 6) - 1) * terms.total_correlation)


@compiles_schedules
@pytest.mark.parametrize("schedule", [WarmUp(6, 40, start=1), Cyclic(6, 8)])
def test_a_compiled_criterion_follows_in_one_graph(schedule):
    criterion = TCDecomposition()
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    for step in range(20):  # more than torch compiles a function anew
        criterion.beta = schedule(step)
        assert_close(compiled(*BATCH, 100), criterion(*BATCH, 100))


@pytest.mark.parametrize(
    ("term", "target", "weights"),
    [
        ("kl", 3.0, {"alpha": 0, "beta": 0, "gamma": 0}),
        ("index_code_mi", 2.0, {"alpha": 0}),
        ("total_correlation", 0.5, {"beta": 0}),
    ],
)
def test_a_term_is_brought_to_its_target_and_held_there(term, target, weights):
    torch.manual_seed(0)
    criterion, capacity = TCDecomposition(**weights), Capacity(term, WarmUp(target, 200), 20)
    x = torch.randn(64, 2)
    mu, logvar = torch.zeros(64, 2, requires_grad=True), torch.zeros(64, 2, requires_grad=True)
    adam, seen = torch.optim.Adam([mu, logvar], lr=0.02), []
    for step in range(400):
        p = Posterior.from_moments(mu, logvar)
        terms = criterion.decompose(*p, 64, items=torch.arange(64))
        error = (p.z - x).square().sum(1).mean()
        adam.zero_grad()
        (error + criterion.weigh(terms) + capacity(terms, step)).backward()
        adam.step()
        seen.append(getattr(terms, term).item())
    assert sum(seen[-50:]) / 50 == pytest.approx(target, abs=0.1)


# Errors


COUNT = "must be an int >= {}; got {}"
OPTIONS = {
    "steps": (lambda: WarmUp(1, -1), ValueError, "steps " + COUNT.format(0, -1)),
    "float steps": (lambda: WarmUp(1, 10.0), TypeError, "steps " + COUNT.format(0, 10.0)),
    "bool steps": (lambda: WarmUp(1, True), TypeError, "steps " + COUNT.format(0, True)),
    "end": (lambda: WarmUp(math.nan, 1), ValueError, "end must be finite; got nan"),
    "start": (lambda: WarmUp(1, 1, start=-math.inf), ValueError, "start must be finite; got -inf"),
    "text": (lambda: WarmUp("1", 1), TypeError, "end must be a number; got str"),
    "tensor": (lambda: WarmUp(torch.ones(()), 1), TypeError, "end must be a number; got Tensor"),
    "bool": (lambda: WarmUp(True, 1), TypeError, "end must be a number; got bool"),
    "start first": (
        lambda: WarmUp(0, 6, 100),
        TypeError,
        "WarmUp.__init__() takes 3 positional arguments but 4 were given",
    ),
    "period": (lambda: Cyclic(1, 1), ValueError, "period " + COUNT.format(2, 1)),
    "float period": (lambda: Cyclic(1, 8.0), TypeError, "period " + COUNT.format(2, 8.0)),
    "high": (lambda: Cyclic(math.inf, 8), ValueError, "high must be finite; got inf"),
    "low": (lambda: Cyclic(1, 8, low=2), ValueError, "low must be at most high, 1.0; got 2.0"),
    "ramp": (lambda: Cyclic(1, 8, ramp=0), ValueError, "ramp must be above 0 and at most 1; got 0"),
    "ramp above": (lambda: Cyclic(1, 8, ramp=1.5), ValueError, "at most 1; got 1.5"),
    "nan ramp": (lambda: Cyclic(1, 8, ramp=math.nan), ValueError, "ramp must be finite; got nan"),
    "term": (
        lambda: Capacity("tc", 1, 1),
        ValueError,
        "term must be one of 'index_code_mi', 'total_correlation', 'dimension_wise_kl', 'kl', "
        "'sampled_kl', 'aggregate_kl'; got 'tc'",
    ),
    "method": (lambda: Capacity("weigh", 1, 1), ValueError, "got 'weigh'"),
    "strength": (
        lambda: Capacity("kl", 1, -1),
        ValueError,
        "strength must be finite and at least 0; got -1",
    ),
    "target": (
        lambda: Capacity("kl", -1, 1),
        ValueError,
        "target must be finite and at least 0; got -1",
    ),
    "late target": (
        lambda: Capacity("kl", WarmUp(-1, 10), 1),
        ValueError,
        "target must be finite and at least 0; got -1.0",
    ),
    "low target": (
        lambda: Capacity("kl", Cyclic(1, 10, low=-1), 1),
        ValueError,
        "target must be finite and at least 0; got -1.0",
    ),
    "text target": (lambda: Capacity("kl", "1", 1), TypeError, "target must be a number; got str"),
    "own target": (
        lambda: Capacity("kl", lambda step: None, 1),
        TypeError,
        "target must be a number; got NoneType",
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_wrong_options_are_refused(name):
    make, error, message = OPTIONS[name]
    with pytest.raises(error, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("step", "error"), [(-1, ValueError), (1.0, TypeError), (True, TypeError), (None, TypeError)]
)
def test_a_wrong_step_is_refused(step, error):
    message = re.escape(f"step must be an int >= 0; got {step}")
    for schedule in (WarmUp(1, 10), Cyclic(1, 10)):
        with pytest.raises(error, match=message):
            schedule(step)
    with pytest.raises(error, match=message):
        Capacity("kl", 1, 1)(TERMS, step)


@pytest.mark.parametrize(
    ("target", "error", "got"),
    [(-1, ValueError, "-1"), (math.nan, ValueError, "nan"), (None, TypeError, "NoneType")],
)
def test_a_target_that_goes_wrong_is_refused_at_its_step(target, error, got):
    capacity = Capacity("kl", lambda step: target if step else 1.0, 1)
    capacity(TERMS, 0)
    with pytest.raises(error, match=f"target must be .*; got {got}"):
        capacity(TERMS, 1)


def test_terms_without_a_kl_have_no_target_for_it():
    terms = TCDecomposition(kl="sampled").decompose(*BATCH, 100)
    with pytest.raises(ValueError, match=r'terms.kl must be there .*None.*term="sampled_kl"'):
        Capacity("kl", 1, 1)(terms, 0)
    Capacity("sampled_kl", 1, 1)(terms, 0)


def test_what_is_no_terms_is_refused():
    with pytest.raises(TypeError, match="terms must be Terms; got tuple"):
        Capacity("kl", 1, 1)(tuple(TERMS), 0)
