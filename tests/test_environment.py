"Full disks, few descriptors, places that cannot be written, two at once: nothing is lost"

import errno
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
import pytest
import torch
from PIL import Image
from campaign.kill import BUSY, differences, environment, small_steps, start
from campaign.small import clip, store, tiny_lifter, training
from forehand4d.cli import main
from forehand4d.core.files import read_json, write_json
from forehand4d.data.clip_store import ClipStore, write_clips
from forehand4d.video.images import load_image
from forehand4d.video.tracks import Tracks, load_tracks
from forehand4d.models.forecaster import build_forecaster
from forehand4d.geometry.hand_models import load_hand
from forehand4d.runs.launch import run_notebook
from forehand4d.models.lifting import load_lifter
from forehand4d.geometry.motion import load_motion, rest_motion
from forehand4d.core.pickles import read_pickle
from forehand4d.runs.profiles import profile
from forehand4d.runs.record import list_runs, start_run
from forehand4d.training.weights import save_weights


# ---- what is written


def big(n):
    return torch.rand(n, 2, 21, 2, generator=torch.Generator().manual_seed(0))


def write_tracks(path, n=2000):
    there = torch.ones(n, 2, 21, dtype=torch.bool)
    Tracks(big(n), there, torch.ones(n, 2), 30.0, (64, 48)).save(path)


def write_motion(path, n=3000):
    motion = rest_motion(n)
    motion.wrist.normal_(generator=torch.Generator().manual_seed(0))
    motion.rot.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    motion.save(path)


def write_weights(path, n=1):
    save_weights(build_forecaster(profile('tiny')) if n else tiny_lifter(), path)


def write_numbers(path, n=100_000):
    write_json(path, dict(numbers=list(range(n))))


def write_store(path, n=100):
    write_clips((clip(i) for i in range(n)), path)


WRITERS = [
    (write_tracks, 'tracks.npz'),
    (write_motion, 'motion.npz'),
    (write_weights, 'model.safetensors'),
    (write_numbers, 'numbers.json'),
]
names = [name for _, name in WRITERS]


def hidden(folder):
    return [p.name for p in Path(folder).rglob('.*') if '.tmp' in p.name]


@contextmanager
def mounted(folder, options):
    "A file system of its own, where this process may mount one"
    folder.mkdir(exist_ok=True)
    how = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(folder)]
    try:
        done = subprocess.run(how, capture_output=True)
    except FileNotFoundError:
        pytest.skip('no mount command')
    if done.returncode:
        pytest.skip('may not mount a file system')
    try:
        yield folder
    finally:
        subprocess.run(['umount', '-l', str(folder)], check=True)


# ---- full disk


@pytest.fixture
def small_disk(tmp_path):
    "A disk of 300 kB"
    with mounted(tmp_path / 'disk', 'size=300k') as folder:
        yield folder


def refused_by_the_disk(path, write, *args):
    "The error names the file and what to do"
    with pytest.raises(OSError) as e:
        write(path, *args)
    assert e.value.errno == errno.ENOSPC and path.name in str(e.value), e.value
    assert 'free some space and run again' in str(e.value)
    return str(e.value)


@pytest.mark.parametrize('write, name', WRITERS, ids=names)
def test_full_disk(write, name, small_disk):
    "The version before stays; with nothing there before, nothing remains"
    said = refused_by_the_disk(small_disk / name, write)
    assert 'nothing was left behind' in said and os.listdir(small_disk) == []
    write(small_disk / name, 0 if write is write_weights else 1)
    whole = (small_disk / name).read_bytes()
    assert 'previous version is intact' in refused_by_the_disk(small_disk / name, write)
    assert os.listdir(small_disk) == [name] and (small_disk / name).read_bytes() == whole


def test_full_disk_while_a_store_is_written(small_disk):
    "What is there is no store, and the same command goes on once there is room"
    with pytest.raises(OSError, match='free some space') as e:
        write_store(small_disk / 'store')
    assert 'clips-' in str(e.value) and not hidden(small_disk)
    with pytest.raises(FileNotFoundError, match='not a clip store'):
        ClipStore(small_disk / 'store')
    write_store(small_disk / 'store', 3)
    assert len(ClipStore(small_disk / 'store')) == 3


