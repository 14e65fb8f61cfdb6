"""The book holds all notebooks and modules, and its links lead somewhere; nothing is built here."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))
import book  # noqa: E402
import outputs as rules  # noqa: E402

NOTEBOOKS = rules.notebooks()


def files(contents: dict) -> list:
    "Every page of a table of contents"
    chapters = [page['file'] for part in contents['parts'] for page in part['chapters']]
    return [contents['root'], *chapters]


def test_every_notebook_stands_in_the_book_once():
    pages = files(book.table_of_contents())
    assert len(pages) == len(set(pages))
    assert pages[0] == 'nbs/index'
    assert {book.page(path) for path in NOTEBOOKS} <= set(pages)


def test_every_module_has_a_page():
    pages = files(book.table_of_contents())
    assert {f'api/{book.module_name(path)}' for path in book.modules()} <= set(pages)


def test_library_is_read_upwards():
    pages = [path for paths in book.contents().values() for path in paths]
    assert list(filter(rules.is_numbered, pages)) == list(filter(rules.is_numbered, NOTEBOOKS))


@pytest.mark.parametrize('path', NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_links_lead_to_files(path):
    assert book.dead_sources([path]) == []


def test_links_of_pages_lead_to_files():
    pages = [ROOT / 'README.md', *book.text_pages()]
    assert book.dead_sources(pages) == []


def test_links_are_found():
    text = '[a](b.ipynb#c), ![d](../e.png), `[f](g)`, [h](https://i.org), [j](#k)'
    assert book.targets(text) == ['b.ipynb#c', '../e.png']


def test_directives_are_not_shown():
    def shown(source):
        cell = book.shown(dict(cell_type='code', source=source, metadata={}))
        return cell['source'], cell['metadata']['tags']

    assert shown('#| export\ndef f(): pass') == ('def f(): pass', [])
    assert shown('#| hide\nf()') == ('f()', ['remove-cell'])
    assert shown('#| default_exp core') == ('', ['remove-cell'])
    assert shown('#| export\nimport os') == ('import os', ['hide-input'])


def test_api_shows_comments_and_docstrings():
    text = 'def f(\n    a:int, # seconds\n)->int: # frames\n    "Count"\n    return a\n'
    shown = 'def f(\n    a:int, # seconds\n)->int: # frames'
    assert book.entries(text) == [f'## f\n\nCount\n\n```python\n{shown}\n```\n']
