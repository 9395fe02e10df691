"""Sphinx configuration."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_sphinx"))

project = "tcdecomp"
author = "The tcdecomp developers"
copyright = author  # noqa: A001 (the name that Sphinx reads)
release = version = version_of("tcdecomp")

extensions = [
    "mathml",  # of _sphinx/
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
# Tables and pictures that pages include, and projects that they show.
exclude_patterns = [
    "_build",
    "benchmarks",
    "extend/example_adapter",
    "pictures",
    "reproduction/generated",
]
templates_path = ["_templates"]
myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

autodoc_typehints = "none"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 80
napoleon_google_docstring = False
# Types are prose ("Tensor, shape (M, D)"), which fields of Sphinx's own would take for names.
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_custom_sections = [
    (section, "params_style") for section in ("Attributes", "Raises", "Warns", "Shape")
]

# What the pages of reference/api.md show of a class beside its docstring.
MEMBERS = {
    "tcdecomp.TCDecomposition": "forward, decompose, weigh, excess, excess_of",
    "tcdecomp.Terms": "sampled_kl, aggregate_kl, detach, map, to_dict, weigh",
    "tcdecomp.Posterior": "from_moments, from_normal, sample, detach, check_values",
    "tcdecomp.Seam": "encode, attach, register",
    "tcdecomp.plugins.seam.attachment.SeamAttachment": "loss, kl_weight, detach",
    "tcdecomp.plugins.KLWeight": "of_posterior",
    "tcdecomp.plugins.Reader": "__call__",
    "tcdecomp.plugins.Attachment": (
        "original, criterion, loss, excess, decompose, terms, of, detach"
    ),
    "tcdecomp.minibatch.estimators.Estimator": "__call__",
    "tcdecomp.Bracket": "update, interval, merge, seen, num_batches",
    "tcdecomp.PosteriorBank": "push, clear, state_dict, load_state_dict",
    "tcdecomp.DensityRatioTC": "estimate, loss",
    "tcdecomp.schedules.WarmUp": "__call__",
    "tcdecomp.schedules.Cyclic": "__call__",
    "tcdecomp.schedules.Capacity": "__call__",
    "tcdecomp.scoring.Report": (
        "active_units, estimates, numbers, to_dict, to_json, to_frame, plot"
    ),
    "tcdecomp.auditor.Audit": "ok",
    "tcdecomp.disentanglement.Comparison": "names, to_dict, to_json, to_frame, to_latex, plot",
    "tcdecomp.disentanglement.DisentanglementReport": "numbers, to_dict, to_json, to_frame",
    "tcdecomp.metrics.MutualInfoGap": "to_dict, to_json, to_frame",
    "tcdecomp.displays.GapsDisplay": "from_codes, plot",
    "tcdecomp.displays.MutualInfoDisplay": "plot",
    "tcdecomp.displays.SampleSizeDisplay": "from_codes, plot",
    "tcdecomp.displays.TermsDisplay": "from_logs, plot",
    "tcdecomp.displays.TraversalDisplay": "from_decoder, plot",
    "tcdecomp_adapters.lightning.TCVAE": "encode, reconstruction_loss",
    "tcdecomp_adapters.torchmetrics.KLTerms": "update, compute",
    "tcdecomp_adapters.torchmetrics.MIG": "update, compute",
}
# Results, which the library makes: nobody calls their constructors.
NO_SIGNATURE = {
    "tcdecomp.Terms",
    "tcdecomp.Posterior",
    "tcdecomp.dataset.DatasetTerms",
    "tcdecomp.dataset.GroupTerms",
    "tcdecomp.dataset.SplitTC",
    "tcdecomp.disentanglement.Comparison",
    "tcdecomp.disentanglement.DisentanglementReport",
    "tcdecomp.metrics.DCI",
    "tcdecomp.metrics.InfoMEC",
    "tcdecomp.metrics.Interval",
    "tcdecomp.metrics.MatchedInformation",
    "tcdecomp.metrics.Tables",
    "tcdecomp.minibatch.estimators.Estimator",
    "tcdecomp.plugins.KLWeight",
    "tcdecomp.plugins.Status",
    "tcdecomp.plugins.seam.attachment.SeamAttachment",
    "tcdecomp.scoring.GroupedTC",
    "tcdecomp.scoring.Report",
    "tcdecomp.terms.Estimate",
    "tcdecomp_adapters.torchmetrics.KLTerms",
    "tcdecomp_adapters.torchmetrics.MIG",
}
autosummary_context = {"shown": MEMBERS, "no_signature": NO_SIGNATURE}

smartquotes_action = "De"  # dashes and ellipses: quotes may be code
html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = "tcdecomp"
html_static_path = ["_static"]
html_css_files = ["tcdecomp.css"]
