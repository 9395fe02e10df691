"""The score of a model over a data set."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.distributions import Distribution

from tcdecomp.checks import check_finite
from tcdecomp.dataset import checked_samples
from tcdecomp.groups import decompose_groups
from tcdecomp.loaders import factors_of, varying_factors
from tcdecomp.metrics import MutualInfoGap, mutual_info_gap
from tcdecomp.metrics.columns import FloatArray
from tcdecomp.metrics.inputs import read_columns
from tcdecomp.plugins import as_posterior
from tcdecomp.posterior import Posterior
from tcdecomp.priors import Prior, check_prior
from tcdecomp.scoring.collection import collect
from tcdecomp.scoring.report import Report
from tcdecomp.scoring.units import active_units, by_activity, check_threshold, grouped_tc

__all__ = ["score"]


def score(
    model: Any,
    batches: Iterable[Any] | None = None,
    factors: Any = None,
    *,
    inputs: Callable[[Any], Any] | None = None,
    device: torch.device | str | None = None,
    prior: Prior = None,
    num_samples: SupportsIndex = 10_000,
    seed: int = 0,
    active_threshold: float = 0.01,
    mig: Mapping[str, Any] | None = None,
) -> Report:
    """Score a model over a data set: the terms of its KL, its active units and its MIG.

    One pass over the batches, without gradients and with a progress bar if it is long, keeps the
    means, log-variances and factors of each batch and nothing else. The model is in eval mode
    meanwhile, and each of its submodules in its own mode afterwards, whatever happens. Torch's
    global random generators (CPU and CUDA) are left as they were.

    Parameters
    ----------
    model : object
        What :func:`tcdecomp.encode` takes; or a callable that returns a Posterior, a (mu, logvar)
        pair or a torch ``Normal`` for what it is given. Without ``batches``, what there is of the
        whole data set: one of these three, shape (N, D), or codes (N, D) alone, as an array, a
        tensor or a data frame. Codes alone have no terms and no KL.
    batches : iterable, optional
        A DataLoader, or any iterable of batches. N is the number of items that it yields.
    factors : callable or array_like, shape (N, K) or (N,), optional
        The true factors: a callable that returns those of a batch, or those of all items in their
        order, of any kind that :func:`tcdecomp.mig_score` takes. By default they are taken from
        the batches: a mapping's "factors", or a tensor of integers that is second in a pair.
        There, factors with a single value are left out, with a warning.
    inputs : callable, optional
        Returns what of a batch the model is given. By default a sequence's first entry, and
        anything else whole.
    device : torch.device or str, optional
        Where the model's inputs are moved: the model's device. By default they stay.
    prior : Distribution or callable, optional
        As in :func:`tcdecomp.decompose_dataset`.
    num_samples : int
        As in :func:`tcdecomp.decompose_dataset`, which runs on the device of the model's means.
    seed : int
        Of the samples: equal posteriors in an equal order have equal scores.
    active_threshold : float
        A latent is active if the variance of its posterior means exceeds this.
    mig : mapping, optional
        Options of :func:`tcdecomp.mig_score`, such as ``{"n_bins": 40}``.

    Returns
    -------
    Report
        Everything as numbers on the CPU; it prints as a table, exports and plots.

    Raises
    ------
    NoAdapterError
        If no adapter serves the model, and it is no callable either (a module is never called).
    TypeError
        If an argument, or what the model or a callable returns, is not of its type.
    ValueError
        If there are fewer than two items, D differs among the batches, a posterior is not finite,
        an option is out of its range, or model and inputs are on different devices; if factors
        have another length, are missing in some batches or for a callable in any, or are an array
        beside a DataLoader that does not go through its data set in order; and where
        :func:`tcdecomp.mig_score` or :func:`tcdecomp.decompose_dataset` raises it.

    References
    ----------
    Chen, Li, Grosse, Duvenaud (2018). Isolating Sources of Disentanglement in VAEs. Eq. 2 and
    section 4.

    Burda, Grosse, Salakhutdinov (2016). Importance Weighted Autoencoders. Section 5.2.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp import score
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> factors = torch.cartesian_prod(torch.arange(8), torch.arange(8))
    >>> data = TensorDataset(factors.float(), factors)
    >>> def encoder(x):
    ...     return x, torch.full_like(x, -4.0)
    >>> report = score(encoder, DataLoader(data, batch_size=16))
    >>> report.items, report.active_units, report.mig.score
    (64, 2, 1.0)
    """
    check_prior(prior)
    checked_samples(num_samples)
    check_threshold(active_threshold)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an int; got {seed!r}")
    options = _checked_options(mig)
    given = _holds_values(model)
    if given != (batches is None):
        raise TypeError(_MODEL_AND_BATCHES.format(_kind(model), _kind(batches)))
    with torch.random.fork_rng(_cuda_devices()), torch.no_grad():
        if given:
            data = _given(model, factors, inputs, device)
        else:
            data = _collected(model, batches, factors, inputs, device)
        if len(data.codes) < 2:
            raise ValueError(f"score needs at least two items; got {len(data.codes)}")
        return _assessed(data, prior, num_samples, seed, active_threshold, options)


_MODEL_AND_BATCHES = (
    "score takes a model and batches, or without batches a Posterior, a (mu, logvar) pair, a torch "
    "Normal or codes (N, D) of the whole data set; got a {} and batches of type {}"
)


class _Data(NamedTuple):
    """What is scored: codes (N, D), their latents' names, their posteriors and factors."""

    codes: FloatArray
    names: tuple[str, ...]
    posterior: Posterior | None
    factors: Any


