"""How legible the modules are, and what ruff finds in modules, notebooks, tests and tools

    python tests/legible.py           a table, one module a row; what exceeds its limit is marked
    python tests/legible.py --write   tests/legible.json: what does not meet the limits yet
"""
import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from measures import LIMITS, PACKAGE, excess, measure

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT/'tests'/'legible.json'
LINTED = ('nbs', PACKAGE, 'tests', 'tools')
RUFF = [sys.executable, '-m', 'ruff', 'check', '--no-cache', '--output-format', 'json', *LINTED]


def modules() -> dict[str, str]:
    "Source of our modules by their path in the package"
    package = ROOT/PACKAGE
    paths = [path for path in sorted(package.rglob('*.py')) if path.name != '_modidx.py']
    return {path.relative_to(package).as_posix(): path.read_text() for path in paths}


def offences() -> dict[str, dict]:
    "What exceeds its limit, by module; modules that meet all limits are left out"
    found = {}
    for name, text in modules().items():
        values, _ = measure(text)
        if over := excess(values):
            found[name] = over
    return found


def has_ruff() -> bool:
    "Is the linter installed?"
    return importlib.util.find_spec('ruff') is not None


def findings() -> dict[str, dict]:
    "Number of ruff's findings by file and rule; files without any are left out"
    done = subprocess.run(RUFF, cwd=ROOT, capture_output=True, text=True)
    if done.returncode > 1:
        raise RuntimeError(f'ruff could not run: {done.stderr.strip()}')
    counts = {}
    for finding in json.loads(done.stdout):
        name = Path(finding['filename']).relative_to(ROOT).as_posix()
        rules = counts.setdefault(name, Counter())
        rules[finding['code'] or 'syntax'] += 1
    return {name: dict(sorted(rules.items())) for name, rules in sorted(counts.items())}


# ---- the two commands

def cell(
    value: float, # to be shown
    limit: float, # of the measure
) -> str: # seven wide
    "A value, with a star above its limit, in red for a person who reads it"
    if value <= limit:
        return f'{value:6g} '
    text = f'{value:6g}*'
    return f'\033[1;31m{text}\033[0m' if sys.stdout.isatty() else text


def row(
    title: str, # of the row
    *cells: str, # seven wide
) -> str: # one line
    "A row of the table"
    return ' '.join([title.ljust(28), *cells])


def table() -> str:
    "All measures of all modules, the one with most lines to rewrite first"
    measured = {name: measure(text) for name, text in modules().items()}
    worst_first = sorted(measured, key=lambda name: -measured[name][1])
    rows = [row('', *(name[:7].rjust(7) for name in ('rewrite', *LIMITS)))]
    rows.append(row('limit', ' '*7, *(f'{limit:6} ' for limit in LIMITS.values())))
    over = Counter()
    for name in worst_first:
        values, lines = measured[name]
        cells = [cell(values[what], limit) for what, limit in LIMITS.items()]
        rows.append(row(name, f'{lines:6} ', *cells))
        over.update(excess(values).keys())
    rows.append(row('modules over the limit', ' '*7, *(f'{over[what]:6} ' for what in LIMITS)))
    return '\n'.join(rows)


def as_json(
    modules: dict[str, dict], # what exceeds its limit, by module
    ruff: dict[str, dict], # findings by file and rule
) -> str: # a file a line, so that a change shows as one
    "Text of the record"
    parts = []
    for part, files in (('modules', modules), ('ruff', ruff)):
        rows = [f'  {json.dumps(name)}: {json.dumps(counts)}' for name, counts in files.items()]
        inside = ',\n'.join(rows)
        parts.append(f' "{part}": {{\n{inside}\n }}')
    return '{\n' + ',\n'.join(parts) + '\n}\n'


def main() -> None:
    "Print the table or write the record"
    arguments = sys.argv[1:]
    if not arguments:
        print(table())
    elif arguments != ['--write']:
        sys.exit(f'expected no argument (a table) or --write (the record), got {arguments}')
    elif not has_ruff():
        sys.exit('ruff is not installed: it is among the dev dependencies of pyproject.toml')
    else:
        RECORD.write_text(as_json(offences(), findings()))
        print(f'{RECORD.relative_to(ROOT)}: written')


if __name__ == '__main__':
    main()
