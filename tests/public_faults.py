"""Textbook code for the three terms, right and wrong: what users bring to the auditor.

Each function is ``(z, mu, logvar, N) -> (MI, TC, DWKL)``, written with the broadcasts that such
code uses. FAULTS maps a name to the function, the estimator and the verdicts that it deserves.
"""

import math
from functools import cache

import torch
from torch.distributions import Normal

import reference
from tcdecomp import decompose

LOG_2PI = math.log(2 * math.pi)


def gaussian(z, mu, logvar):
    return -0.5 * ((z - mu) ** 2 * torch.exp(-logvar) + logvar + LOG_2PI)


def pairs(z, mu, logvar):
    """log q(z_ij|n_k), shape (M, M, D)."""
    return gaussian(z[:, None], mu[None], logvar[None])


def weights_of(row):
    """The matrix of one of the reference's rows, (M, N) -> (M, M)."""
    rows = cache(lambda size, total: [row(i, size, total) for i in range(size)])
    return lambda size, total: torch.tensor(rows(size, total))


def paper_weights(special):
    """The paper's matrix for a choice of each row's special component, (i, M) -> column."""
    return weights_of(
        lambda i, size, total: reference.mss_row_of_the_paper(i, special(i, size), size, total)
    )


symmetric_weights = weights_of(reference.mss_row)

CHOICES = {
    "next": lambda i, size: (i + 1) % size,
    "previous": lambda i, size: (i - 1) % size,
    "first": lambda i, size: 0 if i else size - 1,
    "last": lambda i, size: size - 1 if i < size - 1 else 0,
    "next but one": lambda i, size: (i + 2) % size,
}


def wrong_columns(size, total):
    """The paper's with the strides and the row of public code, where M is the number of others."""
    others = size - 1
    special = (total - others) / (total * others)
    weights = torch.full((size, size), 1 / others)
    weights.view(-1)[:: others + 1] = 1 / total
    weights.view(-1)[1 :: others + 1] = special
    weights[others - 1, 0] = special
    return weights


def put_together(log_qz_n, log_qz, log_qz_j, log_pz):
    product = log_qz_j.sum(1)
    return (log_qz_n - log_qz).mean(), (log_qz - product).mean(), (product - log_pz).mean()


def mixture(z, mu, logvar, log_weights, density=None):
    """The textbook formula for an (M, M) matrix of log-weights.

    ``density`` is the (M, M, D) log-density of each point under each component, if it is not what
    mu and logvar give.
    """
    density = pairs(z, mu, logvar) if density is None else density
    log_weights = log_weights.to(z)
    return put_together(
        gaussian(z, mu, logvar).sum(1),
        torch.logsumexp(density.sum(2) + log_weights, 1),
        torch.logsumexp(density + log_weights[:, :, None], 1),
        gaussian(z, torch.zeros_like(z), torch.zeros_like(z)).sum(1),
    )


def weighted_by(matrix):
    return lambda z, mu, logvar, total: mixture(z, mu, logvar, matrix(len(z), total).log())


mss, mws, inclusive = (weighted_by(weights_of(row)) for row in reference.ROWS.values())
paper = weighted_by(paper_weights(CHOICES["next"]))
public = weighted_by(wrong_columns)


def unweighted(z, mu, logvar, total):
    return mixture(z, mu, logvar, torch.zeros(len(z), len(z)))


def leave_one_out(z, mu, logvar, total):
    size = len(z)
    weights = torch.full((size, size), 1 / (size - 1)).fill_diagonal_(0)
    return mixture(z, mu, logvar, weights.log())


def counted_per_dimension(matrix):
    def terms(z, mu, logvar, total):
        density = pairs(z, mu, logvar) + matrix(len(z), total).log().to(z)[:, :, None]
        return put_together(
            gaussian(z, mu, logvar).sum(1),
            torch.logsumexp(density.sum(2), 1),
            torch.logsumexp(density, 1),
            gaussian(z, z * 0, z * 0).sum(1),
        )

    return terms


def constant_in_the_joint_only(z, mu, logvar, total):
    density = pairs(z, mu, logvar)
    return put_together(
        gaussian(z, mu, logvar).sum(1),
        torch.logsumexp(density.sum(2), 1) - math.log(len(z) * total),
        torch.logsumexp(density, 1),
        gaussian(z, z * 0, z * 0).sum(1),
    )


