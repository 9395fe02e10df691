"""The metrics of torchmetrics: their values, life cycle and errors, and two processes."""

import copy
import json
import os
import pickle
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score
from torch import nn
from torch.distributions import Normal
from torchmetrics import MetricCollection

import reference
from tcdecomp import Posterior, TCDecomposition, mig_score
from tcdecomp_adapters.torchmetrics import MIG, KLTerms
from tolerances import assert_close
from torchmetrics_ddp import N, batches, codes_and_factors, updated

SCRIPT = Path(__file__).parents[1] / "torchmetrics_ddp.py"
NAMES = ["index_code_mi", "total_correlation", "dimension_wise_kl", "kl"]


def by_hand(triples, estimator="mss"):
    """Return the means over the rows of all batches, by the paper's formulas as loops."""
    columns = [[], [], [], []]
    for triple in triples:
        z, mu, logvar = (tensor.double().tolist() for tensor in triple)
        per_item = reference.terms(z, mu, logvar, N, reference.ROWS[estimator])
        for column, values in zip(columns, (*per_item, reference.kl(mu, logvar)), strict=True):
            column.extend(values)
    return {name: sum(col) / len(col) for name, col in zip(NAMES, columns, strict=True)}


def gap_by_hand(codes, factors, n_bins):
    """Return the MIG by scikit-learn's mutual information and numpy's bins."""
    edges = [np.linspace(z.min(), z.max(), n_bins + 1) for z in codes.T.numpy()]
    labels = [np.digitize(z, cuts[1:-1]) for z, cuts in zip(codes.T.numpy(), edges, strict=True)]
    gaps = []
    for v in factors.T.numpy():
        *_, second, first = sorted(mutual_info_score(z, v) for z in labels)
        gaps.append((first - second) / mutual_info_score(v, v))
    return sum(gaps) / len(gaps)


# Two processes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Return what each process has written."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, str(SCRIPT), str(rank), str(folder)] for rank in range(2)]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
            )
            for command in commands
        ]
        for process in processes:
            stack.callback(process.kill)
        for process in processes:
            _, stderr = process.communicate(timeout=240)
            assert process.returncode == 0, stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize(("case", "seen"), [("uneven", 3), ("again", 3), ("one without", 2)])
def test_two_processes_give_what_one_gives(ranks, case, seen):
    gap = updated(MIG(n_bins=5), codes_and_factors()[:seen]).compute()
    expected = {**by_hand(batches()[:seen]), "mig": gap}
    for rank in ranks:
        assert rank[case].keys() == expected.keys()
        for name, value in expected.items():
            assert_close(rank[case][name], value, torch.float32)


def test_without_rows_in_any_process_there_is_no_gap(ranks):
    for rank in ranks:
        assert (
            rank["both without"] == "MIG.update must have been called before compute; got no rows"
        )


# Values


@pytest.mark.parametrize("estimator", ["mss", "mws", "inclusive"])
def test_terms_are_means_over_rows(estimator):
    terms = updated(KLTerms(N, criterion=TCDecomposition(estimator=estimator)), batches()).compute()
    expected = by_hand(batches(), estimator)
    assert list(terms) == NAMES
    for name in NAMES:
        assert terms[name].shape == ()
        assert_close(terms[name], expected[name], torch.float32)


