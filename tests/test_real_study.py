"""The study on real datasets, by the command: eight miniature trees in their official layouts,
one description, tables whose columns are those datasets"""

import json, math, os, re
import pytest
from miniatures import ROLES, WRITERS, describe, write_all
from forehand4d.baselines.data_survey import PUBLISHED
from forehand4d.cli import main
from forehand4d.core.files import read_json
from forehand4d.runs.parameters import check_parameters
from forehand4d.runs.profiles import profile as get_profile
from forehand4d.study.costs import asking_cost, training_cost
from forehand4d.study.plan import study
from forehand4d.study.roles import read_roles

PLACES = ('FOREHAND4D_OUTPUTS', 'FOREHAND4D_DATA', 'FOREHAND4D_MANO')
STEPS = (
    'impute_labels/labels',
    'evaluate_forecast/static-hamer',
    'table1_lifting',
    'table3_forecasting',
    'figure8_error_over_time',
    'claims',
)  # with what they need: the check, all clips, two trainings
SHORT = ROLES | {'wild': ('holoassist',), 'test.lab': ('h2o',)}  # all trees; a kernel a split


@pytest.fixture(scope='module')
def trees(tmp_path_factory):
    "The description beside its trees; outputs of this file lie beside them, too"
    folder = tmp_path_factory.mktemp('real')
    before = {name: os.environ.pop(name, None) for name in PLACES}
    os.environ['FOREHAND4D_OUTPUTS'] = str(folder / 'outputs')
    yield write_all(folder / 'trees')
    del os.environ['FOREHAND4D_OUTPUTS']
    os.environ.update({name: value for name, value in before.items() if value})