def _kind(value: object) -> str:
    return type(value).__name__


def _cuda_devices() -> range:
    # Where CUDA has not started there is nothing to keep, and to start it takes long.
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return range(torch.cuda.device_count() if started else 0)


def _holds_values(model: Any) -> bool:
    """Tell whether ``model`` is no model, but posteriors or codes."""
    if isinstance(model, tuple | list):
        return len(model) > 0 and all(isinstance(part, Tensor | np.ndarray) for part in model)
    is_frame = hasattr(model, "columns") and not callable(model)
    return is_frame or isinstance(model, Tensor | np.ndarray | Posterior | Distribution)


def _given(values: Any, factors: Any, inputs: Any, device: Any) -> _Data:
    for name, value in (("inputs", inputs), ("device", device)):
        if value is not None:
            raise TypeError(f"{name} must be None without batches; got {value!r}")
    if callable(factors):
        raise TypeError("factors must be an array without batches; got a callable")
    if isinstance(values, tuple | list):
        if len(values) != 2:
            raise TypeError(f"model must be a (mu, logvar) pair; got {len(values)} arrays")
        values = list(map(_as_tensor, ("mu", "logvar"), values))
    if isinstance(values, list | Posterior | Distribution):
        return _of_posterior(as_posterior(values, "model"), factors)
    columns = read_columns(values, "codes", "z")
    return _Data(columns.as_floats(), columns.names, None, factors)


def _as_tensor(name: str, values: Any) -> Tensor:
    """Return an array as a tensor: float32 of any lesser float, else float64."""
    if isinstance(values, Tensor):
        return values
    if values.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers; got dtype {values.dtype}")
    single = values.dtype.kind == "f" and values.dtype.itemsize <= 4
    # A copy of native byte order and positive strides: torch takes no other.
    return torch.from_numpy(np.array(values, np.float32 if single else np.float64, order="C"))


def _collected(
    model: Any,
    batches: Any,
    factors: Any,
    inputs: Callable[[Any], Any] | None,
    device: torch.device | str | None,
) -> _Data:
    by_themselves = factors is None
    is_array = not by_themselves and not callable(factors)
    find = factors_of if by_themselves else None if is_array else _insistent(factors)
    found = collect(model, batches, find, inputs=inputs, device=device, ordered=is_array)
    if not is_array:
        factors = found.factors
    if by_themselves and factors is not None:
        factors = varying_factors(factors, "score")
    return _of_posterior(Posterior(found.mu, found.mu, found.logvar), factors)


def _insistent(find: Callable[[Any], Any]) -> Callable[[Any], Any]:
    numbers = itertools.count()

    def found(batch: Any) -> Any:
        number, factors = next(numbers), find(batch)
        if factors is None:
            raise ValueError(
                f"factors must return the factors of every batch; got None for batch {number}"
            )
        return factors

    return found


def _of_posterior(posterior: Posterior, factors: Any) -> _Data:
    posterior = posterior.detach()
    check_finite("mu", posterior.mu)
    check_finite("logvar", posterior.logvar)
    codes: FloatArray = posterior.mu.cpu().double().numpy()
    return _Data(codes, tuple(f"z{j}" for j in range(codes.shape[1])), posterior, factors)


def _assessed(
    data: _Data,
    prior: Prior,
    num_samples: SupportsIndex,
    seed: int,
    threshold: float,
    options: Mapping[str, Any],
) -> Report:
    variance, active = active_units(data.codes, threshold)
    gap, active_gap = _gaps(data, active, options)  # first, since it is quick to find fault
    report = Report(
        items=len(data.codes),
        latent_names=data.names,
        variance=variance,
        active=active,
        active_threshold=float(threshold),
        mig=gap,
        mig_active=active_gap,
    )
    if data.posterior is None:
        return report
    mu, logvar = data.posterior.mu, data.posterior.logvar
    terms = decompose_groups(
        mu,
        logvar,
        by_activity(active),
        num_samples=num_samples,
        generator=Generator(mu.device).manual_seed(seed),
        prior=prior,
    )
    return dataclasses.replace(
        report,
        terms=terms.whole,
        latent_kl=np.array([latent.terms.kl for latent in terms.dimensions]),
        grouped_tc=grouped_tc(terms),
    )


def _gaps(
    data: _Data, active: NDArray[np.bool_], options: Mapping[str, Any]
) -> tuple[MutualInfoGap | None, MutualInfoGap | None]:
    """Return the gap of all latents and that of the active ones, where there are such."""
    if data.factors is None:
        return None, None

    def gap(chosen: NDArray[np.bool_]) -> MutualInfoGap:
        names = tuple(name for name, flag in zip(data.names, chosen, strict=True) if flag)
        return dataclasses.replace(
            mutual_info_gap(data.codes[:, chosen], data.factors, **options), latent_names=names
        )

    whole = gap(np.ones_like(active))
    if active.all() or not active.any():
        return whole, whole if active.any() else None
    return whole, gap(active)


def _checked_options(mig: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if mig is None:
        return {}
    parameters = inspect.signature(mutual_info_gap).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    if not isinstance(mig, Mapping):
        raise TypeError(f"mig must be a mapping of options of mig_score; got {_kind(mig)}")
    if unknown := [name for name in mig if name not in known]:
        raise TypeError(f"mig must hold options of mig_score ({', '.join(known)}); got {unknown}")
    return mig
