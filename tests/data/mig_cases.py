"""The inputs of the MIG reference cases, made from seeds, and what they should give.

``mig_reference.json`` holds for each case the generator's name and arguments, a checksum of the
inputs, and values from an implementation apart from this project: scikit-learn 1.9.1's
KBinsDiscretizer (``subsample=None``, averaged inverted CDF) on float64 codes, and plug-in
information, which agrees with ``sklearn.metrics.mutual_info_score`` to 1.6e-15.

Every number is made of PCG64 doubles, + - * / and floor alone (no log, sin or BLAS), so that the
bits are the same on every platform. "gauss" is a sum of 12 uniforms less 6: mean 0, variance 1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

Case = dict[str, np.ndarray]
REFERENCE = json.loads(Path(__file__).with_name("mig_reference.json").read_text("utf-8"))["cases"]
HALF_ROOT = 0.7071067811865476


@cache
def make_case(name: str) -> Case:
    """Return ``codes`` (n, D), ``factors`` (n, K) and, in one case, ``sample_weight`` (n,)."""
    spec = REFERENCE[name]
    case = GENERATORS[spec["kind"]](**spec["args"])
    if digest(case) != spec["sha256"]:
        raise ValueError(f"case {name}: the regenerated inputs differ from the stored checksum")
    return case


def digest(case: Case) -> str:
    sha = hashlib.sha256()
    for key in ("codes", "factors", "sample_weight"):
        if key in case:
            array = np.ascontiguousarray(case[key])
            sha.update(f"{key}{array.shape}{array.dtype.str}".encode())
            sha.update(array.tobytes())
    return sha.hexdigest()


def _rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def _gauss(rng: np.random.Generator, *shape: int) -> np.ndarray:
    out = np.full(shape, -6.0)
    for _ in range(12):
        out += rng.random(shape)
    return out


def _classes(rng: np.random.Generator, n: int, card: int) -> np.ndarray:
    return np.floor(rng.random(n) * card).astype(np.int64)


def _factors(rng: np.random.Generator, n: int, cards: Sequence[int]) -> np.ndarray:
    return np.stack([_classes(rng, n, card) for card in cards], axis=1)


def _unit(values: np.ndarray, card: int) -> np.ndarray:
    return values / max(card - 1, 1)


def _units(factors: np.ndarray, cards: Sequence[int]) -> np.ndarray:
    return np.stack([_unit(factors[:, k], card) for k, card in enumerate(cards)], axis=1)


SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda u: u,
    "reverse": lambda u: -2.0 * u,
    "cubic": lambda u: u * u * u,
    "square": lambda u: (u - 0.5) * (u - 0.5),  # two values to one
}


def perfect(seed, n, cards, sigma, how=None, noise_dims=0, perm=None) -> Case:
    """A latent f(v_k) + sigma * gauss per factor, then latents of noise; columns permuted."""
    rng = _rng(seed)
    factors = _factors(rng, n, cards)
    how = how or ["linear"] * len(cards)
    sigma = sigma if isinstance(sigma, list) else [sigma] * len(cards)
    columns = [
        SHAPES[how[k]](_unit(factors[:, k], card)) + sigma[k] * _gauss(rng, n)
        for k, card in enumerate(cards)
    ]
    columns += [_gauss(rng, n) for _ in range(noise_dims)]
    codes = np.stack(columns, axis=1)
    return {"codes": codes if perm is None else codes[:, perm], "factors": factors}


def rotated45(seed, n, cards, sigma) -> Case:
    """Pairs of factors rotated by 45 degrees, plus noise; an odd last one stays on its axis."""
    rng = _rng(seed)
    factors = _factors(rng, n, cards)
    units = _units(factors, cards)
    codes = units.copy()
    for a in range(0, len(cards) - 1, 2):
        codes[:, a] = HALF_ROOT * units[:, a] - HALF_ROOT * units[:, a + 1]
        codes[:, a + 1] = HALF_ROOT * units[:, a] + HALF_ROOT * units[:, a + 1]
    return {"codes": codes + sigma * _gauss(rng, *codes.shape), "factors": factors}


def redundant(seed, n, cards, sigma, exact) -> Case:
    """Every factor coded by two latents: equal to the bit, or each with noise of its own."""
    rng = _rng(seed)
    factors = _factors(rng, n, cards)
    units = _units(factors, cards)
    first = units + sigma * _gauss(rng, *units.shape)
    second = first if exact else units + sigma * _gauss(rng, *units.shape)
    return {"codes": np.concatenate([first, second], axis=1), "factors": factors}


def mixed(seed, n, cards, sigma, D) -> Case:  # noqa: N803
    """Latents that are random sums of all factors, plus noise."""
    rng = _rng(seed)
    factors = _factors(rng, n, cards)
    mixing = 2.0 * rng.random((len(cards), D)) - 1.0
    codes = sigma * _gauss(rng, n, D)
    for k, card in enumerate(cards):
        for d in range(D):
            codes[:, d] += _unit(factors[:, k], card) * mixing[k, d]
    return {"codes": codes, "factors": factors}


def float32_codes(**args) -> Case:
    case = mixed(**args)
    return case | {"codes": case["codes"].astype(np.float32)}


def constant_latent(seed, n, cards, sigma, values) -> Case:
    """Constant latents before and behind perfect ones."""
    case = perfect(seed, n, cards, sigma)
    constant = np.stack([np.full(n, float(value)) for value in values], axis=1)
    codes = np.concatenate([constant[:, :1], case["codes"], constant[:, 1:]], axis=1)
    return case | {"codes": codes}


def all_constant(seed, n, cards, D) -> Case:  # noqa: N803
    return {"codes": np.full((n, D), 2.5), "factors": _factors(_rng(seed), n, cards)}


def independent(seed, n, cards, D) -> Case:  # noqa: N803
    rng = _rng(seed)
    factors = _factors(rng, n, cards)
    return {"codes": _gauss(rng, n, D), "factors": factors}


def correlated(seed, n, card, K, rho, sigma, noise_dims=0) -> Case:  # noqa: N803
    """Factors that repeat the first one with probability rho; codes perfect plus noise."""
    rng = _rng(seed)
    factors = _factors(rng, n, [card] * K)
    for k in range(1, K):
        same = rng.random(n) < rho
        factors[same, k] = factors[same, 0]
    codes = _unit(factors, card) + sigma * _gauss(rng, n, K)
    if noise_dims:
        codes = np.concatenate([codes, _gauss(rng, n, noise_dims)], axis=1)
    return {"codes": codes, "factors": factors}


def continuous_factors(seed, n, K, sigma, noise_dims, how) -> Case:  # noqa: N803
    rng = _rng(seed)
    factors = rng.random((n, K))
    columns = [SHAPES[how[k]](factors[:, k]) + sigma * _gauss(rng, n) for k in range(K)]
    columns += [_gauss(rng, n) for _ in range(noise_dims)]
    return {"codes": np.stack(columns, axis=1), "factors": factors}


def full_grid(cards, repeats, how="linear", duplicate=None) -> Case:
    """Every combination of the factors, and codes that are the factors: no noise, no seed."""
    grid = np.indices(cards).reshape(len(cards), -1).T.astype(np.int64)
    factors = np.tile(grid, (repeats, 1))
    codes = SHAPES[how](_units(factors, cards))
    if duplicate is not None:
        codes = np.concatenate([codes, codes[:, [duplicate]]], axis=1)
    return {"codes": codes, "factors": factors}


def edges(seed, n, m, scale) -> Case:
    """Codes that lie on (rounded) bin edges."""
    rng = _rng(seed)
    k = _classes(rng, n, m + 1)
    k[0], k[1] = 0, m
    other = _classes(rng, n, m + 1)
    columns = [k * scale, other * scale + (k % 2) * scale, 7.0 + (m - k) * scale]
    return {"codes": np.stack(columns, axis=1), "factors": np.stack([k, k % 3], axis=1)}


def label_types(seed, n, sigma, values) -> Case:
    """Labels that are arbitrary numbers: negative, with gaps, floats."""
    rng = _rng(seed)
    index = [_classes(rng, n, len(labels)) for labels in values]
    pairs = list(zip(values, index, strict=True))
    factors = np.stack([np.asarray(labels)[i] for labels, i in pairs], axis=1)
    columns = [_unit(i, len(labels)) + sigma * _gauss(rng, n) for labels, i in pairs]
    return {"codes": np.stack([*columns, _gauss(rng, n)], axis=1), "factors": factors}


def single_value_factor(seed, n, cards, sigma, value) -> Case:
    case = perfect(seed, n, cards, sigma, noise_dims=1)
    single = np.full((n, 1), value, dtype=np.int64)
    return case | {"factors": np.concatenate([case["factors"], single], axis=1)}


def weighted(seed, n, cards, sigma, max_w) -> Case:
    """Whole weights 0..max_w, to count as that many repetitions of a row."""
    case = perfect(seed, n, cards, sigma, noise_dims=2)
    return case | {"sample_weight": _classes(_rng(seed + 1_000_003), n, max_w + 1)}


def outlier(seed, n, cards, sigma, value) -> Case:
    case = perfect(seed, n, cards, sigma, noise_dims=1)
    case["codes"][0, :] = value
    return case


def xor(seed, n, sigma) -> Case:
    """A factor that no single latent tells anything of."""
    rng = _rng(seed)
    a, b, c = (_classes(rng, n, 2) for _ in range(3))
    columns = [latent + sigma * _gauss(rng, n) for latent in (a ^ b, b, c)]
    return {"codes": np.stack(columns, axis=1), "factors": np.stack([a, b, c], axis=1)}


def scaled(scales, shift, **args) -> Case:
    case = perfect(**args)
    for d, scale in enumerate(scales):
        case["codes"][:, d] = case["codes"][:, d] * scale + shift[d]
    return case


def posterior_grid(seed, cards, D, scale, mode) -> Case:  # noqa: N803
    """Posterior means on a full grid: one factor per latent, or random sums of all of them."""
    rng = _rng(seed)
    factors = np.indices(cards).reshape(len(cards), -1).T.astype(np.int64)
    n, n_factors = factors.shape
    units = 2.0 * _units(factors, cards) - 1.0
    draws = rng.random((n, D))  # of the posteriors' widths
    codes = np.zeros((n, D))
    if mode == "axis":
        for d in range(min(n_factors, D)):
            codes[:, d] = scale * units[:, d]
        return {"codes": codes, "factors": factors, "draws": draws}
    mixing = 2.0 * rng.random((n_factors, D)) - 1.0
    for k in range(n_factors):
        for d in range(D):
            codes[:, d] += scale * units[:, k] * mixing[k, d]
    return {"codes": codes, "factors": factors, "draws": draws}


GENERATORS: dict[str, Callable[..., Any]] = {
    generator.__name__: generator
    for generator in (
        perfect, rotated45, redundant, mixed, float32_codes, constant_latent, all_constant,
        independent, correlated, continuous_factors, full_grid, edges, label_types,
        single_value_factor, weighted, outlier, xor, scaled, posterior_grid,
    )
}  # fmt: skip
