"""Verdicts, their words, and the report."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from torch import Tensor

from tcdecomp.auditor.forms import MISPLACED, UNKNOWN, WRONG_COLUMNS
from tcdecomp.auditor.subject import BATCH_SIZE, DATASET_SIZE, DIM, Study, Weights
from tcdecomp.terms import Terms

__all__ = ["DEPARTURES", "TERMS", "Audit", "Verdict", "Words", "fault", "mean", "remark"]

TERMS = Terms._fields[:3]
WIDTH = 88


@dataclass(frozen=True)
class Verdict:
    """One thing that the auditor found.

    Attributes
    ----------
    kind : {"fine", "remark", "fault"}
        Only a fault makes ``Audit.ok`` false.
    name : str
        Its name.
    sentence : str
        What the code does.
    remedy : str
        What to do about it; empty if nothing needs to be done.
    evidence : dict of str to float
        The numbers that show it.
    """

    kind: Literal["fine", "remark", "fault"]
    name: str
    sentence: str
    remedy: str = ""
    evidence: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the verdict as a paragraph."""
        lines = [f"{self.kind}: {self.name}", *_wrapped(self.sentence)]
        lines += [
            f"  {name}: {value:,}" if isinstance(value, int) else f"  {name}: {value:.4g}"
            for name, value in self.evidence.items()
        ]
        return "\n".join([*lines, *_wrapped(f"Remedy: {self.remedy}")] if self.remedy else lines)


fault, remark = partial(Verdict, "fault"), partial(Verdict, "remark")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")


def names_of(which: Tensor) -> str:
    """Return the names of these answers."""
    if len(which) == 1:
        return "the answer"
    places = ("first answer", "second answer", "third answer")
    return ", ".join(place for place, yes in zip(places, which.tolist(), strict=True) if yes)


@dataclass(frozen=True, eq=False)
class Audit:
    """What :func:`tcdecomp.audit` found. It prints as a report.

    Attributes
    ----------
    estimator : str
        Name of the estimator by its weights: "symmetric MSS", "MSS of the paper", "MWS",
        "inclusive", "leave-one-out", ..., "unknown", or "none" if a loss is the plain KL.
    verdicts : tuple of Verdict
        Faults first, then remarks. Without a fault, the first verdict says that q(z) is unbiased.
    weights : tuple of Weights
        Own weight and row sum for several M and N.
    study : Study or None
        The Gaussian study. None if the code raised an exception, takes no negative logvar, does
        not use N, or is an unknown loss.
    loss : tuple of three floats, or None
        With ``returns="loss"``: the weights of MI, TC and DWKL in the loss.
    """

    estimator: str
    verdicts: tuple[Verdict, ...]
    weights: tuple[Weights, ...] = ()
    study: Study | None = None
    loss: tuple[float, float, float] | None = None

    @property
    def ok(self) -> bool:
        """Whether no verdict is a fault."""
        return all(verdict.kind != "fault" for verdict in self.verdicts)

    def __str__(self) -> str:
        """Return the report, in words and tables."""
        faults = sum(verdict.kind == "fault" for verdict in self.verdicts)
        head = f"estimator: {self.estimator}\nfaults: {faults or 'none'}"
        if self.loss:
            head += "\nloss: {:.4g} MI + {:.4g} TC + {:.4g} DWKL".format(*self.loss)
        tables = [list(_weights_table(self.weights))] if self.weights else []
        if self.study:
            one = ("loss",) if self.loss else TERMS[1:2]
            tables.append(
                list(_study_table(self.study, TERMS if len(self.study.truth) > 1 else one))
            )
        return "\n\n".join([head, *map(str, self.verdicts), *map("\n".join, tables)])


def _weights_table(weights: tuple[Weights, ...]) -> Iterator[str]:
    yield f"weights of a row{'M':>8}{'N':>10}{'own * N':>14}{'sum':>12}"
    for w in weights:
        own = w.own * w.dataset_size
        yield f"{'':16}{w.batch_size:8}{w.dataset_size:10}{own:14.4g}{w.row_sum:12.4g}"


def _study_table(study: Study, names: tuple[str, ...]) -> Iterator[str]:
    sizes = f"M = {BATCH_SIZE}, N = {DATASET_SIZE}, D = {DIM}"
    yield f"Gaussian study: {len(study.answers)} batches, {sizes}; nats and standard errors"
    yield f"{'':18}{'truth':>18}{'this code':>20}{'tcdecomp, mss':>20}"
    columns = [(study.truth, study.truth_error), mean(study.answers), mean(study.reference)]
    for i, name in enumerate(names):
        cells = [f"{value[i]:.3f} +- {error[i]:.3f}" for value, error in columns]
        yield f"{name:18}{cells[0]:>18}{cells[1]:>20}{cells[2]:>20}"


