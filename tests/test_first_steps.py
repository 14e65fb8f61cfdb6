"""What a newcomer waits for: what only answers imports nothing heavy, a forecast only its own"""

import json, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FAULTS = {  # what held a newcomer up → tests that hold it now
    'a command imports more than it needs': 'test_first_steps::test_answers_import_nothing_heavy',
    'diffusers': 'test_first_steps::test_a_forecast_imports_no_more_than_it_needs',
    'a missing file is answered late': 'test_first_steps::test_answers_import_nothing_heavy',
    'files, folders, patterns': 'test_own_input::test_files_folders_patterns',
    'help without examples': 'test_own_input::test_every_help_has_an_example',
    'formats that there are not': 'test_exports::test_formats_are_checked_first',
    'every format of a photograph': 'test_exports::test_every_format_of_a_photograph',
    'stage 7, difusion, cpuu': 'test_values::test_refused_before_a_kernel_starts',
    'a name of nothing costs a kernel': 'test_values::test_what_is_named_is_looked_for_first',
    'clips without labels': 'test_values::test_clips_without_labels_say_so',
    'a file that explains nothing': 'test_exports::test_npz_explains_itself',
    'a page that says otherwise': 'test_exports::test_the_page_and_the_schema_agree',
    'MANO parameters that smplx reads': 'test_exports::test_smplx',
    'glb': 'test_exports::test_glb_shows_our_vertices',
    'bvh': 'test_exports::test_bvh',
    'LeRobot': 'test_exports::test_lerobot',
    'Rerun': 'test_exports::test_rerun',
    'a page in a browser': 'test_viewer::test_what_is_seen',
    'the next command': 'test_first_steps::test_each_of_three_commands_ends_with_the_next',
    'files of HaMeR': 'test_own_input::test_hamer',
    'files of WiLoR': 'test_own_input::test_wilor',
    "COLMAP's text and its folders": 'test_other_tools::test_cameras_of_other_tools',
    "COLMAP's binary models": 'test_colmap::test_a_binary_model_projects_as_opencv',
    'camera_angle_y': 'test_colmap::test_focal_lengths_or_angles',
    'files of nerfstudio': 'test_colmap::test_what_nerfstudio_writes',
    'the page serves this machine': 'test_app::test_only_this_machine_is_served',
    'the page and a photograph': 'test_app::test_a_photograph_is_answered',
    'the page and a video': 'test_app::test_a_video_is_answered_as_the_command_does',
    'curves of a training': 'test_watching::test_tensorboard_reads_it',
    'settings of a training': 'test_watching::test_configuration_as_yaml',
    'licensed data is shared': 'test_share::test_recorded_data_is_never_exported',
    'a wheel without notebooks': 'test_wheel::test_run_finds_the_notebooks_of_the_wheel',
    'exact versions in a wheel': 'test_wheel::test_the_wheel_asks_for_ranges',
    'a demo outside a clone': 'test_first_steps::test_a_demo_outside_a_clone_says_so_once',
    'states of runs': 'test_values::test_states',
    'runs are listed and removed': 'test_values::test_runs_are_listed_and_removed',
    'an output replaces its input': 'test_cases::test_results_never_replace_what_is_not_theirs',
    'an export replaces files of others': 'test_exports::test_files_of_others_stay',
    'a page of many megabytes': 'test_first_steps::test_a_page_is_small',
    'name=value without a hint': 'test_first_steps::test_name_equals_value_has_its_hints',
    "a dataset of one's own": 'test_first_steps::test_new_dataset_begins_an_adapter',
    'a training without a bar': 'test_first_steps::test_bars_tell_rate_and_remaining_time',
    'no model card': 'test_share::test_a_model_is_pushed_with_its_card',
    'Python 3.11 to 3.14': 'test_first_steps::test_versions_of_python',
}


@pytest.mark.parametrize('fault', FAULTS)
def test_every_fault_has_a_test(fault):
    module, name = FAULTS[fault].split('::')
    assert f'def {name}(' in (ROOT / 'tests' / f'{module}.py').read_text()


