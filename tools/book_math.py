"""Sphinx extension: formulas as MathML. Browsers draw it, so the book needs no network."""

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

BLOCK = 'overflow-x: auto; margin: 1em 0'  # a wide formula scrolls by itself
LOG = logging.getLogger(__name__)


def mathml(
    formula: str,  # LaTeX
    display: str,  # inline or block
) -> str:  # HTML
    "A formula as the browser draws it; as code where LaTeX is not understood"
    try:
        return convert(formula, display=display)
    except Exception as error:  # the converter raises errors of many kinds
        LOG.warning('formula not understood: %s (%s)', formula, error)
        return f'<code>{nodes.Text(formula)}</code>'


def visit_inline(
    translator,  # writer of HTML
    node,  # formula in a line
):
    "Write a formula in a line"
    translator.body.append(f'<span class="formula">{mathml(node.astext(), "inline")}</span>')
    raise nodes.SkipNode


def visit_block(
    translator,  # writer of HTML
    node,  # formula in lines of its own
):
    "Write a formula that has lines of its own"
    formula = mathml(node.astext(), 'block')
    translator.body.append(f'<div class="formula" style="{BLOCK}">{formula}</div>')
    raise nodes.SkipNode


def setup(app) -> dict:
    "Called by Sphinx"
    app.add_html_math_renderer('mathml', (visit_inline, None), (visit_block, None))
    return dict(parallel_read_safe=True, parallel_write_safe=True)