def test_full_disk_while_training(tmp_path, outputs, monkeypatch):
    "The training goes on from its last checkpoint, and ends as if nothing had happened"
    training(outputs / 'training')
    with mounted(tmp_path / 'disk', 'size=2m') as disk:
        monkeypatch.setenv('FOREHAND4D_OUTPUTS', str(disk))
        store(disk / 'training' / 'data', 6)
        filler = disk / 'filler'
        filler.write_bytes(bytes(os.statvfs(disk).f_bavail * 4096 - 40_000))
        with pytest.raises(OSError, match='free some space') as e:
            training(disk / 'training')
        assert str(disk / 'training' / 'toy') in str(e.value) and not hidden(disk)
        filler.unlink()
        training(disk / 'training')
        assert differences(small_steps()['training'], outputs, disk) == []


# ---- few descriptors


@contextmanager
def no_descriptors():
    "None is left to this process"
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 1, before[1]))
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for f in taken:
            os.close(f)


def write_image(path):
    Image.new('RGB', (64, 48)).save(path)


def write_pickle(path):
    path.write_bytes(b'\x80\x05]\x94.')


def write_hand(path):
    from importlib.resources import files

    path.write_bytes((files('forehand4d') / 'assets' / 'open_hand' / 'right.npz').read_bytes())


READERS = [
    (write_tracks, load_tracks, 'tracks.npz'),
    (write_motion, load_motion, 'motion.npz'),
    (lambda p: write_weights(p, 0), load_lifter, 'model.safetensors'),
    (write_numbers, read_json, 'numbers.json'),
    (write_image, load_image, 'photo.png'),
    (write_pickle, read_pickle, 'data.pkl'),
    (write_hand, lambda p: load_hand(p, 'right'), 'hand.npz'),
]


def blames_no_file(e):
    "An error of the machine: it is called by its name, and no file is called damaged"
    text = str(e)
    assert isinstance(e, OSError) and e.errno == errno.EMFILE, repr(e)
    assert not any(w in text for w in ('damaged', 'cut off', 'not a readable', 'delete', 'no such'))


@pytest.mark.parametrize('write, read, name', READERS, ids=[n for *_, n in READERS])
def test_no_descriptor_left_is_no_damage(write, read, name, tmp_path):
    path = tmp_path / name
    write(path)
    read(path)  # whatever is loaded only once
    with no_descriptors():
        try:
            read(path)
        except Exception as e:
            found = e  # noqa: BLE001, judged with descriptors
        else:
            found = None
    assert found is not None, 'it needs no descriptor'
    blames_no_file(found)
    assert name in str(found)
    read(path)


def test_a_store_of_many_shards_under_64_descriptors(tmp_path):
    "It opens, or says that the machine lacks descriptors; nobody is told to delete anything"
    write_clips((clip(i) for i in range(150)), tmp_path / 'many', shard_size=1)
    code = f"""
import resource
from forehand4d.data.clip_store import ClipStore
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
store = ClipStore({str(tmp_path / 'many')!r})
try: print(sum(len(store[i]) for i in range(len(store))))
except OSError as e: print(e)
"""
    done = subprocess.run(
        [sys.executable, '-c', code], env=environment(tmp_path), text=True, capture_output=True
    )
    said = done.stdout.strip()
    assert done.returncode == 0, done.stderr
    if said != str(150 * 16):
        assert 'Too many open files' in said and 'not damaged' in said and '.arrow' in said
        assert 'delete' not in said and 'prepare it again' not in said
    assert len(ClipStore(tmp_path / 'many')[149]) == 16


# ---- places that cannot be written


@pytest.fixture
def closed(tmp_path):
    "A folder that nobody may write in, with one photograph"
    folder = tmp_path / 'closed'
    folder.mkdir()
    if os.geteuid():
        write_image(folder / 'photo.png')
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    with mounted(folder, 'size=1m'):
        write_image(folder / 'photo.png')
        subprocess.run(['mount', '-o', 'remount,ro', str(folder)], check=True)
        yield folder


CLOSED = (errno.EROFS, errno.EACCES)
writers = pytest.mark.parametrize(
    'write, name', [*WRITERS, (write_store, 'store')], ids=[*names, 'store']
)


