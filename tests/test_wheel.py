"The wheel holds what `pip install` needs; versions are ranges in it and exact in locks/"

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_conventions import clone

from forehand4d.runs import parameters

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
RUNS = sorted(path.stem for path in (ROOT / 'nbs').glob('*.ipynb') if path.stem != 'index')
BUILD = (
    'import sys\n'
    'from setuptools.build_meta import build_wheel\n'
    'build_wheel(sys.argv[1])'
)


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "The wheel of the tracked files, unpacked"
    folder = tmp_path_factory.mktemp('wheel')
    source = clone(folder / 'source')
    command = [sys.executable, '-c', BUILD, str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob('*.whl')
    assert built.stat().st_size < 20e6
    with zipfile.ZipFile(built) as file:
        file.extractall(folder / 'installed')
    return folder / 'installed'


def test_every_module_and_asset_is_in_the_wheel(wheel):
    wanted = [
        path.relative_to(ROOT)
        for path in (ROOT / 'forehand4d').rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    ]
    assert len(wanted) > 100
    assert [path for path in wanted if not (wheel / path).is_file()] == []


def test_the_wheel_holds_nothing_else(wheel):
    top = {path.name for path in wheel.iterdir()}
    assert top == {'forehand4d', f'forehand4d-{PROJECT["version"]}.dist-info'}


def test_run_notebooks_ship_without_outputs(wheel):
    folder = wheel / 'forehand4d' / 'notebooks'
    assert sorted(path.stem for path in folder.iterdir()) == RUNS
    outputs = re.compile(r'"outputs": \[\s*\{|"execution_count": \d')
    assert [path.name for path in folder.iterdir() if outputs.search(path.read_text())] == []


def test_run_finds_the_notebooks_of_the_wheel(wheel, tmp_path, monkeypatch):
    "Without a clone, `run` and `parameters` use what ships; the command is installed"
    monkeypatch.setattr(parameters, 'package_root', lambda: wheel / 'forehand4d')
    monkeypatch.setattr(parameters, 'project_root', lambda: tmp_path)
    found = parameters.notebook_parameters('evaluate_forecast')
    assert found['profile']['default'] == 'cpu'
    (entries,) = wheel.glob('*.dist-info/entry_points.txt')
    assert 'forehand4d = forehand4d.cli:main' in entries.read_text()


# ---- versions


def stated(*extras):
    "What pyproject.toml asks for"
    every = [PROJECT['optional-dependencies'][extra] for extra in extras]
    return [Requirement(need) for need in sum(every, PROJECT['dependencies'])]


def locked(name):
    "Name and exact version in a lock"
    lines = (ROOT / 'locks' / name).read_text().splitlines()
    found = [re.match(r'([\w.-]+)==([\w.+]+)( ;|$)', line) for line in lines]
    assert all(found), 'a line of the lock is not NAME==VERSION'
    return {canonicalize_name(match[1]): match[2] for match in found}


def test_the_wheel_asks_for_ranges(wheel):
    (metadata,) = wheel.glob('*.dist-info/METADATA')
    asked = re.findall(r'^Requires-Dist: (.+)$', metadata.read_text(), flags=re.M)
    assert len(asked) > 20
    assert [line for line in asked if '==' in line.split(';')[0]] == []
    for need in stated():
        assert any(spec.operator == '>=' for spec in need.specifier), need


@pytest.mark.parametrize('extra, lock', [('dev', 'suite'), ('docs', 'book')])
def test_locks_are_within_the_ranges(extra, lock):
    versions = locked(f'{lock}.txt')
    extras = ('app', 'dev', 'detector') if lock == 'suite' else ()
    own = [Requirement(need) for need in PROJECT['optional-dependencies'][extra]]
    for need in [*own, *(stated(*extras) if extras else [])]:
        version = versions.get(canonicalize_name(need.name))
        assert version, f'{need.name} is not locked: make lock'
        assert need.specifier.contains(version, prereleases=True), f'{need}: locked is {version}'
