"""Further inputs of each kind that users' tools write: keypoints, cameras, pictures, checkpoints,
hand models; the right value, or one error that says what was found and what was expected"""

import json, math, pickle, time, warnings
import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from test_cases import SIZE, hand, refused
from fuzz.others import mano_pickle
from forehand4d.geometry.hand_models import load_hand
from forehand4d.geometry.mano import to_mano21
from forehand4d.networks.pretrained import read_state
from forehand4d.video.frame_cameras import read_cameras
from forehand4d.video.hand_files import read_hands
from forehand4d.video.images import intrinsics_for, load_image

NAMES = [f'{i:04d}.png' for i in range(4)]
JOINTS = np.stack([hand(i) for i in range(4)])


def saved(path, content):
    "A file of a kind that its suffix says"
    if path.suffix == '.npz':
        np.savez(path, **content)
    elif path.suffix == '.pkl':
        path.write_bytes(pickle.dumps(content))
    else:
        path.write_text(json.dumps(content), encoding='utf-8-sig')  # as tools of Windows do
    return path


def table(**change):
    return dict(frame=np.arange(4), is_right=np.ones(4), joints2d=JOINTS) | change


def entries(**change):
    return [dict(is_right=1, keypoints=joints.tolist()) | change for joints in JOINTS]


FAR = np.where(np.arange(21)[:, None] == 3, 1e300, JOINTS[0]).tolist()
CROP = (JOINTS[0] - JOINTS[0].min(0)) / np.ptp(JOINTS[0], 0) * 0.9 + 0.05  # 0…1 around the hand


def coco(**annotation):
    return dict(images=[dict(id=1, file_name=NAMES[0])], annotations=[annotation])


def landmarks(joints, **more):
    "As MediaPipe's own dicts have them, in shares of the picture"
    points = [dict(x=x, y=y, z=-0.01, visibility=0.0) for x, y in joints / (639, 479)]
    return dict(landmarks=points) | more


GOOD_HANDS = {
    'landmarks.json': [landmarks(joints, is_right=1, handedness='Left') for joints in JOINTS],
    'half.npz': table(joints2d=JOINTS.astype(np.float16)),
    'truth.npz': table(is_right=np.ones(4, bool)),
    'list.json': entries(),
    'by_name.json': dict(zip(NAMES, entries(), strict=True)),
    'by_name.pkl': {n: dict(is_right=1, joints2d=j) for n, j in zip(NAMES, JOINTS, strict=True)},
}
BAD_HANDS = {
    'no_side.json': ([dict(keypoints=FAR)] * 4, 'expected is_right'),
    'mediapipe.json': ([dict(landmarks=[], handedness='Right')] * 4, 'an entry has landmarks'),
    'landmarks.json': ([landmarks(j, handedness='Left') for j in JOINTS], 'Add is_right (1 or 0)'),
    'solutions.json': ([dict(landmark=landmarks(j)['landmarks']) for j in JOINTS], 'MediaPipe'),
    'points.json': ([landmarks(j)['landmarks'] for j in JOINTS], 'an entry has x, y, z, visi'),
    'twenty.json': ([landmarks(j[:20], is_right=1) for j in JOINTS], 'joints2d should be (1, 21'),
    'odd.json': ([dict(is_right=1, landmarks=[dict(x='a', y=0)] * 21)] * 4, 'joints2d should be'),
    'tasks.json': (
        [dict(handedness=[[{}]], hand_landmarks=[landmarks(j)['landmarks']]) for j in JOINTS],
        'as MediaPipe writes it',
    ),
    'mmpose.json': (dict(meta_info={}, instance_info=[]), "speaks of ['meta_info'"),
    'arrays.pkl': (list(JOINTS), 'type ndarray'),
    'image.json': (
        dict(images=[], annotations=[dict(image_id=7)]) | dict(images=[dict(id=1, file_name='a')]),
        'image 7',
    ),
    'names.npz': (table(frame=np.array(NAMES)), "is text, '0000.png'"),
    'side.npz': (table(is_right=np.array(['right'] * 4)), "is text, 'right'"),
    'half_frame.npz': (table(frame=np.arange(4) + 0.5), 'whole numbers'),
    'shift.npz': (table(frame=np.arange(4) + 1), 'set `first`'),
    'before.npz': (table(frame=np.arange(4) - 2), 'whole numbers from 0'),
    'rows.npz': (table(joints2d=JOINTS[:3]), 'expected 4 rows as in frame'),
    'complex.npz': (table(joints2d=JOINTS.astype(complex)), 'is complex'),
    'crop.json': (entries(keypoints=CROP.tolist()), 'as shares of crops would'),
    'tiny.json': (entries(keypoints=(320 + CROP).tolist()), 'hands of 0.9 pixels'),
    'unknown.json': (entries(keypoints=[[math.nan] * 3] * 21), 'no hand in any of 4 frames'),
    'no_name.json': (dict(images=[dict(id=7)], annotations=[]), 'has no file_name; there is id'),
    'no_list.json': (dict(images=None, annotations=[]), 'images is None, expected a list'),
    'no_image.json': (coco(keypoints=[1.0] * 63), 'one of annotations has no image_id'),
    'no_annotations.json': (coco() | dict(annotations={}), 'annotations is {}, expected a list'),
    'text.json': (dict(images=['0000.png'], annotations=[]), "images holds '0000.png'"),
    'wilor.pkl': ([dict(is_right=1, wilor_preds=None)] * 4, 'wilor_preds is None'),
    'wilor_side.pkl': ([dict(wilor_preds=dict(pred_keypoints_2d=[]))] * 4, 'has no is_right'),
    'hamer.pkl': ([dict(pred_keypoints_3d=[], right=[1])] * 4, 'has no pred_cam_t_full, scaled'),
}


