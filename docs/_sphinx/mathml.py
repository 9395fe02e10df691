"""A Sphinx extension: formulas as MathML, which browsers draw without a script or a network.

docutils translates the LaTeX. A formula that it does not know is a warning, and so ends the build.
"""

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)


def inline(translator, node):
    """Write a formula within a line."""
    write(translator, node, as_block=False)


def display(translator, node):
    """Write a formula on a line of its own, which scrolls if it is wider than the page."""
    translator.body.append('<div class="math-block">')
    write(translator, node, as_block=True)
    translator.body.append("</div>")


def write(translator, node, as_block):
    """Write the formula and leave the node."""
    try:
        translator.body.append(tex2mathml(spaced(node.astext()), as_block=as_block))
    except MathError as error:
        LOGGER.warning("%s: %s", error, node.astext(), location=node)
    raise nodes.SkipNode


def spaced(formula):
    """Return the formula with TeX's thin spaces around a logarithm, which MathML lacks."""
    formula = re.sub(r"(?<=[})\dA-Z])\s*\\log\b", r"\\,\\log", formula)
    return re.sub(r"\\log\b(?!\s*[\[(])", r"\\log\\,", formula)


def setup(app):
    """Register the renderer, as ``html_math_renderer = "mathml"``."""
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
