"""The paper's formulas as loops over Python floats: slow, and independent of the library."""

import itertools
import math


def density(z, mu, logvar):
    """Product over dimensions of N(z_j; mu_j, exp(logvar_j))."""
    return math.prod(
        math.exp(-((x - m) ** 2) / (2 * math.exp(v))) / math.sqrt(2 * math.pi * math.exp(v))
        for x, m, v in zip(z, mu, logvar, strict=True)
    )


def mws_row(i, batch_size, dataset_size):
    """Poster: log q(z(n_i)) ~ log 1/(NM) sum_j q(z(n_i)|n_j)."""
    return [1 / (dataset_size * batch_size)] * batch_size


def inclusive_row(i, batch_size, dataset_size):
    return [1 / batch_size] * batch_size


def mss_row_of_the_paper(i, special, batch_size, dataset_size):
    """Appendix C.2, M' = M - 1: 1/N on the own, (N - M')/(N M') on a special one, else 1/M'."""
    others = batch_size - 1
    row = [1 / others] * batch_size
    row[i] = 1 / dataset_size
    row[special] = (dataset_size - others) / (dataset_size * others)
    return row


def mss_row(i, batch_size, dataset_size):
    """The paper's row averaged over the choice of the special component."""
    if dataset_size == 1:
        return [1.0]
    rows = [
        mss_row_of_the_paper(i, special, batch_size, dataset_size)
        for special in range(batch_size)
        if special != i
    ]
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


ROWS = {"mss": mss_row, "mws": mws_row, "inclusive": inclusive_row}


def terms(z, mu, logvar, dataset_size, row):
    """Return per-item lists (MI, TC, DWKL) for weights ``row(i, M, N)``; nested lists in."""
    per_item = []
    for i, point in enumerate(z):
        weights = row(i, len(z), dataset_size)
        components = list(zip(weights, mu, logvar, strict=True))
        log_qz = math.log(math.fsum(w * density(point, m, v) for w, m, v in components))
        log_qz_j = [
            math.log(math.fsum(w * density([x], [m[j]], [v[j]]) for w, m, v in components))
            for j, x in enumerate(point)
        ]
        log_qz_n = math.log(density(point, mu[i], logvar[i]))
        log_pz = math.log(density(point, [0.0] * len(point), [0.0] * len(point)))
        product = math.fsum(log_qz_j)
        per_item.append((log_qz_n - log_qz, log_qz - product, product - log_pz))
    return tuple(map(list, zip(*per_item, strict=True)))


def kl(mu, logvar):
    """Per-item KL(N(mu, exp(logvar)) || N(0, 1))."""
    return [
        math.fsum((m * m + math.exp(v) - 1 - v) / 2 for m, v in zip(*item, strict=True))
        for item in zip(mu, logvar, strict=True)
    ]


def batches_with(item, dataset_size, batch_size):
    """Every batch, without replacement, that holds the item."""
    return [b for b in itertools.combinations(range(dataset_size), batch_size) if item in b]
