"""Several processes give what one gives:
gradients, curves, labels, one record. Two of them on a processor, with gloo"""

import math
import contextlib, os, signal, subprocess, sys
from dataclasses import replace
from pathlib import Path
import pytest, torch
from forehand4d.baselines.hawor import Infiller
from forehand4d.baselines.lifting_baselines import PARTS, BaselineSettings, run_baselines
from forehand4d.baselines.perframe import PerFrame
from forehand4d.core.files import read_json
from forehand4d.data.batches import collate
from forehand4d.data.clip_store import write_clips
from forehand4d.handworld.generate import make_clip
from forehand4d.catalogue import open_dataset
from forehand4d.models.forecaster import build_forecaster
from forehand4d.models.futures import FutureSettings
from forehand4d.models.imputation import ImputeSettings, LabelJob, write_labels
from forehand4d.data.loaders import ClipDataset
from forehand4d.fitting.procedure import procedure
from forehand4d.fitting.refinement import RefineConfig
from forehand4d.models.lifter import build_lifter
from forehand4d.models.lifting import load_lifter
from forehand4d.runs.profiles import profile
from forehand4d.runs.record import Run, list_runs, start_run, unlock_folder
from forehand4d.runs.shares import shares_of
from forehand4d.study.forecast_evaluation import forecast_all, forecast_test
from forehand4d.study.lifting_evaluation import LiftSettings, fit_clips, fits_to_compare, lift_clips
from forehand4d.training.weights import read_weights
from forehand4d.training.loop import TrainConfig, train
from test_runs import toy

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason='needs gloo')
P = profile('tiny')
MODELS = {
    'lifting': lambda data: build_lifter(P, data),
    'forecast': lambda data: build_forecaster(P, data, look=0.5, drop_path=0.5),
}  # without anything random inside, and with all there is


def job(folder, name, stop=None, **more):
    """Train under a name: a few steps on clips of different lengths and trust,
    so that shares of a batch hold different numbers of valid values"""
    what = name.split('-')[0]
    data = open_dataset(str(folder / 'clips'), image=what == 'forecast')
    cfg = replace(
        TrainConfig(6, 4, P.frames, P.image_size * (what == 'forecast'), lr=1e-3, save_every=3),
        **more,
    )
    run = start_run('scale', dict(name=name), name, folder)
    train(MODELS[what](data), data, cfg, run, stop)
    unlock_folder(run.dir)


def labels(folder, name, data=None):
    "Impute labels, some of which are rejected"
    data = data or open_dataset(str(folder / 'clips'))
    settings = ImputeSettings(batch=2, steps=2, limit=0.05)
    run = start_run('labels', dict(name=name), name, folder)
    write_labels(LabelJob(data, load_lifter('pretrained'), procedure('best', 8), settings), run)
    unlock_folder(run.dir)


class Deadly(ClipDataset):
    "Clips whose fifth ends the process as a full memory would; notes which were read"

    def __getitem__(self, i):
        (self.stores[0].folder.parent / f'read-{i}').touch()
        if i == 4 and 'DEADLY' in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(i)


def evaluations(folder, name):
    "Lift, fit and forecast; the first process keeps what came of it"
    data = open_dataset(str(folder / 'clips'))
    clips = [data[i] for i in range(len(data))]
    run = start_run('evaluated', dict(name=name), name, folder)
    shares = shares_of(run, data)
    lifter = load_lifter('pretrained').model
    how = LiftSettings(P.frames, 2, refine=RefineConfig(4), batch=2, shares=shares)
    found = lift_clips('lifting', lifter, clips, [1, 4], how, refine=True)
    job = fits_to_compare(['best'], 4, hard=True)['lifting-fit-hard']
    found['lifting-fit-hard'] = fit_clips('lifting-fit-hard', lifter, clips, job, how)
    torch.manual_seed(0)
    test = forecast_test(data, P.frames)
    asked = FutureSettings(P.frames, 2, batch=2, how=dict(steps=2), shares=shares)
    models = {'forecast-3d': build_forecaster(P, data).eval()}
    found |= forecast_all(models, 'forecast-3d', test, asked)
    parts = {'hands': PerFrame.build(P), 'infiller': Infiller.build(P, data)}
    other = BaselineSettings(P.frames, every=8, shares=shares, batch=2)
    baselines, _ = run_baselines([*PARTS], parts, clips, collate(clips, P.frames), other)
    shares.clear()
    if run.writing:
        joints = {row: part.joints for row, part in found.items()}
        joints |= {row: motion.joints() for row, motion in baselines.items()}
        motions = {
            row: {number: motion.rot for number, motion in part.motions.items()}
            for row, part in found.items()
        }
        torch.save(dict(joints=joints, motions=motions), folder / f'{name}.pt')