def test_set_dtype_keeps_float64():
    terms = KLTerms(N).set_dtype(torch.float64)
    expected = by_hand(batches(torch.float64))
    for name, value in updated(terms, batches(torch.float64)).compute().items():
        assert value.dtype == torch.float64
        assert_close(value, expected[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised(dtype):
    terms = KLTerms(N)
    expected = by_hand(batches(dtype))
    for name, value in updated(terms, batches(dtype)).compute().items():
        assert value.dtype == torch.float32
        assert_close(value, expected[name], dtype)
    codes, factors = zip(*codes_and_factors(), strict=True)
    halves = [code.to(dtype) for code in codes]
    gap = updated(MIG(n_bins=5), zip(halves, factors, strict=True)).compute()
    by_sklearn = gap_by_hand(torch.cat(halves).double(), torch.cat(factors), 5)
    assert_close(gap, by_sklearn, torch.float32)


def test_a_posterior_stands_for_the_three():
    posteriors = ((Posterior(*batch),) for batch in batches())
    one, three = updated(KLTerms(N), posteriors), updated(KLTerms(N), batches())
    assert one.compute() == three.compute()


def test_a_sampled_kl_has_no_closed_form():
    terms = updated(KLTerms(N, criterion=TCDecomposition(kl="sampled")), batches()).compute()
    assert list(terms) == NAMES[:3]
    assert_close(terms["total_correlation"], by_hand(batches())["total_correlation"], torch.float32)


class Prior(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(3))

    def forward(self):
        return Normal(self.loc, 1.0)


def test_a_learned_prior_is_the_models_own():
    prior = Prior()
    terms = KLTerms(N, criterion=TCDecomposition(prior=prior))
    with torch.no_grad():
        prior.loc += 2
    _, mu, logvar = batches()[0]
    expected = (0.5 * ((mu - 2).square() + logvar.exp() - 1 - logvar)).sum(1).mean()
    assert_close(terms(*batches()[0])["kl"], expected, torch.float32)


def test_the_gap_is_that_of_all_rows():
    parts = codes_and_factors()
    codes, factors = map(torch.cat, zip(*parts, strict=True))
    for options in ({}, {"n_bins": 5}, {"n_bins": 4, "strategy": "quantile"}):
        exact = MIG(**options).set_dtype(torch.float64)
        assert updated(exact, parts).compute().item() == mig_score(codes, factors, **options)
    gap = updated(MIG(n_bins=5), parts).compute()
    assert_close(gap, gap_by_hand(codes.double(), factors, 5), torch.float32)
    assert gap.shape == ()


def test_one_factor_may_be_a_vector():
    parts = [(codes, factors[:, 0]) for codes, factors in codes_and_factors()]
    codes, factors = map(torch.cat, zip(*parts, strict=True))
    assert_close(updated(MIG(), parts).compute(), mig_score(codes, factors), torch.float32)


def test_factors_that_are_numbers_are_binned():
    parts = [(codes, factors + codes) for codes, factors in codes_and_factors()]
    codes, factors = map(torch.cat, zip(*parts, strict=True))
    expected = mig_score(codes, factors, discrete_factors=False)
    assert_close(updated(MIG(discrete_factors=False), parts).compute(), expected, torch.float32)


# The life cycle of a metric


def test_forward_returns_the_batchs_values_and_adds_them():
    terms, gap = KLTerms(N), MIG(n_bins=5)
    for batch in batches():
        for name, value in terms(*batch).items():
            assert_close(value, by_hand([batch])[name], torch.float32)
    for codes, factors in codes_and_factors():
        score = mig_score(codes, factors, n_bins=5)
        assert_close(gap(codes, factors), score, torch.float32)
    assert terms.compute() == updated(KLTerms(N), batches()).compute()
    assert gap.compute() == updated(MIG(n_bins=5), codes_and_factors()).compute()


def test_forward_has_a_gradient_and_the_sums_have_none():
    z, mu, logvar = (tensor.clone().requires_grad_() for tensor in batches()[0])
    terms = KLTerms(N)
    terms(z, mu, logvar)["total_correlation"].backward()
    assert mu.grad.abs().sum() > 0
    assert not terms.sums.requires_grad


def test_reset_forgets():
    for metric, inputs in ((KLTerms(N), batches()), (MIG(n_bins=5), codes_and_factors())):
        updated(metric, inputs).reset()
        fresh = metric.clone()
        updated(metric, inputs[:2]), updated(fresh, inputs[:2])
        assert metric.compute() == fresh.compute()
        assert metric.compute() == updated(type(metric)(**made_with(metric)), inputs[:2]).compute()


def made_with(metric):
    return {"dataset_size": N} if isinstance(metric, KLTerms) else {"n_bins": 5}


@pytest.mark.parametrize("through", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_go_on_by_themselves(through):
    for metric, inputs in ((KLTerms(N), batches()), (MIG(n_bins=5), codes_and_factors())):
        updated(metric, inputs[:1])
        other = updated(through(metric), inputs[1:])
        whole = updated(type(metric)(**made_with(metric)), inputs)
        assert other.compute() == whole.compute()
        assert metric.compute() != whole.compute()


def test_in_a_collection_each_takes_its_own_arguments():
    collection = MetricCollection({"terms": KLTerms(N), "mig": MIG(n_bins=5)}, prefix="val/")
    for (z, mu, logvar), (codes, factors) in zip(batches(), codes_and_factors(), strict=True):
        collection.update(z=z, mu=mu, logvar=logvar, codes=codes, factors=factors)
    values = collection.compute()
    assert set(values) == {f"val/{name}" for name in (*NAMES, "mig")}
    assert_close(values["val/kl"], by_hand(batches())["kl"], torch.float32)
    expected = updated(MIG(n_bins=5), codes_and_factors()).compute()
    assert values["val/mig"] == expected


def test_a_collection_keeps_metrics_of_different_options_apart():
    options = ("mss", "mws", "inclusive")
    criteria = {name: TCDecomposition(estimator=name) for name in options}
    collection = MetricCollection(
        {name: KLTerms(N, criterion=criterion) for name, criterion in criteria.items()}
    )
    values = updated(collection, batches()).compute()
    for name in options:
        expected = by_hand(batches(), name)["total_correlation"]
        assert_close(values[f"{name}_total_correlation"], expected, torch.float32)


def test_a_collection_shares_the_rows_of_several_gaps():
    collection = MetricCollection({"five": MIG(n_bins=5), "ten": MIG(n_bins=10)})
    values = updated(collection, codes_and_factors()).compute()
    assert len(collection.compute_groups) == 1
    for name, n_bins in (("five", 5), ("ten", 10)):
        assert values[name] == updated(MIG(n_bins=n_bins), codes_and_factors()).compute()


def test_a_move_takes_the_sums_along():
    metrics = nn.ModuleDict({"terms": KLTerms(N), "gap": MIG(n_bins=5)})
    updated(metrics["terms"], batches()[:2]), updated(metrics["gap"], codes_and_factors()[:2])
    metrics.to("meta")
    assert metrics["terms"].sums.device.type == metrics["terms"].rows.device.type == "meta"
    assert {code.device.type for code in metrics["gap"].codes} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda():
    terms, gap = KLTerms(N).cuda(), MIG(n_bins=5).cuda()
    updated(terms, [[tensor.cuda() for tensor in batch] for batch in batches()])
    updated(gap, [[tensor.cuda() for tensor in batch] for batch in codes_and_factors()])
    for name, value in terms.compute().items():
        assert value.is_cuda
        assert_close(value, by_hand(batches())[name], torch.float32)
    assert gap.compute().is_cuda
    expected = updated(MIG(n_bins=5), codes_and_factors()).compute()
    assert_close(gap.compute(), expected, torch.float32)


def test_rows_may_be_kept_on_the_cpu():
    gap = updated(MIG(n_bins=5, compute_on_cpu=True), codes_and_factors())
    assert gap.compute() == updated(MIG(n_bins=5), codes_and_factors()).compute()


def test_a_state_dict_is_empty():
    assert not KLTerms(N).state_dict() | MIG().state_dict()


# A single row


def test_a_single_row_is_left_out():
    single = tuple(tensor[:1] for tensor in batches()[0])
    terms = updated(KLTerms(N), [single, *batches(), single])
    assert_close(terms.compute()["kl"], by_hand(batches())["kl"], torch.float32)


def test_nothing_but_single_rows_is_nan_with_a_warning():
    terms = updated(KLTerms(N), batches()[:1])
    with pytest.warns(UserWarning, match="KLTerms has seen no batch of two rows or more"):
        values = terms(*(tensor[:1] for tensor in batches()[0]))
    assert all(value.isnan() for value in values.values())
    assert_close(terms.compute()["kl"], by_hand(batches()[:1])["kl"], torch.float32)


# Errors


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dataset_size": 0}, ValueError, "dataset_size must be an int >= 1; got 0"),
        ({"dataset_size": 10.0}, TypeError, "dataset_size must be an int"),
        ({"criterion": "mss"}, TypeError, "criterion must be a TCDecomposition; got str"),
        ({"no": 3}, ValueError, "Unexpected keyword arguments: `no`"),
    ],
)
def test_options_of_the_terms_are_checked_at_once(options, error, message):
    with pytest.raises(error, match=message):
        KLTerms(**{"dataset_size": N, **options})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_bins": 1}, ValueError, "n_bins must be an integer >= 2; got 1"),
        ({"n_bins": 2.5}, TypeError, "n_bins must be an integer >= 2; got 2.5"),
        ({"strategy": "kmeans"}, ValueError, "strategy must be 'uniform', 'quantile' or 'robust'"),
    ],
)
def test_options_of_the_gap_are_checked_at_once(options, error, message):
    with pytest.raises(error, match=message):
        MIG(**options)


