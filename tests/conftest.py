"Folders and notebooks that several tests use"

import os
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault('OMP_NUM_THREADS', '1')
LONG = (
    'test_pipeline.py',
    'test_real_study.py',
    'test_speed.py',
    'test_real_video.py',
    'test_scale.py',
)


def pytest_collection_modifyitems(items):
    "Files that take minutes begin first, so that processes that share the tests end together"
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    "An empty folder for run records"
    monkeypatch.setenv('FOREHAND4D_OUTPUTS', str(tmp_path / 'outputs'))
    monkeypatch.delenv('FOREHAND4D_DATA', raising=False)
    return tmp_path / 'outputs'