def finish(command, timeout=170):
    "Exit code, output and complaints of a command; all its processes are gone afterwards"
    where = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    p = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, 'PYTHONPATH': where},
    )
    try:
        out, err = p.communicate(timeout=timeout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(p.pid, signal.SIGKILL)
    return p.returncode, out, err


def launch(*args):
    return finish(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--standalone',
            '--nproc-per-node',
            2,
            *args,
        ]
    )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Clips, and what two processes made of them"
    folder = tmp_path_factory.mktemp('scale')

    def clip(i):
        c = make_clip(
            'lab-pour', 'train', i, frames=(16, 9, 13, 16, 5, 16, 11)[i], image_size=P.image_size
        )
        c.motion.valid[:, i % 2] &= torch.arange(len(c)) > i
        return replace(c, meta=dict(c.meta or {}, weight=1 - i / 10))

    write_clips(map(clip, range(7)), folder / 'clips')
    job(folder, 'lifting-begun', stop=3)
    (folder / 'work.py').write_text(f'''
import sys
from pathlib import Path
from test_scale import evaluations, job, labels
folder = Path({str(folder)!r})
for name in ('lifting-whole', 'forecast-whole', 'lifting-begun'): job(folder, name)
for name in ('lifting-first2', 'forecast-first2'): job(folder, name, stop=1, save_every=1)
job(folder, 'lifting-left', stop=3)
job(folder, 'forecast-shared', stop=3)
job(folder, 'forecast-shared', shard=True)
job(folder, 'lifting-shared', stop=3, shard=True)
job(folder, 'lifting-pieces', accumulate=2)
labels(folder, 'labels-two')
evaluations(folder, 'evaluated-two')
''')
    code, out, err = launch(folder / 'work.py')
    assert code == 0, err
    return folder


def same(folder, a, b):
    """The same curves,
    and weights up to the rounding that Adam makes of gradients which are zero but for rounding.
    Gradients of distances (the sketch's) turn where errors are small: their norm follows less
    closely"""
    tolerance = 3e-2 if a.startswith('forecast') else 1e-3
    a, b = (Run(folder / 'scale' / n) for n in (a, b))
    assert len(a.log_rows()) == len(b.log_rows()) == 6
    for x, y in zip(a.log_rows(), b.log_rows(), strict=True):
        assert x.pop('norm') == pytest.approx(y.pop('norm'), rel=tolerance)
        assert x == pytest.approx(y, rel=1e-3)
    x, y = (read_weights(r.dir / 'model.safetensors', ('lifter', 'forecaster'))[0] for r in (a, b))
    assert x.keys() == y.keys()
    for k in x:
        assert (x[k] - y[k]).norm() <= 2e-3 * x[k].norm() + 1e-6, k


@pytest.mark.parametrize('what', MODELS)
def test_gradients(folder, what):
    """One step of two processes has the gradients of one:
    noise, masks, dropout and the means over valid values; the steps after it follow"""
    job(folder, f'{what}-first', stop=1, save_every=1)
    one, two = (
        torch.load(folder / f'scale/{what}-{n}/ckpt/state.pt', weights_only=True)['optimiser'][
            'state'
        ]
        for n in ('first', 'first2')
    )
    assert one.keys() == two.keys() and len(one) > 30
    largest = max(s['exp_avg'].abs().max() for s in one.values())  # a tenth of the gradients
    for k in one:
        torch.testing.assert_close(
            one[k]['exp_avg'], two[k]['exp_avg'], rtol=1e-4, atol=2e-6 * float(largest)
        )
    job(folder, f'{what}-one')
    same(folder, f'{what}-one', f'{what}-whole')


def test_resumed_in_two_processes(folder):
    same(folder, 'lifting-begun', 'lifting-whole')


def test_resumed_in_one_process(folder):
    assert torch.load(folder / 'scale/lifting-left/ckpt/state.pt', weights_only=True)['step'] == 3
    job(folder, 'lifting-left')
    same(folder, 'lifting-left', 'lifting-whole')


def test_shared_weights(folder):
    """Weights spread over the processes (FSDP) follow the same curve,
    from and to a checkpoint that they did not make"""
    same(folder, 'forecast-shared', 'forecast-whole')
    job(folder, 'lifting-shared')
    same(folder, 'lifting-shared', 'lifting-whole')


