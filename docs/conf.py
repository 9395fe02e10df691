"""Sphinx configuration."""

from importlib.metadata import version as version_of

project = "tcdecomp"
author = "The tcdecomp developers"
copyright = author  # noqa: A001 (the name that Sphinx reads)
release = version = version_of("tcdecomp")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
# Types are prose ("Tensor, shape (M, D)"), which fields of Sphinx's own would take for names.
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_custom_sections = [
    (section, "params_style") for section in ("Attributes", "Raises", "Warns", "Shape")
]

# References to other projects resolve only where their inventories can be reached.
intersphinx_mapping = {}
nitpick_ignore_regex = [(r"py:.*", r"(torch|numpy|pandas|pluggy|np|nn|L|pl)\..*")]

html_theme = "furo"
html_title = "tcdecomp"