def without_marginal_weights(z, mu, logvar, total):
    density = pairs(z, mu, logvar)
    return put_together(
        gaussian(z, mu, logvar).sum(1),
        torch.logsumexp(density.sum(2) + symmetric_weights(len(z), total).log().to(z), 1),
        torch.logsumexp(density, 1),
        gaussian(z, z * 0, z * 0).sum(1),
    )


def underflow(z, mu, logvar, total):
    density, weights = pairs(z, mu, logvar), symmetric_weights(len(z), total).to(z)
    return put_together(
        gaussian(z, mu, logvar).sum(1),
        (density.sum(2).exp() * weights).sum(1).log(),
        (density.exp() * weights[:, :, None]).sum(1).log(),
        gaussian(z, z * 0, z * 0).sum(1),
    )


def expanded_square(z, mu, logvar, total):
    """(z - mu)^2 / var as matrix products, for each dimension, not centred."""
    precision = torch.exp(-logvar)
    square = z.square()[:, None] * precision - 2 * z[:, None] * (mu * precision) + mu**2 * precision
    density = -0.5 * (square + logvar + LOG_2PI)
    log_weights = symmetric_weights(len(z), total).log().to(z)
    return put_together(
        gaussian(z, mu, logvar).sum(1),
        torch.logsumexp(density.sum(2) + log_weights, 1),
        torch.logsumexp(density + log_weights[:, :, None], 1),
        gaussian(z, z * 0, z * 0).sum(1),
    )


def in_dtype(dtype):
    return lambda z, mu, logvar, total: mss(z.to(dtype), mu.to(dtype), logvar.to(dtype), total)


def scaled(factor):
    """The right terms, times a factor of (M, D)."""

    def terms(z, mu, logvar, total):
        return tuple(term * factor(*z.shape) for term in mss(z, mu, logvar, total))

    return terms


def signed(*signs):
    def terms(z, mu, logvar, total):
        return tuple(s * t for s, t in zip(signs, mss(z, mu, logvar, total), strict=True))

    return terms


def swapped(z, mu, logvar, total):
    mi, tc, dimension_wise_kl = mss(z, mu, logvar, total)
    return tc, mi, dimension_wise_kl


def misread(log_variance):
    """Code that makes something else of logvar."""
    return lambda z, mu, logvar, total: mss(z, mu, log_variance(logvar), total)


def normal_with_scale_logvar(z, mu, logvar, total):
    """torch's Normal, which raises where its scale is negative."""
    normal, weights = Normal(mu, logvar), symmetric_weights(len(z), total).log().to(z)
    density = normal.log_prob(z[:, None])
    return put_together(
        normal.log_prob(z).sum(1),
        torch.logsumexp(density.sum(2) + weights, 1),
        torch.logsumexp(density + weights[:, :, None], 1),
        Normal(0.0, 1.0).log_prob(z).sum(1),
    )


def without_prior(z, mu, logvar, total):
    mi, tc, dimension_wise_kl = mss(z, mu, logvar, total)
    return mi, tc, dimension_wise_kl + gaussian(z, z * 0, z * 0).sum(1).mean()


def without_normalizer(z, mu, logvar, total):
    """0.5 log(2 pi) left out of q, and not of p, which comes from torch.distributions."""
    mi, tc, dimension_wise_kl = mss(z, mu, logvar, total)
    return mi, tc, dimension_wise_kl + z.shape[1] * 0.5 * LOG_2PI


def averaged_densities(z, mu, logvar, total):
    density = pairs(z, mu, logvar)
    log_weights = symmetric_weights(len(z), total).log().to(z)
    log_qz_j = torch.logsumexp(density + log_weights[:, :, None], 1)
    log_qz = torch.logsumexp(density.mean(2) + log_weights, 1)
    log_qz_n, log_pz = gaussian(z, mu, logvar).mean(1), gaussian(z, z * 0, z * 0).mean(1)
    product = log_qz_j.mean(1)
    return (log_qz_n - log_qz).mean(), (log_qz - product).mean(), (product - log_pz).mean()


