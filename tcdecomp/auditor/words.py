"""The auditor's words: for each departure from the right form, and for wrong extremes."""

from __future__ import annotations

from tcdecomp.auditor.forms import MISPLACED, UNKNOWN, WRONG_COLUMNS

__all__ = ["DEPARTURES", "DIGITS", "FLOOR", "LARGER", "OVERFLOW", "UNDERFLOW", "Words"]

Words = tuple[str, str, str]  # name, sentence, remedy

MISSING = "constant missing"
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
    MISSING,
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
        MISSING,
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
        MISSING,
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
    ("counted",): (MISSING, "The log-weights are {value}.", _LOG_WEIGHTS),
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
