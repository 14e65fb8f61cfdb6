#!/usr/bin/env python3
"""The notebooks as a static site with search and the API of each module.

The site is outputs/book/html/index.html. Nothing is executed: pages show the outputs that the
notebooks store. Jupyter Book lives in an environment of its own, because it asks for an older
Markdown parser than the suite has; its versions are those of locks/book.txt.
"""

import ast
import hashlib
import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / 'nbs'
PACKAGE = ROOT / 'forehand4d'
BOOK = ROOT / 'outputs' / 'book'
SOURCE = BOOK / 'source'
SITE = BOOK / 'html'
PAGES = ('.ipynb', '.md')
LINK = re.compile(r'(!?\[[^\]\n]*\]\()([^)\s]+)(\))')
DIRECTIVE = re.compile(r'^#\|.*\n?', re.MULTILINE)
PARTS = {  # of the notebooks that run something → beginnings of their names
    'Use': ('forecast_', 'lift_'),
    'Train': ('datasets', 'prepare_', 'train_', 'impute_', 'ship_'),
    'Evaluate': ('evaluate_', 'benchmark_', 'reproduce', 'claims'),
    'Tables': ('table',),
    'Figures': ('figure',),
}
STYLE = '''/* A hundred columns of code, and the widest table, fit a window of 900 pixels */
div.highlight pre { font-size: 0.8em; }
table { font-size: 0.9em; }
table:has(th:nth-child(9)) { font-size: 0.62em; }
table:has(th:nth-child(9)) th, table:has(th:nth-child(9)) td { padding: 0.2em 0.3em; }
'''
CONFIG = {
    'title': 'ForeHand4D',
    'author': 'ForeHand4D developers',
    'logo': '',
    'only_build_toc_files': True,
    'execute': {'execute_notebooks': 'off'},
    'parse': {
        'myst_enable_extensions': ['amsmath', 'dollarmath', 'colon_fence'],
        'myst_dmath_double_inline': True,
    },
    'html': {'use_issues_button': False, 'use_repository_button': False},
    'launch_buttons': {'binderhub_url': '', 'jupyterhub_url': '', 'thebe': False},
    'repository': {'url': '', 'branch': 'main'},
    'sphinx': {
        'local_extensions': {'book_math': str(ROOT / 'tools')},
        'config': {
            'html_math_renderer': 'mathml',
            'myst_heading_anchors': 4,
            'nb_merge_streams': True,
            'nb_render_markdown_format': 'gfm',  # CommonMark has no tables
            'html_static_path': ['_static'],
            'html_css_files': ['pages.css'],
            'nb_code_prompt_show': 'Imports',  # nothing else is folded
            'nb_code_prompt_hide': 'Imports',
            'html_show_copyright': False,
            'html_theme_options': {
                'show_toc_level': 2,
                'use_download_button': False,
                'use_fullscreen_button': False,
            },
            'suppress_warnings': ['myst.header', 'misc.highlighting_failure'],
        },
    },
}
sys.path.insert(0, str(ROOT / 'tools'))
import outputs as rules  # noqa: E402


# ---- what the book holds


def sources() -> list:
    "Notebooks of the library in reading order"
    return [path for path in rules.notebooks(NOTEBOOKS) if rules.is_numbered(path)]


def wing(path: Path) -> str:
    "Heading of the part to which a notebook of the library belongs"
    folder = path.parent
    if folder == NOTEBOOKS:
        return f'Notebooks {path.stem[0]}x'
    name = re.sub(r'^\d+_', '', folder.name).replace('_', ' ')
    return {'handworld': 'HandWorld'}.get(name, name.capitalize())


def run_part(path: Path) -> str:
    "Heading of the part to which a notebook that runs something belongs"
    fits = (part for part, names in PARTS.items() if path.stem.startswith(names))
    return next(fits, 'More')


def contents() -> dict:  # heading of a part → notebooks
    "The parts of the book: the library by wings, then what one runs"
    runs = [path for path in rules.notebooks(NOTEBOOKS) if not rules.is_numbered(path)]
    parts = {part: [] for part in PARTS}
    for path in runs:
        if path.stem == 'index':
            continue
        parts.setdefault(run_part(path), []).append(path)
    library = {}
    for path in sources():
        library.setdefault(wing(path), []).append(path)
    return {part: paths for part, paths in (library | parts).items() if paths}


def text_pages() -> list:
    "Pages that are text: how-to pages and the tables of the study"
    found = [*ROOT.glob('docs/**/*.md'), *ROOT.glob('outputs/paper/**/*.md')]
    return sorted(path for path in found if path.is_file())


def python_files() -> list:
    "Modules of the package, from the root"
    found = [path.relative_to(ROOT) for path in PACKAGE.rglob('*.py')]
    return sorted(path for path in found if path.name not in ('__init__.py', '_modidx.py'))


