"""Cameras of other tools: COLMAP's binary models byte by byte, nerfstudio's and Blender's json.
The files are written here with `struct` and `json`, from COLMAP's description of its formats"""

import json
import math
import struct
import time
import warnings
import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from forehand4d.geometry.lenses import brown_conrady
from forehand4d.video.colmap import read_colmap
from forehand4d.video.frame_cameras import read_cameras

SIZE = (640, 480)
NAMES = [f'frame_{i:04d}' for i in range(5)]
# number of the model, its parameters, and OpenCV's matrix and coefficients for the same lens
MODELS = {
    'SIMPLE_PINHOLE': (0, [500, 320.5, 240], [500, 500], []),
    'PINHOLE': (1, [500, 510, 320.5, 240], [500, 510], []),
    'SIMPLE_RADIAL': (2, [500, 320.5, 240, -0.1], [500, 500], [-0.1, 0, 0, 0]),
    'RADIAL': (3, [500, 320.5, 240, -0.1, 0.02], [500, 500], [-0.1, 0.02, 0, 0]),
    'OPENCV': (
        4,
        [500, 510, 320.5, 240, -0.1, 0.02, 0.001, -0.002],
        [500, 510],
        [-0.1, 0.02, 0.001, -0.002],
    ),
    'FULL_OPENCV': (
        6,
        [500, 510, 320.5, 240, -0.1, 0.02, 0.001, -0.002, 0.03, 0.04, -0.01, 0.005],
        [500, 510],
        [-0.1, 0.02, 0.001, -0.002, 0.03, 0.04, -0.01, 0.005],
    ),
}


def poses():
    "Rotations and translations of five cameras, world to camera"
    turn = Rotation.from_rotvec([[0.1 * i, -0.2, 0.05 * i] for i in range(5)])
    return turn, np.array([[0.1 * i, 0.2, 1 + i] for i in range(5)])


def cameras_bytes(number, parameters, camera=3, count=1):
    head = struct.pack('<Q', count)
    lens = struct.pack('<iiQQ', camera, number, *SIZE)
    return head + lens + struct.pack(f'<{len(parameters)}d', *parameters)


def images_bytes(names, points=2, camera=3, count=None):
    "Names may have folders and suffixes; the images are written in reverse order"
    turn, at = poses()
    found = struct.pack('<Q', len(names) if count is None else count)
    for i in reversed(range(len(names))):
        x, y, z, w = turn[i].as_quat()
        found += struct.pack('<i', i + 1) + struct.pack('<7d', w, x, y, z, *at[i])
        found += struct.pack('<i', camera) + names[i].encode() + b'\0'
        found += struct.pack('<Q', points) + points * struct.pack('<ddq', 1.5, 2.5, -1)
    return found


def binary(folder, cameras, images):
    folder.mkdir(exist_ok=True)
    (folder / 'cameras.bin').write_bytes(cameras)
    (folder / 'images.bin').write_bytes(images)
    return folder


@pytest.mark.parametrize('model', MODELS)
def test_a_binary_model_projects_as_opencv(tmp_path, model):
    "Every lens: points land where OpenCV projects them, half a pixel up and to the left"
    number, parameters, focal, coefficients = MODELS[model]
    names = [f'images/{n}.png' for n in NAMES]
    folder = binary(tmp_path / 'model', cameras_bytes(number, parameters), images_bytes(names))
    found = read_cameras(folder, NAMES, SIZE)
    turn, at = poses()
    points = np.random.default_rng(0).uniform([-0.5, -0.5, 3], [0.5, 0.5, 5], (30, 3))
    K = np.array([[focal[0], 0, 320.5], [0, focal[1], 240], [0, 0, 1.0]])
    for i in range(5):
        theirs, _ = cv2.projectPoints(
            points, turn[i].as_rotvec(), at[i], K, np.array(coefficients or [0.0] * 4)
        )
        seen = points @ found.cam_from_world[i, :3, :3].numpy().T
        seen += found.cam_from_world[i, :3, 3].numpy()
        ours = brown_conrady(found.intrinsics[i], found.lens[i], torch.from_numpy(seen))
        assert np.abs(ours.numpy() - (theirs[:, 0] - 0.5)).max() < 1e-6


