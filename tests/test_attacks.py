"""Names, links, pickles and paths that somebody chose to do harm:
one line of an error, nothing run, nothing written elsewhere, nothing sent to the terminal"""

import json, os, pickle
import numpy as np
import pytest
import torch
from PIL import Image
from test_cases import refused
from test_runs import toy
from fuzz.targets import clip_store, run_record, still
from forehand4d.cli import main
from forehand4d.catalogue import open_dataset
from forehand4d.core.checks import read_arrays
from forehand4d.core.pickles import read_pickle
from forehand4d.data.clip_store import ClipStore
from forehand4d.datasets.sequences import read_npy, read_split
from forehand4d.geometry.hand_models import load_hand
from forehand4d.models.lifting import load_lifter
from forehand4d.networks.pretrained import read_state
from forehand4d.released.checkpoints import load_official
from forehand4d.runs.record import find_run, list_runs
from forehand4d.training.loop import TrainConfig  # noqa: F401, loads what trains
from forehand4d.training.weights import read_state as continue_from
from forehand4d.video.footage import film_sequence
from forehand4d.video.tracks import load_tracks


@pytest.fixture
def place(tmp_path, monkeypatch):
    "A working directory with a photograph, a pipe and a dead link; everything else is around it"
    here = tmp_path / 'here'
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv('FOREHAND4D_OUTPUTS', str(tmp_path / 'outputs'))
    monkeypatch.setenv('FOREHAND4D_DATA', str(tmp_path / 'data'))
    Image.new('RGB', (64, 48)).save(here / 'photo.jpg')
    os.mkfifo(here / 'pipe.jpg')
    (here / 'dead').symlink_to(tmp_path / 'nowhere')
    return here


def state_of(folder):
    "All that lies in a folder, with sizes"
    return {path: path.lstat().st_size for path in folder.rglob('*') if not path.is_dir()}


def refuses(place, capsys, *words):
    "Exit code 2, one printable line; nothing was written anywhere"
    before = state_of(place.parent)
    try:
        code = main([str(word) for word in words])
    except SystemExit as stopped:
        code = stopped.code
    said = capsys.readouterr()
    text = said.out + said.err
    assert code == 2, f'{words} ended with {code}: {text}'
    assert all(letter.isprintable() or letter == '\n' for letter in text), repr(text)
    assert 'Traceback' not in text and '[Errno' not in text, text
    assert state_of(place.parent) == before, words
    return said.err


OUTPUTS = ['photo.jpg', 'pipe.jpg', 'dead', 'photo.jpg/in', 'pipe.jpg/in', '/dev/null']
OUTPUTS += ['x' * 300, 'a\x1b[31m\0', '/dev/stdin/x']


@pytest.mark.parametrize('out', OUTPUTS, ids=lambda out: repr(out[:20]))
def test_outputs(place, capsys, out):
    refuses(place, capsys, 'forecast', 'photo.jpg', '-o', out, '--no-detector', '--format', 'png')


BAD = ['../../x', '/nowhere/x', 'a\x1b[31mred', 'x' * 5000, 'pipe.jpg', 'dead', '~x', 'a\0b']
COMMANDS = {
    'photograph': ['forecast', '{}', '-o', 'out'],
    'moment': ['forecast', '{}', '--at', '1', '-o', 'out'],
    'track': ['track', '{}'],
    'hands': ['track', 'photo.jpg', '--hands', '{}'],
    'cameras': ['lift', 'photo.jpg', '--cameras', '{}'],
    'notebook': ['run', '{}'],
    'parameters': ['parameters', '{}'],
    'remove': ['runs', '--remove', '{}', '--yes'],
    'official': ['import-official', '{}', 'out'],
    'check': ['check-data', 'arctic', '{}'],
    'dataset': ['data prepare', '-p', 'dataset={}'],
    'root': ['data prepare', '-p', 'dataset=arctic', '-p', 'root={}'],
    'download': ['check-data', 'arctic', '{}'],
    'weights': ['forecast', 'photo.jpg', '-o', 'out', '--weights', '{}'],
    'start': ['train', '--init', '{}'],
    'clips': ['train', '--add', '{}'],
    'video': ['run', 'lift_video', '-p', 'video={}'],
    'command': ['{}'],
}


NO_PHOTOGRAPHS = 'root', 'download', 'weights', 'start', 'clips'


@pytest.mark.parametrize('command', COMMANDS)
def test_names_in_commands(place, capsys, command):
    for bad in [*BAD, 'photo.jpg'] if command in NO_PHOTOGRAPHS else BAD:
        words = [word.format(bad) for word in COMMANDS[command]]
        refuses(place, capsys, *words)


LEGAL = 'pipe.jpg', 'dead'
ILLEGAL = [*(bad for bad in BAD if bad not in LEGAL), 'a' + '日' * 90]


@pytest.mark.parametrize('name', ILLEGAL)
def test_names_of_runs(place, capsys, name):
    refuses(place, capsys, 'run', 'prepare_data', '--name', name, '-p', 'smoke=true')


