"The names that people import from the package itself"
import subprocess, sys
import pytest
import forehand4d

NAMES = ('open_hand', 'load_hand', 'motion_metrics', 'load_official', 'load_hamer_backbone', 'open_dataset',
         'load_forecaster', 'load_lifter', 'refine', 'track_video', 'film_sequence')


@pytest.mark.parametrize('name', NAMES)
def test_public_name(name):
    namespace = {}
    exec(f'from forehand4d import {name}', namespace)
    assert callable(namespace[name]) and namespace[name].__module__.startswith('forehand4d.')
    assert name in dir(forehand4d)


def test_nothing_heavy_is_imported():
    "`import forehand4d` costs nothing: torch comes with the first name that needs it"
    code = 'import sys, forehand4d; print("torch" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'False'


def test_unknown_name():
    with pytest.raises(AttributeError, match='load_forecaster'):
        forehand4d.load_forecast
