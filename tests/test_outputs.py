"""Stored outputs of notebooks: they exist, are small, and hold nothing of the machine.

That they are what comes out is checked by `tools/execute.py --check`, which runs all lessons.
`python tests/test_outputs.py` writes the list of notebooks that store nothing yet; it may only
become shorter.
"""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))
import execute  # noqa: E402
import outputs as rules  # noqa: E402

NOTEBOOKS = rules.notebooks()
WITHOUT = ROOT / 'tests' / 'without_outputs.json'
MACHINE = re.compile(r'(^|[^A-Za-z0-9_.~])/(work|root|home|Users|tmp|mnt|var|private)/[A-Za-z]')
ALL_BYTES = 12_000_000 # of all outputs

each_notebook = pytest.mark.parametrize('path', NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def outputs_of(path: Path) -> list:
    "All outputs that a notebook stores"
    cells = execute.read(path)['cells']
    return [output for cell in cells for output in cell.get('outputs', [])]


def texts(output: dict) -> str:
    "What an output says in words"
    found = [output.get('text', '')]
    found += [value for kind, value in output.get('data', {}).items() if kind.startswith('text/')]
    return '\n'.join(map(rules.join, found))


def without_outputs() -> list:
    "Numbered notebooks that store nothing"
    return [path.stem for path in NOTEBOOKS if rules.is_numbered(path) and not outputs_of(path)]


def test_numbered_notebooks_store_outputs():
    allowed = json.loads(WITHOUT.read_text())
    new = sorted(set(without_outputs()) - set(allowed))
    assert not new, f'store nothing: {new}; run tools/execute.py on them'
    done = sorted(set(allowed) - set(without_outputs()))
    assert not done, f'{done} store outputs now: run `python tests/test_outputs.py`'


@each_notebook
def test_outputs_are_small(path):
    assert path.stat().st_size <= 400_000, f'{path.stat().st_size / 1000:.0f} kB'
    for output in outputs_of(path):
        for kind, value in output.get('data', {}).items():
            if kind.startswith('image/'):
                assert len(base64.b64decode(rules.join(value))) <= rules.PICTURE_BYTES


def test_all_outputs_are_small():
    sizes = [len(json.dumps(output)) for path in NOTEBOOKS for output in outputs_of(path)]
    assert sum(sizes) <= ALL_BYTES


@each_notebook
def test_outputs_are_clean(path):
    for output in outputs_of(path):
        assert output['output_type'] != 'error', output.get('ename')
        assert output.get('name') != 'stderr', 'progress bars and warnings are not stored'
        assert set(output.get('data', {})) <= set(rules.KEPT), sorted(output['data'])
        text = texts(output)
        assert not rules.ADDRESS.search(text), text[:300]
        assert not MACHINE.search(text), text[:300]
        assert output.get('execution_count') is None
        assert not output.get('metadata')


# ---- the rules themselves


def picture(
    shade: int,  # grey, 0 to 255
    size: tuple = (240, 180),  # pixels
) -> str:  # base64 of a PNG
    "A picture that hardly compresses, about a mean shade"
    import numpy as np

    noise = np.random.default_rng(0).integers(-40, 40, (*size[::-1], 3))
    image = rules.Image.fromarray((noise + shade).astype('uint8'))
    return base64.b64encode(rules.encode(image)).decode()


def test_pictures_are_made_small_and_alike():
    large = picture(120)
    assert len(base64.b64decode(large)) > rules.PICTURE_BYTES
    small = rules.tidy_picture(large)
    assert len(base64.b64decode(small)) <= rules.PICTURE_BYTES
    assert small == rules.tidy_picture(large)


def test_pictures_are_compared():
    assert rules.compare_pictures(picture(120), picture(122)) == ''
    assert 'differs' in rules.compare_pictures(picture(120), picture(140))
    assert 'stored picture' in rules.compare_pictures(picture(120), picture(120, (240, 210)))


def test_numbers_are_compared():
    assert rules.compare_text('error  1.2345678 cm', 'error 1.2345999 cm') == ''
    assert rules.compare_text('tensor([-0.5000])', 'tensor([-0.5003])') != ''
    assert rules.compare_text('12 clips', '13 clips') != ''
    assert rules.compare_text('12 clips', '12 hands') != ''


def test_text_holds_nothing_of_the_machine():
    import tempfile

    folder = tempfile.gettempdir()
    paths = f'{folder}/forehand4d-test-ab_1/outputs/run {ROOT}/nbs'
    given = f'<Net at 0x7f00aa> {paths} 2026-01-02T03:04:05'
    assert rules.tidy_text(given) == '<Net> outputs/run nbs YYYY-MM-DD hh:mm:ss'


def test_what_is_kept():
    shown = dict(output_type='display_data', metadata={}, data={'text/html': '<script>1</script>'})
    assert rules.tidy_output(shown)['data'] == {'text/plain': [rules.INTERACTIVE]}
    bar = dict(output_type='stream', name='stderr', text=' 10%|#')
    assert rules.tidy_outputs([bar]) == []
    artist = {'text/plain': '[<matplotlib.lines.Line2D at 0x7f>]'}
    assert rules.tidy_outputs([dict(output_type='execute_result', data=artist)]) == []


# ---- executing


def notebook(
    path: Path,  # where it is written
    *sources: str,  # its code cells
) -> dict:
    "A small numbered notebook that stores nothing"
    title = ['# small\n', '\n', '> An example']
    cells = [dict(cell_type='markdown', id='title', metadata={}, source=title)]
    empty = dict(cell_type='code', metadata={}, execution_count=None, outputs=[])
    for i, source in enumerate(sources):
        cells.append(empty | dict(id=f'c{i}', source=source.splitlines(True)))
    whole = dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)
    path.write_text(json.dumps(whole))
    return whole