def wrong_axis(z, mu, logvar, total):
    density = pairs(z, mu, logvar)
    log_weights = symmetric_weights(len(z), total).log().to(z)
    return put_together(
        gaussian(z, mu, logvar).sum(1),
        torch.logsumexp(density.sum(2) + log_weights, 0),
        torch.logsumexp(density + log_weights[:, :, None], 0),
        gaussian(z, z * 0, z * 0).sum(1),
    )


def transposed(matrix):
    return lambda size, total: matrix(size, total).T


def viewed(z, mu, logvar, total):
    """Marginals by dimension: (D, M) by a view, where a transpose is meant."""
    size, dim = z.shape
    log_weights = symmetric_weights(size, total).log().to(z)
    by_dim = [t.reshape(dim, size) for t in (mu, logvar)]
    density = gaussian(z.t()[:, :, None], by_dim[0][:, None], by_dim[1][:, None])
    log_qz_j = torch.logsumexp(density + log_weights, 2).t()
    return put_together(
        gaussian(z, mu, logvar).sum(1),
        torch.logsumexp(density.sum(0) + log_weights, 1),
        log_qz_j,
        gaussian(z, z * 0, z * 0).sum(1),
    )


def detached_tc(z, mu, logvar, total):
    mi, tc, dimension_wise_kl = mss(z, mu, logvar, total)
    return mi, tc.detach(), dimension_wise_kl


def detached(z, mu, logvar, total):
    return tuple(term.item() for term in mss(z, mu, logvar, total))


def partly_detached(z, mu, logvar, total):
    return mss(z, mu.detach(), logvar, total)


def in_numpy(z, mu, logvar, total):
    """The textbook formula after it has left torch."""
    z, mu, logvar = (torch.from_numpy(t.numpy()) for t in (z, mu, logvar))
    return tuple(term.numpy() for term in mss(z, mu, logvar, total))


def library(estimator):
    return lambda z, mu, logvar, total: decompose(z, mu, logvar, total, estimator=estimator)


def per_item(z, mu, logvar, total):
    return list(decompose(z, mu, logvar, total, reduction="none")[:3])


def analytic_entropy(z, mu, logvar, total):
    """log q(z|n) by its expectation: right on average, and noisier."""
    mi, tc, dimension_wise_kl = mss(z, mu, logvar, total)
    excess = gaussian(z, mu, logvar) + 0.5 * (logvar + LOG_2PI + 1)
    return mi - excess.sum(1).mean(), tc, dimension_wise_kl


def with_closed_form_kl(index, function=mss):
    """One of the terms as what the other two leave of the closed-form KL."""

    def terms(z, mu, logvar, total):
        answers = list(function(z, mu, logvar, total))
        kl = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1).mean()
        answers[index] = kl - sum(answers[:index] + answers[index + 1 :])
        return answers

    return terms


def in_loops(z, mu, logvar, total):
    """Point by point, and dimension by dimension."""
    (size, dim), rows = z.shape, []
    for i, log_weights in enumerate(symmetric_weights(size, total).log().to(z)):
        density = [gaussian(z[i, j], mu[:, j], logvar[:, j]) for j in range(dim)]
        log_qz = torch.logsumexp(log_weights + sum(density), 0)
        product = sum(torch.logsumexp(log_weights + each, 0) for each in density)
        prior = gaussian(z[i], z[i] * 0, z[i] * 0).sum()
        rows.append(torch.stack([sum(density)[i] - log_qz, log_qz - product, product - prior]))
    return torch.stack(rows).mean(0).unbind()


def in_products(z, mu, logvar, total):
    """The square expanded into matrix products, after the means are taken off; means at once."""
    shift, precision = mu.mean(0), torch.exp(-logvar)
    x, m = z - shift, mu - shift
    square = x.square() @ precision.T - 2 * x @ (m * precision).T + (m**2 * precision).sum(1)
    joint = -0.5 * (square + (logvar + LOG_2PI).sum(1))
    log_weights = symmetric_weights(len(z), total).log().to(z)
    log_qz = torch.logsumexp(joint + log_weights, 1).mean()
    product = torch.logsumexp(pairs(z, mu, logvar) + log_weights[:, :, None], 1).sum(1).mean()
    prior = -0.5 * (z.square() + LOG_2PI).sum(1).mean()
    return joint.diagonal().mean() - log_qz, log_qz - product, product - prior