@pytest.mark.parametrize('name', [*LEGAL, 'a-été1_.lock', 'a' * 100, 'run.ipynb'])
def test_odd_names_that_are_allowed(place, name):
    "They are names of folders in outputs, whatever lies here"
    before = state_of(place)
    notebook = toy(place.parent / 'notebooks')
    assert main(['run', str(notebook), '--name', name]) == 0
    assert find_run('toy', name).metrics == dict(steps=3)
    assert state_of(place) == before


class Evil:
    "Makes a folder when it is unpickled"

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def saved_object(path, evil):
    np.save(path, np.array([evil], dtype=object), allow_pickle=True)


LOADERS = {
    'a.pkl': (read_pickle, lambda path, evil: path.write_bytes(pickle.dumps(evil))),
    'split.pkl': (read_split, lambda path, evil: path.write_bytes(pickle.dumps([evil]))),
    'MANO_LEFT.pkl': (
        lambda path: load_hand(path, 'left'),
        lambda path, evil: path.write_bytes(pickle.dumps(dict(f=evil))),
    ),
    'a.npy': (read_npy, saved_object),
    'a.npz': (
        lambda path: read_arrays(path, 'table'),
        lambda path, evil: np.savez(path, a=np.array([evil], dtype=object)),
    ),
    'tracks.npz': (load_tracks, lambda path, evil: np.savez(path, keypoints=np.array([evil]))),
    'a.ckpt': (read_state, lambda path, evil: torch.save(dict(state_dict=evil), path)),
    'old.ckpt': (
        read_state,
        lambda path, evil: torch.save([evil], path, _use_new_zipfile_serialization=False),
    ),
    'raw.ckpt': (read_state, lambda path, evil: path.write_bytes(pickle.dumps(evil))),
    'official.ckpt': (load_official, lambda path, evil: torch.save(dict(x=evil), path)),
    'state.pt': (
        lambda path: continue_from(path, torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)),
        lambda path, evil: torch.save(dict(model=evil), path),
    ),
    'model.safetensors': (load_lifter, lambda path, evil: torch.save(evil, path)),
}


@pytest.mark.parametrize('name', LOADERS)
def test_code_in_pickles(tmp_path, name):
    load, save = LOADERS[name]
    save(tmp_path / name, Evil(tmp_path / 'owned'))
    refused(name, load, tmp_path / name)
    assert not (tmp_path / 'owned').exists()


def test_code_in_hands_of_a_detector(tmp_path):
    still(tmp_path)
    (tmp_path / 'hands').mkdir()
    for i in range(4):
        evil = pickle.dumps(dict(right=Evil(tmp_path / 'owned')))
        (tmp_path / 'hands' / f'{i:04d}.pkl').write_bytes(evil)
    refused('hands', film_sequence, tmp_path / 'pictures', tmp_path / 'hands')
    assert not (tmp_path / 'owned').exists()


ELSEWHERE = ['../secret.arrow', '/etc/passwd', 'a/b.arrow', '..', '', 'a\x1b[0m']


@pytest.mark.parametrize('name', ELSEWHERE)
def test_shards_elsewhere(tmp_path, name):
    store = clip_store(tmp_path)
    path = store / 'manifest.json'
    manifest = json.loads(path.read_text())
    manifest['shards'][0]['file'] = name
    path.write_text(json.dumps(manifest))
    refused('store', lambda: ClipStore(store)[0])


@pytest.mark.parametrize(
    'change',
    [
        dict(run='../x'),
        dict(notebook='a\x1b[31m'),
        dict(artifacts={'../../x.png': 'hash'}),
        dict(artifacts={'/etc/passwd': 'hash'}),
        dict(inputs={'a': 3}),
        dict(started='yesterday'),
        dict(started='2026-01-01T00:00:00'),
        dict(schema=99),
        dict(duration=-1),
    ],
    ids=str,
)
def test_records_with_odd_names(tmp_path, change):
    path = run_record(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.warns(UserWarning, match='left out: .*manifest.json'):
        assert [run.name for run in list_runs('train', tmp_path)] == ['b']


def test_a_record_cannot_move_the_cursor(place, capsys):
    path = run_record(place.parent / 'outputs')
    odd = dict(metrics={'a\x1b[31m': 1.0}, error='x\x1b]0;y\x07', status='failed')
    path.write_text(json.dumps(json.loads(path.read_text()) | odd))
    assert main(['runs']) == 0
    assert '\x1b' not in capsys.readouterr().out


def test_a_home_of_nobody(place, capsys):
    refuses(place, capsys, 'data prepare', '-p', 'dataset=arctic', '-p', 'root=~nobody-x/here')


@pytest.mark.parametrize('name', ['../../etc', '/etc', 'a/../b', 'x' * 5000, 'a\0b', 'a\x1b[31m'])
def test_names_of_datasets(place, name):
    with pytest.raises((ValueError, OSError)) as error:
        open_dataset(name)
    assert str(error.value).isprintable()
