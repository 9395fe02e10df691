"""The auditor: right code is cleared, and each known fault is named, and nothing else."""

import math
import re
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch

import public_faults as code
import reference
from public_faults import FAULTS, RIGHT
from tcdecomp import TCDecomposition, audit
from tcdecomp.auditor import probes, subject
from tcdecomp.auditor.fit import Fit
from tcdecomp.auditor.forms import COUNTED, DENSITIES, MATRICES, SCALES, Form
from tcdecomp.auditor.report import DEPARTURES
from tcdecomp.auditor.subject import Answer
from tcdecomp.dataset.decomposition import decompose_dataset
from tolerances import assert_close

# A study with fewer and smaller batches, except where the study itself is tested.
SHORT = {"DATASET_SIZE": 256, "BATCHES": 8, "BATCH_SIZE": 31, "SAMPLES": 256}
CASES = RIGHT | FAULTS


@pytest.fixture(autouse=True)
def _short_study(request, monkeypatch):
    if "full_study" not in request.fixturenames:
        for name, value in SHORT.items():
            monkeypatch.setattr(subject, name, value)


@pytest.fixture
def full_study():
    """Ask for the study as users get it."""


@cache
def audited(case):
    """The audit of a case with the short study."""
    return audit(CASES[case][0])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def names(result, kind):
    return {verdict.name for verdict in result.verdicts if verdict.kind == kind}


def named(result, name):
    (verdict,) = (v for v in result.verdicts if v.name == name)
    return verdict


# Code of known merit


@pytest.mark.parametrize("case", RIGHT)
def test_right_code_is_cleared(case):
    function, estimator, remarks = RIGHT[case]
    for result in (audited(case), audit(function, seed=1, dtype=torch.float64)):
        assert result.estimator == estimator
        assert result.ok
        assert result.verdicts[0].name == "unbiased"
        assert names(result, "remark") == remarks


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_named_and_no_other(case):
    _, estimator, faults, remarks = FAULTS[case]
    result = audited(case)
    assert result.estimator == estimator
    assert not result.ok
    assert names(result, "fault") == faults
    assert names(result, "remark") == remarks
    assert names(result, "fine") == set()