HEAVY = {
    'torch',
    'scipy',
    'pandas',
    'matplotlib',
    'cv2',
    'mediapipe',
    'papermill',
    'transformers',
    'diffusers',
    'datasets',
}
NEVER_IN_A_FORECAST = {
    'torch._dynamo',  # the compiler: three seconds, and all optimisers of torch bring it
    'scipy',
    'pandas',
    'transformers',
    'diffusers',
    'datasets',
    'papermill',
    'trimesh',
    'plotly',
}
SHOW = "import json, sys; print('MODULES', json.dumps(sorted(sys.modules)))"


def modules_after(code, folder):
    "Modules that a program has imported at its end, and what it said"
    command = [sys.executable, '-c', f'{code}\n{SHOW}']
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert 'MODULES' in done.stdout, done.stderr
    return set(json.loads(done.stdout.rpartition('MODULES ')[2])), done.stdout + done.stderr


@pytest.mark.parametrize(
    ('words', 'answer'),
    [
        (['--help'], 'forecast'),
        (['forecast', '--help'], '--viewer'),
        (['forecast', 'nothing.jpg'], 'no image at nothing.jpg: check the name'),
        (['forecast', '.', '--format', 'pgn'], 'did you mean png?'),
        (['forecast', '.', '--samples', '1000000000'], 'expected at most 1000 samples'),
        (['forecast', '.', '--seed', str(2**70)], 'expected a seed of 64 bits'),
        (['run', 'train_lifting', '-p', 'steps', str(2**70)], 'a whole number of 64 bits'),
        (['runs'], 'no runs in'),
        (['track', 'nothing.mp4'], 'nothing at nothing.mp4: check the name'),
        (['lift', 'nothing.mp4'], 'nothing at nothing.mp4: check the name'),
        (['forcast', 'a.jpg'], 'did you mean forecast?'),
        (['run', 'train_forcast'], 'did you mean'),
    ],
    ids=str,
)
def test_answers_import_nothing_heavy(words, answer, tmp_path, monkeypatch):
    monkeypatch.setenv('FOREHAND4D_OUTPUTS', str(tmp_path / 'outputs'))
    code = f"""
from forehand4d.cli import main
try:
    main({words!r})
except SystemExit:
    pass"""
    found, said = modules_after(code, tmp_path)
    assert answer in said
    assert not HEAVY & found


def test_a_forecast_imports_no_more_than_it_needs(tmp_path):
    "The fit of the present is where torch's compiler came in"
    code = """
import torch
import forehand4d.models.photo
from forehand4d.fitting.search import search_hands
from forehand4d.models.forecasting import load_forecaster
load_forecaster()
seen = torch.zeros(1, 2, 21, 2), torch.ones(1, 2, 21), torch.eye(4)[None]
search_hands(*seen, steps=1)"""
    found, _ = modules_after(code, tmp_path)
    assert 'torch' in found
    assert not NEVER_IN_A_FORECAST & found


def test_rerun_is_asked_for_before_anything_is_computed(tmp_path, monkeypatch, capsys):
    from forehand4d import cli

    (tmp_path / 'photo.jpg').touch()
    monkeypatch.setattr(cli, 'find_spec', lambda name: None)
    for asked in (['--viewer', 'rerun'], ['--format', 'rrd']):
        assert cli.main(['forecast', str(tmp_path / 'photo.jpg'), *asked]) == 2
        assert 'pip install "forehand4d[rerun]"' in capsys.readouterr().err


class Made:
    "A run that is done"

    name = 'my-video'


@pytest.mark.parametrize(
    ('words', 'then'),
    [
        (['track', 'my-video.mp4'], 'forehand4d lift my-video.mp4'),
        (['lift', 'my-video.mp4'], 'forehand4d train --add my-video'),
        (['train', '--add', 'my-video'], 'forehand4d forecast photo.jpg --weights my-video'),
    ],
    ids=str,
)
def test_each_of_three_commands_ends_with_the_next(words, then, tmp_path, monkeypatch, capsys):
    from forehand4d import cli, cli_video

    monkeypatch.setenv('FOREHAND4D_OUTPUTS', str(tmp_path / 'outputs'))
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'my-video.mp4').touch()
    monkeypatch.setattr(cli_video, 'run_and_report', lambda *a: Made())
    monkeypatch.setattr(cli_video, 'shown_files', lambda run: [])
    assert cli.main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f'next: {then}'


