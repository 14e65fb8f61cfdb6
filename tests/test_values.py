"No value that a notebook cannot run with reaches it, and the state of a run is the true one"

import json
import os
import signal
import subprocess
import sys
from typing import get_args

import pytest

from forehand4d.cli import main
from forehand4d.runs import choices
from forehand4d.runs.parameters import check_parameters
from forehand4d.runs.record import Run, find_run, list_runs, run_state, start_run

WRONG = [  # notebook, parameter, value, what is said
    ('train_forecast', 'stage', '7', 'expected one of 1|2, got 7'),
    ('train_forecast', 'method', 'difusion', "did you mean 'diffusion'"),
    ('train_forecast', 'profile', 'cpuu', "did you mean 'cpu'"),
    ('train_forecast', 'supervision', '2D', 'expected one of 3d|2d'),
    ('train_forecast', 'steps', '-5', 'from 0'),
    ('train_forecast', 'lr', 'nan', 'got nan'),
    ('train_forecast', 'datasets', 'lab+wilt', "did you mean 'wild'"),
    ('train_forecast', 'init', 'nobody', 'no run train_forecast/nobody'),
    ('train_forecast', 'datasets', 'clips/of-nobody', "no dataset 'clips/of-nobody'"),
    ('train_forecast', 'imputed', 'nobody', 'no run impute_labels/nobody'),
    ('train_forecast', 'backbone', 'vit-z', "did you mean 'vit-h'"),
    ('train_forecast', 'backbone_weights', 'there/hamer.ckpt', 'nothing at there/hamer.ckpt'),
    ('train_latentact', 'codebook', 'nobody', 'no run train_latentact/nobody'),
    ('evaluate_lifting', 'runs', 'pretrained+nobody', 'no run train_lifting/nobody'),
    ('evaluate_lifting_baselines', 'hands', './hamer.ckp', 'no run train_hands/./hamer.ckp'),
    ('lift_video', 'lifter', 'pretraind', "did you mean 'pretrained'"),
    ('train_lifting', 'conditions', 'kps+pluker', "did you mean 'plucker'"),
    ('train_lifting', 'layout', 'fuzed', "did you mean 'fused'"),
    ('train_latentact', 'phase', 'codebok', "did you mean 'codebook'"),
    ('impute_labels', 'procedure', 'bets', "did you mean 'best'"),
    ('evaluate_forecast', 'sampler', 'ddmi', 'ddim|dpm++|ddpm'),
    ('evaluate_forecast', 'samples', '0', 'from 1'),
    ('evaluate_lifting', 'procedures', 'best+lifer', "did you mean 'lifter'"),
    ('table1_lifting', 'protocol', 'strickt', "did you mean 'strict'"),
    ('figure8_error_over_time', 'selection', 'worst', 'best|single'),
    ('prepare_data', 'dataset', 'artic', "did you mean 'arctic'"),
    ('prepare_data', 'split', 'dev', 'train|val|test'),
    ('prepare_keypoints', 'films', 'nowhere.mp4', 'nothing at nowhere.mp4'),
    ('lift_video', 'video', 'nowhere.mp4', 'nothing at nowhere.mp4'),
    ('lift_video', 'kind', 'avi', 'mp4|gif'),
    ('lift_video', 'fov', '180', 'from 0 to 179'),
]


@pytest.mark.parametrize('notebook, name, value, says', WRONG)
def test_refused_before_a_kernel_starts(notebook, name, value, says, outputs, capsys):
    assert main(['run', notebook, '-p', name, value]) == 2
    assert says in capsys.readouterr().err
    assert not outputs.exists(), 'something was written'


NAMED = {  # command → what is said
    'train --add my-clips': "no dataset 'my-clips'",
    'train --add lab-por': "did you mean 'lab-pour'",
    'train --init pretraind': "did you mean 'pretrained'",
    'train --init notes.txt': 'notes.txt: not a complete checkpoint of this project',
    'train --init empty': 'empty holds no model.safetensors: is the run finished?',
    'train --init nobody/nothing': 'none of that name on the Hugging Face Hub',
    'run train_lifting -p init ./a.safetensors': 'no run train_lifting/./a.safetensors',
    'run evaluate_forecast -p runs notes.txt': 'notes.txt: not a complete checkpoint',
}
LIGHT = """
import sys
from forehand4d.cli import main
code = main(sys.argv[1:])
heavy = {'torch', 'papermill', 'jupyter_client'} & {*sys.modules}
sys.exit(f'imported {heavy}' if heavy else code)"""


@pytest.mark.parametrize('words', NAMED)
def test_what_is_named_is_looked_for_first(words, outputs, tmp_path):
    "A name is answered before torch or a kernel come in, which take longer than all else"
    (tmp_path / 'notes.txt').write_text('no weights')
    (tmp_path / 'empty').mkdir()
    command = [sys.executable, '-c', LIGHT, *words.split()]
    environment = os.environ | dict(HF_HUB_OFFLINE='1')
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60
    )
    assert done.returncode == 2, done.stderr
    said = done.stderr.strip()
    assert NAMED[words] in said and len(said.splitlines()) == 1, said
    assert not outputs.exists(), 'something was written'