def test_pieces(folder):
    """Pieces with different numbers of valid values weigh clips otherwise: their loss is another.
    `test_even_pieces` holds that it is the same where they are alike"""
    names = 'lifting-whole', 'lifting-pieces'
    whole, pieces = (Run(folder / 'scale' / n).log_rows()[0] for n in names)
    assert whole['loss'] != pytest.approx(pieces['loss'], rel=1e-4)
    assert math.isfinite(whole['loss']) and math.isfinite(pieces['loss'])


def test_even_pieces(tmp_path):
    """Where all pieces hold as many valid values, terms that are plain means of them are those of
    the whole batch. The others weigh clips by their noise, which differs between pieces"""

    def clip(i):
        c = make_clip('lab-pour', 'train', i, frames=16, image_size=P.image_size)
        every = torch.ones_like(c.motion.valid)
        return replace(c, motion=replace(c.motion, valid=every), valid3d=torch.ones_like(c.valid3d))

    write_clips(map(clip, range(7)), tmp_path / 'clips')
    job(tmp_path, 'lifting-even', stop=1)
    job(tmp_path, 'lifting-evenpieces', stop=1, accumulate=2)
    names = 'lifting-even', 'lifting-evenpieces'
    whole, pieces = (Run(tmp_path / 'scale' / n).log_rows()[0] for n in names)
    for term in ('global', 'pose', 'transl'):
        assert whole[term] == pytest.approx(pieces[term], rel=1e-5), term
    for term in ('joints', 'place', 'image'):
        assert whole[term] == pytest.approx(pieces[term], rel=0.15), term


def store_of(folder, name):
    "What a store of labels says of itself and of its files"
    assert not (folder / 'labels' / name / 'pieces').exists()
    return read_json(folder / 'labels' / name / 'labels/manifest.json')


def test_labels(folder):
    "Imputed labels do not depend on the number of processes, to the last bit"
    labels(folder, 'labels-one')
    one, two = (store_of(folder, name) for name in ('labels-one', 'labels-two'))
    assert one == two
    assert one['clips'] + len(one['info']['rejected']) == 7 and one['info']['rejected']


def test_labels_of_a_killed_run(folder):
    "It goes on behind the last piece that it had finished, and gives the same"
    (folder / 'killed.py').write_text(f'''
from pathlib import Path
from test_scale import *
folder = Path({str(folder)!r})
labels(folder, 'labels-killed', Deadly(open_dataset(str(folder / 'clips')).stores))
''')
    command = [sys.executable, folder / 'killed.py']
    os.environ['DEADLY'] = '1'
    try:
        assert finish(command)[0] == -signal.SIGKILL
    finally:
        del os.environ['DEADLY']
    assert not (folder / 'labels/labels-killed/labels').exists()
    for note in folder.glob('read-*'):
        note.unlink()
    code, _, err = finish(command)
    assert code == 0, err
    assert sorted(note.name for note in folder.glob('read-*')) == ['read-4', 'read-5', 'read-6']
    assert store_of(folder, 'labels-killed') == store_of(folder, 'labels-two')


def test_evaluations(folder):
    "Lifted, fitted and forecast motions do not depend on the number of processes"
    evaluations(folder, 'evaluated-one')
    one, two = (torch.load(folder / f'evaluated-{n}.pt', weights_only=True) for n in ('one', 'two'))
    assert {*one['joints']} >= {'lifting-refined', 'lifting-fit-hard', 'forecast-3d', *PARTS}
    assert one['joints'].keys() == two['joints'].keys()
    for row, joints in one['joints'].items():
        assert len(joints) == 7 and joints.equal(two['joints'][row]), row
    for row, shown in one['motions'].items():
        assert shown.keys() == two['motions'][row].keys(), row
        assert all(rot.equal(two['motions'][row][i]) for i, rot in shown.items()), row


TOGETHER = """
from forehand4d.core.processes import place, wait_for_all
(run.dir/f'{place()[0]} of {place()[1]}').touch()
if steps < 0 and place()[0]: raise ValueError('no hands')
wait_for_all()
run.finish(dict(files=len([*run.dir.glob('* of *')])))
"""
WITH_PROCESSES = 'steps: int = 3 # any\nprocesses: int = 1 # together\nname: str = "" # of the run'