def test_binary_and_text_are_the_same_model(tmp_path):
    number, parameters, *_ = MODELS['OPENCV']
    names = [f'{n}.jpg' for n in NAMES]
    folder = binary(tmp_path / 'binary', cameras_bytes(number, parameters), images_bytes(names))
    text = tmp_path / 'text'
    text.mkdir()
    turn, at = poses()
    (text / 'cameras.txt').write_text(
        '# Camera list\n3 OPENCV 640 480 ' + ' '.join(map(repr, parameters)) + '\n'
    )
    lines = ['# Image list']
    for i in reversed(range(5)):
        x, y, z, w = turn[i].as_quat().tolist()
        pose = ' '.join(map(repr, [w, x, y, z, *at[i].tolist()]))
        lines += [f'{i + 1} {pose} 3 {names[i]}', '1.5 2.5 -1 1.5 2.5 -1']
    (text / 'images.txt').write_text('\n'.join(lines) + '\n')
    assert read_colmap(folder) == read_colmap(text)
    # where both are there, the binary one counts
    (text / 'cameras.bin').write_bytes(cameras_bytes(1, MODELS['PINHOLE'][1]))
    (text / 'images.bin').write_bytes(images_bytes(names))
    assert {image.lens.model for image in read_colmap(text)} == {'PINHOLE'}


def test_frames_without_an_image_have_no_pose(tmp_path):
    folder = binary(
        tmp_path / 'model', cameras_bytes(1, MODELS['PINHOLE'][1]), images_bytes(NAMES[:4])
    )
    with pytest.warns(UserWarning, match='nothing on 1 of 5 frames: frame_0004'):
        found = read_cameras(folder, NAMES, SIZE)
    assert found.cam_from_world.isfinite().flatten(1).all(-1).tolist() == [True] * 4 + [False]


GOOD = cameras_bytes(1, MODELS['PINHOLE'][1]), images_bytes(NAMES)
HUGE = struct.pack('<Q', 2**63)


@pytest.mark.parametrize(
    'cameras, images, says',
    [
        (b'', GOOD[1], 'cameras.bin is cut off after 0 bytes'),
        (GOOD[0][:-1], GOOD[1], 'cameras.bin speaks of 1 cameras, its 63 bytes hold|cut off'),
        (GOOD[0], GOOD[1][:-1], 'images.bin speaks of 2 points'),
        (GOOD[0], GOOD[1][:100], r'images.bin (speaks of 5 images|is cut off)'),
        (HUGE + GOOD[0][8:], GOOD[1], 'cameras.bin speaks of 9223372036854775808 cameras'),
        (GOOD[0], HUGE + GOOD[1][8:], 'images.bin speaks of 9223372036854775808 images'),
        (GOOD[0], images_bytes(NAMES, count=6), 'images.bin is cut off'),
        (GOOD[0], images_bytes(NAMES, count=4), 'images.bin holds .* bytes after its last entry'),
        (GOOD[0] + b'x', GOOD[1], 'cameras.bin holds 1 bytes after its last entry'),
        (cameras_bytes(5, [1.0] * 8), GOOD[1], 'camera model OPENCV_FISHEYE; known are'),
        (cameras_bytes(11, [1.0] * 16), GOOD[1], 'camera model number 11; known are'),
        (cameras_bytes(-1, [1.0] * 4), GOOD[1], 'camera model number -1; known are'),
        (cameras_bytes(1, [500.0, 510, 320, 240], 8), GOOD[1], r'camera 3, there are .* \[8\]'),
        (GOOD[0], images_bytes(['n' * 5000] * 3), 'images.bin has a name without an end'),
        (GOOD[0], GOOD[1].replace(NAMES[2].encode(), b'\xff' * 10), 'expected UTF-8'),
        (cameras_bytes(1, [np.nan, 510, 320, 240]), GOOD[1], 'every one holds NaN'),
        (GOOD[0], GOOD[1].replace(struct.pack('<d', 4), struct.pack('<d', np.inf)), 'not finite'),
        (cameras_bytes(1, [5e9, 5e9, 320, 240]), GOOD[1], 'focal lengths'),
        (GOOD[0].replace(struct.pack('<Q', 640), bytes(8)), GOOD[1], 'a camera of 0x480 pixels'),
    ],
)
def test_damage_is_named(tmp_path, cameras, images, says):
    folder = binary(tmp_path / 'model', cameras, images)
    start = time.monotonic()
    with pytest.raises(ValueError, match=says) as error:
        read_cameras(folder, NAMES, SIZE)
    assert str(folder) in str(error.value) and time.monotonic() - start < 1


