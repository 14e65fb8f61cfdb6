"The page to play with, as a browser talks to it"

import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from forehand4d.cli import main
from forehand4d.handworld.generate import make_clip


def free_port():
    "A port that nobody listens at"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    "`forehand4d app`, served; its address"
    pytest.importorskip('gradio', reason="the extra 'app' is not installed")
    port = free_port()
    command = [sys.executable, '-m', 'forehand4d', 'app', '--no-browser', '--port', str(port)]
    folder = tmp_path_factory.mktemp('app')
    with open(folder / 'log', 'w') as log:
        served = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        for _ in range(240):
            with socket.socket() as s:
                if not s.connect_ex(('127.0.0.1', port)):
                    break
            assert served.poll() is None, (folder / 'log').read_text()
            time.sleep(0.5)
        yield served.pid, port
    finally:
        served.terminate()
        served.wait(60)


@pytest.fixture(scope='module')
def client(page):
    "Calls the page as its own button does"
    from gradio_client import Client

    return Client(f'http://127.0.0.1:{page[1]}', verbose=False)


def ask(client, photo, fov=70, samples=2, seed=1):
    "What the button returns"
    from gradio_client import handle_file

    given = handle_file(str(photo)) if photo else None
    return client.predict(given, None, 0, fov, samples, seed, api_name='/forecast')


def test_only_this_machine_is_served(page):
    import psutil

    pid, port = page
    found = [c.laddr for c in psutil.Process(pid).net_connections() if c.status == 'LISTEN']
    assert {address.ip for address in found} == {'127.0.0.1'}
    assert port in {address.port for address in found}


def test_a_photograph_is_answered(client, tmp_path):
    Image.fromarray(make_clip('lab-pour', 'test', 0, 8, 128).image).save(tmp_path / 'table.png')
    found, likely, scene, files, notes = ask(client, tmp_path / 'table.png')
    assert Path(found).is_file() and Path(likely).is_file()
    assert 'srcdoc' in scene and '70 degrees' in notes
    assert [Path(file).suffix for file in files] == ['.npz', '.html', '.png']
    with np.load(files[0]) as numbers:
        assert numbers['joints'].shape[0] == 2 and np.isfinite(numbers['joints']).all()


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    "A second of two hands at a table"
    import imageio_ffmpeg

    path = tmp_path_factory.mktemp('video') / 'table.mp4'
    image = make_clip('lab-pour', 'test', 0, 8, 128).image
    writer = imageio_ffmpeg.write_frames(str(path), (128, 128), fps=30)
    writer.send(None)
    for _ in range(30):
        writer.send(np.ascontiguousarray(image))
    writer.close()
    return path


def ask_video(client, video, second):
    "What the button returns for a video, as it is uploaded or taken by a webcam"
    from gradio_client import handle_file

    given = handle_file(str(video))
    return client.predict(None, given, second, 70, 2, 1, api_name='/forecast')


def test_a_video_is_answered_as_the_command_does(client, video, tmp_path):
    "The same numbers as `forehand4d forecast VIDEO --at`"
    *_, files, notes = ask_video(client, video, 0.5)
    assert [Path(file).suffix for file in files] == ['.npz', '.html', '.png']
    out = ['-o', str(tmp_path / 'out'), '--format', 'npz']
    how = ['--at', '0.5', '--fov', '70', '--samples', '2', '--seed', '1']
    assert main(['forecast', str(video), *how, *out]) == 0
    (alone,) = (tmp_path / 'out').glob('*.npz')
    with np.load(files[0]) as page, np.load(alone) as command:
        assert page['joints'].shape[0] == 2
        assert np.array_equal(page['joints'], command['joints'])


def test_what_cannot_be_used_of_a_video_is_said(client, video, tmp_path):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match='second'):
        ask_video(client, video, 30)
    (tmp_path / 'cut.mp4').write_bytes(video.read_bytes()[:500])
    with pytest.raises(AppError, match='cut.mp4'):
        ask_video(client, tmp_path / 'cut.mp4', 0)


def test_a_photograph_and_a_video_may_come_from_a_webcam(page):
    import json
    from urllib.request import urlopen

    with urlopen(f'http://127.0.0.1:{page[1]}/config') as answer:
        parts = json.load(answer)['components']
    named = {part['props'].get('label'): part['props'] for part in parts}
    for label in ('photograph', 'short video'):
        assert {'upload', 'webcam'} <= {*named[label]['sources']}
        assert named[label]['webcam_options']['mirror'] is False  # or left became right


def test_what_cannot_be_used_is_said(client, tmp_path):
    from gradio_client.exceptions import AppError

    Image.new('RGB', (20, 20)).save(tmp_path / 'small.png')
    (tmp_path / 'text.png').write_text('no picture')
    with pytest.raises(AppError, match='at least 32x32'):
        ask(client, tmp_path / 'small.png')
    with pytest.raises(AppError, match='cannot'):
        ask(client, tmp_path / 'text.png')
    with pytest.raises(AppError, match='upload one or take one'):
        ask(client, None)


def test_without_gradio_one_line_says_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    assert main(['app', '--no-browser']) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1 and "pip install 'forehand4d[app]'" in said