def test_processes_of_a_notebook(outputs, tmp_path):
    "`processes` starts as many; the first keeps the record, an error in another one is told"
    from forehand4d.runs.launch import NotebookError, run_notebook

    nb = toy(tmp_path, 'shared', TOGETHER, WITH_PROCESSES)
    run = run_notebook(nb, dict(processes=2), name='a')
    assert run.done and run.metrics == {'files': 2} and (run.dir / 'run.ipynb').exists()
    assert run_notebook(nb, dict(processes=3), name='a').manifest == run.manifest
    with pytest.raises(NotebookError, match=r'shared: ValueError: no hands \(cell \d of process 1'):
        run_notebook(nb, dict(processes=2, steps=-1), name='b')
    assert not Run(outputs / 'shared/b').done


def test_launcher(outputs):
    """`accelerate launch -m forehand4d run` leaves one finished record;
    the clips, which are not there yet, are generated once"""
    launcher = Path(sys.executable).parent / 'accelerate'
    what = [
        '-m',
        'forehand4d',
        'run',
        'train_lifting',
        '-p',
        'profile',
        'tiny',
        '-p',
        'datasets',
        'lab-pour',
        '--name',
        'a',
    ]
    ended = finish(
        [launcher, 'launch', '--multi_gpu', '--num_processes', 2, '--main_process_port', 0, *what]
    )
    assert ended[0] == 0, ended[2]
    [run] = list_runs()
    assert (run.notebook, run.name, run.done) == ('train_lifting', 'a', True) and (
        run.dir / 'run.ipynb'
    ).exists()
    assert sorted(p.name for p in run.dir.parent.iterdir()) == ['a'] and [
        r['step'] for r in run.log_rows()
    ] == list(range(P.lift_steps))
    assert ended[1].count('train_lifting/a (done): outputs/train_lifting/a') == 1
    assert (run.dir / 'manifest.json').read_text().count('"sha256"') == 1


def test_finished_run(outputs, tmp_path):
    "A run finished by one process is found by several, and kept"
    from forehand4d.runs.launch import run_notebook

    run = run_notebook(nb := toy(tmp_path), name='a')
    before = {p: p.stat().st_mtime_ns for p in run.dir.iterdir()}
    code, out, err = launch('-m', 'forehand4d', 'run', nb, '--name', 'a')
    assert (
        code == 0
        and out.count('toy/a (done): outputs/toy/a') == 1
        and {p: p.stat().st_mtime_ns for p in run.dir.iterdir()} == before
    ), err


def test_wrong_parameter(outputs):
    code, out, err = launch('-m', 'forehand4d', 'run', 'train_lifting', '-p', 'steps', 'many')
    assert (
        code
        and "forehand4d: parameter steps: expected int from 0, got 'many'" in err
        and not outputs.exists()
    )


def test_error_in_one_process(outputs, tmp_path):
    "It ends all of them, is named, and leaves the record unfinished"
    nb = toy(
        tmp_path,
        code=(
            "import os\nfrom forehand4d.core.processes import group\ng = group()\n"
            "if g.process_index: raise ValueError('no hands')\ng.wait_for_everyone()"
        ),
    )
    code, out, err = launch('-m', 'forehand4d', 'run', nb, '--name', 'a')
    assert code and 'forehand4d: toy: ValueError: no hands (cell 3 of process 1)' in err
    assert not Run(outputs / 'toy' / 'a').done and (outputs / 'toy' / 'a' / 'run.ipynb').exists()
    assert not [
        line
        for line in subprocess.run(
            ['ps', '-eo', 'args'], capture_output=True, text=True
        ).stdout.splitlines()
        if str(nb) in line
    ]


def test_error_in_a_fork(folder):
    "An error in one of the processes that a notebook started reaches it with its message"
    (folder / 'fork.py').write_text(f'''
import os
from pathlib import Path
from test_scale import *
class Bad(torch.nn.Linear):
    def loss(self, batch, generator):
        if os.environ['RANK'] == '1': raise ValueError('no feet')
        return self(torch.zeros(1, 1)).sum(), {{}}
data = open_dataset({str(folder / 'clips')!r})
run = start_run('scale', {{}}, 'fork', {str(folder)!r})
train(Bad(1, 1), data, TrainConfig(4, 4, 16), run, processes=2)
''')
    code, out, err = finish([sys.executable, folder / 'fork.py'])
    assert (
        code
        and err.strip().endswith('RuntimeError: process 1: ValueError: no feet')
        and not Run(folder / 'scale' / 'fork').done
    )
