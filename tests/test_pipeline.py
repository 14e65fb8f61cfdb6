"The whole pipeline at the smallest size, as a user would run it, into a temporary folder"

import os, re, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from forehand4d.core.paths import outputs_root
from forehand4d.core.files import file_hash
from forehand4d.runs.record import Run, find_run, list_runs, run_state
from forehand4d.study.plan import demo, run_steps, state, study

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
SHOWN = (
    'table3_forecasting',
    'figure6_samples',
    'reproduce',
    'forecast_image',
)  # test_artefacts.py has the others
STEPS = [s for s in demo('tiny') if s.label or s.notebook in SHOWN]


@pytest.fixture(scope='module')
def records(tmp_path_factory):
    """Folder of the run records of this file;
    data is taken from, and left in, FOREHAND4D_DATA where it is set"""
    folder = tmp_path_factory.mktemp('pipeline') / 'outputs'
    before = os.environ.get('FOREHAND4D_OUTPUTS')
    os.environ['FOREHAND4D_OUTPUTS'] = str(folder)
    yield folder
    os.environ.pop('FOREHAND4D_OUTPUTS')
    if before:
        os.environ['FOREHAND4D_OUTPUTS'] = before


@pytest.fixture(scope='module')
def runs(records):
    "The runs of `forehand4d demo --profile tiny`, with some of its tables and figures"
    photos = records.parent / 'photos'
    photos.mkdir()
    Image.fromarray(
        np.tile(np.linspace(60, 220, 320, dtype=np.uint8)[None, :, None], (240, 1, 3))
    ).save(photos / 'wall.jpg')
    with open(os.devnull, 'w') as nowhere:
        runs, failed = run_steps(STEPS, str(photos), out=nowhere)
    assert not failed, failed
    return runs


def files(folder):
    return {
        p: (p.stat().st_mtime_ns, p.stat().st_size)
        for p in Path(folder).rglob('*')
        if p.is_file() and p.name != '.lock'
    }


def test_every_step_is_done(runs):
    assert [r.notebook for r in runs] == [s.notebook for s in STEPS]
    assert {state(s) for s in STEPS if s.label} == {'done'}
    for run in runs:
        assert (
            run.done and (run.dir / 'run.ipynb').exists() and (run.dir / 'metrics.json').exists()
        ), run
        for name, digest in run.manifest['artifacts'].items():
            assert file_hash(run.dir / name) == digest, f'{run}: {name}'


def test_nothing_of_a_finished_demo_is_stopped(runs, capsys):
    "`forehand4d runs` lists every run as done, tables and figures without a name included"
    from forehand4d.cli import main

    assert {run_state(run) for run in list_runs()} == {'done'}
    assert main(['runs']) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == {'done'}


def test_what_is_run_here_need_not_be_run_twice():
    "`make test` leaves out of the notebooks what the steps of this file and `bench` run, no others"
    line = re.search(r'^TESTED := ((?:.*\\\n)*.*)$', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    benchmarks = {path.stem for path in (ROOT / 'nbs').glob('benchmark_*.ipynb')}
    assert {*line[1].replace('\\', '').split()} == {step.notebook for step in STEPS} | benchmarks


def test_manifests_chain(runs):
    "Every input is a run of this pipeline, pinned by the hash of its manifest"
    for run in runs:
        for role, entry in run.manifest['inputs'].items():
            if entry['path'].startswith('outputs/'):
                assert (
                    file_hash(
                        outputs_root() / entry['path'].removeprefix('outputs/') / 'manifest.json'
                    )
                    == entry['sha256']
                ), f'{run}: {role}'
    by = {(r.notebook, r.name): r.manifest for r in runs}
    assert (
        by['impute_labels', 'tiny-labels']['inputs']['lifter']['path']
        == 'outputs/train_lifting/tiny-lift'
    )
    assert (
        by['train_forecast', 'tiny-f3d2d']['inputs']['init']['path']
        == 'outputs/train_forecast/tiny-f3d'
    )
    assert str(ROOT) not in ''.join((r.dir / 'manifest.json').read_text() for r in runs)


def test_running_again_is_reuse(runs, records):
    before = {p: s for r in runs for p, s in files(r.dir).items()}
    with open(os.devnull, 'w') as nowhere:
        again, failed = run_steps([s for s in STEPS if s.label], out=nowhere)
    assert not failed and [r.dir for r in again] == [
        r.dir for r, s in zip(runs, STEPS, strict=False) if s.label
    ]
    assert before == {p: s for r in runs for p, s in files(r.dir).items()}


def papermill(*args, cwd):
    done = subprocess.run([BIN / 'papermill', *args], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_papermill_from_the_root_and_from_elsewhere(runs, records, tmp_path):
    papermill(
        'nbs/train_forecast.ipynb',
        tmp_path / 'out.ipynb',
        '-p',
        'profile',
        'tiny',
        '-p',
        'name',
        'from-root',
        cwd=ROOT,
    )
    papermill(
        ROOT / 'nbs' / 'train_forecast.ipynb',
        'out.ipynb',
        '-p',
        'profile',
        'tiny',
        '-p',
        'name',
        'from-elsewhere',
        cwd=tmp_path,
    )
    one, two = (find_run('train_forecast', n) for n in ('from-root', 'from-elsewhere'))
    assert one.params == two.params and one.params['profile'] == 'tiny'
    assert (one.dir / 'log.csv').read_bytes() == (two.dir / 'log.csv').read_bytes()
    assert sorted(os.listdir(tmp_path)) == ['out.ipynb']


def launch(name, steps):
    return [
        BIN / 'forehand4d',
        'run',
        'train_lifting',
        '-p',
        'profile',
        'tiny',
        '-p',
        'steps',
        str(steps),
        '--name',
        name,
    ]


def test_killed_and_resumed(runs, records):
    """A run that was killed and started again logs, and ends with,
    what an uninterrupted one does, to the last bit"""
    import psutil

    steps, log = 150, records / 'train_lifting' / 'killed' / 'log.csv'
    process = psutil.Popen(
        launch('killed', steps), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.time() + 600
    while not (log.exists() and log.read_bytes().count(b'\n') > 110):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.02)
    for p in process.children(recursive=True) + [process]:
        p.kill()
    process.wait()
    assert not Run(log.parent).done and not (log.parent / 'model.safetensors').exists()
    subprocess.run(launch('killed', steps), check=True, capture_output=True)
    subprocess.run(launch('whole', steps), check=True, capture_output=True)
    killed, whole = (find_run('train_lifting', n) for n in ('killed', 'whole'))
    assert len(killed.manifest['resumed']) == 1 and 'resumed' not in whole.manifest
    assert (killed.dir / 'log.csv').read_bytes() == (whole.dir / 'log.csv').read_bytes()
    assert (
        killed.manifest['artifacts']['model.safetensors']
        == whole.manifest['artifacts']['model.safetensors']
    )


def test_reproduce_knows_what_was_run(runs):
    """Everything outside the demo is missing, and nothing else;
    each command names a run of the study"""
    missing = next(r for r in runs if r.notebook == 'reproduce').metrics
    later = [s for s in study('tiny') if s.label and not s.demo]
    assert missing['missing'] == [f'{s.notebook}/{s.name}' for s in later] and missing[
        'commands'
    ] == [s.command for s in later]


def test_nothing_of_ours_changed(runs):
    "Tests leave the repository as it was"
    done = subprocess.run(
        ['git', '-C', str(ROOT), 'status', '--porcelain', 'outputs'], capture_output=True, text=True
    )
    assert done.stdout.strip() == ''
