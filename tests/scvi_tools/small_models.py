"""Small models of scvi-tools on made-up counts."""

import scvi
from scvi import external
from scvi import model as models

CELLS, TRAINED, LATENT = 120, 96, 3

# Each model's fields of the data, and its options.
OPTIONS = {"n_latent": LATENT, "n_hidden": 16}
BATCH = {"batch_key": "batch"}
PROTEINS = {"modalities": {"rna_layer": "rna", "protein_layer": "protein_expression"}}
REGIONS = {"modalities": {"rna_layer": "rna", "atac_layer": "accessibility"}}
LABELS = {"labels_key": "labels"}
SERVED = {
    "SCVI": (models.SCVI, BATCH, OPTIONS),
    "LinearSCVI": (models.LinearSCVI, BATCH, OPTIONS),
    "TOTALVI": (models.TOTALVI, BATCH | PROTEINS, {"n_latent": LATENT}),
    "MULTIVI": (models.MULTIVI, BATCH | REGIONS, OPTIONS),
    "PEAKVI": (models.PEAKVI, BATCH, OPTIONS),
    "POISSONVI": (external.POISSONVI, BATCH, OPTIONS),
}
if hasattr(external, "DRVI"):  # from scvi-tools 1.5 on, which needs Python 3.12
    SERVED["DRVI"] = (external.DRVI, BATCH, OPTIONS)
REFUSED = {
    "SCANVI": (models.SCANVI, LABELS | {"unlabeled_category": "unknown"}, OPTIONS),
    "AUTOZI": (models.AUTOZI, BATCH, OPTIONS),
    "CondSCVI": (models.CondSCVI, LABELS, OPTIONS),
}


def counts(*, modalities):
    """Return cells in two batches, as AnnData, or as MuData with genes, proteins and regions."""
    scvi.settings.seed = 0
    return scvi.data.synthetic_iid(
        batch_size=CELLS // 2, n_genes=20, n_proteins=5, n_regions=8, return_mudata=modalities
    )


def make(name, **options):
    """Return a new model, the same each time."""
    kind, fields, defaults = (SERVED | REFUSED)[name]
    modalities = "modalities" in fields
    data = counts(modalities=modalities)
    (kind.setup_mudata if modalities else kind.setup_anndata)(data, **fields)
    if name == "MULTIVI":
        defaults = defaults | {"n_genes": 20, "n_regions": 8}
    scvi.settings.seed = 0
    return kind(data, **{**defaults, **options})


def batch_of(model, rows=32):
    """Return a batch as the model's data loader yields it."""
    return next(iter(model._make_data_loader(model.adata, batch_size=rows)))


def train(model, epochs=2, **options):
    """Train in the same way each time, on a warm-up of three epochs; return the history."""
    scvi.settings.seed = 0
    model.train(
        max_epochs=epochs,
        train_size=TRAINED / CELLS,
        batch_size=48,
        check_val_every_n_epoch=1,
        accelerator="cpu",
        enable_progress_bar=False,
        plan_kwargs={"n_epochs_kl_warmup": 3},
        **options,
    )
    return {key: frame.to_numpy(dtype=float).ravel() for key, frame in model.history.items()}
