#!/usr/bin/env python3
"""The last cell of each library notebook, and the table of contents of the index.

The last cell links to the notebook before, the next one and those that use it.

With --check nothing is written; the exit status says whether all links are up to date.
"""

import ast, json, os, re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / 'nbs'
MARK = '<!-- links -->'
TOC = '<!-- library -->'
MOST_USERS = 12  # of a module are named; further ones are counted


def source(cell):
    return ''.join(cell['source'])


def library():
    "Paths of the library's notebooks in reading order"

    def place(path):
        return path.parent.name, path.stem

    return sorted((NBS / 'library').rglob('[0-9]*.ipynb'), key=place)


def title_and_line(cells):
    "The title of a notebook, and its line that says what it is for"
    head, _, rest = source(cells[0]).partition('\n')
    quoted = [line.removeprefix('>').strip() for line in rest.split('\n') if line.startswith('>')]
    return head.removeprefix('# ').strip(), ' '.join(quoted)


def module_of(cells):
    "`default_exp` of a notebook, or None"
    for cell in cells:
        found = re.match(r'#\|\s*default_exp (\S+)', source(cell))
        if found:
            return found[1]
    return None


def imported(text):
    "Modules of the package that a cell imports"
    plain = re.sub(r'^(\s*)[%!].*$', r'\1pass', text, flags=re.MULTILINE)
    names = set()
    for node in ast.walk(ast.parse(plain)):
        if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('forehand4d.'):
            names.add(node.module.removeprefix('forehand4d.'))
    return names


def users_of(notebooks):
    "Module → notebooks whose exported cells (of run notebooks: any cell) import it"
    users = {}
    for path, cells in notebooks.items():
        numbered = path.stem[0].isdigit()
        for cell in cells:
            exported = re.match(r'#\|\s*export', source(cell))
            if cell['cell_type'] != 'code' or (numbered and not exported):
                continue
            for name in imported(source(cell)):
                users.setdefault(name, {})[path] = True
    return {name: list(paths) for name, paths in users.items()}


def link(start, target, notebooks):
    "A markdown link from one notebook to another"
    name = title_and_line(notebooks[target])[0]
    where = Path(os.path.relpath(target, start.parent)).as_posix()
    return f'[{name}]({where})'


def links_cell(path, order, notebooks, users):
    "The text of the last cell of a notebook"
    at = order.index(path)
    lines = []
    if at:
        lines.append(f'Previous: {link(path, order[at - 1], notebooks)}')
    if at + 1 < len(order):
        lines.append(f'Next: {link(path, order[at + 1], notebooks)}')
    using = [user for user in users.get(module_of(notebooks[path]), []) if user != path]
    if using:
        named = ', '.join(link(path, user, notebooks) for user in using[:MOST_USERS])
        rest = len(using) - MOST_USERS
        more = f' and {rest} more' if rest > 0 else ''
        lines.append(f'Used by: {named}{more}')
    home = Path(os.path.relpath(NBS / 'index.ipynb', path.parent)).as_posix()
    lines.append(f'[All notebooks]({home})')
    return MARK + '\n---\n' + '  \n'.join(lines)


def contents(order, notebooks):
    "The table of contents of the library"
    lines, wing = [TOC, '## The library, in reading order'], None
    for path in order:
        if path.parent != wing:
            wing = path.parent
            name = wing.name.partition('_')[2]
            lines += ['', f'**{name}**', '']
        where = path.relative_to(NBS).as_posix()
        title, purpose = title_and_line(notebooks[path])
        lines.append(f'- [{title}]({where}): {purpose}')
    return '\n'.join(lines)


def run_contents(notebooks):
    "The table of contents of the notebooks that run something"
    lines = ['', '## Run', '']
    for path in sorted(NBS.glob('*.ipynb')):
        if path.stem != 'index':
            title, purpose = title_and_line(notebooks[path])
            purpose = re.sub(r'^(Table|Figure) \d+: ', '', purpose)
            first = re.split(r'(?<=[.;]) | \(', purpose)[0].rstrip('.;')
            lines.append(f'- [{title}]({path.name}): {first}')
    return '\n'.join(lines)


def with_text(cells, mark, text):
    "The cells, with the marked one replaced; None where there is none"
    changed = [dict(cell) for cell in cells]
    for cell in changed:
        if source(cell).startswith(mark):
            cell['source'] = text.splitlines(keepends=True)
            return changed
    return None


def updated(path, order, notebooks, users):
    "The cells of a notebook with its links up to date"
    if path == NBS / 'index.ipynb':
        text = contents(order, notebooks) + '\n' + run_contents(notebooks)
        return with_text(notebooks[path], TOC, text) or notebooks[path]
    if path not in order:
        return notebooks[path]
    text = links_cell(path, order, notebooks, users)
    changed = with_text(notebooks[path], MARK, text)
    if changed is None:
        cell = {'cell_type': 'markdown', 'id': 'links', 'metadata': {}}
        cell['source'] = text.splitlines(keepends=True)
        changed = [*notebooks[path], cell]
    return changed


def main():
    order = library()
    paths = [*order, *sorted(NBS.glob('*.ipynb'))]
    documents = {path: json.loads(path.read_text()) for path in paths}
    notebooks = {path: document['cells'] for path, document in documents.items()}
    users = users_of(notebooks)
    stale = []
    for path, document in documents.items():
        cells = updated(path, order, notebooks, users)
        if cells == document['cells']:
            continue
        stale.append(path.relative_to(ROOT).as_posix())
        if '--check' not in sys.argv[1:]:
            changed = {**document, 'cells': cells}
            text = json.dumps(changed, indent=1, ensure_ascii=False, sort_keys=True)
            path.write_text(text + '\n')
    if stale and '--check' in sys.argv[1:]:
        sys.exit(f'links are out of date, run python tools/links.py: {", ".join(stale)}')


if __name__ == '__main__':
    main()
