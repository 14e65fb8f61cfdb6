"""`tools/gpu.sh` keeps its limits, whatever its steps do

Here steps are sleeping shells, so that a slow machine changes nothing. The whole on a processor,
for which this is too short: `tools/gpu.sh --seconds 110`.
"""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))
import gpu  # noqa: E402, needs the path
import gpu_work  # noqa: E402

SOON = 20  # seconds that a step's end may take on a busy machine; it sleeps ten times as long
SLEEP = 'sleep 200'


@pytest.fixture
def session(tmp_path):
    "A session with folders"
    found = gpu.Session(tmp_path / 'out', tmp_path / 'work', 600.0, gpu.ON_CPU)
    found.out.mkdir()
    (found.work / 'logs').mkdir(parents=True)
    return found


def shell(text):
    "A step"
    return ['sh', '-c', text]


def is_there(process):
    "Does a process run? One that has ended and waits for its parent does not"
    try:
        state = Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[0]
    except OSError:
        return False
    return state != 'Z'


def test_a_failing_step_does_not_stop_the_next(session):
    session.step('first', shell('echo why; exit 3'))
    session.step('second', shell('echo fine'))
    summary = json.loads((session.out / 'summary.json').read_text())
    found = [(step['name'], step['status'], step['says']) for step in summary['steps']]
    assert found == [('first', 'failed', 'why'), ('second', 'done', 'fine')]
    assert 'second   done' in (session.out / 'summary.txt').read_text()


def test_a_step_ends_at_its_limit_with_all_that_it_started(session, tmp_path):
    "Also what has left its process group, as the kernel of a notebook does"
    note = tmp_path / 'kernel'
    began = time.monotonic()
    session.step('slow', shell(f'setsid sh -c "echo \\$\\$ > {note}; {SLEEP}" & {SLEEP}'), limit=5)
    assert session.results[0].status == 'out of time'
    assert time.monotonic() - began < 5 + SOON
    kernel = int(note.read_text())
    while is_there(kernel) and time.monotonic() - began < 5 + SOON:
        time.sleep(0.1)  # a signal takes a moment to arrive
    assert not is_there(kernel)


def test_no_step_begins_when_the_time_is_over(session):
    session.began -= session.seconds - session.kept
    session.step('late', shell('echo no'))
    assert session.results[0].status == 'skipped'


def test_limits_add_up_to_the_whole(session):
    assert session.limit('clips') == pytest.approx(gpu.SHARES['clips'] * 600)
    session.began -= 500  # seconds are over
    assert session.limit('train') == pytest.approx(100 - session.kept, abs=SOON)


def test_the_training_always_has_time():
    assert sum(gpu.SHARES.values()) + gpu.KEPT < 0.85


def fake_training(session, monkeypatch, **planned):
    "What `train` would start"
    started = []
    monkeypatch.setattr(session, 'step', lambda name, command: started.extend(command))
    made = dict(for_training=dict(datasets='lab-pour', clips=16), clips_per_second=3)
    gpu.write(session.work / 'clips.json', made)
    gpu.write(session.work / 'pace.json', dict(step_seconds=0.5, start_seconds=40))
    gpu.write(session.work / 'training.json', dict(init='pretrained') | planned)
    gpu.train(session)
    return started


def test_as_many_steps_as_fit(session, monkeypatch):
    session.began -= 300
    started = fake_training(session, monkeypatch)
    steps = int(started[started.index('steps') + 1])
    assert steps == pytest.approx(gpu.FASTER * (300 - session.kept - 40) / 0.5, abs=2 * SOON)
    assert started[started.index('datasets') + 1] == 'lab-pour'
    assert started[started.index('init') + 1] == 'pretrained'


def test_an_unfinished_training_goes_on_as_it_was_planned(session, monkeypatch):
    started = fake_training(session, monkeypatch, steps=77, clips=5, datasets='lab')
    assert started[started.index('steps') + 1] == '77'
    assert started[started.index('clips') + 1] == '5'


def test_what_is_packed(session):
    made = session.work / gpu.MADE
    (made / 'ckpt').mkdir(parents=True)
    for path in (made / 'log.csv', made / 'ckpt' / 'state.pt', session.work / 'logs' / 'a.txt'):
        path.write_text('1')
    (session.work / 'forecaster.safetensors').write_text('1')
    gpu.pack(session)
    with tarfile.open(session.out / 'records.tar.gz') as archive:
        assert archive.getnames() == ['logs/a.txt', f'{gpu.MADE}/log.csv']
    assert (session.out / 'forecaster.safetensors').exists()


@pytest.mark.parametrize(
    'facts, says',
    [
        (dict(device='cpu', torch='2', cuda=None), 'a torch with CUDA'),
        (dict(device='cpu', torch='2', cuda='13'), 'a GPU that torch can use'),
        (dict(device='cuda', torch='2', cuda='13', compiler=''), 'a C compiler'),
    ],
)
def test_what_is_missing_is_said(facts, says):
    assert any(line.startswith(says) for line in gpu_work.missing_of(facts))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(gpu_work, 'NEEDED', ('torch', 'no_such_package'))
    lines = gpu_work.missing_of(dict(device='cpu'))
    assert lines == ['packages no_such_package: make install, or pip install them']


def test_a_signal_ends_it_with_a_summary(tmp_path):
    "The first step is under way, or just over"
    out = tmp_path / 'out'
    command = ['sh', ROOT / 'tools' / 'gpu.sh', '--out', out, '--seconds', '120']
    env = os.environ | {'PYTHON': sys.executable}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()  # check: at most …
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=3 * SOON) == 1
    summary = json.loads((out / 'summary.json').read_text())
    assert summary['steps'][-1]['status'] == 'stopped'
    assert (out / 'records.tar.gz').exists()
