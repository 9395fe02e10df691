"""The auditor's words for each departure from the right form, and for each extreme."""

from __future__ import annotations

from tcdecomp.auditor.forms import MISPLACED, UNKNOWN
from tcdecomp.auditor.probes import FAR_OUT, LARGE, SHARP

__all__ = ["DEPARTURES", "EXTREMES"]

_LOG_WEIGHTS = (
    "Add the log-weights to log q(z|n), summed over the dimensions, once, and to each log q(z_j|n) "
    "once: log 1/N for the own component, log (N-1)/(N(M-1)) for every other."
)


def _misread(sentence: str) -> tuple[str, str, str]:
    remedy = "Use exp(logvar) as the variance, or exp(logvar / 2) as the standard deviation."
    return "log-variance misread", sentence, remedy


# Keyed by field of Form and its value, or by the field alone: name, sentence, remedy.
DEPARTURES = {
    ("estimator", "MSS in the wrong columns"): (
        "inclusive in disguise",
        "The weight matrix has its special weights in columns 0 and 1 and not on the diagonal, so "
        "that all but a few rows give their own component 1/(M-1) in place of 1/N: it is the "
        "inclusive estimate in disguise, and depends on which rows come first.",
        "Fill the diagonal with 1/N. In W.view(-1)[::k] the stride k of the diagonal is the "
        "number of columns plus one; or use (N-1)/(N(M-1)) for all off the diagonal.",
    ),
    ("estimator", MISPLACED): (
        "special components misplaced",
        "The weights are the paper's, but not every row has exactly one special component: those "
        "with none sum to more than 1, those with several to less.",
        "Give every row one other component of weight (N-M+1)/(N(M-1)), or all (N-1)/(N(M-1)).",
    ),
    ("estimator", "MWS"): (
        "constant missing",
        "This is MWS, with 1/(NM) for every component: the inclusive estimate, 1/M, with log N "
        "taken off every log-density. Against it MI is larger by log N, TC by (D-1) log N, and the "
        "dimension-wise KL smaller by D log N; the gradient is the same.",
        "Do not read its values. " + _LOG_WEIGHTS,
    ),
    ("estimator", "inclusive"): (
        "inclusive",
        "Every component has the weight 1/M, as if the batch were the whole data set: N is not "
        "used. It is exact at M = N only; else MI, at most log M, is too small.",
        _LOG_WEIGHTS,
    ),
    ("estimator", "leave-one-out"): (
        "own component left out",
        "The own component has no weight, and the others 1/(M-1). Where posteriors are sharp, q(z) "
        "at a sample is then nearly 0, and MI and TC are off by tens of nats.",
        _LOG_WEIGHTS,
    ),
    ("estimator",): (
        "constant missing",
        "All components have one weight, and a row's weights do not sum to 1 (see the table of "
        "weights): the log of that sum is missing from every log-density, D times from "
        "sum_j log q(z_j). Apart from that constant it is the inclusive estimate.",
        _LOG_WEIGHTS,
    ),
    ("estimator", UNKNOWN): (
        "weights wrong",
        "The code is a mixture over the batch, with weights that are none of the known ones: see "
        "the table. An unbiased q(z) has 1/N for the own component, and rows that sum to 1.",
        _LOG_WEIGHTS,
    ),
    ("counted", "D times"): (
        "weights counted D times",
        "The log-weight is added to the log-density of each dimension before these are summed, so "
        "that log q(z) has it D times in place of once.",
        "Sum log q(z_j|n) over the dimensions first, then add the log-weight once.",
    ),
    ("counted", "not in q(z)"): (
        "constant missing",
        "The log-weights are added in the marginals q(z_j), and not in q(z).",
        _LOG_WEIGHTS,
    ),
    ("counted", "not in q(z_j)"): (
        "constant missing",
        "The log-weights are added in q(z), and not in the marginals q(z_j).",
        _LOG_WEIGHTS,
    ),
    ("densities", "logvar taken for log-std"): _misread(
        "The log-variance is taken for the log of the standard deviation."
    ),
    ("densities", "logvar halved"): _misread(
        "The log-variance is halved: the standard deviation is taken for the variance."
    ),
    ("densities", "logvar taken for variance"): _misread(
        "The log-variance is taken for the variance: negative ones have no logarithm."
    ),
    ("densities", "logvar taken for std"): _misread(
        "The log-variance is taken for the standard deviation."
    ),
    ("densities", "no log(2 pi) in q"): (
        "constant missing",
        "The normalizer 0.5 log(2 pi) is in log p(z), and missing from the log-densities of q.",
        "Subtract 0.5 log(2 pi) per dimension in both, or in neither.",
    ),
    ("densities", "no log(2 pi) in p"): (
        "constant missing",
        "The normalizer 0.5 log(2 pi) is in the log-densities of q, and missing from log p(z).",
        "Subtract 0.5 log(2 pi) per dimension in both, or in neither.",
    ),
    ("densities", "no prior"): (
        "prior missing",
        "The dimension-wise KL is without the prior: it is the mean of sum_j log q(z_j).",
        "Subtract log p(z).",
    ),
    ("densities", "sum over points"): (
        "sum over the wrong axis",
        "The mixture is summed over the points z_i, and not over the components n.",
        "In the matrix log q(z_i|n_k), take logsumexp over k.",
    ),
    ("densities",): (
        "mean over dimensions",
        "Log-densities are averaged over the latent dimensions where they are to be summed.",
        "Use sum over the dimensions, and mean over the batch only.",
    ),
    ("scale", "sum over the batch"): (
        "summed over the batch",
        "The terms are summed over the batch: M times the terms per item.",
        "Take the mean over the batch, or use the sum together with a summed reconstruction only.",
    ),
    ("scale", "mean over dimensions"): (
        "mean over dimensions",
        "All terms are divided by D: a mean over the dimensions, or over all elements.",
        "Sum over the dimensions, then take the mean over the batch.",
    ),
    ("scale", "bits"): (
        "bits, not nats",
        "The terms are in bits: nats divided by log 2.",
        "Use natural logarithms, as the reconstruction term does.",
    ),
    ("order",): (
        "terms in the wrong order",
        "The answers are not MI, TC, DWKL in this order, but {order}.",
        "Return index-code MI, total correlation and dimension-wise KL in this order.",
    ),
    ("signs",): (
        "sign flipped",
        "Negated: {negated}.",
        "MI = log q(z|n) - log q(z), TC = log q(z) - sum_j log q(z_j), "
        "DWKL = sum_j log q(z_j) - log p(z).",
    ),
}

# Name, cause and remedy of an answer that is not finite, and of one that is wrong.
_OVERFLOW = (
    "overflow at sharp posteriors",
    "probably exp(-logvar) is taken in half precision",
    "Raise z, mu and logvar to float32, and switch autocast off.",
)
_DIGITS = (
    "digits lost",
    "probably the square of z - mu is expanded into products, or half precision is used, or logvar "
    "is clamped",
    "Square the difference, or subtract the mean of mu from z and mu first; use float32.",
)
_LARGER = (
    "another form on larger batches",
    "not what the form gives that was found on smaller batches",
    "Compare the code with tcdecomp.decompose on batches of several sizes.",
)
_UNDERFLOW = (
    "underflow in many dimensions",
    "probably densities are summed, and not their logarithms",
    "Stay with logarithms: torch.logsumexp in place of exp().sum().log().",
)
EXTREMES = {
    LARGE: (_UNDERFLOW, _LARGER),
    "100 dimensions": (_UNDERFLOW, _DIGITS),
    SHARP: (_OVERFLOW, _DIGITS),
    FAR_OUT: (_OVERFLOW, _DIGITS),
}