@pytest.mark.parametrize('name', GOOD_HANDS)
def test_hands_of_other_tools(tmp_path, name):
    tracks = read_hands(saved(tmp_path / name, GOOD_HANDS[name]), NAMES, SIZE, 30.0)
    assert tracks.valid[:, 0].all() and not tracks.valid[:, 1].any()
    wanted = to_mano21(torch.from_numpy(JOINTS), 'openpose21')
    assert (tracks.keypoints[:, 0] - wanted).abs().max() < 0.3


@pytest.mark.parametrize('name', BAD_HANDS)
def test_hands_that_say_too_little(tmp_path, name):
    content, says = BAD_HANDS[name]
    refused(name, read_hands, saved(tmp_path / name, content), NAMES, SIZE, 30.0, says=says)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('unknown', [math.nan, -1.0, 0.0])
def test_a_confidence_that_nobody_knows_is_none(tmp_path, unknown):
    "Joints without a confidence are missing, the others count, and nothing else is said"
    trusted = np.where(np.arange(21) < 12, 0.5, unknown)
    seen = np.dstack([JOINTS, np.tile(trusted, (4, 1))])
    tracks = read_hands(saved(tmp_path / 'a.npz', table(joints2d=seen)), NAMES, SIZE, 30.0)
    assert (tracks.valid[:, 0].sum(-1) == 12).all()


def test_percent_do_not_pass_in_silence(tmp_path):
    "Pixels of a corner cannot be told from percent: they are taken, with a word"
    percent = 100 * JOINTS / SIZE
    path = saved(tmp_path / 'percent.json', [entries(keypoints=k.tolist())[0] for k in percent])
    with pytest.warns(UserWarning, match='percent.json: no coordinate .* divide them by 100'):
        read_hands(path, NAMES, SIZE, 30.0)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        read_hands(path, NAMES, (320, 240), 30.0)
        read_hands(saved(tmp_path / 'a.json', entries()), NAMES, SIZE, 30.0)


def test_hands_in_millimetres_among_metres(tmp_path):
    flat = np.dstack([(JOINTS[:1] - 320) / 600, np.zeros((1, 21))])
    for unit, says in ((1.0, ''), (1000.0, 'such as millimetres')):
        for i, name in enumerate(NAMES):
            network = dict(is_right=[1], joints3d=flat, cam_t=[[i / 100, 0, unit]], focal=600.0)
            np.savez(tmp_path / f'{name}.npz', **network)
        if says:
            refused(tmp_path.name, read_hands, tmp_path, NAMES, SIZE, 30.0, says=says)
        else:
            assert read_hands(tmp_path, NAMES, SIZE, 30.0).valid[:, 0].any(-1).all()


def test_a_crowd_takes_no_minutes(tmp_path):
    "Of fifty hands the surest are looked at; the right one is found"
    crowd = [
        [
            dict(is_right=1, keypoints=(joints + (4 * n, 0)).tolist(), score=1 - n / 60)
            for n in range(50)
        ]
        for joints in JOINTS
    ]
    path = saved(tmp_path / 'street.json', crowd)
    began = time.perf_counter()
    with pytest.warns(UserWarning, match='street.json: more than 8 hands in 4 of 4 frames'):
        tracks = read_hands(path, NAMES, SIZE, 30.0)
    assert time.perf_counter() - began < 10  # fifty at a time take more than a minute
    assert tracks.score[:, 0].tolist() == pytest.approx([1] * 4, abs=0.15)