def paper(capsys, *words):
    "Exit code and what the command prints"
    code = main(['paper', '--profile', 'tiny', *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


@pytest.mark.parametrize(
    'old, new, expected',
    [
        ('root = "h2o3d"', 'root = "h2o3"', 'h2o3d:train: h2o3d: expected the folder'),
        ('root = "egoexo4d"', 'root = "dexycb"', 'egoexo4d: expected takes.json in'),
        ('root = "holoassist"', 'root = "holoassist"\nsplit = "val"', 'expected val-v1_2.txt'),
        ('[[test.wild]]', 'split = "test"\n[[test.wild]]', 'hot3d publishes no labels of its'),
        ('mano = "mano"', 'mano = "nowhere"', 'MANO_RIGHT.pkl and MANO_LEFT.pkl are looked for'),
        ('[[test.zero]]', '[[test.wild]]', 'column (wild) may hold assemblyhands'),
        ('standin = true', 'standing = true', "no key 'standing'; did you mean 'standin'?"),
        ('name = "holoassist"', 'name = "holoasist"', "did you mean 'holoassist'?"),
    ],
)
def test_one_error_before_anything_is_done(trees, capsys, old, new, expected):
    path = trees.with_name('wrong.toml')
    path.write_text(trees.read_text().replace(old, new, 1))
    code, text = paper(capsys, '--data', path)
    assert (code, len(text.splitlines())) == (2, 1) and expected in text, text
    study = trees.parent.parent / 'outputs/studies/wrong'
    assert not study.exists() or [file.name for file in study.iterdir()] == ['study.json']


def test_a_role_that_is_left_out(trees, capsys):
    "It is missed by the steps that need it, and by no others"
    path = describe(trees.with_name('fewer.toml'), ROLES | {'wild': (), 'test.zero': ()})
    code, text = paper(capsys, '--data', path)
    assert code == 2 and '[[wild]] is empty; [[test.zero]] is empty' in text, text
    assert paper(capsys, '--data', path, '--dry-run', '--only', 'train_lifting/lift')[0] == 0


def test_steps_ask_for_what_notebooks_take(trees):
    data = read_roles(trees)
    steps = study('paper', data=data)
    for step in steps:
        check_parameters(step.notebook, step.params)
    named = {value for step in steps for value in step.params.values()}
    assert data.mixture('lab') in named and data.mixture('test') in named
    assert not named & {'lab', 'wild', 'lab+wild+zero'}  # domains of HandWorld


def listed(text, key):
    "Numbers of a step in the list of a dry run: GPU and core hours, clips a second, memory, disk"
    line = next(line for line in text.splitlines() if line.startswith(f'{key} '))
    return [float(cell.replace(',', '').replace('–', 'nan')) for cell in line.split()[-5:]]


def test_costs_of_a_dry_run(trees, capsys):
    "Imputation as the arithmetic has it; what cannot be counted is named"
    words = ['--profile', 'paper', '--data', str(trees), '--dry-run', '--only']
    assert main(['paper', *words, 'impute_labels/labels', 'evaluate_lifting/lift']) == 0
    text = capsys.readouterr().out
    size = get_profile('paper')
    clips = round(PUBLISHED['assemblyhands'] / 256) + round(PUBLISHED['holoassist'] / 256)
    cost = asking_cost('impute_labels', {}, size, clips)
    expected = [cost.hours, cost.fits, cost.speed, cost.memory, cost.disk]
    assert listed(text, 'impute_labels/labels') == pytest.approx(expected, rel=0.01, abs=0.006)
    training = training_cost('train_lifting', {}, size)
    total = float(text.split('left to do: ')[1].split(' hours')[0].replace(',', ''))
    assert total == pytest.approx(cost.hours + training.hours, rel=1e-3)
    assert f'Core hours are of fits, {cost.fits:,.2f} in all, as measured on one core' in text
    assert 'as the number of clips is not known: evaluate_lifting/lift.' in text  # of Ego-Exo4D


def test_profile_paper_needs_data(capsys):
    assert main(['paper', '--profile', 'paper']) == 2
    assert 'forehand4d paper --write-data my-data.toml' in capsys.readouterr().err


def test_selected_steps(trees, capsys, monkeypatch):
    "From downloads to tables: datasets and splits above the columns, the truth below them"
    describe(trees.with_name('short.toml'), SHORT)
    monkeypatch.chdir(trees.parent)
    code, text = paper(capsys, '--data', 'short.toml', '--only', *STEPS)
    assert code == 0, text[-3000:]
    outputs = trees.parent.parent / 'outputs'
    assert {folder.name for folder in (outputs / 'data').iterdir()} == {*WRITERS}  # no HandWorld
    study = outputs / 'studies/short'
    for file in study.glob('*/*/manifest.json'):
        manifest = json.loads(file.read_text())
        has_nothing = file.parts[-3] == 'table1_lifting'  # none of its rows was run
        assert manifest['status'] == 'done' or has_nothing, file
        for split, facts in manifest['splits'].items():
            assert {*split.split('/')} & {*WRITERS}, (file, split)
            assert facts.get('role') != 'tested' or facts['clips'] <= facts['of']

    table = (study / 'paper/table3_forecasting-tiny.md').read_text()
    head = table.splitlines()[2]
    for column in ('h2o:test', 'assemblyhands:val', 'egoexo4d:val'):
        assert f'| {column} M |' in head, head
    assert 'made-up files' in table and '[made up' in table
    assert 'Windows are our own' in table and 'h2o: test here, val there' in table
    assert 'HandWorld (synthetic)' not in table and 'procedural' not in table
    hint = 'forehand4d paper --profile tiny --data short.toml --only evaluate_forecast/main'
    assert f'not run: `{hint}`' in table
    assert 'Left out, as these data do not have what is needed: ForeHand4D, 3D + true' in table
    assert (study / 'paper/figure8_error_over_time-tiny.png').is_file()
    assert 'numbers mean nothing' in (study / 'paper/claims-tiny.md').read_text()

    code, text = paper(capsys, '--data', 'short.toml', '--only', *STEPS[:2])
    assert code == 0 and text.count('as before') == text.count(' elapsed, about'), text

    # the clips are there by now, so that all evaluations are counted
    code, text = paper(
        capsys, '--data', 'short.toml', '--dry-run', '--only', 'evaluate_lifting/lift'
    )
    assert code == 0 and 'is not known' not in text
    assert not any(math.isnan(number) for number in listed(text, 'evaluate_lifting/lift'))


def test_whole_study(trees, capsys, monkeypatch):
    "Every step, from where the selection stopped: all tables and figures, and no row is missing"
    path = describe(trees.with_name('short.toml'), SHORT)
    monkeypatch.chdir(trees.parent)
    code, text = paper(capsys, '--data', 'short.toml')
    assert code == 0, text[-3000:]
    steps = study('tiny', data=read_roles(path))
    assert {len(steps)} == {*map(int, re.findall(r'^\d+/(\d+) ', text, re.MULTILINE))}
    outputs = trees.parent.parent / 'outputs/studies/short'
    for step in steps:
        runs = [read_json(file) for file in outputs.glob(f'{step.notebook}/*/manifest.json')]
        done = [run for run in runs if step.name in (None, run['run']) and run['status'] == 'done']
        assert done, step.key
    shown = outputs / 'paper'
    for number in (1, 2, 3, 4, 5, 7):
        (table,) = shown.glob(f'table{number}_*-tiny.md')
        assert 'not run' not in table.read_text(), table
    for number in range(1, 9):
        assert len([*shown.glob(f'figure{number}_*-tiny.png')]) == 1, number
    assert 'not run' not in (shown / 'claims-tiny.md').read_text()
