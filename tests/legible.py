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

from measures import LIMITS, measure

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT/'forehand4d'
RECORD = ROOT/'tests'/'legible.json'
LINTED = ('nbs', 'forehand4d', 'tests', 'tools')


def modules() -> dict[str, Path]:
    "Our modules by their path in the package"
    paths = [path for path in sorted(PACKAGE.rglob('*.py')) if path.name != '_modidx.py']
    return {path.relative_to(PACKAGE).as_posix(): path for path in paths}


def excess(values: dict) -> dict:
    "Those values that exceed their limit"
    return {name: value for name, value in values.items() if value > LIMITS[name]}


def offences() -> dict[str, dict]:
    "What exceeds its limit, by module; modules that meet all limits are left out"
    found = {name: excess(measure(path.read_text())[0]) for name, path in modules().items()}
    return {name: values for name, values in found.items() if values}


def has_ruff() -> bool:
    "Is the linter installed?"
    return importlib.util.find_spec('ruff') is not None


def findings() -> dict[str, dict]:
    "Number of ruff's findings by file and rule; files without any are left out"
    command = [sys.executable, '-m', 'ruff', 'check', '--no-cache', '--output-format', 'json']
    done = subprocess.run(command + list(LINTED), cwd=ROOT, capture_output=True, text=True)
    if done.returncode > 1:
        raise RuntimeError(f'ruff could not run: {done.stderr.strip()}')
    counts = {}
    for item in json.loads(done.stdout):
        name = Path(item['filename']).relative_to(ROOT).as_posix()
        counts.setdefault(name, Counter())[item['code'] or 'syntax'] += 1
    return {name: dict(sorted(counts[name].items())) for name in sorted(counts)}


# ---- the two commands

def show(value: float, limit: float) -> str:
    "A value, seven wide; bold and red above its limit when a person reads it"
    cell = f'{value:7.10g}'
    marked = f'\033[1;31m{cell}\033[0m' if sys.stdout.isatty() else f'{cell:>6}*'[-7:]
    return marked if value > limit else cell


def print_table() -> None:
    "All measures of all modules, the one with most to rewrite first"
    measured = {name: measure(path.read_text()) for name, path in modules().items()}
    print(' '*28, *(name[:7].rjust(7) for name in ('rewrite', *LIMITS)))
    print('limit'.ljust(28), ' '*7, *(f'{limit:7}' for limit in LIMITS.values()))
    for name, (values, lines) in sorted(measured.items(), key=lambda item: -item[1][1]):
        print(name.ljust(28), f'{lines:7}', *(show(values[m], LIMITS[m]) for m in LIMITS))
    over = Counter(m for values, _ in measured.values() for m in excess(values))
    print('modules over the limit'.ljust(28), ' '*7, *(f'{over[m]:7}' for m in LIMITS))


def write() -> None:
    "State what does not meet the limits today, one file a line"
    if not has_ruff():
        sys.exit('ruff is not installed: pip install the version that pyproject.toml pins')
    parts = []
    for part, files in (('modules', offences()), ('ruff', findings())):
        rows = [f'  {json.dumps(name)}: {json.dumps(values)}' for name, values in files.items()]
        parts.append(f' "{part}": {{\n' + ',\n'.join(rows) + '\n }')
    RECORD.write_text('{\n' + ',\n'.join(parts) + '\n}\n')
    print(f'{RECORD.relative_to(ROOT)}: written')


if __name__ == '__main__':
    if sys.argv[1:] == ['--write']:
        write()
    elif sys.argv[1:]:
        sys.exit(f'expected no argument (a table) or --write (the record), got {sys.argv[1:]}')
    else:
        print_table()
