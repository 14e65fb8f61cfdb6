#!/usr/bin/env python3
"""Write locks/: exact versions of all that the suite and its book need, for Python 3.11 and newer.

What is locked already stays where pyproject.toml still allows it; --upgrade takes the newest.
Needs uv: pip install uv
"""

import shutil, subprocess, sys, tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / 'locks'
EXTRAS = ('app', 'dev', 'detector')  # of the suite; the book has an environment of its own
HOW = ('--universal', '--python-version', '3.11', '--no-annotate', '--no-header', '--quiet')


def compile_lock(
    requirements: list,  # as pyproject.toml states them
    lock: Path,  # to write
):
    "Resolve requirements for all systems and write their versions"
    command = ['uv', 'pip', 'compile', '-', *HOW, *sys.argv[1:], '--output-file', lock]
    subprocess.run(command, input='\n'.join(requirements), text=True, check=True)


def main():
    "Write both locks"
    if not shutil.which('uv'):
        sys.exit('lock: uv is needed: pip install uv')
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    extras = project['optional-dependencies']
    suite = project['dependencies'] + [need for extra in EXTRAS for need in extras[extra]]
    LOCKS.mkdir(exist_ok=True)
    compile_lock(suite, LOCKS / 'suite.txt')
    compile_lock(extras['docs'], LOCKS / 'book.txt')


main()