@pytest.mark.parametrize('name', ['tpu', 'cuda:99', 'meta'])
def test_a_device_that_is_not_there(name, tmp_path, capsys):
    from PIL import Image
    from forehand4d import cli

    Image.new('RGB', (64, 48)).save(tmp_path / 'photo.png')
    asked = ['forecast', str(tmp_path / 'photo.png'), '-o', str(tmp_path / 'out'), '--device', name]
    assert cli.main([*asked, '--no-detector']) == 2
    said = capsys.readouterr().err
    assert f"forehand4d: no device '{name}' on this machine; there is cpu" in said
    assert len(said.splitlines()) == 1


def test_track_takes_the_number_of_the_first_frame(tmp_path, monkeypatch):
    "As the error about files of other frames advises"
    from forehand4d import cli, cli_video

    (tmp_path / 'my-video.mp4').touch()
    asked = []

    def run(notebook, parameters, name):
        asked.append((notebook, parameters['first']))
        return Made()

    monkeypatch.setattr(cli_video, 'run_and_report', run)
    monkeypatch.setattr(cli_video, 'shown_files', lambda run: [])
    for words in ([], ['--first', '1']):
        assert cli.main(['track', str(tmp_path / 'my-video.mp4'), *words]) == 0
    assert asked == [('prepare_keypoints', 0), ('prepare_keypoints', 1)]


def test_lift_checks_its_own_options_before_it_tracks(tmp_path, monkeypatch, capsys):
    from forehand4d import cli, cli_video

    (tmp_path / 'my-video.mp4').touch()
    monkeypatch.setattr(cli_video, 'run_and_report', None)  # nothing is run
    assert cli.main(['lift', str(tmp_path / 'my-video.mp4'), '--iterations', '-3']) == 2
    assert 'parameter iterations: expected' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['', ' '])
def test_clips_without_a_name_are_not_left_out_in_silence(name, monkeypatch, capsys):
    from forehand4d import cli, cli_video

    monkeypatch.setattr(cli_video, 'run_and_report', None)  # nothing is run
    assert cli.main(['train', '--add', name]) == 2
    assert '--add needs a name' in capsys.readouterr().err


def test_a_demo_outside_a_clone_says_so_once(monkeypatch, capsys):
    from forehand4d.study import plan

    def fail(*words, **options):
        raise ValueError('not now')

    monkeypatch.setattr(plan, 'in_clone', lambda: False)
    monkeypatch.setattr(plan, 'run_notebook', fail)
    steps = plan.study('tiny')[:3]
    runs, failed = plan.run_steps(steps)
    assert (runs, len(failed)) == ([], 3)
    assert capsys.readouterr().err.count('no clone of the repository here') == 1


def test_a_project_has_what_people_look_for():
    names = ('CONTRIBUTING.md', 'CHANGELOG.md', 'LICENSE', 'CITATION.cff')
    assert all((ROOT / name).is_file() for name in names)
    assert list((ROOT / '.github' / 'ISSUE_TEMPLATE').glob('*.md'))
    assert 'colab-badge.svg' in (ROOT / 'nbs' / 'forecast_image.ipynb').read_text()


def test_versions_of_python():
    "Three files say the same, and CI installs the wheel under each"
    import configparser
    import tomllib

    import yaml
    from packaging.specifiers import SpecifierSet

    versions = ['3.11', '3.12', '3.13', '3.14']
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    asked = SpecifierSet(project['requires-python'])
    assert all(f'{version}.0' in asked for version in versions) and '3.10.9' not in asked
    ci = yaml.safe_load((ROOT / '.github' / 'workflows' / 'ci.yml').read_text())
    assert ci['jobs']['wheel']['strategy']['matrix']['python-version'] == versions
    settings = configparser.ConfigParser(delimiters=['='], interpolation=None)
    settings.read(ROOT / 'settings.ini')
    assert settings['DEFAULT']['min_python'] == versions[0]


