"The names that people import from the package itself"

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import forehand4d

NAMES = (
    'open_hand',
    'load_hand',
    'motion_metrics',
    'load_official',
    'load_hamer_backbone',
    'open_dataset',
    'load_forecaster',
    'load_lifter',
    'refine',
    'track_video',
    'film_sequence',
    'push_to_hub',
    'export_handworld',
)
PACKAGE = Path(forehand4d.__file__).resolve().parent


@pytest.mark.parametrize('name', NAMES)
def test_public_name(name):
    namespace = {}
    exec(f'from forehand4d import {name}', namespace)
    assert callable(namespace[name])
    assert namespace[name].__module__.startswith('forehand4d.')
    assert name in dir(forehand4d)


def test_nothing_heavy_is_imported():
    "`import forehand4d` costs nothing: torch comes with the first name that needs it"
    code = 'import sys, forehand4d; print("torch" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'False'


def test_unknown_name():
    with pytest.raises(AttributeError, match='load_forecaster'):
        forehand4d.load_forecast  # noqa: B018


def test_types_are_shipped():
    "Type checkers read a package's annotations only beside a `py.typed`, which the wheel must hold"
    assert (PACKAGE / 'py.typed').is_file()
    project = tomllib.loads((PACKAGE.parent / 'pyproject.toml').read_text())
    assert 'py.typed' in project['tool']['setuptools']['package-data']['forehand4d']


def test_editors_see_the_same_names():
    "What is imported for type checkers is what `__getattr__` finds, from the same modules"
    seen = {}
    for node in ast.walk(ast.parse((PACKAGE / '__init__.py').read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.startswith('forehand4d.'):
            seen |= {alias.asname: node.module for alias in node.names}
    homes = {name: getattr(forehand4d, name).__module__ for name in forehand4d.__all__}
    assert seen == homes
    assert set(NAMES) <= set(seen)
