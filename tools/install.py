#!/usr/bin/env python3
"""Install the suite into .venv (or, with --here, into this Python).

There is nothing to do when it is already there. The versions are those of locks/suite.txt.
torch comes first and, on a Linux machine without an NVIDIA GPU, as its CPU build:
the usual one brings several gigabytes of CUDA. Needs nothing but Python >= 3.11.
"""

import hashlib, platform, re, shutil, subprocess, sys, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HERE = '--here' in sys.argv[1:]
CPU_INDEX = 'https://download.pytorch.org/whl/cpu'

if sys.version_info < (3, 11):  # noqa: UP036, tells a user of an older Python
    sys.exit(
        f'Python 3.11 or newer is needed, this is {platform.python_version()}: '
        f'set PYTHON, as in make demo PYTHON=python3.12'
    )
import tomllib

project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
lock = ROOT / 'locks' / 'suite.txt'
torch = re.search(r'^torch==[\w.]+', lock.read_text(), flags=re.M)[0]
venv = Path(sys.prefix) if HERE else ROOT / '.venv'
python = Path(sys.executable) if HERE else venv / 'bin' / 'python'
stamp = venv / '.forehand4d-installed'
statement = [
    project['project'].get(k) for k in ('dependencies', 'optional-dependencies', 'scripts')
] + [project['tool']['forehand4d'], lock.read_text()]
wanted = hashlib.sha256(repr((statement, str(ROOT), sys.version_info[:2])).encode()).hexdigest()


def pip(*args, quiet=False):
    "Run pip; True when it worked"
    done = subprocess.run(
        [python, '-m', 'pip', 'install', '--disable-pip-version-check', *args],
        **(dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) if quiet else {}),
    )
    return done.returncode == 0


def need(worked, what):
    if not worked:
        sys.exit(
            f'\n'
            f'install: {what} could not be installed (see above). '
            f'Run the same command again to go on from here.'
        )


def install_torch():
    linux_cpu = (
        platform.system() == 'Linux'
        and platform.machine() == 'x86_64'
        and not shutil.which('nvidia-smi')
    )
    if not linux_cpu:
        return pip(torch)
    has = subprocess.run(
        [python, '-c', 'import torch; print(torch.__version__)'], capture_output=True, text=True
    ).stdout.strip()
    if has.split('+')[0] == torch.split('==')[1]:
        return True
    return (
        pip(f'{torch}+cpu', quiet=True)
        or pip(f'{torch}+cpu', '--extra-index-url', CPU_INDEX, '--retries', '1')
        or pip(torch)
    )


def main():
    if stamp.exists() and stamp.read_text() == wanted:
        return
    began = time.time()
    if not HERE:
        works = (
            python.exists()
            and subprocess.run([python, '-m', 'pip', '--version'], capture_output=True).returncode
            == 0
        )
        if not works or (stamp.exists() and str(ROOT) not in (venv / 'bin' / 'pip').read_text()):
            print(f'install: making .venv with Python {platform.python_version()}', flush=True)
            if subprocess.run([sys.executable, '-m', 'venv', '--clear', venv]).returncode:
                sys.exit(
                    'install: python -m venv failed (on Debian '
                    'and Ubuntu: apt install python3-venv)'
                )
    stamp.unlink(missing_ok=True)
    print(f'install: {torch}', flush=True)
    need(install_torch(), 'torch')
    print('install: everything else, two or three minutes', flush=True)
    how = ('--quiet', '--progress-bar', 'on', '--constraint', str(lock))
    need(pip(*how, '-e', f'{ROOT}[app,dev,detector]'), 'the suite')
    for wheel in project['tool']['forehand4d']['no-deps']:
        if not pip('--quiet', '--no-deps', wheel):
            print(
                (
                    f'install: no {wheel} for this Python: hands in '
                    f'photographs will not be detected, everything else works'
                ),
                flush=True,
            )
    stamp.write_text(wanted)
    print(f'install: done in {time.time() - began:.0f} s', flush=True)


main()
