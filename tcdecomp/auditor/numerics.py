"""Checks of the numerics: the answers at extremes, and the gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from tcdecomp.auditor.fit import PRECISE, Findings
from tcdecomp.auditor.forms import Form, log_normal
from tcdecomp.auditor.probes import SHARPEST, Probe, batch, steep
from tcdecomp.auditor.report import Verdict, Words, fault, names_of, remark
from tcdecomp.auditor.subject import RaisedError, Subject, relative_errors

__all__ = ["CHECKS"]

EXTREME = 5e-3  # relative error that code in single precision may have at extremes
STEP = 1 / 128  # of the finite differences
FLAT = 0.02  # part of the steepest slope by which any slope may be off
SLOPE = 0.05  # relative error that a slope may have
LOWEST = -38.0  # a log-variance
EXACT = 2 * math.log(1 / 16)  # float32 holds such deviations, and means near 128, exactly

# Name, probable cause and remedy of wrong answers at extremes.
FLOOR = (
    "variance has a floor",
    "logvar is clamped, or a constant is added to the variance",
    "Lower the floor if posteriors may become so sharp. Draw z with the same variance.",
)
OVERFLOW = (
    "overflow at sharp posteriors",
    "probably exp(-logvar) is computed in half precision",
    "Convert z, mu and logvar to float32, and switch autocast off.",
)
DIGITS = (
    "digits lost",
    "probably the square of z - mu is expanded into products, or half precision is used, or logvar "
    "is clamped",
    "Square the difference, or first subtract the mean of mu from z and mu. Use float32.",
)
LARGER = (
    "another form on larger batches",
    "the form that was found on smaller batches does not hold here",
    "Compare the code with tcdecomp.decompose on batches of several sizes.",
)
UNDERFLOW = (
    "underflow in many dimensions",
    "probably densities are summed instead of their logarithms",
    "Use torch.logsumexp instead of exp().sum().log().",
)


@dataclass(frozen=True)
class Extreme:
    """A kind of batch, and what it means if the answers to it are infinite or wrong."""

    name: str
    sizes: tuple[int, int, int]  # M, N, D
    logvar: tuple[float, float]
    infinite: Words
    wrong: Words
    alike: float = LOWEST  # for this log-variance and LOWEST, only a floor makes answers alike
    centre: float = 0.0
    spread: float = 1.0

    def probe(self, generator: Generator) -> Probe:
        """Draw such a batch."""
        return batch(*self.sizes, generator, self.logvar, self.centre, self.spread)


COMMON = "M = 33, N = 10000, D = 10"
EXTREMES = (
    Extreme(COMMON, (33, 10_000, 10), (SHARPEST, 0.0), UNDERFLOW, LARGER, SHARPEST),
    Extreme("100 dimensions", (8, 1000, 100), (0.0, 0.0), UNDERFLOW, DIGITS),
    Extreme("log-variances of -12", (8, 1000, 3), (-12.0, -12.0), OVERFLOW, DIGITS, -25.0),
    Extreme("means near 128", (8, 1000, 3), (EXACT, EXACT), OVERFLOW, DIGITS, -5.5, 128.0, 1 / 8),
)


def extremes(findings: Findings) -> Iterator[Verdict]:
    """Check the answers at extremes: one verdict for each cause."""
    if not (findings.finite and findings.form.takes_negative_logvar):
        return
    errors: dict[Words, dict[str, float]] = {}
    raised = None
    for extreme in EXTREMES:
        try:
            error = _error(findings, findings.subject.rounded(extreme.probe(findings.generator)))
        except RaisedError as problem:
            raised = problem
            continue
        if error > findings.tolerance(EXTREME):
            cause = extreme.infinite if error == torch.inf else extreme.wrong
            floor = error < torch.inf and _has_floor(findings, extreme)
            errors.setdefault(FLOOR if floor else cause, {})[extreme.name] = error
    for cause, found in errors.items():
        yield _at_extremes(*cause, found)
    if raised:
        raise raised


def _error(findings: Findings, probe: Probe) -> float:
    """Return the relative error of the answers; without a form, whether they are finite."""
    answer, known = findings.subject.read(probe), findings.known
    expected = known.form.predict(probe) if known else answer.values
    return answer.errors(expected).max().item()


def _has_floor(findings: Findings, extreme: Extreme) -> bool:
    """Tell whether the code answers alike for two log-variances, for the same z."""
    subject, (probe, _) = findings.subject, findings.pairs[0]
    sharp = replace(probe, logvar=torch.full_like(probe.mu, -12.0))
    z, mu = next(sharp.samples()).to(subject.device), probe.mu.to(subject.device)
    try:
        high, low = (
            subject.terms(z.clone(), mu.clone(), torch.full_like(z, logvar), probe.dataset_size)
            for logvar in (extreme.alike, LOWEST)
        )
    except RaisedError:
        return False
    return extreme.alike > LOWEST and bool((relative_errors(low, high) <= PRECISE).all())


def _at_extremes(name: str, cause: str, remedy: str, errors: dict[str, float]) -> Verdict:
    harmless = name == FLOOR[0] and COMMON not in errors
    what = "not finite" if torch.inf in errors.values() else "wrong"
    return (remark if harmless else fault)(
        name,
        f"The answers are {what} for {'; '.join(errors)}: {cause}.",
        remedy,
        {f"relative error, {where}": error for where, error in errors.items()},
    )


def gradients(findings: Findings) -> Iterator[Verdict]:
    """Check whether the gradients are those of the answers.

    The answers depend on mu and logvar in three places: in log q(z|n), in the own component of the
    mixture, and in the other components. Code may detach or damp each of them without a change of
    the expected gradient. So the slopes are taken along directions in which all three contribute
    alike: what is left of a slope then has its sign, and is not larger.
    """
    if not findings.repeatable or findings.rounding > PRECISE:
        return  # finite differences are too rough
    slopes, differences = _slopes(findings.subject, findings.form, steep(findings.generator))
    carried = slopes.abs().sum(1) > 0
    missing = ~(carried | findings.clamped)  # the slope of a clamp is 0
    sizes = differences.abs() + FLAT * differences.abs().max()
    errors = ((slopes - differences).abs() / sizes).nan_to_num(torch.inf, posinf=torch.inf)
    evidence = {"largest relative error of a slope": errors.max().item()}
    if not carried.any():
        yield remark(
            "no gradient",
            "No answer has a gradient. The code can report the terms, but not train on them.",
            "To train, return tensors with their graph: without detach(), item() or no_grad().",
        )
    elif missing.any():
        yield fault(
            "no gradient",
            f"Without a gradient, while others have one: {names_of(missing)}.",
            "Look for detach(), item() or no_grad().",
        )
    elif _wrong(slopes * differences.sign() / sizes, differences.abs() / sizes):
        yield fault(
            "gradient wrong",
            "A slope has the wrong sign, or is larger than that of the value, or is 0 along z. No "
            "detach() that keeps the expected gradient does that.",
            "Do not detach z. Compare the backward pass with torch.autograd.gradcheck.",
            evidence,
        )
    elif errors.max() > SLOPE:
        yield remark(
            "gradient cut",
            "The gradient is not that of the value: a part of it is detached. The expected "
            "gradient may still be right.",
            "Detach the own component and log q(z|n) both, or neither.",
            evidence,
        )


def _wrong(left: Tensor, whole: Tensor) -> bool:
    """Tell whether detached parts do not explain what is left; along z nothing is detached."""
    explained = (left >= -SLOPE) & (left <= 1 + SLOPE)
    lost = (left < SLOPE) & (whole > 0.5)
    return not explained.all() or bool(lost[:, 0].any())


def _slopes(subject: Subject, form: Form, probe: Probe) -> tuple[Tensor, Tensor]:
    """Return slopes of the answers (rows) along directions of z, mu and logvar (columns).

    They come from autograd, and from finite differences.
    """
    inputs = [
        tensor.to(subject.device, subject.dtype)
        for tensor in (next(probe.samples()), probe.mu, probe.logvar)
    ]
    shifts = _directions(form, probe).to(inputs[0])
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    z, mu, logvar = (leaf.clone() for leaf in leaves)  # the code may write into its input
    try:
        answers = subject.terms(z, mu, logvar, probe.dataset_size)
    except RaisedError:  # numpy refuses tensors with a graph
        return torch.zeros(len(shifts), 3), torch.zeros(len(shifts), 3)
    pairs = zip(answers, shifts, strict=True)
    slopes = [_autograd(answer, leaves, along) for answer, along in pairs]

    def moved(index: int, shift: Tensor) -> Tensor:
        z, mu, logvar = (
            tensor + shift if i == index else tensor.clone() for i, tensor in enumerate(inputs)
        )
        return subject.terms(z, mu, logvar, probe.dataset_size).detach()

    changes = [
        (moved(i, STEP * shift) - moved(i, -STEP * shift))[k].item()
        for k, along in enumerate(shifts)
        for i, shift in enumerate(along)
    ]
    return torch.stack(slopes), torch.tensor(changes).view(-1, 3) / (2 * STEP)


def _autograd(answer: Tensor, leaves: list[Tensor], along: Tensor) -> Tensor:
    """Return the slopes of one answer along its directions, shape (3,)."""
    if not answer.requires_grad:
        return torch.zeros(3)
    try:
        gradients = torch.autograd.grad(
            answer, leaves, retain_graph=True, allow_unused=True, materialize_grads=True
        )
    except Exception as error:
        raise RaisedError(f"{type(error).__name__} in its backward pass: {error}") from error
    return (torch.stack(gradients) * along).sum((1, 2)).cpu().float()


def _directions(form: Form, probe: Probe) -> Tensor:
    """Return a direction for each answer and each of z, mu and logvar: (answers, 3, M, D).

    They are those of symmetric MSS. No entry is above 1.
    """
    size, _ = probe.shape
    pairs = [tensor.expand(size, size, -1) for tensor in (probe.mu, probe.logvar)]
    inputs = (next(probe.samples()), probe.mu, probe.logvar, *pairs)
    leaves = z, mu, logvar, pair_mu, pair_logvar = [t.clone().requires_grad_() for t in inputs]
    own = log_normal(z, mu, logvar.exp())
    density = log_normal(z[:, None], pair_mu, pair_logvar.exp())
    terms = Form().combine(z[None], own[None], density[None], probe.dataset_size)
    return torch.stack([_direction(answer, leaves) for answer in form.answers(terms)])


def _direction(answer: Tensor, leaves: list[Tensor]) -> Tensor:
    z, mu, logvar, pair_mu, pair_logvar = torch.autograd.grad(
        answer, leaves, retain_graph=True, materialize_grads=True
    )
    shifts = [z, _balanced(mu, pair_mu), _balanced(logvar, pair_logvar)]
    return torch.stack([shift / shift.abs().max() for shift in shifts])


def _balanced(own: Tensor, pairs: Tensor) -> Tensor:
    """Return the shortest direction along which all parts of the gradient have the same slope."""
    diagonal = pairs.diagonal(dim1=0, dim2=1).T
    parts = torch.stack([own, diagonal, pairs.sum(0) - diagonal]).flatten(1)
    return parts.pinverse().sum(1).view_as(own)


CHECKS = (extremes, gradients)