def test_no_single_bit_breaks_the_reader(tmp_path):
    "Whatever byte is wrong: cameras that are possible, or an error that names the model"
    folder = tmp_path / 'model'
    g = np.random.default_rng(0)
    taken = 0
    for _ in range(100):
        files = [bytearray(data) for data in GOOD]
        broken = files[int(g.integers(2))]
        broken[int(g.integers(len(broken)))] ^= 1 << int(g.integers(8))
        binary(folder, *files)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                found = read_cameras(folder, NAMES, SIZE)
        except ValueError as error:
            assert str(folder) in str(error)
        else:
            taken += 1
            assert found.intrinsics.isfinite().all()
    assert 0 < taken < 100


def test_millions_of_points_cost_nothing(tmp_path):
    "Points are passed over: a file of 240 MB (sparse) is read at once"
    one = images_bytes(NAMES[:1], points=0, count=1)[:-8]
    folder = binary(
        tmp_path / 'model',
        GOOD[0],
        one + struct.pack('<Q', 10**7),
    )
    with (folder / 'images.bin').open('r+b') as file:
        file.truncate(len(one) + 8 + 24 * 10**7)
    start = time.monotonic()
    assert [image.name for image in read_colmap(folder)] == NAMES[:1]
    assert time.monotonic() - start < 1


# ---- transforms.json


def transforms(path, lens):
    "nerfstudio's and Blender's notation: camera to world, y up, z backwards"
    turn, at = poses()
    frames = []
    for name, R, t in zip(NAMES, turn.as_matrix(), at, strict=True):
        cam = np.eye(4)
        cam[:3, :3], cam[:3, 3] = R, t
        world = np.linalg.inv(cam) @ np.diag([1, -1, -1, 1])
        frames.append(dict(file_path=f'./images/{name}.png', transform_matrix=world.tolist()))
    path.write_text(json.dumps({**lens, 'frames': frames}))
    return path


@pytest.mark.parametrize(
    'lens, focal',
    [
        (dict(camera_angle_x=2 * math.atan(320 / 500)), (500, 500)),
        (dict(camera_angle_y=2 * math.atan(240 / 510)), (510, 510)),
        (
            dict(
                camera_angle_x=2 * math.atan(320 / 500), camera_angle_y=2 * math.atan(240 / 510)
            ),
            (500, 510),
        ),
        (dict(fl_x=500), (500, 500)),
        (dict(fl_y=510), (510, 510)),
        (dict(fl_x=500, fl_y=510), (500, 510)),
        (dict(fl_x=500, camera_angle_x=1.0, camera_angle_y=1.0, fl_y=510), (500, 510)),
    ],
)
def test_focal_lengths_or_angles(tmp_path, lens, focal):
    found = read_cameras(transforms(tmp_path / 'transforms.json', lens), NAMES, SIZE)
    assert found.intrinsics[0, [0, 1], [0, 1]].tolist() == pytest.approx(focal)
    assert found.intrinsics[0, :2, 2].tolist() == [319.5, 239.5]
    turn, at = poses()
    assert np.abs(found.cam_from_world[:, :3, :3].numpy() - turn.as_matrix()).max() < 1e-9
    assert np.abs(found.cam_from_world[:, :3, 3].numpy() - at).max() < 1e-9


def test_what_nerfstudio_writes(tmp_path):
    lens = dict(camera_model='OPENCV', w=640, h=480, fl_x=500.0, fl_y=510.0, cx=320.5, cy=240.0)
    lens |= dict(k1=-0.1, k2=0.02, k3=0.0, k4=0.0, p1=0.001, p2=-0.002)
    lens |= dict(applied_transform=[[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]])
    found = read_cameras(transforms(tmp_path / 'transforms.json', lens), NAMES, SIZE)
    assert found.lens[2].tolist() == [-0.1, 0.02, 0.001, -0.002, 0, 0, 0, 0]
    assert found.intrinsics[2, :2, 2].tolist() == [320, 239.5]


@pytest.mark.parametrize(
    'lens, says',
    [
        (dict(), 'neither fl_x nor camera_angle_x is there, nor those of y'),
        (dict(camera_angle_x='wide'), "camera_angle_x is 'wide', expected a number"),
        (dict(camera_angle_x=-1.0), 'expected radians'),
        (dict(camera_angle_y=math.pi), 'expected radians'),
        (dict(fl_x=500, camera_model='OPENCV_FISHEYE'), 'camera model OPENCV_FISHEYE'),
        (dict(fl_x=500, is_fisheye=True), 'camera model fisheye'),
        (dict(fl_x=500, k4=0.1), 'camera model fisheye'),
    ],
)
def test_transforms_that_make_no_sense(tmp_path, lens, says):
    path = transforms(tmp_path / 'transforms.json', lens)
    with pytest.raises(ValueError, match=says) as error:
        read_cameras(path, NAMES, SIZE)
    assert str(path) in str(error.value)
