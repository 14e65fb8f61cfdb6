"What people bring: outputs of HaMeR and WiLoR as they are handed out, files, folders and patterns"

import json
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from forehand4d.cli import main, photos_and_others
from forehand4d.geometry.mano import from_mano21
from forehand4d.geometry.motion import rest_motion
from forehand4d.video.hand_files import read_hands

SIZE = 640, 480
FOCAL = 5000 / 256 * 640  # one number for all hands of an image
FRAMES = 3


@pytest.fixture
def seen():
    "Joints (T, 2, 21, 3) in front of HaMeR's camera, in OpenPose's order, and their pixels"
    joints = rest_motion(FRAMES).joints() + torch.tensor([[0.15, 0, 0], [-0.15, 0, 0]])[:, None]
    joints = from_mano21(joints, 'openpose21').numpy().astype(float)
    camera = np.array([0.0, 0.0, 12.0])
    placed = joints + camera
    pixels = placed[..., :2] / placed[..., 2:] * FOCAL + np.array(SIZE) / 2
    return joints, camera, pixels


def names():
    return [f'{number:06d}' for number in range(FRAMES)]


def same(tracks, pixels):
    ours = from_mano21(tracks.keypoints, 'openpose21').numpy()
    assert tracks.valid.all()
    np.testing.assert_allclose(ours, pixels, atol=0.05)


def test_hamer(seen, tmp_path):
    "A dict an image: two hands, one focal length, left hands as mirrored right ones"
    joints, camera, pixels = seen
    sign = np.array([1.0, -1.0])[:, None, None] * [1, 0, 0] + [0, 1, 1]
    for number, name in enumerate(names()):
        out = {
            'right': np.array([1.0, 0.0]),
            'pred_keypoints_3d': joints[number] * sign,
            'pred_cam_t_full': np.stack([camera, camera]),
            'scaled_focal_length': FOCAL,
            'pred_vertices': np.zeros((2, 778, 3)),
        }
        (tmp_path / f'{name}.pkl').write_bytes(pickle.dumps(out))
    same(read_hands(tmp_path, names(), SIZE, 30.0), pixels)


def test_wilor(seen, tmp_path):
    "A list with a dict a hand, in a file a frame, or a list of such lists in one file"
    joints, _, pixels = seen
    frames = []
    for number in range(FRAMES):
        hands = []
        for hand in (1, 0):  # in any order
            preds = {'pred_keypoints_2d': pixels[number, hand][None].tolist()}
            hands.append({'is_right': 1 - hand, 'hand_bbox': [0, 0, 9, 9], 'wilor_preds': preds})
        frames.append(hands)
        (tmp_path / f'{number:06d}.json').write_text(json.dumps(hands))
    same(read_hands(tmp_path, names(), SIZE, 30.0), pixels)
    (tmp_path / 'all').mkdir()
    (tmp_path / 'all' / 'hands.json').write_text(json.dumps(frames))
    same(read_hands(tmp_path / 'all' / 'hands.json', names(), SIZE, 30.0), pixels)


def test_files_folders_patterns(tmp_path):
    for name in ('a.jpg', 'b.png'):
        Image.new('RGB', (32, 32)).save(tmp_path / name)
    (tmp_path / 'notes.txt').write_text('nothing to see')
    here = str(tmp_path)
    wanted = (f'{here}/a.jpg', f'{here}/b.png')
    for given in (here, f'{here}/*', f'{here}/**/*'):
        found, skipped = photos_and_others((given,), False)
        files = tuple(path for path in found if not os.path.isdir(path))
        assert files == wanted, given
        assert [os.path.basename(path) for path in skipped if os.path.isfile(path)] == ['notes.txt']
    assert photos_and_others((f'{here}/notes.txt',), False)[0] == (f'{here}/notes.txt',)
    with pytest.raises(ValueError, match='holds no video that is read; it holds'):
        photos_and_others((here,), True)


@pytest.mark.parametrize('command', ['forecast', 'track', 'lift', 'train', 'runs', 'run', 'demo',
                                     'paper', 'bench', 'parameters', 'check-data', 'new-dataset'])
def test_every_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit):
        main([command, '--help'])
    assert f'forehand4d {command}' in ' '.join(capsys.readouterr().out.split())


@pytest.mark.parametrize('command', ['forecast', 'track', 'lift'])
def test_a_missing_file_is_answered_at_once(command, capsys):
    assert main([command, 'nowhere.mp4']) == 2
    assert 'nowhere.mp4' in capsys.readouterr().err
