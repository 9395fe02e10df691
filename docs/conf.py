"""Sphinx configuration."""

from importlib.metadata import version as version_of

project = "tcdecomp"
author = "The tcdecomp developers"
copyright = author  # noqa: A001 (the name that Sphinx reads)
release = version = version_of("tcdecomp")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
# Python files, and tables that a page includes.
exclude_patterns = ["_build", "benchmarks"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

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

smartquotes_action = "De"  # dashes and ellipses: quotes may be code
html_theme = "furo"
html_title = "tcdecomp"
