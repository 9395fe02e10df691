"""What is measured of a trained model, from its posteriors and the factors alone."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from sklearn.ensemble import RandomForestClassifier
from torch import Generator

from reproduction.training import Trained
from tcdecomp import decompose_dataset, density_mig_score, metrics, mig_score
from tcdecomp.demo.images import Images

__all__ = ["SCORES", "scores"]

TERMS = ("index_code_mi", "total_correlation", "dimension_wise_kl", "kl")
SAMPLES = 8192  # z, for the terms
BINS = 20
SCORED_ROWS = 10_000  # at most, for DCI

Row = dict[str, Any]


def scores(trained: Trained, images: Images) -> Row:
    """Return every score, by its column."""
    with warnings.catch_warnings():
        # The grid is the whole data set, and all models have the same bias.
        warnings.filterwarnings("ignore", message=".* rows are few for so many bins")
        return {name: value for part in SCORES for name, value in part(trained, images).items()}


def terms(trained: Trained, images: Images) -> Row:
    """Return the three terms over the training set with their standard errors, and the KL."""
    mu, logvar = (torch.from_numpy(t[trained.rows]) for t in (trained.mu, trained.logvar))
    generator = Generator().manual_seed(0)
    values, errors, _ = decompose_dataset(mu, logvar, num_samples=SAMPLES, generator=generator)
    row = {name: value.item() for name, value in zip(TERMS, values, strict=True)}
    return row | {f"{name}_error": getattr(errors, name).item() for name in TERMS[:3]}


def mig(trained: Trained, images: Images) -> Row:
    """Return the MIG of the posterior means over the full grid, in bins."""
    return {"mig": mig_score(trained.mu, images.factors, n_bins=BINS)}


def density_mig(trained: Trained, images: Images) -> Row:
    """Return the paper's MIG over the full grid, from the densities of the posteriors."""
    mu, logvar = torch.from_numpy(trained.mu), torch.from_numpy(trained.logvar)
    return {"mig_density": density_mig_score(mu, logvar, images.factors)}


def dci(trained: Trained, images: Images) -> Row:
    """Return DCI with forests whose trees try all latents at each split."""
    forest = RandomForestClassifier(max_features=None, random_state=0)
    step = -(-len(images) // SCORED_ROWS)
    result = metrics.dci_score(
        trained.mu[::step], images.factors[::step], estimator=forest, random_state=0
    )
    names = ("disentanglement", "completeness", "informativeness")
    return {name: getattr(result, name) for name in names}


def active_units(trained: Trained, images: Images) -> Row:
    """Return the number of latents whose means vary over the training set."""
    return {"active_units": metrics.active_units_score(trained.mu[trained.rows])}


SCORES = (terms, mig, density_mig, dci, active_units)