def clamped(function=mss, terms=(0, 1, 2)):
    """The terms, of which some are not let below 0."""

    def answers(z, mu, logvar, total):
        given = enumerate(function(z, mu, logvar, total))
        return tuple(term.clamp(min=0) if i in terms else term for i, term in given)

    return answers


def logvar_of_the_components(change):
    """The right log q(z|n), and another log-variance in the mixture."""

    def terms(z, mu, logvar, total):
        density = gaussian(z[:, None], mu, change(logvar))
        return mixture(z, mu, logvar, symmetric_weights(len(z), total).log(), density)

    return terms


def remainder_dropped(z, mu, logvar, total):
    """Components in chunks of 8, without the rest where there is a whole one."""
    log_weights = symmetric_weights(len(z), total).log().to(z)
    log_weights[:, len(z) // 8 * 8 or len(z) :] = -torch.inf
    return mixture(z, mu, logvar, log_weights)


def corrected(z, mu, logvar, total):
    """The logarithm's bias taken off to second order: nobody's estimator, and a better one."""
    size, density = len(z), pairs(z, mu, logvar)
    log_weights = symmetric_weights(size, total).log().to(z)[:, :, None]
    others = ~torch.eye(size, dtype=torch.bool)[:, :, None]

    def log_mixture(log_densities):
        log_mean = torch.logsumexp(log_densities + log_weights, 1)
        ratio = (log_densities - log_mean[:, None]).exp() * others
        variance = (ratio - ratio.sum(1, keepdim=True) / (size - 1)).square() * others
        share = (total - 1) * (total - size) / total**2
        return log_mean + 0.5 * share * variance.sum(1) / ((size - 1) * (size - 2))

    return put_together(
        gaussian(z, mu, logvar).sum(1),
        log_mixture(density.sum(2, keepdim=True))[:, 0],
        log_mixture(density),
        gaussian(z, z * 0, z * 0).sum(1),
    )


def sorted_first(z, mu, logvar, total):
    """The paper's, where the next component is that in the order of the means."""
    rows = mu[:, 0].argsort()
    return paper(z[rows], mu[rows], logvar[rows], total)


def damped(parts):
    """Part of the gradient, through mu and logvar, of log q(z|n), own and other components."""

    def terms(z, mu, logvar, total):
        (m, v), (own_m, own_v), (other_m, other_v) = (
            [t.detach() + part * (t - t.detach()) for t in (mu, logvar)] for part in parts
        )
        own = torch.eye(len(z), dtype=torch.bool)[:, :, None]
        density = torch.where(own, pairs(z, own_m, own_v), pairs(z, other_m, other_v))
        return mixture(z, m, v, symmetric_weights(len(z), total).log(), density)

    return terms


class Multiplied(torch.autograd.Function):
    """The same value, and a factor in the gradient."""

    @staticmethod
    def forward(ctx, value, factor):
        ctx.factor = factor
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.factor * gradient, None


def gradient_times(*factors):
    """The right terms, and their gradients for z, mu and logvar times factors."""

    def terms(*inputs):
        return mss(*map(Multiplied.apply, inputs[:3], factors), inputs[3])

    return terms


ORDER, FLOOR = "depends on the order of the batch", "variance has a floor"
CLAMPED = "perhaps clamped at 0"

# Code without a fault: its estimator and the remarks on it.
RIGHT = {
    "tcdecomp, mss": (library("mss"), "symmetric MSS", set()),
    "tcdecomp, mss-jackknife": (library("mss-jackknife"), "MSS with jackknife", set()),
    "per item": (per_item, "symmetric MSS", set()),
    "textbook": (mss, "symmetric MSS", set()),
    **{
        f"the paper's, {name}": (weighted_by(paper_weights(choice)), "MSS of the paper", {ORDER})
        for name, choice in CHOICES.items()
    },
    "loops": (in_loops, "symmetric MSS", set()),
    "centred products": (in_products, "symmetric MSS", set()),
    "float64 inside": (in_dtype(torch.float64), "symmetric MSS", set()),
    "numbers": (detached, "symmetric MSS", {"no gradient"}),
    "numpy": (in_numpy, "symmetric MSS", {"no gradient"}),
    "analytic entropy": (analytic_entropy, "symmetric MSS", set()),
    "mu detached": (partly_detached, "symmetric MSS", {"gradient cut"}),
    "log q(z|n) detached": (damped((0, 1, 1)), "symmetric MSS", {"gradient cut"}),
    "others detached, own damped": (damped((1, 0.3, 0)), "symmetric MSS", {"gradient cut"}),
    "MI of the closed-form KL": (with_closed_form_kl(0), "symmetric MSS", set()),
    "TC of the closed-form KL": (with_closed_form_kl(1), "symmetric MSS", set()),
    "DWKL of the closed-form KL": (with_closed_form_kl(2), "symmetric MSS", set()),
    "closed-form KL, paper's": (with_closed_form_kl(2, paper), "MSS of the paper", {ORDER}),
    "logvar clamped": (misread(lambda v: v.clamp(-10, 10)), "symmetric MSS", {FLOOR}),
    "logvar clamped at -5": (misread(lambda v: v.clamp(min=-5)), "symmetric MSS", {FLOOR}),
    "half precision at the end": (
        lambda *inputs: tuple(term.half() for term in mss(*inputs)),
        "symmetric MSS",
        {"low precision"},
    ),
    "variance with 1e-8": (misread(lambda v: (v.exp() + 1e-8).log()), "symmetric MSS", set()),
    "variance with 1e-5": (misread(lambda v: (v.exp() + 1e-5).log()), "symmetric MSS", {FLOOR}),
    "all clamped": (clamped(), "symmetric MSS", {CLAMPED}),
    "TC clamped": (clamped(terms=[1]), "symmetric MSS", {CLAMPED}),
    "TC clamped per item": (clamped(per_item, [1]), "symmetric MSS", {CLAMPED}),
    "paper's, TC clamped": (clamped(paper, [1]), "MSS of the paper", {CLAMPED, ORDER}),
}

MISSING, MISREAD = "constant missing", "log-variance misread"

# Right code of no known form.
UNKNOWN = {
    "bias corrected": corrected,
    "special by order of means": sorted_first,
}

UNKNOWN_FORM, WRONG_GRADIENT = "unknown form", "gradient wrong"

# Code with faults: its estimator, the names of all faults, and of the remarks.
FAULTS = {
    "tcdecomp, mws": (library("mws"), "MWS", {MISSING}, set()),
    "tcdecomp, inclusive": (library("inclusive"), "inclusive", {"inclusive"}, set()),
    "MWS": (mws, "MWS", {MISSING}, set()),
    "inclusive": (inclusive, "inclusive", {"inclusive"}, set()),
    "public MSS": (public, "MSS in the wrong columns", {"inclusive in disguise"}, {ORDER}),
    "public MSS, weights per dimension": (
        counted_per_dimension(wrong_columns),
        "MSS in the wrong columns",
        {"inclusive in disguise", "weights counted D times"},
        {ORDER},
    ),
    "weights per dimension": (
        counted_per_dimension(symmetric_weights),
        "symmetric MSS",
        {"weights counted D times"},
        set(),
    ),
    "leave-one-out": (leave_one_out, "leave-one-out", {"own component left out"}, set()),
    "no log(NM)": (unweighted, "no weights", {MISSING}, set()),
    "log(NM) in the joint only": (constant_in_the_joint_only, "MWS", {MISSING}, set()),
    "exp().sum().log()": (underflow, "symmetric MSS", {"underflow in many dimensions"}, set()),
    "expanded square": (
        expanded_square,
        "symmetric MSS",
        {"digits lost"},
        set(),
    ),
    "expanded square, logvar clamped": (
        lambda z, mu, logvar, total: expanded_square(z, mu, logvar.clamp(-10, 10), total),
        "symmetric MSS",
        {"digits lost"},
        {FLOOR},
    ),
    "half precision": (
        in_dtype(torch.float16),
        "symmetric MSS",
        {"overflow at sharp posteriors", "digits lost"},
        {"low precision"},
    ),
    "sum over the batch": (
        scaled(lambda size, dim: size),
        "symmetric MSS",
        {"summed over the batch"},
        set(),
    ),
    "terms over D": (
        scaled(lambda size, dim: 1 / dim),
        "symmetric MSS",
        {"mean over dimensions"},
        set(),
    ),
    "log-densities over D": (averaged_densities, "symmetric MSS", {"mean over dimensions"}, set()),
    "log2": (scaled(lambda *_: 1 / math.log(2)), "symmetric MSS", {"bits, not nats"}, set()),
    "TC negated": (signed(1, -1, 1), "symmetric MSS", {"sign flipped"}, set()),
    "MI negated": (signed(-1, 1, 1), "symmetric MSS", {"sign flipped"}, set()),
    "MI and TC swapped": (swapped, "symmetric MSS", {"terms in the wrong order"}, set()),
    "no prior": (without_prior, "symmetric MSS", {"prior missing"}, set()),
    "no 0.5 log(2 pi)": (without_normalizer, "symmetric MSS", {MISSING}, set()),
    "logvar as log-std": (misread(lambda v: 2 * v), "symmetric MSS", {MISREAD}, set()),
    "logvar as variance": (misread(torch.log), "symmetric MSS", {MISREAD}, set()),
    "logvar as std": (misread(lambda v: 2 * v.log()), "symmetric MSS", {MISREAD}, set()),
    "logvar as Normal's scale": (normal_with_scale_logvar, "symmetric MSS", {MISREAD}, set()),
    "logsumexp over points": (wrong_axis, "symmetric MSS", {"sum over the wrong axis"}, set()),
    "logvar halved": (misread(lambda v: 0.5 * v), "symmetric MSS", {MISREAD}, set()),
    "the paper's, previous, weights per dimension": (
        counted_per_dimension(paper_weights(CHOICES["previous"])),
        "MSS of the paper",
        {"weights counted D times"},
        {ORDER},
    ),
    "the paper's, first, transposed": (
        weighted_by(transposed(paper_weights(CHOICES["first"]))),
        "MSS of the paper, misplaced",
        {"special components misplaced"},
        {ORDER},
    ),
    "own weight in the next column": (
        weighted_by(lambda size, total: symmetric_weights(size, total).roll(1, 1)),
        "unknown",
        {"unknown form"},
        {ORDER},
    ),
    "public MSS, all clamped": (
        clamped(public),
        "MSS in the wrong columns",
        {"inclusive in disguise"},
        {ORDER, CLAMPED},
    ),
    "DWKL always 0": (
        lambda *inputs: (*mss(*inputs)[:2], 0.0),
        "unknown",
        {"always 0"},
        set(),
    ),
    "view for transpose": (viewed, "symmetric MSS", {"axes mixed up"}, set()),
    "no weights in the marginals": (without_marginal_weights, "symmetric MSS", {MISSING}, set()),
    "TC detached": (detached_tc, "symmetric MSS", {"no gradient"}, set()),
    "the point's logvar in the mixture": (
        logvar_of_the_components(lambda v: v[:, None]),
        "unknown",
        {UNKNOWN_FORM},
        set(),
    ),
    "first logvar": (
        misread(lambda v: v[:1].expand_as(v)),
        "unknown",
        {UNKNOWN_FORM},
        {ORDER},
    ),
    "mean logvar": (
        misread(lambda v: v.mean().expand_as(v)),
        "unknown",
        {UNKNOWN_FORM},
        set(),
    ),
    "logvar of the row before": (
        misread(lambda v: v.roll(1, 0)),
        "unknown",
        {UNKNOWN_FORM},
        {ORDER},
    ),
    "logvar clamped at -4": (misread(lambda v: v.clamp(min=-4)), "symmetric MSS", {FLOOR}, set()),
    "remainder dropped": (
        remainder_dropped,
        "symmetric MSS",
        {"another form on larger batches", "off in the study"},
        set(),
    ),
    **{
        name: (gradient_times(*factors), "symmetric MSS", {WRONG_GRADIENT}, set())
        for name, factors in (
            ("gradient of logvar negated", (1, 1, -1)),
            ("gradient times 100", (100, 100, 100)),
            ("z detached", (0, 1, 1)),
        )
    },
}