def refused_by_the_place(closed, write, name):
    "The error, when nothing was written"
    with pytest.raises(OSError) as e:
        write(closed / name)
    assert e.value.errno in CLOSED and str(closed) in str(e.value), e.value
    assert os.listdir(closed) == ['photo.png']
    return str(e.value)


@writers
def test_read_only_place(write, name, closed):
    assert Path(name).stem in refused_by_the_place(closed, write, name)


@pytest.mark.parametrize('write, name', WRITERS, ids=names)
def test_read_only_place_is_named_as_it_was_asked_for(write, name, closed):
    said = refused_by_the_place(closed, write, name)
    assert name in said and '.tmp' not in said and 'choose another folder' in said


def test_records_in_a_read_only_place(closed):
    with pytest.raises(OSError) as e:
        start_run('train', {}, name='a', root=closed / 'outputs')
    assert e.value.errno in CLOSED and str(closed) in str(e.value)
    assert list_runs(root=closed / 'outputs') == []


def test_forecast_into_a_read_only_place(closed, tmp_path, capsys):
    "One line that names the place"
    write_weights(tmp_path / 'model.safetensors')
    args = [str(closed / 'photo.png'), '-o', str(closed / 'out'), '--no-detector', '--samples', '1']
    code = main(['forecast', *args, '--weights', str(tmp_path / 'model.safetensors')])
    said = capsys.readouterr().err.strip()
    assert code == 2 and len(said.splitlines()) == 1 and str(closed / 'out') in said, said
    assert os.listdir(closed) == ['photo.png']


# ---- two at once


@pytest.mark.parametrize('name, work', [('training', training), ('store', store)])
def test_two_at_once(name, work, tmp_path, outputs):
    "One is told that the other is at work, or both end; the result is that of one alone"
    step, world = small_steps()[name], tmp_path / 'two'
    codes = [p.wait(300) for p in (start(step, world), start(step, world))]
    said = world.with_suffix('.txt').read_text()
    assert 0 in codes, said
    assert codes == [0, 0] or BUSY in said or 'is there already' in said, said
    work(outputs / name)
    assert differences(step, outputs, world) == []


SLOW_STORE = """
import sys, time
sys.path.insert(0, {tests!r})
from campaign.small import clip
from forehand4d.data.clip_store import write_clips

def slowly():
    for i in range(6):
        if i == 4:
            print('half', flush=True)
            time.sleep({seconds})
        yield clip(100 + i)

write_clips(slowly(), {folder!r}, shard_size=2)
"""


def slow_writer(folder, seconds):
    "A process that has written half of a store of other clips"
    tests = str(Path(__file__).resolve().parent)
    code = SLOW_STORE.format(tests=tests, seconds=seconds, folder=str(folder))
    other = subprocess.Popen(
        [sys.executable, '-c', code], stdout=subprocess.PIPE, env=environment(folder.parent)
    )
    assert other.stdout.readline() == b'half\n'
    return other


def test_two_processes_never_mix_one_store(tmp_path):
    "The second is refused at once, the first ends undisturbed"
    other = slow_writer(tmp_path / 'one', 8)
    before = {p: p.read_bytes() for p in (tmp_path / 'one').iterdir()}
    with pytest.raises(ValueError, match='one is being written by another process'):
        write_clips((clip(i) for i in range(6)), tmp_path / 'one', shard_size=2)
    assert {p: p.read_bytes() for p in before} == before
    assert other.wait(120) == 0
    assert [c.sequence for c in ClipStore(tmp_path / 'one')] == [f's{100 + i}' for i in range(6)]


def test_the_lock_of_a_killed_writer_is_none(tmp_path):
    "Its half is replaced by the whole of the next one"
    other = slow_writer(tmp_path / 'one', 600)
    other.kill()
    other.wait()
    assert (tmp_path / 'one' / '.lock').exists()
    write_clips((clip(i) for i in range(6)), tmp_path / 'one', shard_size=2)
    assert [c.sequence for c in ClipStore(tmp_path / 'one')] == [f's{i}' for i in range(6)]