def run(*arguments) -> subprocess.CompletedProcess:
    "Call the tool"
    command = [sys.executable, ROOT / 'tools' / 'execute.py', '--workers', '1', *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_execute_stores_and_checks(tmp_path):
    path = tmp_path / '01_small.ipynb'
    notebook(path, '1 + 1', '#| slow\n1/0', 'object()', '#| unstable\nimport time\ntime.time()')
    assert run(path).returncode == 0
    cells = execute.read(path)['cells']
    stored = [[texts(output).strip() for output in cell['outputs']] for cell in cells[1:]]
    assert stored[:3] == [['2'], [], ['<object>']]
    assert len(stored[3]) == 1
    cleaned = path.read_bytes()
    tool = Path(sys.executable).parent / 'nbdev_clean'
    subprocess.run([tool, '--fname', path], check=True, cwd=ROOT)
    assert path.read_bytes() == cleaned
    assert run('--check', path).returncode == 0
    cells[1]['outputs'][0]['data']['text/plain'] = ['3']
    path.write_text(json.dumps(execute.read(path) | dict(cells=cells)))
    found = run('--check', path)
    assert found.returncode == 1
    assert 'stored 3, now 2' in found.stderr


def test_execute_leaves_a_failing_notebook_as_it_is(tmp_path):
    path = tmp_path / '01_small.ipynb'
    notebook(path, '1 + 1', 'raise ValueError("no hands")')
    before = path.read_bytes()
    done = run(path)
    assert done.returncode == 1
    assert 'no hands' in done.stderr
    assert path.read_bytes() == before
    notebook(path, 'import os\nos._exit(3)')
    assert 'exit code 3' in run(path).stderr


def write_list():
    "The list of notebooks without outputs; it may not become longer"
    now = without_outputs()
    if WITHOUT.exists() and len(now) > len(json.loads(WITHOUT.read_text())):
        sys.exit(f'{len(now)} notebooks store nothing, more than before: run tools/execute.py')
    WITHOUT.write_text(json.dumps(now, indent=1) + '\n')


if __name__ == '__main__':
    write_list()
