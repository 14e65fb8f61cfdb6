"Records survive kills, full disks and second starts"

import errno, json, os, signal, subprocess, sys
from pathlib import Path
import numpy as np, pytest, torch
from forehand4d.core.files import atomic_path, read_json, write_json
from forehand4d.runs.folders import unlock_folder
from forehand4d.runs.record import Run, find_run, list_runs, run_state, start_run


def hidden(folder):
    return [p.name for p in Path(folder).rglob('.*') if '.tmp' in p.name]


@pytest.fixture
def small_files():
    "No file of this process may grow beyond 64 kB: what a full disk looks like to a writer"
    import resource

    before, handler = (
        resource.getrlimit(resource.RLIMIT_FSIZE),
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield 1 << 16
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def save_torch(p, n):
    torch.save({'w': torch.zeros(n)}, p)


def save_numpy(p, n):
    np.savez(p, w=np.zeros(n))


def save_text(p, n):
    p.write_text('x' * 4 * n)


def save_picture(p, n):
    from PIL import Image

    Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (max(1, n // 100), 100, 3), np.uint8)
    ).save(p)


def save_safetensors(p, n):
    from safetensors.torch import save_file

    save_file({'w': torch.zeros(n)}, p)


@pytest.mark.parametrize(
    'save, name',
    [(save_torch, 'a.pt'), (save_numpy, 'a.npz'), (save_text, 'a.txt'), (save_picture, 'a.png')],
)
def test_full_disk(save, name, tmp_path, small_files):
    path = tmp_path / name
    with atomic_path(path) as p:
        save(p, 10)
    whole = path.read_bytes()
    full = pytest.raises(OSError, match=f'disk is full, the previous version is intact.*{name}')
    with full, atomic_path(path) as p:
        save(p, small_files)
    assert path.read_bytes() == whole and os.listdir(tmp_path) == [name]
    full = pytest.raises(OSError, match='nothing was left behind')
    with full, atomic_path(tmp_path / ('new' + path.suffix)) as p:
        save(p, small_files)
    assert os.listdir(tmp_path) == [name]


def test_full_disk_in_a_library_that_reports_it_otherwise(tmp_path, monkeypatch):
    import shutil

    none_left = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, 'disk_usage', lambda p: none_left)
    with pytest.raises(OSError) as e, atomic_path(tmp_path / 'a.bin'):
        raise RuntimeError('could not write')
    assert e.value.errno == errno.ENOSPC and os.listdir(tmp_path) == []


def test_full_disk_while_logging(outputs, small_files):
    run = start_run('train', {}, name='a')
    run.log(step=0, note='')
    with pytest.raises(OSError, match='rows before it are intact'):
        for step in range(1, 100):
            run.log(step=step, note='x' * 1000)
    text = (run.dir / 'log.csv').read_text()
    assert (
        text.endswith('\n')
        and [r['step'] for r in run.log_rows()] == list(range(len(run.log_rows())))
        and len(run.log_rows()) > 10
    )


def test_full_disk_leaves_the_manifest(outputs, small_files):
    run = start_run('train', {}, name='a')
    with pytest.raises(OSError, match='manifest.json'):
        run.add_split('big', clips=['x' * 1000] * 100)
    assert read_json(run.dir / 'manifest.json')['splits'] == {} and not hidden(run.dir)


def test_killed_while_writing(tmp_path):
    code = f'''
import sys, time
from forehand4d.core.files import atomic_path
with atomic_path({str(tmp_path / 'a.txt')!r}) as p:
    p.write_text('half')
    print('here', flush=True)
    time.sleep(60)
'''
    write_json(tmp_path / 'a.txt', 'whole')
    other = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)
    other.stdout.readline()
    assert len(hidden(tmp_path)) == 1
    write_json(tmp_path / 'a.txt', 'whole')  # a writer that lives is left alone
    assert len(hidden(tmp_path)) == 1
    other.kill()
    other.wait()
    assert read_json(tmp_path / 'a.txt') == 'whole'
    write_json(tmp_path / 'a.txt', 'again')
    assert hidden(tmp_path) == []


