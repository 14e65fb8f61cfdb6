"The command line on bad input: one clear line, exit code 2, nothing half-written"

import json, os
import numpy as np, pytest
from PIL import Image
from forehand4d.cli import main
from forehand4d.models.forecaster import build_forecaster
from forehand4d.runs.profiles import profile
from forehand4d.training.weights import save_weights
from test_cases import film
from test_runs import small_files  # noqa: F401, a fixture


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    "Untrained weights of the smallest forecaster"
    path = tmp_path_factory.mktemp('weights') / 'model.safetensors'
    save_weights(build_forecaster(profile('tiny')), path)
    return path


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)).save(
        tmp_path / 'photo.jpg'
    )
    return tmp_path / 'photo.jpg'


@pytest.fixture
def forecast(tmp_path, capsys):
    def call(*args):
        code = main(['forecast', *map(str, args), '-o', str(tmp_path / 'out'), '--no-detector'])
        out, err = capsys.readouterr()
        return (
            code,
            out,
            err.strip(),
            sorted(os.listdir(tmp_path / 'out')) if (tmp_path / 'out').exists() else [],
        )

    return call


def test_good_input(forecast, photo, weights):
    code, out, err, files = forecast(photo, '--weights', weights, '--samples', 2)
    assert code == 0 and files == ['photo.html', 'photo.npz', 'photo.png'] and 'photo.png' in out
    assert np.load(photo.parent / 'out' / 'photo.npz')['joints'].shape == (
        2,
        profile('tiny').frames,
        2,
        21,
        3,
    )


def refused(result, message):
    code, out, err, files = result
    assert code == 2 and files == [], result
    assert err.startswith('forehand4d: ') and len(err.splitlines()) == 1 and message in err, err


def test_bad_images(forecast, photo, weights):
    folder = photo.parent
    (folder / 'text.jpg').write_text('Dear Sir or Madam')
    (folder / 'cut.jpg').write_bytes(photo.read_bytes()[:2000])
    Image.new('RGB', (1, 1)).save(folder / 'dot.png')
    for name, message in (
        ('absent.jpg', 'no image'),
        ('text.jpg', 'cannot be read as an image'),
        ('cut.jpg', 'damaged or cut off'),
        ('dot.png', '1x1'),
    ):
        refused(forecast(folder / name, '--weights', weights), message)


def test_one_bad_image_of_several(forecast, photo, weights):
    (photo.parent / 'text.jpg').write_text('Dear Sir or Madam')
    code, out, err, files = forecast(
        photo.parent / 'text.jpg', photo, '--weights', weights, '--samples', 1
    )
    assert (
        code == 2 and files == ['photo.html', 'photo.npz', 'photo.png'] and '1 of 2 images' in err
    )
    other = photo.parent / 'other'
    other.mkdir()
    os.link(photo, other / 'photo.jpg')
    assert forecast(photo, other / 'photo.jpg', '--weights', weights, '--samples', 1)[3][-2:] == [
        'photo.npz',
        'photo.png',
    ]
    assert {'photo-jpg.npz', 'photo-jpg-2.npz'} <= {*os.listdir(photo.parent / 'out')}  # told apart


def test_bad_options(forecast, photo, weights):
    for args, message in (
        (('--fov', '0'), 'field of view'),
        (('--fov', '200'), 'field of view'),
        (('--intrinsics', '-5', '5', '5', '5'), 'focal'),
        (('--intrinsics', 'nan', '5', '5', '5'), 'focal'),
        (('--samples', '0'), 'sample'),
    ):
        refused(forecast(photo, '--weights', weights, *args), message)


def test_bad_weights(forecast, photo, weights):
    from safetensors import safe_open
    from safetensors.torch import save_file

    folder = photo.parent
    with safe_open(weights, 'pt') as f:
        state = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118, not a dict
        header = json.loads(f.metadata()['config'])

    def variant(name, **changes):
        save_file(state, folder / name, {'config': json.dumps({**header, **changes})})
        return folder / name

    (folder / 'cut.safetensors').write_bytes(weights.read_bytes()[:-1000])
    (folder / 'text.safetensors').write_text('no weights')
    for path, message in (
        (folder / 'absent', 'absent'),
        (folder / 'cut.safetensors', 'not a complete checkpoint'),
        (folder / 'text.safetensors', 'not a complete checkpoint'),
        (variant('kind.safetensors', kind='lifter'), 'lifter'),
        (variant('hand.safetensors', hand_id='of-nobody'), 'of-nobody'),
    ):
        refused(forecast(photo, '--weights', path), message)


def test_full_disk(forecast, photo, weights, small_files):  # noqa: F811, the fixture
    refused(forecast(photo, '--weights', weights), 'disk is full')


@pytest.mark.parametrize('moment', ['nan', 'inf', '-inf', '1e400', '-1', '2', '1e9'])
def test_bad_moments(tmp_path, capsys, moment):
    "Refused before anything is read, or by the video that has no such moment"
    path = film(tmp_path / 'a.mp4')
    assert main(['forecast', str(path), f'--at={moment}', '-o', str(tmp_path / 'out')]) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1 and 'a.mp4: expected a' in said and 'got' in said
    assert not (tmp_path / 'out').exists()
