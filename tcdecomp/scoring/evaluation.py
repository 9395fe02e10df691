"""The score of a model over a data set."""

from __future__ import annotations

import dataclasses
import inspect
import operator
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

from tcdecomp._processes import Division, Group
from tcdecomp.dataset.decomposition import checked_samples
from tcdecomp.dataset.groups import decompose_groups
from tcdecomp.metrics import MutualInfoGap, mutual_info_gap
from tcdecomp.priors import Prior, check_prior
from tcdecomp.scoring.items import Items, read_items
from tcdecomp.scoring.loaders import varying_factors
from tcdecomp.scoring.report import Report
from tcdecomp.scoring.sharing import gathered
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
    process_group: Group = None,
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
    process_group : ProcessGroup or "world", optional
        Processes that have different items of the data set, and divide the work. All of them must
        call, each with the batches and the factors of its own items, or with their posteriors or
        codes, and with the same other arguments, of which all but the prior are compared; all
        return the report of all items. Where a
        DistributedSampler deals out the items, their order is that of the sampler and none counts
        twice; otherwise it is that of the ranks.

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
        have another length or index, are missing in some batches or for a callable in any, or are
        an array beside a DataLoader that does not go through its data set in order; if a process
        of the group is refused or has no items, or the processes do not agree; and where
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
    division = Division(process_group)
    settings = _Settings(prior, num_samples, seed, active_threshold, {} if mig is None else mig)

    def own() -> Items:
        settings.check()
        shared = division.group is not None
        return read_items(model, batches, factors, inputs=inputs, device=device, shared=shared)

    with torch.random.fork_rng(_cuda_devices()), torch.no_grad():
        items = gathered(own, division.group, settings.shared)
        if len(items.codes) < 2:
            raise ValueError(f"score needs at least two items; got {len(items.codes)}")
        return _assessed(_with_varying_factors(items), settings, division)


class _Settings(NamedTuple):
    """The options of :func:`score` that the numbers depend on."""

    prior: Prior
    num_samples: SupportsIndex
    seed: int
    threshold: float
    mig: Mapping[str, Any]

    def check(self) -> None:
        check_prior(self.prior)
        checked_samples(self.num_samples)
        check_threshold(self.threshold)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed must be an int; got {self.seed!r}")
        _check_options(self.mig)

    def shared(self) -> dict[str, str]:
        """Return what must be the same in all processes; priors cannot be compared."""
        values = {
            "num_samples": operator.index(self.num_samples),
            "seed": self.seed,
            "active_threshold": float(self.threshold),
            **{f"mig[{name!r}]": np.asarray(value).tolist() for name, value in self.mig.items()},
        }
        return {name: _brief(value) for name, value in values.items()}


def _brief(value: object) -> str:
    """Return a text that is short, and another for another value."""
    text = repr(value)
    return text if len(text) < 80 else f"one of hash {sha256(text.encode()).hexdigest()[:16]}"


def _check_options(mig: Mapping[str, Any]) -> None:
    parameters = inspect.signature(mutual_info_gap).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    if not isinstance(mig, Mapping):
        raise TypeError(f"mig must be a mapping of options of mig_score; got {type(mig).__name__}")
    if unknown := [name for name in mig if name not in known]:
        raise TypeError(f"mig must hold options of mig_score ({', '.join(known)}); got {unknown}")


def _cuda_devices() -> range:
    # Where CUDA has not started there is nothing to keep, and to start it takes long.
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return range(torch.cuda.device_count() if started else 0)


def _with_varying_factors(items: Items) -> Items:
    """Leave out the factors of a single value that nobody picked."""
    if not items.found or items.factors is None:
        return items
    factors = np.column_stack(items.factors.arrays)
    return items._replace(factors=varying_factors(factors, "score"))


def _assessed(items: Items, settings: _Settings, division: Division) -> Report:
    variance, active = active_units(items.codes, settings.threshold)
    # First, since it is quick to find fault.
    gap, active_gap = _gaps(items, active, settings.mig)
    report = Report(
        items=len(items.codes),
        latent_names=items.names,
        variance=variance,
        active=active,
        active_threshold=float(settings.threshold),
        mig=gap,
        mig_active=active_gap,
    )
    if items.posterior is None:
        return report
    mu, logvar = items.posterior.mu, items.posterior.logvar
    terms = decompose_groups(
        mu.tensor_split(division.count)[division.rank],
        logvar.tensor_split(division.count)[division.rank],
        by_activity(active),
        num_samples=settings.num_samples,
        generator=Generator(mu.device).manual_seed(settings.seed),
        prior=settings.prior,
        process_group=division.group,
    )
    return dataclasses.replace(
        report,
        terms=terms.whole,
        latent_kl=np.array([latent.terms.kl for latent in terms.dimensions]),
        grouped_tc=grouped_tc(terms),
    )


def _gaps(
    items: Items, active: NDArray[np.bool_], options: Mapping[str, Any]
) -> tuple[MutualInfoGap | None, MutualInfoGap | None]:
    """Return the gap of all latents and that of the active ones, where there are such."""
    if items.factors is None:
        return None, None

    def gap(chosen: NDArray[np.bool_]) -> MutualInfoGap:
        names = tuple(name for name, flag in zip(items.names, chosen, strict=True) if flag)
        return dataclasses.replace(
            mutual_info_gap(items.codes[:, chosen], items.factors, **options), latent_names=names
        )

    whole = gap(np.ones_like(active))
    if active.all() or not active.any():
        return whole, whole if active.any() else None
    return whole, gap(active)