def origin(module: Path) -> Path:  # module from the root → its notebook
    "The notebook that exports a module; the module itself where it was written by hand"
    text = (ROOT / module).read_text(encoding='utf-8')
    named = re.search(r'File to edit: \S*?(nbs/\S+\.ipynb)', text)
    return ROOT / named[1] if named and (ROOT / named[1]).exists() else ROOT / module


def modules() -> list:  # paths from the root
    "Modules of the package in the order of their notebooks"
    order = {path: place for place, path in enumerate(sources())}
    ranked = sorted((order.get(origin(path), len(order)), path) for path in python_files())
    return [path for _, path in ranked]


def module_name(path: Path) -> str:
    "geometry.rotations of forehand4d/geometry/rotations.py"
    return '.'.join(path.with_suffix('').parts[1:])


def page(path: Path) -> str:
    "A file of the repository as the table of contents names it"
    return path.relative_to(ROOT).with_suffix('').as_posix()


def table_of_contents() -> dict:
    "The book as sphinx-external-toc reads it"
    parts = contents()
    chapters = [
        dict(caption=part, chapters=[dict(file=page(path)) for path in paths])
        for part, paths in parts.items()
    ]
    texts = [dict(file=page(path)) for path in text_pages()]
    api = [dict(file=f'api/{module_name(path)}', title=module_name(path)) for path in modules()]
    chapters.append(dict(caption='Pages', chapters=texts))
    chapters.append(dict(caption='API', chapters=api))
    return dict(format='jb-book', root='nbs/index', parts=chapters)


# ---- pages


def is_imports(code: str) -> bool:
    "Does a cell hold imports and nothing else?"
    try:
        body = ast.parse(code).body
    except SyntaxError:  # a magic of IPython
        return False
    return bool(body) and all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body)


def shown(cell: dict) -> dict:
    "A code cell without its directives; what a reader need not see is folded or left out"
    code = rules.join(cell['source'])
    plain = DIRECTIVE.sub('', code)
    tags = [tag for tag in cell['metadata'].get('tags', []) if tag != 'parameters']
    if re.search(r'^#\|\s*hide\b', code, re.MULTILINE) or not plain.strip():
        tags.append('remove-cell')
    elif is_imports(plain):
        tags.append('hide-input')
    return cell | dict(source=plain, metadata=dict(tags=tags))


def targets(text: str) -> list:
    "Relative links in a piece of Markdown, outside of code"
    text = re.sub(r'```.*?```|`[^`\n]*`', '', text, flags=re.DOTALL)
    found = [match[2] for match in LINK.finditer(text)]
    return [link for link in found if not re.match(r'[a-z]+:|#|/', link)]


def target(
    link: str,  # relative link in a page
    path: Path,  # the page
) -> Path:
    "The file a link leads to"
    return Path(os.path.normpath(path.parent / unquote(urlsplit(link).path)))


def markdown(path: Path) -> list:
    "The pieces of Markdown of a page"
    if path.suffix == '.md':
        return [path.read_text(encoding='utf-8')]
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return [rules.join(cell['source']) for cell in cells if cell['cell_type'] == 'markdown']


def dead_sources(paths: list) -> list:
    "Links in the given pages that lead to no file, before anything is built"
    pairs = [(path, link) for path in paths for text in markdown(path) for link in targets(text)]
    dead = [(path, link) for path, link in pairs if not target(link, path).exists()]
    return [f'{path.relative_to(ROOT)}: {link}' for path, link in dead]


def copy_linked(path: Path):
    "Pictures and records that a page links to lie beside it in the book"
    for text in markdown(path):
        for link in targets(text):
            file = target(link, path)
            if file.is_file() and file.suffix != '.ipynb' and file.is_relative_to(ROOT):
                copy = SOURCE / file.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copy)


def copy_page(path: Path):
    "One page with the files it links to"
    copy = SOURCE / path.relative_to(ROOT)
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy_linked(path)
    if path.suffix == '.md':
        shutil.copy(path, copy)
        return
    notebook = json.loads(path.read_text(encoding='utf-8'))
    cells = notebook['cells']
    notebook['cells'] = [shown(cell) if cell['cell_type'] == 'code' else cell for cell in cells]
    copy.write_text(json.dumps(notebook, ensure_ascii=False), encoding='utf-8')


# ---- the API


def head(
    node,  # function or class
    lines: list,  # of its module
) -> str:
    "What a reader must know to call it: the lines above the body, with their comments"
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    last = max(first, node.body[0].lineno - 1)
    text = lines[first - 1 : last]
    fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
    if isinstance(node, ast.ClassDef):
        text += [line for field in fields for line in lines[field.lineno - 1 : field.end_lineno]]
    indent = len(text[0]) - len(text[0].lstrip())
    return '\n'.join(line[indent:] for line in text)


def entry(
    node,  # function or class
    lines: list,  # of its module
    name: str,  # under which it is known
) -> str:
    "One function or class as Markdown"
    docstring = ast.get_docstring(node) or ''
    return f'## {name}\n\n{docstring}\n\n```python\n{head(node, lines)}\n```\n'