def test_reuse_refuse_resume(outputs):
    run = start_run('train', dict(steps=3, seed=7), name='a')
    assert (run.done, run.manifest['seed'], run.manifest['status']) == (False, 7, 'running')
    with pytest.raises(ValueError, match='running with other parameters .steps: 3 there, 4 here'):
        start_run('train', dict(steps=4, seed=7), name='a')
    unlock_folder(run.dir)  # as when its process ended
    with pytest.raises(ValueError, match='a is stopped, and was begun with other parameters'):
        start_run('train', dict(steps=4, seed=7), name='a')
    again = start_run('train', dict(seed=7, steps=3), name='a')
    assert not again.done and len(again.manifest['resumed']) == 1
    again.finish(dict(loss=1.0))
    before = {p: p.read_bytes() for p in run.dir.rglob('*') if p.is_file()}
    kept = start_run('train', dict(steps=3, seed=7), name='a')
    assert kept.done and kept.finish(dict(loss=2.0)) == dict(loss=1.0)
    with pytest.raises(ValueError, match='done with other parameters'):
        start_run('train', dict(steps=4, seed=7), name='a')
    with pytest.raises(ValueError, match='finished'):
        kept.log(step=1)
    assert before == {p: p.read_bytes() for p in run.dir.rglob('*') if p.is_file()}


def test_names(outputs):
    a, b = start_run('train', dict(steps=3)), start_run('train', dict(steps=4))
    assert a.dir != b.dir and a.dir == start_run('train', dict(steps=3)).dir
    for name in ('../a', 'a/b', '.hidden', '-p', 'a b'):
        with pytest.raises(ValueError, match='expected a name'):
            start_run('train', {}, name=name)
    assert [r.name for r in list_runs()] and {r.name for r in list_runs('train')} == {
        a.name,
        b.name,
    }
    with pytest.raises(ValueError, match='not finished'):
        find_run('train', a.name)
    assert find_run('train', a.name, done=False).dir == a.dir
    with pytest.raises(FileNotFoundError, match='there is'):
        find_run('train', 'zzz')


def test_manifest(outputs):
    data = start_run('prepare', {}, name='lab')
    data.finish()
    run = start_run('train', dict(steps=3), name='a')
    run.add_input('data', data)
    (run.dir / 'x.bin').write_bytes(b'first')
    run.add_artifact('x.bin')
    (run.dir / 'x.bin').write_bytes(b'last')
    run.log(step=0, loss=np.float32(1 / 3))
    run.finish(dict(loss=torch.tensor(0.5), bad=float('nan')))
    m = json.loads((run.dir / 'manifest.json').read_text())
    assert (
        m['status'] == 'done'
        and m['duration'] >= 0
        and m['inputs']['data']['path'] == 'outputs/prepare/lab'
    )
    import hashlib

    assert m['artifacts']['x.bin'] == hashlib.sha256(b'last').hexdigest()
    assert m['metrics'] == dict(loss=0.5, bad=None) and set(m) >= {
        'schema',
        'notebook',
        'run',
        'parameters',
        'seed',
        'started',
        'commit',
        'dirty',
        'software',
        'splits',
    }
    assert str(outputs) not in (run.dir / 'manifest.json').read_text(), (
        'nothing absolute is written'
    )
    assert run.log_rows() == [dict(step=0, loss=float(np.float32(1 / 3)))]
    (data.dir / 'manifest.json').write_text(
        (data.dir / 'manifest.json').read_text().replace('"lab"', '"other"')
    )
    with pytest.raises(ValueError, match='made from another data'):
        start_run('train', dict(steps=3), name='a').add_input('data', data)
    with pytest.raises(FileNotFoundError, match='nowhere'):
        run.add_input('data', outputs / 'nowhere')
    with pytest.raises(ValueError, match='inside'):
        start_run('train', {}, name='b').add_artifact(data.dir / 'manifest.json')


