#!/usr/bin/env python3
"""README.md from nbs/index.ipynb; with --check only say whether it is up to date."""

import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
ONLY_IN_INDEX = '<!-- library -->'  # the table of contents


def from_root(match):
    "A link of the notebook, which lies one folder deeper, as a link of the README"
    target = match[1]
    if re.match(r'[a-z]+:|#', target):
        return match[0]
    return f']({target[3:]})' if target.startswith('../') else f'](nbs/{target})'


def text():
    notebook = nbformat.read(ROOT / 'nbs' / 'index.ipynb', as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not cell.source.startswith(ONLY_IN_INDEX)]
    body, _ = MarkdownExporter().from_notebook_node(notebook)
    body = re.sub(r'\]\(([^)\s]+)\)', from_root, body)
    return '<!-- made from nbs/index.ipynb by `make readme` -->\n\n' + body.strip() + '\n'


def main():
    path = ROOT / 'README.md'
    if '--check' in sys.argv[1:]:
        fresh = path.read_text() == text()
        sys.exit(0 if fresh else 'README.md differs from nbs/index.ipynb: run make readme')
    path.write_text(text())


main()