def mean(answers: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over the batches, and its standard error."""
    return answers.mean(0), answers.std(0) / len(answers) ** 0.5


Words = tuple[str, str, str]  # name, sentence, remedy

_MISSING = "constant missing"
_LOG_WEIGHTS = (
    "Sum log q(z_j|n) over the dimensions, then add the log-weight once. Add it once to each "
    "log q(z_j|n), too. The weight is 1/N for the own component, (N-1)/(N(M-1)) for all others."
)
_MISREAD = (
    "log-variance misread",
    "The code uses {value}.",
    "Use exp(logvar) as the variance, or exp(logvar / 2) as the standard deviation.",
)
_NO_CONSTANT = (
    _MISSING,
    "There is {value}: only one of q and p has the constant -0.5 log(2 pi).",
    "Subtract 0.5 log(2 pi) per dimension in both, or in neither.",
)

# By field of Form and its value, or by the field alone: name, sentence, remedy.
DEPARTURES: dict[tuple[str, ...], Words] = {
    ("estimator", WRONG_COLUMNS): (
        "inclusive in disguise",
        "The weight matrix has its special weights in columns 0 and 1 instead of on the diagonal. "
        "Almost every row gives its own component 1/(M-1) instead of 1/N. This is the inclusive "
        "estimate in disguise, and it depends on which rows come first.",
        "Fill the diagonal with 1/N: in W.view(-1)[::k] its stride k is the number of columns plus "
        "one. Or give all other components the weight (N-1)/(N(M-1)).",
    ),
    ("estimator", MISPLACED): (
        "special components misplaced",
        "The weights are the paper's, but not every row has exactly one special component. A row "
        "without one sums to more than 1, a row with several to less.",
        "Give one other component of each row the weight (N-M+1)/(N(M-1)), or all (N-1)/(N(M-1)).",
    ),
    ("estimator", "MWS"): (
        _MISSING,
        "This is MWS, with the weight 1/(NM) for every component: the inclusive estimate with "
        "log N subtracted from every log-density. It adds log N to MI and (D-1) log N to TC, and "
        "takes D log N from the dimension-wise KL. The gradient is the same.",
        "Do not report its values. " + _LOG_WEIGHTS,
    ),
    ("estimator", "inclusive"): (
        "inclusive",
        "Every component has the weight 1/M, as if the batch were the whole data set. N is not "
        "used. Unless M = N, MI is too small: it cannot exceed log M.",
        _LOG_WEIGHTS,
    ),
    ("estimator", "leave-one-out"): (
        "own component left out",
        "The own component has no weight, and all others have 1/(M-1). For sharp posteriors q(z) "
        "is then nearly 0, and MI and TC are wrong by tens of nats.",
        _LOG_WEIGHTS,
    ),
    ("estimator", UNKNOWN): (
        "weights wrong",
        "The code is a mixture over the batch with unknown weights: see the table. For an unbiased "
        "q(z) the own weight is 1/N, and every row sums to 1.",
        _LOG_WEIGHTS,
    ),
    ("estimator",): (
        _MISSING,
        "All components have one weight, and a row does not sum to 1: see the table. The log of "
        "that sum is missing from every log-density, and D times from sum_j log q(z_j). Apart from "
        "that constant this is the inclusive estimate.",
        _LOG_WEIGHTS,
    ),
    ("counted", "D times"): (
        "weights counted D times",
        "The code adds the log-weight to the log-density of each dimension, and then sums over the "
        "dimensions. So log q(z) contains it D times instead of once.",
        "Sum log q(z_j|n) over the dimensions first, then add the log-weight once.",
    ),
    ("counted",): (_MISSING, "The log-weights are {value}.", _LOG_WEIGHTS),
    ("densities", "logvar as the log standard deviation"): _MISREAD,
    ("densities", "the standard deviation as the variance"): _MISREAD,
    ("densities", "logvar as the variance"): _MISREAD,
    ("densities", "logvar as the standard deviation"): _MISREAD,
    ("densities", "no log(2 pi) in q"): _NO_CONSTANT,
    ("densities", "no log(2 pi) in p"): _NO_CONSTANT,
    ("densities", "no prior"): (
        "prior missing",
        "The dimension-wise KL lacks the prior: it is the mean of sum_j log q(z_j).",
        "Subtract log p(z).",
    ),
    ("densities", "sum over points"): (
        "sum over the wrong axis",
        "The mixture is summed over the points z_i instead of over the components n.",
        "In the matrix log q(z_i|n_k), take logsumexp over k.",
    ),
    ("densities",): (
        "mean over dimensions",
        "Log-densities are averaged over the latent dimensions instead of summed.",
        "Take the sum over the dimensions, and the mean over the batch only.",
    ),
    ("scale", "sum over the batch"): (
        "summed over the batch",
        "The terms are summed over the batch: M times the terms per item.",
        "Take the mean over the batch. A sum is right only beside a summed reconstruction.",
    ),
    ("scale", "mean over dimensions"): (
        "mean over dimensions",
        "All terms are divided by D: a mean over the dimensions, or over all elements.",
        "Take the sum over the dimensions, then the mean over the batch.",
    ),
    ("scale", "bits"): (
        "bits, not nats",
        "The terms are in bits: nats divided by log 2.",
        "Use natural logarithms, as the reconstruction term does.",
    ),
    ("order",): (
        "terms in the wrong order",
        "The code returns {value} instead of {right}.",
        "Return {right}.",
    ),
    ("signs",): (
        "sign flipped",
        "Negated: {value}.",
        "MI = log q(z|n) - log q(z), TC = log q(z) - sum_j log q(z_j), "
        "DWKL = sum_j log q(z_j) - log p(z).",
    ),
}