def owner(node) -> str:
    "Class of which a function is a method by `@patch`, with a dot; or nothing"
    patched = any('patch' in ast.unparse(decorator) for decorator in node.decorator_list)
    arguments = node.args.args if isinstance(node, ast.FunctionDef) else []
    annotation = arguments[0].annotation if patched and arguments else None
    return f'{ast.unparse(annotation)}.' if annotation else ''


def entries(
    text: str,  # of a module
) -> list:
    "The public functions, classes and methods of a module as Markdown"
    lines, found = text.splitlines(), []
    for node in ast.parse(text).body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith('_'):
            continue
        found.append(entry(node, lines, owner(node) + node.name))
        if isinstance(node, ast.ClassDef):
            methods = [method for method in node.body if isinstance(method, ast.FunctionDef)]
            public = [method for method in methods if not method.name.startswith('_')]
            found += [entry(method, lines, f'{node.name}.{method.name}') for method in public]
    return found


def write_api(path: Path):  # a module, from the root
    "The page of one module"
    text = (ROOT / path).read_text(encoding='utf-8')
    notebook = origin(path).relative_to(ROOT)
    link = f'[Its notebook](../{notebook.as_posix()}) explains it.\n' if notebook != path else ''
    title = f'# {module_name(path)}\n\n{ast.get_docstring(ast.parse(text)) or ""}\n\n{link}'
    copy = SOURCE / 'api' / f'{module_name(path)}.md'
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text('\n'.join([title, *entries(text)]), encoding='utf-8')


# ---- building


def pins() -> list:
    "The versions that the lock states"
    return (ROOT / 'locks' / 'book.txt').read_text().splitlines()


def environment() -> Path:  # folder of its programs
    "An environment with Jupyter Book in it, made where it is missing or has other versions"
    folder = BOOK / 'venv'
    stamp = folder / 'installed'
    state = hashlib.sha256('\n'.join(pins()).encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != state:
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([folder / 'bin' / 'pip', 'install', '-q', *pins()], check=True)
        stamp.write_text(state)
    return folder / 'bin'


def write_source():
    "All that Jupyter Book reads"
    shutil.rmtree(SOURCE, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    for path in [*rules.notebooks(NOTEBOOKS), *text_pages()]:
        copy_page(path)
    for path in modules():
        write_api(path)
    (SOURCE / '_static').mkdir(exist_ok=True)
    (SOURCE / '_static' / 'pages.css').write_text(STYLE)
    (SOURCE / '_toc.yml').write_text(json.dumps(table_of_contents(), indent=1))  # JSON is YAML
    (SOURCE / '_config.yml').write_text(json.dumps(CONFIG, indent=1))


def build():
    "The site"
    programs = environment()
    write_source()
    log = BOOK / 'build.log'
    command = [programs / 'jupyter-book', 'build', SOURCE, '--path-output', BOOK, '--all']
    with log.open('w') as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(f'{log.read_text()[-3000:]}\nJupyter Book failed, see {log.relative_to(ROOT)}')
    shutil.rmtree(SITE, ignore_errors=True)
    (BOOK / '_build' / 'html').rename(SITE)
    shutil.rmtree(BOOK / '_build')


# ---- dead links


class Links(html.parser.HTMLParser):
    "Links and anchors of a page"

    def __init__(self):
        super().__init__()
        self.links = []
        self.anchors = set()

    def handle_starttag(
        self,
        tag: str,  # name of an element
        attrs: list,  # pairs of name and value
    ):
        "Remember where an element leads and under which name it can be reached"
        given = dict(attrs)
        self.anchors |= {given[key] for key in ('id', 'name') if given.get(key)}
        self.links += [given[key] for key in ('href', 'src') if given.get(key)]


def read_links(path: Path) -> Links:
    "Links and anchors of a file of the site"
    page = Links()
    page.feed(path.read_text(encoding='utf-8'))
    return page


def dead_links() -> list:  # 'page: link'
    "Links of the built site that lead to no file or to no place in it"
    files = [path for path in SITE.rglob('*.html') if '_static' not in path.parts]
    pages = {path: read_links(path) for path in files}
    dead = []
    for path, page in pages.items():
        for link in dict.fromkeys(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            file = target(link, path) if parts.path else path
            is_place = file in pages and parts.fragment
            is_missing = is_place and unquote(parts.fragment) not in pages[file].anchors
            if is_missing or not (file in pages or file.exists()):
                dead.append(f'{path.relative_to(SITE)}: {link}')
    return dead


def main():
    "Build the book and look for dead links"
    build()
    dead = dead_links()
    files = [path for path in SITE.rglob('*') if path.is_file()]
    pages = sum(path.suffix == '.html' for path in files)
    size = sum(path.stat().st_size for path in files)
    front = (SITE / 'index.html').relative_to(ROOT)
    print(f'{front}: {pages} pages, {size / 1e6:.0f} MB')
    if dead:
        sys.exit('\n'.join(['dead links:', *dead]))


if __name__ == '__main__':
    main()