def test_new_dataset_begins_an_adapter(tmp_path, monkeypatch, capsys):
    "The notebook is there, bears the name, and its cells make clips of made-up files"
    import nbformat

    from forehand4d import cli

    monkeypatch.setattr(cli, 'project_root', lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main(['new-dataset', 'kitchen']) == 2
    assert 'adapters are written in a clone' in capsys.readouterr().err
    folder = tmp_path / 'nbs' / 'library' / '4_datasets'
    folder.mkdir(parents=True)
    for wrong in ('Kitchen', '../kitchen', 'arctic', 'a+b', 'import', 'windows', ''):
        assert cli.main(['new-dataset', wrong]) == 2
        assert f'got {wrong!r}' in capsys.readouterr().err
    assert not list(folder.iterdir())
    assert cli.main(['new-dataset', 'kitchen']) == 0
    first, *said = capsys.readouterr().out.splitlines()
    assert 'forehand4d check-data kitchen DOWNLOAD' in said[-1]
    notebook = nbformat.read(tmp_path / first, 4)
    nbformat.validate(notebook)
    sources = [cell.source for cell in notebook.cells if cell.cell_type == 'code']
    assert '#| default_exp datasets.kitchen' in sources
    assert 'mydataset' not in ''.join(sources).lower()
    names = {}
    for source in sources:
        exec(source, names)  # its lessons are its tests
    assert callable(names['sequences'])


PAGE = 1.5e6  # bytes, of a photograph
FIELDS = ('rot', 'wrist', 'betas', 'valid')  # of a motion


def test_a_page_is_small(tmp_path):
    "Five futures of the default length in front of a large photograph, which compresses badly"
    import numpy as np
    import torch
    from PIL import Image

    from forehand4d.datasets.sequences import toy_sequence
    from forehand4d.geometry.cameras import intrinsics_from_fov
    from forehand4d.geometry.motion import HandMotion
    from forehand4d.models.forecast import Forecast
    from forehand4d.models.forecasting import load_forecaster

    frames = load_forecaster().model.cfg.frames
    noise = np.random.default_rng(0).integers(0, 255, (750, 1000, 3), np.uint8)
    photo = Image.fromarray(noise).resize((4000, 3000), Image.BICUBIC)
    futures = [toy_sequence(frames, seed=seed).motion for seed in range(5)]
    numbers = (torch.stack([getattr(one, name) for one in futures]) for name in FIELDS)
    forecast = Forecast(
        HandMotion(*numbers, futures[0].hand_id),
        intrinsics_from_fov(60.0, *photo.size),
        fps=30.0,
        image=np.asarray(photo),
        seen=torch.tensor([True, True]),
    )
    page = forecast.to_html(tmp_path / 'a.html')
    assert 1e5 < page.stat().st_size < PAGE


@pytest.mark.parametrize(
    ('setting', 'hint'),
    [
        ('stpes=3', "did you mean 'steps'?"),
        ('profile=cpuu', "did you mean 'cpu'?"),
        ('datasets=lab+wilt', "did you mean 'wild'?"),
        ('init=user=name', 'user=name'),
    ],
)
def test_name_equals_value_has_its_hints(setting, hint, capsys):
    "As with a space between them"
    from forehand4d.cli import main

    errors = []
    for words in ([setting], setting.split('=', 1)):
        assert main(['run', 'train_forecast', '-p', *words]) == 2
        errors.append(capsys.readouterr().err)
    assert errors[0] == errors[1] and hint in errors[0], errors


def test_bars_tell_rate_and_remaining_time(monkeypatch):
    "Of a training that goes on at step 40 of 100"
    import io

    from forehand4d.core.compute import progress

    monkeypatch.delenv('IN_TEST', raising=False)
    out = io.StringIO()
    steps = progress(range(60), 'training', total=100, initial=40, file=out, mininterval=0)
    for _, _ in zip(range(30), steps, strict=False):
        pass
    last = out.getvalue().split('\r')[-1]
    assert last.startswith('training:') and '/100 [' in last
    elapsed, remaining = last.partition('[')[2].partition(',')[0].split('<')
    assert ':' in elapsed and ':' in remaining and ('it/s' in last or 's/it' in last)
    monkeypatch.setenv('IN_TEST', '1')
    assert progress(range(3)).disable
