#!/usr/bin/env python3
"""README.md from nbs/index.ipynb; with --check only say whether it is up to date."""
import re, sys
from pathlib import Path
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent


def text():
    body, _ = MarkdownExporter().from_filename(str(ROOT/'nbs'/'index.ipynb'))
    body = re.sub(r'\]\(\.\./', '](', body)   # the notebook lies one folder deeper
    return '<!-- made from nbs/index.ipynb by `make readme` -->\n\n' + body.strip() + '\n'


def main():
    path = ROOT/'README.md'
    if '--check' in sys.argv[1:]: sys.exit(0 if path.read_text() == text() else 'README.md differs from nbs/index.ipynb: run make readme')
    path.write_text(text())


main()