def test_a_joint_far_away_is_missing(tmp_path):
    path = saved(tmp_path / 'a.json', [*entries()[:3], dict(is_right=1, keypoints=FAR)])
    tracks = read_hands(path, NAMES, SIZE, 30.0)
    assert tracks.valid[3, 0].sum() == 20 and tracks.keypoints.isfinite().all()


def test_surplus_among_names_with_suffixes(tmp_path):
    for i in range(6):
        saved(tmp_path / f'{i:04d}.json', [entries()[0]])
    refused(tmp_path.name, read_hands, tmp_path, NAMES, SIZE, 30.0, says='frames 0004, 0005')
    for i in (4, 5):
        (tmp_path / f'{i:04d}.json').unlink()
    saved(tmp_path / 'summary.json', {})
    with pytest.warns(UserWarning, match='left out summary'):
        read_hands(tmp_path, NAMES, SIZE, 30.0)


# ---- cameras

K = np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]])
POSE = np.eye(4)
POSE[2, 3] = 0.5
LENS = dict(w=640, h=480, fl_x=600.0, fl_y=600.0, cx=320.0, cy=240.0)


def transforms(matrix=POSE, **change):
    frames = [dict(file_path=name, transform_matrix=np.array(matrix).tolist()) for name in NAMES]
    return LENS | dict(frames=frames) | change


def arrays(**change):
    return dict(intrinsics=K, cam_from_world=np.stack([POSE] * 4)) | change


BAD_CAMERAS = {
    'flat.json': (transforms(POSE.ravel()), 'expected four rows'),
    'none.json': (transforms(None), 'is None, expected four rows'),
    'singular.json': (transforms(np.zeros((4, 4))), 'cannot be inverted'),
    'table.json': (transforms(frames={'0000.png': 1}), 'should be a list'),
    'shares.json': (transforms(fl_x=0.94, fl_y=1.25, cx=0.5, cy=0.5), 'in shares of its sides'),
    'bent.json': (transforms(k1=1e6), 'distortion 1e+06'),
    'other.json': (dict(cameras=[]), 'expected frames (transforms.json)'),
    'transposed.npz': (arrays(intrinsics=K.T), 'transposed'),
    'skewed.npz': (arrays(intrinsics=K + np.eye(3, k=1) * 50), 'skewed'),
    'stretched.npz': (arrays(intrinsics=K * [[1], [0.2], [1]] + [0, 0, 0]), 'differ by a factor'),
    'names.npz': (dict(K=K, w2c=POSE), 'it has no intrinsics; there is'),
    'complex.npz': (arrays(intrinsics=K.astype(complex)), 'expected numbers'),
    'lens.npz': (arrays(dist=np.full(8, np.inf)), 'every one holds NaN or infinity'),
    'far.json': (transforms(POSE + np.eye(4, k=3) * 1e12), '1e+12 metres from the origin'),
    'infinite.json': (transforms(POSE * np.where(POSE == 0.5, np.inf, 1)), 'is not finite'),
    'size.json': (transforms(w=0, h=0), 'w and h are 0 and 0'),
    'negative.json': (transforms(w=-640, h=-480), 'w and h are -640 and -480'),
    'null.json': (transforms(frames=[None]), 'frame 0 is None, expected a file_path'),
    'number.json': (transforms(frames=[dict(file_path=7)]), 'expected a file_path'),
    'nameless.json': (transforms(frames=[dict(transform_matrix=[])]), 'expected a file_path'),
    'two.json': (
        transforms(frames=transforms()['frames'][:1] + [transforms()['frames'][1] | dict(w=320)]),
        'cameras of 640x480 and of 320x480 pixels, expected one size',
    ),
}


@pytest.mark.filterwarnings('error::RuntimeWarning')
@pytest.mark.parametrize('name', BAD_CAMERAS)
def test_cameras_that_cannot_be(tmp_path, name):
    content, says = BAD_CAMERAS[name]
    refused(name, read_cameras, saved(tmp_path / name, content), NAMES, SIZE, says=says)


def test_cameras_of_other_tools(tmp_path):
    whole = read_cameras(saved(tmp_path / 'whole.json', transforms()), NAMES, SIZE)
    short = read_cameras(saved(tmp_path / 'short.json', transforms(POSE[:3])), NAMES, SIZE)
    assert torch.equal(whole.cam_from_world, short.cam_from_world)
    (tmp_path / 'colmap' / 'sparse' / '0').mkdir(parents=True)
    model = tmp_path / 'colmap' / 'sparse' / '0'
    (model / 'cameras.txt').write_text('1 PINHOLE 640 480 600 600 320 240\r\n')
    lines = [f'{i + 1} 1 0 0 0 0 0 .5 1 {name}\r\n\r\n' for i, name in enumerate(NAMES)]
    (model / 'images.txt').write_text(''.join(lines))
    for folder in (model, tmp_path / 'colmap'):
        found = read_cameras(folder, NAMES, SIZE)
        assert found.intrinsics[0, :2, 2].tolist() == [319.5, 239.5]
        assert found.cam_from_world[3, 2, 3] == 0.5
    path = tmp_path / 'pose.txt'
    refused('pose.txt', read_cameras, path, NAMES, SIZE, says='expected transforms')
    (model / 'cameras.txt').write_text('1,PINHOLE,640,480,600,600,320,240\n')
    refused('cameras.txt', read_cameras, model, NAMES, SIZE, says='expected a camera (number')