def test_log_is_exact_after_a_kill(outputs):
    """Killed between and within rows, rewound and continued,
    the log equals that of an uninterrupted run"""
    code = '''
import sys
from forehand4d.runs.record import start_run
run = start_run('train', {}, name=sys.argv[1])
first = int(sys.argv[2])
run.rewind(first)
for step in range(first, 50):
    run.log(step=step, loss=1/(step + 3), **({'val': step**.5} if step % 10 == 9 else {}))
    if step == int(sys.argv[3]): print('here', flush=True); sys.stdin.read()
'''

    def go(name, first, stop):
        p = subprocess.Popen(
            [sys.executable, '-c', code, name, str(first), str(stop)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        p.stdout.readline()
        p.send_signal(signal.SIGKILL)
        p.wait()

    go('whole', 0, 49)
    go('broken', 0, 23)
    with (outputs / 'train' / 'broken' / 'log.csv').open('a') as f:
        f.write('24,0.0')
    go('broken', 20, 31)
    go('broken', 30, 49)
    whole, broken = ((outputs / 'train' / n / 'log.csv').read_bytes() for n in ('whole', 'broken'))
    assert whole == broken and len(whole.splitlines()) == 51


def test_only_the_first_process_writes(outputs, monkeypatch):
    run = start_run('train', {}, name='a')
    monkeypatch.setenv('RANK', '1')
    other = start_run('train', {}, name='a')
    other.log(step=0)
    other.finish(dict(x=1))
    assert not (run.dir / 'log.csv').exists() and not Run(run.dir).done


# ---- the launcher


def toy(
    folder,
    name='toy',
    code='',
    parameters='steps: int = 3 # optimiser steps\nname: str = "" # of the run',
):
    import nbformat, nbformat.v4 as v4

    cells = [
        v4.new_code_cell(parameters, metadata=dict(tags=['parameters'])),
        v4.new_code_cell(
            f"from forehand4d.runs.record import start_run\n"
            f"run = start_run({name!r}, dict(steps=steps), name=name)"
        ),
        v4.new_code_cell(code),
        v4.new_code_cell("if not run.done: run.finish(dict(steps=steps))"),
    ]
    kernel = dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
    folder.mkdir(exist_ok=True, parents=True)
    nbformat.write(v4.new_notebook(cells=cells, metadata=kernel), folder / f'{name}.ipynb')
    return folder / f'{name}.ipynb'


def test_launcher(outputs, tmp_path, monkeypatch):
    from forehand4d.runs.launch import NotebookError, run_notebook

    nb = toy(tmp_path, code="import os; (run.dir/'where.txt').write_text(os.getcwd())")
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    run = run_notebook(nb, dict(steps=4))
    assert run.done and run.metrics == dict(steps=4) and (run.dir / 'run.ipynb').exists()
    assert (run.dir / 'where.txt').read_text() == str(tmp_path / 'elsewhere'), (
        'a notebook runs in the folder of its caller'
    )
    assert run_notebook(nb, dict(steps=4)).dir == run.dir
    with pytest.raises(ValueError, match="did you mean 'steps'"):
        run_notebook(nb, dict(stepps=4))
    with pytest.raises(ValueError, match='expected int'):
        run_notebook(nb, dict(steps=4.5))
    assert len(list_runs()) == 1
    broken = toy(tmp_path, 'broken', code="1/0")
    with pytest.raises(NotebookError, match='ZeroDivisionError'):
        run_notebook(broken, name='a')
    assert (
        'ZeroDivisionError' in (outputs / 'broken' / 'a' / 'run.ipynb').read_text()
        and not Run(outputs / 'broken' / 'a').done
    )
    failed = Run(outputs / 'broken' / 'a')
    assert run_state(failed) == 'failed'
    assert failed.manifest['error'] == 'ZeroDivisionError: division by zero'
    toy(tmp_path, 'broken')
    assert run_notebook(broken, dict(steps=5), name='a').metrics == dict(steps=5), (
        'the name of a run that failed can be used again'
    )
    assert len(list((outputs / 'old' / 'broken').iterdir())) == 1, 'what failed is kept aside'
    with pytest.raises(ValueError, match='steps: 5 there, 3 here'):
        run_notebook(broken, name='a')


def test_a_kernel_that_is_not_there(outputs, tmp_path):
    "One line that says what is missing"
    from forehand4d.runs.launch import run_notebook

    path = toy(tmp_path)
    path.write_text(path.read_text().replace('"name": "python3"', '"name": "absent"'))
    with pytest.raises(ValueError, match='kernel absent, which is not installed: .* ipykernel'):
        run_notebook(path, name='a')


def test_command_line(outputs, tmp_path):
    toy(tmp_path / 'nbs')

    def cli(*args):
        env = {**os.environ, 'FOREHAND4D_ROOT': str(tmp_path)}
        done = subprocess.run(
            [Path(sys.executable).parent / 'forehand4d', *args],
            capture_output=True,
            text=True,
            env=env,
            cwd=tmp_path,
        )
        return done.returncode, done.stdout, done.stderr

    code, out, err = cli('run', 'toy', '-p', 'steps', '1_000', '--name', 'a')
    assert code == 0 and 'steps: 1000' in out and '%' not in err, err
    for args in (
        ('run', 'tow'),
        ('run', 'toy', '-p', 'step', '3'),
        ('run', 'toy', '-p', 'steps', 'x'),
        ('run', 'toy', '--name', 'a'),
    ):
        code, out, err = cli(*args)
        assert (
            code == 2 and len(err.strip().splitlines()) == 1 and err.startswith('forehand4d: ')
        ), err
    assert [word for word in cli('runs')[1].split() if '/' in word] == ['toy/a']
    assert cli('--help')[0] == 0 and cli()[0] == 2