def test_choices_are_those_of_the_library():
    "A choice that a parameter offers is one that the code knows, and the other way round"
    from forehand4d.fitting.procedure import PROCEDURES
    from forehand4d.geometry.mano import JOINT_ORDERS
    from forehand4d.models.forecast_model import METHODS
    from forehand4d.networks.backbones import NAMES
    from forehand4d.networks.sampling import SAMPLERS
    from forehand4d.runs.profiles import PROFILES

    one_hand = {name for name, (joints, _) in JOINT_ORDERS.items() if joints != 42}
    assert get_args(choices.ProfileName) == tuple(PROFILES)
    assert ('small', *NAMES) == choices.BACKBONES
    assert get_args(choices.Method) == METHODS
    assert get_args(choices.SamplerName) == SAMPLERS
    assert set(get_args(choices.ProcedureName)) == {*PROCEDURES, 'paper'}
    assert set(get_args(choices.JointOrder)) == one_hand


def test_the_library_refuses_too():
    from forehand4d.models.forecast_run import ForecastParams, forecast_run
    from forehand4d.models.lifter_run import TrainLifting

    for wrong in (dict(stage=7), dict(method='difusion'), dict(steps=-1), dict(lr=float('nan'))):
        with pytest.raises(ValueError, match='expected'):
            forecast_run(ForecastParams(**wrong))
    with pytest.raises(ValueError, match='fused'):
        TrainLifting(layout='fuzed')


def test_clips_without_labels_say_so(outputs):
    from forehand4d.models.forecast_run import ForecastParams, forecast_run, training_clips

    plan = forecast_run(ForecastParams(profile='tiny', datasets='wild-joints', clips=2))
    with pytest.raises(ValueError, match='no hand parameters to learn from'):
        training_clips(plan)


def test_states(outputs):
    run = start_run('train', dict(steps=1), 'a')
    assert run_state(Run(run.dir)) == 'running'
    run.fail('ValueError: no\nink')
    kept = Run(run.dir)
    assert (run_state(kept), kept.manifest['error']) == ('failed', 'ValueError: no ink')
    again = start_run('train', dict(steps=1), 'a')  # goes on
    assert run_state(again) == 'running' and 'error' not in again.manifest
    again.finish()
    again.fail('too late')
    assert run_state(find_run('train', 'a')) == 'done'


def test_a_killed_run_is_stopped_and_one_at_work_is_running(outputs):
    code = """from forehand4d.runs.record import start_run
run = start_run('train', {}, 'a')
print('here', flush=True)
input()"""
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other = subprocess.Popen([sys.executable, '-c', code], **pipes)
    other.stdout.readline()
    assert [run_state(run) for run in list_runs()] == ['running']
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    assert [run_state(run) for run in list_runs()] == ['stopped']


def test_runs_are_listed_and_removed(outputs, capsys):
    start_run('train', dict(steps=1), 'good').finish(dict(loss=0.25))
    start_run('train', dict(steps=1), 'bad').fail('ValueError: no ink')
    assert main(['runs']) == 0
    listed = capsys.readouterr().out
    assert 'loss 0.25' in listed and 'ValueError: no ink' in listed
    assert main(['runs', '--remove', 'train/bad']) == 2, 'nobody can be asked'
    assert main(['runs', '--remove', 'train/bad', '--yes']) == 0
    assert [run.name for run in list_runs()] == ['good']


def test_only_runs_are_removed(outputs, tmp_path, capsys):
    (tmp_path / 'precious').mkdir()
    start_run('train', {}, 'good').finish()
    for name in ('../precious', 'train', 'train/..', '.', 'train/nobody'):
        assert main(['runs', '--remove', name, '--yes']) == 2, name
    assert (tmp_path / 'precious').exists() and find_run('train', 'good')


ODD_CELLS = [
    'nam ""',
    'steps: int = (',
    '  steps = 1',
    'steps: int',
    'a, b = 1, 2',
    'a.b = 1',
    'a[0]: int = 1',
    'steps = f()',
    'steps = {[]: 1}',
    'steps = ' + '(' * 300 + ')' * 300,
    'steps = "\0',
]


def is_python(source):
    try:
        compile(source, 'cell', 'exec')
    except (SyntaxError, MemoryError, ValueError):  # of null bytes before Python 3.11.4
        return False
    return True


@pytest.mark.parametrize('source', ODD_CELLS)
@pytest.mark.parametrize('tags', [['parameters'], []])
def test_cells_that_are_no_parameters(source, tags, tmp_path):
    "One error that names the notebook, wherever the cell is"
    import nbformat.v4 as v4

    kind = 'from forehand4d.runs.choices import Method'
    known = v4.new_code_cell('method: Method = "diffusion"', metadata=dict(tags=['parameters']))
    cells = [v4.new_code_cell(kind), v4.new_code_cell(source, metadata=dict(tags=tags))]
    path = tmp_path / 'toy.ipynb'
    content = v4.new_notebook(cells=cells if tags else [known, *cells])
    path.write_text(json.dumps(content))
    asked = dict(steps='4') if tags else dict(method='static')
    if not tags and is_python(source):  # what is no parameter is not looked at more closely
        assert check_parameters(path, asked) == asked
        return
    with pytest.raises(ValueError, match='toy.ipynb') as error:
        check_parameters(path, asked)
    assert len(str(error.value).splitlines()) == 1


def test_default_values_pass(outputs):
    assert check_parameters('train_forecast', {}, there=True)['stage'] == 1