def test_two_processes_that_generate_the_same_clips_share_them(tmp_path):
    "One makes them, the other waits for it"
    folder = str(tmp_path / 'clips')
    code = (
        'from forehand4d.handworld.generate import generate\n'
        f'generate("wild-joints", "train", 2, {folder!r}, workers=1, frames=8, image_size=16)\n'
    )
    both = [
        subprocess.Popen([sys.executable, '-c', code], env=environment(tmp_path)) for _ in range(2)
    ]
    assert [p.wait(300) for p in both] == [0, 0]
    assert len(ClipStore(folder)) == 2 and not hidden(tmp_path)


def test_two_different_stores_in_one_folder(tmp_path):
    "The second is refused, and the first is whole"

    def first():
        for i in range(6):
            if i == 4:
                write_clips((clip(100 + k) for k in range(6)), tmp_path / 'one', shard_size=2)
            yield clip(i)

    with pytest.raises((ValueError, OSError), match='one'):
        write_clips(first(), tmp_path / 'one', shard_size=2)
    assert [c.sequence for c in ClipStore(tmp_path / 'one')] in (
        [f's{i}' for i in range(6)],
        [f's{100 + i}' for i in range(6)],
    )


# ---- a run whose executed copy was cut off, by a full disk or a kill while it was written


def toy_notebook(folder):
    "A run notebook that fills in a parameter that was left at 0"
    from nbformat import v4, write

    cells = [
        v4.new_code_cell('steps: int = 0\nname: str = ""', metadata=dict(tags=['parameters'])),
        v4.new_code_cell(
            'from forehand4d.runs.record import start_run\n'
            'run = start_run("toy", dict(steps=steps or 6), name=name)\n'
            'run.finish(dict(steps=steps or 6))'
        ),
    ]
    kernel = dict(name='python3', display_name='python3', language='python')
    write(v4.new_notebook(cells=cells, metadata=dict(kernelspec=kernel)), folder / 'toy.ipynb')
    return folder / 'toy.ipynb'


def talkative_notebook(folder):
    "A run notebook whose second half prints more than the disk holds, while a file is there"
    from nbformat import read, v4, write

    path = toy_notebook(folder)
    notebook = read(path, 4)
    notebook.cells[1:1] = [
        v4.new_code_cell('import time; print("first half"); time.sleep(1.2)'),
        v4.new_code_cell(r'print(600 * ("x" * 99 + "\n"))'),
    ]
    write(notebook, path)
    return path


def run_command(path, disk):
    "`forehand4d run` in a process of its own"
    command = [sys.executable, '-m', 'forehand4d', 'run', str(path), '-p', 'name', 'a']
    where = os.environ | dict(FOREHAND4D_OUTPUTS=str(disk), HOME=str(path.parent))
    return subprocess.run(command, capture_output=True, text=True, env=where)


def test_full_disk_while_an_executed_copy_is_written(tmp_path, small_disk):
    "One line that says so, the copy of a second before at most, and the same command goes on"
    import nbformat

    path = talkative_notebook(tmp_path)
    filler = small_disk / 'filler'
    filler.write_bytes(bytes(250_000))
    done = run_command(path, small_disk)
    said = done.stderr.strip()
    assert done.returncode == 2 and len(said.splitlines()) == 1, said
    assert 'run.ipynb' in said and 'the disk is full' in said and 'free some space' in said
    assert not hidden(small_disk)
    copy = small_disk / 'toy' / 'a' / 'run.ipynb'
    before = nbformat.read(copy, 4)  # whole
    assert before.cells[2].outputs[0].text == 'first half\n'
    filler.unlink()
    assert run_command(path, small_disk).returncode == 0
    (run,) = list_runs('toy', small_disk)
    assert run.done
    assert nbformat.read(copy, 4).cells[3].outputs[0].text == 600 * ('x' * 99 + '\n') + '\n'


def test_a_run_with_a_copy_that_was_cut_off_goes_on(tmp_path, outputs):
    run = start_run('toy', dict(steps=6), name='a')
    (run.dir / 'run.ipynb').write_text('{"cells": [{"cell_ty')
    from forehand4d.runs.record import unlock_folder

    unlock_folder(run.dir)  # its process was killed
    assert run_notebook(toy_notebook(tmp_path), name='a').done
