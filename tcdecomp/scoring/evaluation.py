"""The score of a model over a data set."""

from __future__ import annotations

import dataclasses
import inspect
import operator
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import torch
from torch import Generator

from tcdecomp._processes import Division, Group, check_agreement, made_by_each
from tcdecomp.dataset.decomposition import checked_samples, decompose_dataset
from tcdecomp.dataset.groups import grouped_terms
from tcdecomp.disentanglement.scores import checked_names, each_warning_once, settings_of
from tcdecomp.metrics import mutual_info_gap
from tcdecomp.plugins import Reader, Seam
from tcdecomp.posterior import Posterior
from tcdecomp.priors import Prior, check_prior, closed_form_kl_j, factors_of
from tcdecomp.scoring.items import Items, read_items
from tcdecomp.scoring.joining import joined
from tcdecomp.scoring.loaders import InputsIn
from tcdecomp.scoring.report import Report
from tcdecomp.scoring.scores import density_gap, gaps, other_scores
from tcdecomp.scoring.units import active_units, by_activity, check_threshold, grouped_tc

__all__ = ["score"]


def score(
    model: Any,
    batches: Iterable[Any] | None = None,
    factors: Any = None,
    *,
    inputs: InputsIn = None,
    device: torch.device | str | None = None,
    prior: Prior = None,
    condition: Any = None,
    num_samples: SupportsIndex = 10_000,
    seed: int = 0,
    active_threshold: float = 0.01,
    mig: Mapping[str, Any] | None = None,
    scores: str | Iterable[str] | None = None,
    process_group: Group = None,
    seam: Seam | None = None,
) -> Report:
    """Score a model over a data set: the terms of its KL, its active units and its MIG.

    The model encodes each batch once, in eval mode and without gradients. Of each batch, score
    keeps the means, the log-variances and the factors. Afterwards each submodule is in the mode
    that it was in before, and torch's global random generators (CPU and CUDA) are unchanged, even
    after an error. A run of more than some seconds shows its progress on stderr.

    Parameters
    ----------
    model : object
        A model that :func:`tcdecomp.encode` takes, or a function that returns (mu, logvar), a
        torch ``Normal`` or a Posterior for the inputs of a batch. A model that returns one tensor
        (M, D) is scored as codes. Without ``batches``: the posteriors of the whole data set in one
        of these three forms, shape (N, D), or codes (N, D) as an array, tensor or data frame.
        Codes have no terms and no KL.
    batches : iterable, optional
        A DataLoader, or another iterable of batches. N is the number of items in all batches.
    factors : array_like, callable, str or False, optional
        The true factors: an array of shape (N, K) or (N,) in the order of the items, of any kind
        that :func:`tcdecomp.mig_score` takes; a function that returns the factors of a batch; a
        key of batches that are mappings; or False for none. By default score looks for them in
        the batches: the "factors" of a mapping, or the second entry of a pair if that is a tensor
        of integers with a row for each item. Factors that it finds itself are left out, with a
        warning, if they have a single value or are an index of the items.
    inputs : callable or str, optional
        What the model gets: a function of the batch, or a key of batches that are mappings. By
        default the first entry of a sequence, and any other batch whole. An encoder with several
        parameters gets the entries of a tuple one by one: ``inputs=lambda batch: batch``.
    device : torch.device or str, optional
        Where the inputs are moved: the model's device. By default they are not moved.
    prior : Distribution or callable, optional
        As in :func:`tcdecomp.decompose_dataset`.
    condition : array_like, callable or str, optional
        An integer label of each item, for a conditional model: an array of shape (N,), or a
        function of a batch or a key, like ``factors``. The terms are then those of
        :func:`tcdecomp.decompose_dataset` with a condition, and total correlation is not divided
        between active and passive latents. Not with a process group.
    num_samples : int
        As in :func:`tcdecomp.decompose_dataset`, which runs on the device of the model's means.
    seed : int
        Seed of the samples. The same posteriors in the same order have the same score.
    active_threshold : float
        A latent is active if the variance of its posterior means is larger.
    mig : mapping, optional
        Options of :func:`tcdecomp.mig_score`, such as ``{"n_bins": 40}``.
    scores : iterable of str or "all", optional
        Other scores, as in :func:`tcdecomp.disentanglement_report`, with the options of the MIG.
        By default those that take no time; ``()`` for none.
    process_group : ProcessGroup or "world", optional
        Processes that have different items of the data set and divide the work. All processes
        must call score, each with its own items and their factors, and with the same options. All
        get the report of all items. If a DistributedSampler deals out the items, they are in its
        order and none counts twice. Otherwise they are in the order of the ranks.
    seam : Seam, optional
        The layers of the model that hold the posterior, as in :func:`tcdecomp.encode`.

    Returns
    -------
    Report
        All results as numbers on the CPU. It prints as a table, exports and plots.

    Raises
    ------
    NoAdapterError
        If no adapter serves the model, and the model is not a function.
    TypeError
        If an argument has the wrong type, or the model returns one.
    ValueError
        If there are fewer than two items; the number of latents differs among the batches; a
        posterior is not finite; an option is out of its range; model and inputs are on different
        devices; or the model cannot encode what it gets of a batch by default. If factors do not
        have a row for each item, are missing in some batches, or are an array beside a DataLoader
        that does not keep the order of its data set. If another process raises an error, or the
        processes do not agree. And where :func:`tcdecomp.mig_score` or
        :func:`tcdecomp.decompose_dataset` raises it.

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
    settings = _Settings(
        prior, num_samples, seed, active_threshold, {} if mig is None else mig, scores
    )
    division = Division(process_group, gathered=True)
    if seam is not None:
        model = Reader(model, seam)

    def own() -> tuple[dict[str, str], Items]:
        settings.check()
        shared = division.group is not None
        if shared and condition is not None:
            raise ValueError("process_group must be None where a condition is given to score")
        items = read_items(model, batches, factors, condition, inputs, device, shared=shared)
        return settings.told(), items

    with torch.random.fork_rng(_cuda_devices()), torch.no_grad():
        told, parts = zip(*made_by_each(own, division.group), strict=True)
        for name in {name: None for said in told for name in said}:
            check_agreement(name, [said.get(name) for said in told])
        items = joined(parts, division.rank)
        if len(items.codes) < 2:
            raise ValueError(f"score needs at least two items; got {len(items.codes)}")
        return _assessed(items.with_usable_factors(), settings, division)


class _Settings(NamedTuple):
    """The options of :func:`score` that the numbers depend on."""

    prior: Prior
    num_samples: SupportsIndex
    seed: int
    threshold: float
    mig: Mapping[str, Any]
    scores: str | Iterable[str] | None

    def check(self) -> None:
        check_prior(self.prior)
        checked_samples(self.num_samples)
        check_threshold(self.threshold)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed must be an int; got {self.seed!r}")
        _check_options(self.mig)
        checked_names(self.scores)

    def told(self) -> dict[str, str]:
        """Return what must be the same in all processes. Priors cannot be compared."""
        values = {
            "num_samples": operator.index(self.num_samples),
            "seed": self.seed,
            "active_threshold": float(self.threshold),
            "scores": checked_names(self.scores),
            **{f"mig[{name!r}]": np.asarray(value).tolist() for name, value in self.mig.items()},
        }
        return {name: repr(value) for name, value in values.items()}


def _check_options(mig: Mapping[str, Any]) -> None:
    parameters = inspect.signature(mutual_info_gap).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    if not isinstance(mig, Mapping):
        raise TypeError(f"mig must be a mapping of options of mig_score; got {type(mig).__name__}")
    if unknown := [name for name in mig if name not in known]:
        raise TypeError(f"mig must hold options of mig_score ({', '.join(known)}); got {unknown}")


def _cuda_devices() -> range:
    # If CUDA has not started there is nothing to keep, and starting it takes long.
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return range(torch.cuda.device_count() if started else 0)


def _assessed(items: Items, settings: _Settings, division: Division) -> Report:
    variance, active = active_units(items.codes, settings.threshold)
    # The scores first: they find faults quickly.
    with each_warning_once():
        gap, active_gap = gaps(items, active, settings.mig)
        others = other_scores(items, settings.scores, settings.mig, settings.seed)
    report = Report(
        items=len(items.codes),
        latent_names=items.names,
        variance=variance,
        active=active,
        active_threshold=float(settings.threshold),
        mig=gap,
        mig_active=active_gap,
        disentanglement=others,
        absence=items.absence,
        settings=None if gap is None else settings_of(settings.mig),
    )
    if items.moments is None:
        return report
    mu, logvar = (moment.to(items.device) for moment in items.moments)
    report = dataclasses.replace(report, density_mig=density_gap(mu, logvar, items, settings.mig))
    options: Any = {
        "num_samples": settings.num_samples,
        "generator": Generator(mu.device).manual_seed(settings.seed),
        "prior": settings.prior,
    }
    if items.condition is not None:
        labels = torch.as_tensor(items.condition, device=mu.device).long()
        posterior = Posterior(mu, mu, logvar)
        latent_kl = closed_form_kl_j(factors_of(settings.prior, posterior), posterior)
        return dataclasses.replace(
            report,
            terms=decompose_dataset(mu, logvar, condition=labels, **options),
            latent_kl=latent_kl.double().mean(0).cpu().numpy(),
        )
    terms = grouped_terms(mu, logvar, by_activity(active), division=division, **options)
    return dataclasses.replace(
        report,
        terms=terms.whole,
        latent_kl=np.array([latent.terms.kl for latent in terms.dimensions]),
        grouped_tc=grouped_tc(terms),
    )