@pytest.mark.usefixtures("full_study")
@pytest.mark.parametrize("case", code.UNKNOWN)
def test_right_code_of_an_unknown_form_is_not_accused(case):
    result = audit(code.UNKNOWN[case])
    assert (result.estimator, names(result, "fault")) == ("unknown", set())
    assert names(result, "remark") == {"unknown form"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_library_is_right_in_every_dtype(dtype):
    result = audit(code.library("mss"), dtype=dtype)
    assert (result.estimator, result.ok, names(result, "remark")) == ("symmetric MSS", True, set())


@pytest.mark.parametrize(
    ("choice", "dtype"), [("first", torch.float16), ("previous", torch.bfloat16)]
)
def test_half_precision_finds_no_fault_with_the_weights_of_the_paper(choice, dtype):
    function = code.weighted_by(code.paper_weights(code.CHOICES[choice]))
    result = audit(function, dtype=dtype)
    assert result.estimator in {"MSS of the paper", "symmetric MSS"}
    assert names(result, "fault") <= {"overflow at sharp posteriors"}


def test_bfloat16_inside_loses_digits_only():
    result = audit(code.in_dtype(torch.bfloat16))
    assert result.estimator == "symmetric MSS"
    assert names(result, "fault") == {"digits lost"}
    assert names(result, "remark") == {"low precision"}


def both(z, mu, logvar, total):
    """Public code with three faults at once."""
    mi, tc, dimension_wise_kl = code.counted_per_dimension(code.wrong_columns)(z, mu, logvar, total)
    return len(z) * mi, -len(z) * tc, len(z) * dimension_wise_kl


def test_faults_together_are_all_named():
    result = audit(both)
    assert result.estimator == "MSS in the wrong columns"
    assert names(result, "fault") == {
        "inclusive in disguise",
        "weights counted D times",
        "summed over the batch",
        "sign flipped",
    }


# What the verdicts say


def test_weights_are_measured():
    for case, own, row_sum in (
        ("textbook", lambda m, n: 1 / n, lambda m, n: 1),
        ("MWS", lambda m, n: 1 / (n * m), lambda m, n: 1 / n),
        ("no log(NM)", lambda m, n: 1, lambda m, n: m),
        ("sum over the batch", lambda m, n: 1 / n, lambda m, n: 1),
        ("MI and TC swapped", lambda m, n: 1 / n, lambda m, n: 1),
    ):
        for w in audited(case).weights:
            assert w.own == pytest.approx(own(w.batch_size, w.dataset_size), rel=1e-4)
            assert w.row_sum == pytest.approx(row_sum(w.batch_size, w.dataset_size), rel=1e-4)


def test_the_public_matrix_gives_its_own_component_too_much():
    evidence = named(audited("public MSS"), "inclusive in disguise").evidence
    size, total = int(evidence["M"]), int(evidence["N"])
    own = code.wrong_columns(size, total).diagonal().log().mean().exp().item()
    assert evidence["own weight times N"] == pytest.approx(own * total, rel=1e-3)
    assert own * total > 1000


def test_unknown_weights_are_measured_and_refused():
    def twice_the_own(size, total):
        return code.symmetric_weights(size, total).fill_diagonal_(2 / total)

    result = audit(code.weighted_by(twice_the_own))
    assert result.estimator == "unknown"
    assert names(result, "fault") == {"weights wrong"}
    assert named(result, "weights wrong").evidence["own weight times N"] == pytest.approx(2)


def test_the_negated_terms_are_listed():
    sentence = named(audited("TC negated"), "sign flipped").sentence
    assert sentence == "Negated: total_correlation."


def test_the_order_is_told():
    sentence = named(audited("MI and TC swapped"), "terms in the wrong order").sentence
    assert "total_correlation, index_code_mi, dimension_wise_kl" in sentence


# Code that no form fits


def constant_off(z, mu, logvar, total):
    return tuple(term + 0.3 for term in code.mss(z, mu, logvar, total))


def slightly_off(z, mu, logvar, total):
    return tuple(term + 0.005 for term in code.mss(z, mu, logvar, total))


def of_another_size(z, mu, logvar, total):
    return (code.mss if len(z) < 20 else code.inclusive)(z, mu, logvar, total)


def not_finite(z, mu, logvar, total):
    return tuple(term * math.nan for term in code.mss(z, mu, logvar, total))


@pytest.mark.parametrize(
    ("function", "faults"),
    [
        (constant_off, {"unknown form"}),
        (slightly_off, {"unknown form"}),
        (of_another_size, {"another form on larger batches", "off in the study"}),
        (not_finite, {"not finite"}),
    ],
)
def test_unexplained_code_is_not_cleared(function, faults):
    assert names(audit(function), "fault") == faults


@pytest.mark.parametrize(
    "change", [lambda tc: 1.01 * tc, torch.abs, lambda tc: tc - 0.05 * tc.clamp(max=0)]
)
def test_what_is_off_in_tc_alone_is_neither_axes_nor_rounding(change):
    """In one dimension TC is 0, whatever the code makes of it."""

    def terms(z, mu, logvar, total):
        mi, tc, dimension_wise_kl = code.mss(z, mu, logvar, total)
        return mi, change(tc), dimension_wise_kl

    result = audit(terms)
    assert (result.estimator, names(result, "fault")) == ("unknown", {"unknown form"})
    assert "sum of the answers is not the KL" in named(result, "unknown form").sentence


@pytest.mark.parametrize("seed", range(2))
def test_items_clamped_at_0_are_not_cleared(seed):
    def terms(*inputs):
        return [term.relu().mean() for term in code.per_item(*inputs)]

    assert "unknown form" in names(audit(terms, seed=seed), "fault")


def test_a_sum_that_is_the_kl_does_not_clear_what_a_point_sees_of_others():
    sentence = named(audited("the point's logvar in the mixture"), "unknown form").sentence
    assert "every component has its own mu and logvar" in sentence
    assert "not the KL" not in sentence


def test_a_constant_beside_the_density_is_found_in_many_dimensions():
    """It is next to nothing to the densities of few."""

    def terms(z, mu, logvar, total):
        mi, tc, dimension_wise_kl = code.per_item(z, mu, logvar, total)
        log_qz_n = code.gaussian(z, mu, logvar).sum(1)
        lost = ((log_qz_n - mi).exp() + 1e-8).log() - (log_qz_n - mi)
        return (mi - lost).mean(), (tc + lost).mean(), dimension_wise_kl.mean()

    sentence = named(audit(terms), "unknown form").sentence
    assert "In 100 dimensions small densities are lost" in sentence


@pytest.mark.usefixtures("full_study")
@pytest.mark.parametrize("least", [-2, -4, -4.6])
def test_a_floor_is_a_fault_where_ordinary_posteriors_are_below_it(least):
    result = audit(code.misread(lambda v: v.clamp(min=least)))
    assert named(result, "variance has a floor").kind == ("remark" if least < -4.5 else "fault")


def test_an_exception_in_the_backward_pass_is_told():
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise ZeroDivisionError("no slope")

    result = audit(lambda z, *others: code.mss(Fails.apply(z), *others))
    assert names(result, "fault") == {"raises"}
    assert "ZeroDivisionError in its backward pass: no slope" in named(result, "raises").sentence


def test_a_clamped_term_is_named_and_its_gradient_is_not_missed():
    result = audited("TC clamped")
    assert "second answer" in named(result, "perhaps clamped at 0").sentence
    assert "is unknown" in named(result, "perhaps clamped at 0").sentence


def keyword_only(z, mu, logvar, eps=1e-8, *, n_data=1):
    assert eps == 1e-8
    return code.mss(z, mu, logvar, n_data)


def behind_another(z, mu, logvar, eps=1e-8, dataset_size=1):
    return keyword_only(z, mu, logvar, eps, n_data=dataset_size)


@pytest.mark.parametrize("function", [keyword_only, behind_another])
def test_n_is_passed_to_the_parameter_with_its_name(function):
    result = audit(function)
    assert (result.estimator, result.ok, names(result, "remark")) == ("symmetric MSS", True, set())


def with_eps(z, mu, logvar, eps=1e-8):
    assert eps == 1e-8
    return code.mss(z, mu, logvar, 1000)


@pytest.mark.parametrize("function", [with_eps, partial(keyword_only, n_data=1000)])
def test_n_is_passed_to_no_other_parameter_with_a_default(function):
    result = audit(function)
    assert (result.estimator, result.ok) == ("symmetric MSS", True)
    verdict = named(result, "N is fixed")
    assert "N is fixed at 1,000: the code was called without N." in verdict.sentence
    assert "name the parameter for N dataset_size" in verdict.remedy


@pytest.mark.parametrize("value", [1e3, -1e4])
@pytest.mark.parametrize("returns", ["terms", "tc", "loss"])
def test_answers_that_do_not_depend_on_the_batch_are_named(value, returns):
    answer = (value,) * 3 if returns == "terms" else value
    result = audit(lambda z, mu, logvar: answer, returns=returns)
    assert result.estimator == "unknown"
    assert names(result, "fault") == {"constant"}
    assert "Does not depend on the batch" in named(result, "constant").sentence


def test_one_constant_answer_of_three_is_named():
    result = audit(lambda *inputs: (code.mss(*inputs)[0], 1e3, code.mss(*inputs)[2]))
    assert "constant" in names(result, "fault")
    assert named(result, "constant").sentence == "Does not depend on the batch: second answer."


@pytest.mark.parametrize("value", [1e3, -1e4])
def test_answers_without_any_weight_are_wrong(value):
    result = audit(lambda z, mu, logvar: value + z.mean(), returns="tc")
    assert "The weights are wrong." in named(result, "unknown form").sentence


def test_a_cause_of_lost_digits_may_be_a_clamp():
    assert "logvar is clamped" in named(audited("expanded square"), "digits lost").sentence


def test_randomness_that_does_no_harm_is_a_remark():
    g = generator(1)

    def any_special_component(z, mu, logvar, total):
        rows = torch.randperm(len(z), generator=g)
        return code.paper(z[rows], mu[rows], logvar[rows], total)

    result = audit(any_special_component)
    assert result.ok
    assert names(result, "remark") == {"not repeatable", "unknown form"}


def test_an_exception_is_told_with_its_input():
    def strict(z, mu, logvar, total):
        if z.shape[1] != 10:
            raise ValueError("want ten dimensions")
        return code.mss(z, mu, logvar, total)

    result = audit(strict)
    assert (result.estimator, result.ok, result.weights, result.study) == (
        "unknown",
        False,
        (),
        None,
    )
    want = "ValueError with z, mu and logvar of shape (7, 3), torch.float32, and N = 5000: want ten"
    assert want in named(result, "raises").sentence
    assert "want ten dimensions" in str(result)


def test_an_exception_at_an_extreme_does_not_hide_the_rest():
    def small(z, mu, logvar, total):
        if z.shape[1] > 20:
            raise MemoryError("too many")
        return code.mws(z, mu, logvar, total)

    result = audit(small)
    assert result.estimator == "MWS"
    assert names(result, "fault") == {"raises", "constant missing"}
    assert "MemoryError" in named(result, "raises").sentence


# What code may return, and do


@pytest.mark.parametrize(
    "convert",
    [
        list,
        lambda terms: tuple(term.item() for term in terms),
        lambda terms: tuple(np.float32(term.item()) for term in terms),
        lambda terms: tuple(term.detach().numpy() for term in terms),
        lambda terms: [term[None] for term in terms],
    ],
)
def test_three_numbers_in_any_guise(convert):
    result = audit(lambda *inputs: convert(code.mss(*inputs)))
    assert (result.estimator, result.ok) == ("symmetric MSS", True)


THREE = "terms_fn must return (MI, TC, DWKL), each a real number or a vector of shape (M,); got "
RETURNS = {
    "nothing": (lambda mi, tc, dw: None, "NoneType"),
    "one number": (lambda mi, tc, dw: mi, "Tensor"),
    "two": (lambda mi, tc, dw: (mi, tc), "tuple of length 2"),
    "a dict": (lambda mi, tc, dw: {"mi": mi}, "dict"),
    "text": (lambda mi, tc, dw: (mi, tc, "0.1"), "str among them"),
    "a bool": (lambda mi, tc, dw: (mi, tc, True), "bool among them"),
    "complex": (lambda mi, tc, dw: (mi, tc, dw + 0j), "torch.complex64 among them"),
    "a matrix": (lambda mi, tc, dw: (mi, tc, dw.expand(2, 3)), "shape (2, 3) among them for M = 7"),
    "other rows": (lambda mi, tc, dw: (mi, tc, dw.expand(9)), "shape (9,) among them for M = 7"),
}


@pytest.mark.parametrize("case", RETURNS)
def test_other_returns_are_refused(case):
    convert, got = RETURNS[case]
    with pytest.raises(TypeError, match=re.escape(THREE + got)):
        audit(lambda *inputs: convert(*code.mss(*inputs)))


def test_arguments_are_checked():
    with pytest.raises(TypeError, match="terms_fn must be callable; got int"):
        audit(3)
    with pytest.raises(TypeError, match=r"got the class TCDecomposition. Pass TCDecomposition\("):
        audit(TCDecomposition)
    with pytest.raises(
        TypeError, match=r"dtype must be a floating-point torch.dtype, .*; got torch.int"
    ):
        audit(code.mss, dtype=torch.int32)
    with pytest.raises(TypeError, match=r"got 'float32'"):
        audit(code.mss, dtype="float32")


def test_names_of_parameters_in_another_order_are_refused():
    def tc(mu, log_var, z, dataset_size):
        return code.mss(z, mu, log_var, dataset_size)

    message = "in this order; it takes (mu, log_var, z, dataset_size). Wrap it in a lambda: lambda "
    with pytest.raises(
        TypeError, match=re.escape(f"{message}z, mu, logvar, N: terms_fn(mu, logva")
    ):
        audit(tc)
    assert audit(lambda z, mu, logvar, n: tc(mu, logvar, z, n)).estimator == "symmetric MSS"


def test_code_may_write_into_its_input():
    def writes(z, mu, logvar, total):
        terms = code.mss(z.clone(), mu.clone(), logvar.clone(), total)
        for tensor in (z, mu, logvar):
            tensor.zero_()
        return terms

    result = audit(writes)
    assert (result.estimator, result.ok, names(result, "remark")) == ("symmetric MSS", True, set())


def test_it_repeats_itself_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    assert str(audit(code.public)) == str(audit(code.public))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("case", ["tcdecomp, mss", "public MSS", "the paper's, first"])
def test_the_default_device_changes_nothing(case):
    expected = audited(case).verdicts
    with torch.device("meta"):
        assert audit(CASES[case][0]).verdicts == expected


def test_a_criterion_doubts_no_batch_of_the_auditor_and_the_next_one_of_the_user():
    criterion = TCDecomposition(estimator="inclusive")
    assert audit(criterion.decompose).estimator == "inclusive"
    mu, std = torch.randn(64, 10, generator=generator()), torch.full((64, 10), 0.1)
    z = mu + std * torch.randn(64, 10, generator=generator(1))
    with pytest.warns(UserWarning, match="z does not look like a sample"):
        criterion(z, mu, std, 1000)


# The report


def test_the_report_has_words_remedies_and_tables():
    report = str(audited("weights per dimension"))
    assert report.startswith(
        "estimator: symmetric MSS\nfaults: 1\n\nfault: weights counted D times"
    )
    assert "Remedy: Sum log q(z_j|n) over the dimensions first" in report
    assert re.search(r"^ +16 +100000 +1 +1$", report, re.MULTILINE)
    assert re.search(r"^total_correlation( +-?\d+\.\d{3} \+- \d\.\d{3}){3}$", report, re.MULTILINE)
    assert max(map(len, report.splitlines())) <= 90


def test_every_departure_has_words():
    estimators = {name for name, _ in MATRICES} - {estimator for _, estimator, _ in RIGHT.values()}
    fields = {"estimator": estimators, "counted": COUNTED, "densities": DENSITIES, "scale": SCALES}
    for field, values in fields.items():
        for value in set(values) - {getattr(Form(), field)}:
            assert (field, value) in DEPARTURES or (field,) in DEPARTURES, (field, value)


# Forms, against loops that were written from the paper


def matrix_of(name):
    """The first matrix of this name."""
    return next(matrix for title, matrix in MATRICES if title == name)


@pytest.mark.parametrize(
    "probe", probes.ordinary(generator()), ids=lambda p: str(tuple(p.mu.shape))
)
@pytest.mark.parametrize("name", ["mss", "mws", "inclusive", "paper"])
def test_forms_are_those_of_the_paper(name, probe):
    def paper_row(i, size, total):
        return reference.mss_row_of_the_paper(i, (i + 1) % size, size, total)

    row = paper_row if name == "paper" else reference.ROWS[name]
    title = {"mss": "symmetric MSS", "mws": "MWS", "paper": "MSS of the paper"}.get(name, name)
    loops = [
        reference.terms(
            z.tolist(), probe.mu.tolist(), probe.logvar.tolist(), probe.dataset_size, row
        )
        for z in probe.samples()
    ]
    want = torch.tensor(loops, dtype=torch.float64).mean((0, 2))
    assert_close(Form(title, matrix_of(title)).predict(probe), want)


@pytest.mark.parametrize("size", [4, 7])
def test_the_wrong_matrix_is_that_of_public_code(size):
    got = matrix_of("MSS in the wrong columns")(size, 100)
    assert_close(got, code.wrong_columns(size, 100), torch.float32)


@pytest.mark.parametrize("field", ["estimator", "counted", "densities"])
def test_no_two_forms_give_the_same_answers(field):
    """What a form predicts is explained by this form."""
    forms = {
        "estimator": [Form(name, matrix) for name, matrix in MATRICES],
        "counted": [Form(counted=name) for name in COUNTED],
        "densities": [Form(densities=name) for name in DENSITIES],
    }[field]
    batches = probes.ordinary(generator())
    for form in forms:
        answers = [form.predict(batch).expand(2, 3) for batch in batches]
        pairs = [(b, Answer(a, a[0] > torch.inf)) for b, a in zip(batches, answers, strict=True)]
        code_of = subject.Subject(code.mss, torch.device("cpu"), torch.float64)
        found = Fit(code_of, pairs, 1e-4).explain()
        assert found.form == form
        assert found.error < 1e-12


# The study


def test_the_truth_of_the_study_is_the_gaussians(monkeypatch):
    """With many items q(z) is a Gaussian whose terms are known in closed form."""
    monkeypatch.setattr(subject, "DATASET_SIZE", 15_000)
    monkeypatch.setattr(subject, "SHARPEST", -2.5)  # else these are too few
    mu, logvar = subject.data_set(generator())
    exact = decompose_dataset(mu, logvar, num_samples=2000, generator=generator(1)).terms
    tc = -math.log(1 - subject.CORRELATION**2)  # two pairs
    mi = -0.5 * logvar.sum(1).mean().item() - tc
    assert exact.total_correlation.item() == pytest.approx(tc, abs=0.03)
    assert exact.index_code_mi.item() == pytest.approx(mi, abs=0.03)
    assert exact.dimension_wise_kl.item() == pytest.approx(0, abs=0.01)


@pytest.mark.usefixtures("full_study")
def test_the_study_confirms_the_library():
    result = audit(code.mss).study
    assert result.answers.shape == (subject.BATCHES, 3)
    assert_close(result.answers, result.reference, torch.float32)
    assert (result.truth_error[:2] < 0.02).all()


@pytest.mark.usefixtures("full_study")
def test_the_study_shows_what_a_fault_does():
    """The closed forms of what MWS adds, on average, to the inclusive estimate."""
    mws, inclusive = (audit(function).study.answers for function in (code.mws, code.inclusive))
    log_size = math.log(subject.DATASET_SIZE)
    want = [log_size, (subject.DIM - 1) * log_size, -subject.DIM * log_size]
    assert_close((mws - inclusive).mean(0), want, torch.float32)


@pytest.mark.usefixtures("full_study")
@pytest.mark.parametrize("case", ["public MSS", "TC negated", "log(NM) in the joint only"])
def test_the_table_of_the_documentation_is_measured(case):
    page = (Path(__file__).parents[2] / "docs" / "check" / "audit.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith(f"| {case} |"))
    *_, faults, mi, tc, dimension_wise_kl, _ = row.split("|")
    result = audit(FAULTS[case][0])
    assert set(faults.strip().split(", ")) == names(result, "fault")
    told = [float(cell) for cell in (mi, tc, dimension_wise_kl)]
    assert told == pytest.approx(result.study.answers.mean(0).tolist(), abs=0.006)