Z, MU, LOGVAR = batches()[0]
NAN = MU.clone()
NAN[3, 1] = torch.nan


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ((Z, MU), TypeError, "logvar must be a torch.Tensor; got NoneType"),
        ((Posterior(Z, MU, LOGVAR), MU), TypeError, "mu and logvar must be left out beside a Post"),
        ((Z, MU, LOGVAR[:3]), ValueError, r"must share one shape \(M, D\); got"),
        ((Z, NAN, LOGVAR), ValueError, "mu must be finite; got nan at row 3, column 1"),
        ((MU, MU, LOGVAR), ValueError, r"z must be a sample .*from_moments\(mu, logvar\)"),
        ([torch.cat([part] * 9) for part in (Z, MU, LOGVAR)], ValueError, "batch size M = 216; go"),
    ],
)
def test_a_bad_batch_of_terms_changes_nothing(batch, error, message):
    terms = updated(KLTerms(N), batches())
    before = terms.compute()
    with pytest.raises(error, match=message):
        terms.update(*batch)
    assert terms.compute() == before


CODES, FACTORS = codes_and_factors()[0]


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ((CODES.numpy(), FACTORS), TypeError, "codes must be a torch.Tensor; got ndarray"),
        ((CODES, FACTORS.tolist()), TypeError, "factors must be a torch.Tensor; got list"),
        ((CODES[0], FACTORS), ValueError, r"codes must have shape \(M, 2\), .*; got \(2,\)"),
        ((CODES[:, :1], FACTORS), ValueError, r"codes must have shape \(M, 2\), .*; got \(24, 1\)"),
        ((CODES, FACTORS[:, 0]), ValueError, r"factors must have shape \(M, 2\), .*; got \(24, 1"),
        ((CODES, FACTORS[:9]), ValueError, "one row per item each; got 24 and 9 rows"),
        ((NAN[:, :2], FACTORS), ValueError, "codes must be finite; got nan at row 3, column 1"),
        ((CODES, NAN[:, :2]), ValueError, "factors must be finite; got nan at row 3, column 1"),
    ],
)
def test_a_bad_batch_of_codes_changes_nothing(batch, error, message):
    gap = updated(MIG(n_bins=5), codes_and_factors())
    before = gap.compute()
    with pytest.raises(error, match=message):
        gap.update(*batch)
    assert gap.compute() == before


def test_the_first_codes_are_checked_too():
    with pytest.raises(
        ValueError, match=r"codes must have shape \(M, columns\), .*; got \(24, 2, 1"
    ):
        MIG().update(CODES.unsqueeze(2), FACTORS)


def test_what_mig_score_refuses_is_refused_when_all_rows_are_there():
    gap = updated(MIG(), [(CODES, FACTORS * 0), (CODES, FACTORS * 0)])
    with pytest.raises(ValueError, match="factors must take at least two values"):
        gap.compute()
    gap.update(CODES, FACTORS)
    assert gap.compute().isfinite()


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric MIG was called before")
def test_a_gap_of_nothing_is_refused():
    with pytest.raises(ValueError, match="must have been called before compute; got no rows"):
        MIG().compute()