@pytest.mark.parametrize(
    'given, says',
    [
        ('0.8,1.0,0.5,0.5', 'in shares of its sides'),
        ([[50, 0, 0], [0, 50, 0], [32, 24, 1]], 'transposed'),
        ([[50, 5, 32], [0, 50, 24], [0, 0, 1]], 'skewed'),
        ([[100, 0, 64], [0, 100, 48], [0, 0, 2]], 'scaled'),
        ('5000,5000,32,24', 'focal lengths of 5000'),
        ('50,500,32,24', 'factor of 10'),
        ([[50, 0, None], [0, 50, 24], [0, 0, 1]], 'fx,fy,cx,cy'),
    ],
)
def test_intrinsics_of_other_conventions(given, says):
    with pytest.raises(ValueError, match=says):
        intrinsics_for(np.zeros((48, 64, 3), np.uint8), K=given)


# ---- pictures


def test_pictures_of_other_tools(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    image = Image.fromarray(pixels)
    small = Image.new('RGB', (64, 48))
    for name in ('a.png', 'a.tif', 'a.webp'):  # the first of several
        image.save(tmp_path / name, save_all=True, append_images=[small], lossless=True)
        assert (load_image(tmp_path / name) == pixels).all()
    for name in ('deep.png', 'deep.tif'):
        cv2.imwrite(str(tmp_path / name), pixels[..., ::-1].astype(np.uint16) * 257)
        assert (load_image(tmp_path / name) == pixels).all()
    image.convert('CMYK').save(tmp_path / 'print.jpg', quality=95)
    assert abs(load_image(tmp_path / 'print.jpg').astype(int) - pixels).mean() < 8
    preview = ImageFileDirectory_v2()
    preview[254] = 1
    for name, tags in (('a.dng', {}), ('a.tiff', dict(tiffinfo=preview))):
        image.save(tmp_path / name, format='TIFF', **tags)
        refused(name, load_image, tmp_path / name, says='raw photograph')


# ---- checkpoints, hand models

W = torch.arange(3.0)
CHECKPOINTS = {
    'model': dict(model=dict(w=W), epoch=3),
    'module': dict(module={'module.w': W}),
    'model_state_dict': dict(model_state_dict=dict(w=W), optimizer={}),
    'beside': dict(w=W, epoch=3),
    'extra state': dict(state_dict=dict(w=W, _extra_state=None)),
    'compiled': dict(state_dict={'module._orig_mod.w': W.bfloat16()}),
    'eight bits': dict(state_dict=dict(w=W.to(torch.float8_e4m3fn))),
}
BAD_CHECKPOINTS = {
    'list': ([W], 'type list'),
    'nested': (dict(state_dict=dict(encoder=dict(w=W))), 'there is encoder'),
    'twice': (dict(state_dict={'module.w': W, 'w': W}), 'two tensors are called w'),
    'without numbers': (dict(w=torch.empty(3, device='meta')), 'has a shape and no numbers'),
}


@pytest.mark.parametrize('kind', CHECKPOINTS)
def test_checkpoints_of_other_tools(tmp_path, kind):
    torch.save(CHECKPOINTS[kind], tmp_path / 'a.ckpt')
    found = read_state(tmp_path / 'a.ckpt')
    assert list(found) == ['w'] and found['w'].tolist() == [0, 1, 2]


@pytest.mark.parametrize('kind', BAD_CHECKPOINTS)
def test_checkpoints_that_are_none(tmp_path, kind):
    content, says = BAD_CHECKPOINTS[kind]
    torch.save(content, tmp_path / 'a.ckpt')
    refused('a.ckpt', read_state, tmp_path / 'a.ckpt', says=says)


def test_a_hand_without_joints_or_poses(tmp_path):
    path = mano_pickle(tmp_path)
    arrays = pickle.loads(path.read_bytes())
    for key, says in (('J_regressor', 'sum to 1'), ('hands_components', 'rows of zeros')):
        path.write_bytes(pickle.dumps(arrays | {key: arrays[key] * 0}))
        refused(path, load_hand, path, 'right', says=says)
