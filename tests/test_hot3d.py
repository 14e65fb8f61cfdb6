"""HOT3D: miniatures of both official forms,
written from known motions, and a genuine recording without images"""

import io, json, pickle, shutil, sys, tarfile
from dataclasses import replace
from functools import lru_cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from scipy.spatial.transform import Rotation
from test_adapters import N, dot_error, dots, jpg, same, scene, stand_in, write  # noqa: F401, a fixture
from forehand4d.geometry.cameras import invert, transform
from forehand4d.geometry.hand_models import forget_hands, hand_pair, know_hands, open_hand
from forehand4d.geometry.mano import from_mano, from_mano21, to_mano
from forehand4d.datasets import hot3d, hot3d_files
from forehand4d.geometry.lenses import fisheye624
from forehand4d.datasets.sequences import read_split
from forehand4d.datasets.windows import windows
from forehand4d.datasets.checks import check_sequence

SIDE = np.array(
    [[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
)  # an image turned clockwise shows below what the sensor has to its right
BEND = [0.38, -0.38, -0.12, 1.5, -2.0, 0.7, -1e-3, 2e-4, 2e-3, -4e-4, -1.5e-3, 2.5e-4]
RGB, QUEST, SLAM = (
    [610.2, 706.3, 701.2, *BEND],
    [480.3, 479.1, 642.2, 508.9, *BEND],
    [241.5, 318.4, 237.4, *BEND],
)
SMALL, SMALL_QUEST = (
    [305.2, 304.1, 353.3, 350.2, *BEND],
    [240.3, 239.1, 320.2, 254.9, *BEND],
)  # of clips with images
LABEL = {'214-1': 'camera-rgb', '1201-1': 'camera-slam-left', '1201-2': 'camera-slam-right'}
START = 56752108188860
TIPS = [16, 20]  # drawn in images: thumb and little finger of both hands, far from each other


@pytest.fixture(autouse=True)
def fixed(stand_in):  # noqa: F811, the fixture
    "The corrected left hand differs from the stock one in the x components of its shape directions"
    left = open_hand('left')
    know_hands(
        *(
            replace(h, hand_id='mano-left-fixed')
            for h in (
                open_hand('right'),
                replace(
                    left,
                    shapedirs=left.shapedirs * torch.tensor([-1.0, 1, 1])[:, None],
                    J_shapedirs=left.J_shapedirs * torch.tensor([-1.0, 1, 1])[:, None],
                ),
            )
        )
    )
    yield
    forget_hands('mano-left-fixed')


def scene15(seed):
    """A scene whose poses have 15 coefficients:
    orientation, coefficients, translation, motion, camera"""
    m, cam = scene(seed, one_shape=True)
    pair = hand_pair('mano')
    orient, pose, transl = to_mano(pair, m.rot, m.wrist, m.betas, 'pca', n=15)
    rot, wrist = from_mano(pair, orient, pose, transl, m.betas.expand(N, 2, 10), 'pca')
    return (orient.double(), pose.double(), transl.double()), replace(m, rot=rot, wrist=wrist), cam


def lens_px(params, points):
    "Fisheye624 as its makers write it, a term at a time"
    p = [params[0], *params] if len(params) == 15 else list(params)
    x, y, z = np.moveaxis(np.asarray(points, float), -1, 0)
    r = np.hypot(x, y)
    theta = np.arctan2(r, z)
    a, b = theta * x / r, theta * y / r
    rho = a * a + b * b
    scale = 1 + sum(k * rho ** (i + 1) for i, k in enumerate(p[4:10]))
    u, v, (p1, p2), (s1, s2, s3, s4) = a * scale, b * scale, p[10:12], p[12:]
    q = u * u + v * v
    return np.stack(
        [
            p[0] * (u + 2 * p2 * u * v + p1 * (q + 2 * u * u) + s1 * q + s2 * q * q) + p[2],
            p[1] * (v + 2 * p1 * u * v + p2 * (q + 2 * v * v) + s3 * q + s4 * q * q) + p[3],
        ],
        -1,
    )


def quat(T):
    return np.roll(Rotation.from_matrix(np.asarray(T)[..., :3, :3]).as_quat(), 1, -1).tolist()


def skeleton(seed=0):
    "A hand of UmeTrack with the official tree, other numbers and few vertices"
    g = np.random.default_rng(seed)
    axes, spots = (
        g.normal(size=(22, 3)),
        [4, 7, 10, 13, 16, 1, 2, 3]
        + [f for k in range(1, 5) for f in (1, 3 * k + 2, 3 * k + 3)]
        + [1],
    )
    weights, of = (
        [[1.0, 0, 0]] * 20 + [[0.88, 0.08, 0.04]],
        [[b] * 3 for b in spots[:20]] + [[1, 8, 5]],
    )
    return dict(
        joint_rotation_axes=(axes / np.linalg.norm(axes, axis=-1, keepdims=True)).tolist(),
        joint_rest_positions=g.normal(size=(22, 3), scale=60).tolist(),
        joint_frame_index=[255.0 if j % 4 == 0 else j // 4 * 3 + j % 4 + 1.0 for j in range(20)]
        + [255.0, 0.0],
        joint_parent=[255.0 if j % 4 == 0 else j - 1.0 for j in range(22)],
        joint_first_child=[255.0] * 22,
        joint_next_sibling=[255.0] * 22,
        joint_limits=[[-1.0, 1.0]] * 22,
        hand_scale=1.0,
        mesh_triangles=[[0.0, 1, 2]],
        mesh_vertices=g.normal(size=(4, 3)).tolist(),
        dense_bone_weights=np.full((4, 17), 1 / 17).tolist(),
        landmark_rest_positions=g.normal(size=(21, 3), scale=60).tolist(),
        landmark_rest_bone_indices=of,
        landmark_rest_bone_weights=weights,
    )


def landmarks(profile, angles, T, right):
    "The same points, turned by one hinge after the other from the tip to the palm: (21, 3) metres"
    frame = [int(f) for f in profile['joint_frame_index']]

    def moved(x, bone):
        j = frame.index(bone) if bone in frame else None
        while j is not None:
            at = np.array(profile['joint_rest_positions'][j])
            x = (
                Rotation.from_rotvec(angles[j] * np.array(profile['joint_rotation_axes'][j])).apply(
                    x - at
                )
                + at
            )
            j = None if profile['joint_parent'][j] == 255 else int(profile['joint_parent'][j])
        return x

    points = [
        sum(w * moved(np.array(x), b) for w, b in zip(ws, bs, strict=True))
        for x, ws, bs in zip(
            *(profile[f'landmark_rest_{k}'] for k in ('positions', 'bone_weights', 'bone_indices')),
            strict=True,
        )
    ]
    return np.array(points) / 1000 * [-1 if right else 1, 1, 1] @ T[:3, :3].T + T[:3, 3]


def write_lines(path, rows):
    write(path, ''.join(json.dumps(r) + '\n' for r in rows))


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)


def tracked(seed=3):
    "UmeTrack's labels of a scene: angles (N, 2, 22), wrists (N, 2, 4, 4), landmarks (N, 2, 21, 3)"
    g, profile = np.random.default_rng(seed), skeleton(seed)
    angles, T = (
        0.3 * np.sin(np.arange(N)[:, None, None] / 9 + g.normal(size=(2, 22))),
        np.tile(np.eye(4), (N, 2, 1, 1)),
    )
    T[..., :3, :3], T[..., :3, 3] = (
        Rotation.from_rotvec(g.normal(size=(N * 2, 3), scale=0.1)).as_matrix().reshape(N, 2, 3, 3),
        g.normal(size=(N, 2, 3), scale=0.02),
    )
    return (
        profile,
        angles,
        T,
        np.array(
            [[landmarks(profile, angles[i, h], T[i, h], h == 0) for h in (0, 1)] for i in range(N)]
        ),
    )


def write_recording(root, name='P0003_c701bd11', aria=True, seed=2):
    "The folder format: two streams, labels also at the times of the other one"
    (orient, pose, transl), m, cam = scene15(seed)
    profile, angles, wrists, _ = tracked()
    folder, t, stream, other = (
        root / name,
        START + np.round(np.arange(N) * 1e9 / 30).astype(np.int64),
        *(('214-1', '1201-1') if aria else ('1201-1', '1201-2')),
    )
    params = np.array([RGB if aria else QUEST] * N)
    if aria:
        params[:, 0] += 0.1 * np.arange(N)  # the calibration drifts
    world_from_cam = np.linalg.inv((SIDE if aria else np.eye(4)) @ cam.double().numpy())
    device = np.eye(4)
    device[:3, :3], device[:3, 3] = (
        Rotation.from_rotvec([0.6, 0.1, -0.2]).as_matrix(),
        [0.01, -0.02, 0.03],
    )
    head = world_from_cam @ np.linalg.inv(device)
    write(
        folder / 'metadata.json',
        json.dumps(
            dict(
                gt_available_status=dict(
                    mano_hand_pose_gt=True, umetrack_hand_pose_gt=True, object_pose_gt=True
                ),
                headset='Aria' if aria else 'Quest3',
                participant_id=name[:5],
                recording_name=name,
            )
        ),
    )
    mano, ume, heads, boxes = [], [], [], []
    for i in range(N):
        for k, wrong in (
            (0, 0),
            *([(90813, 0.1)] if aria else []),
        ):  # nanoseconds to the other cameras, whose labels are elsewhere
            here = {'1': 0, '0': 1} if i not in (8, 9) else {'0': 1} if i == 9 else {}
            q = quat(Rotation.from_rotvec(orient[i].numpy()).as_matrix())
            place = {
                s: dict(t_xyz=(transl[i, h] + wrong).tolist(), q_wxyz=q[h]) for s, h in here.items()
            }
            mano.append(
                dict(
                    timestamp_ns=int(t[i]) + k,
                    hand_poses={
                        s: dict(
                            pose=pose[i, h].tolist(),
                            wrist_xform=place[s],
                            betas=m.betas[0].tolist(),
                        )
                        for s, h in here.items()
                    },
                )
            )
            ume.append(
                dict(
                    timestamp_ns=int(t[i]) + k,
                    hand_poses={
                        s: dict(
                            wrist_xform=dict(
                                t_xyz=(wrists[i, h, :3, 3] + wrong).tolist(),
                                q_wxyz=quat(wrists[i, h]),
                            ),
                            joint_angles=angles[i, h].tolist(),
                            hand_confidence=1.0,
                        )
                        for s, h in here.items()
                    },
                )
            )
            heads.append(
                {'object_uid': 5411364721403, 'timestamp[ns]': t[i] + k}
                | dict(zip([f't_wo_{a}[m]' for a in 'xyz'], head[i, :3, 3] + wrong, strict=True))
                | dict(zip([f'q_wo_{a}' for a in 'wxyz'], quat(head[i]), strict=True))
            )
        for s in (stream, other):
            for h in (0, 1):
                box, v = (
                    dict(
                        zip(
                            ('x_min[pixel]', 'x_max[pixel]', 'y_min[pixel]', 'y_max[pixel]'),
                            (965.0, 1312.0, 724.0, 964.0),
                            strict=True,
                        )
                    ),
                    0.788,
                )
                if s == stream and h == 0 and i == 12:
                    box, v = dict.fromkeys(box), 0.0  # the left hand cannot be seen
                boxes.append(
                    {'stream_id': s, 'hand_index': h, 'timestamp[ns]': t[i] + (s != stream)}
                    | box
                    | {'visibility_ratio[%]': v}
                )
    write_lines(folder / 'mano_hand_pose_trajectory.jsonl', mano)
    write_lines(folder / 'umetrack_hand_pose_trajectory.jsonl', ume)
    write(folder / 'umetrack_hand_user_profile.json', json.dumps(dict(hand_model=profile)))
    table(folder / 'headset_trajectory.csv', heads)
    table(folder / 'box2d_hands.csv', boxes)
    off = dict(hand_pose_available=[4], hand_visible=[10], good_exposure=[11])
    for k in (
        'good_exposure',
        'hand_pose_available',
        'hand_visible',
        'headset_pose_available',
        'object_pose_available',
        'object_visible',
    ):
        table(
            folder / 'masks' / f'mask_{k}.csv',
            [
                {
                    'timestamp[ns]': t[i] + (s != stream),
                    'stream_id': s,
                    'mask': s != stream or i not in off.get(k, []),
                }
                for i in range(N)
                for s in (stream, other)
            ],
        )
    T = dict(Translation=device[:3, 3].tolist(), UnitQuaternion=[quat(device)[0], quat(device)[1:]])

    def camera(s, p):
        return dict(
            Calibrated=True,
            Projection=dict(Params=list(p), Name='FisheyeRadTanThinPrism'),
            T_Device_Camera=T,
            SerialNumber='',
            Label=LABEL[s],
        )

    if aria:
        write_lines(
            folder / 'mps/slam/online_calibration.jsonl',
            [
                dict(
                    utc_timestamp_ns=-1,
                    tracking_timestamp_us=113585202412 + int(t[i] - t[0]) // 1000,
                    ImuCalibrations=[],
                    CameraCalibrations=[
                        camera('1201-1', SLAM),
                        camera('1201-2', SLAM),
                        camera('214-1', params[i]),
                    ],
                )
                for i in range(N)
            ],
        )
    else:
        write(
            folder / 'camera_models.json',
            json.dumps(
                [
                    dict(
                        label=LABEL[s],
                        stream_id=s,
                        imageWidth=1280,
                        imageHeight=1024,
                        projectionModelType='CameraModelType.FISHEYE624',
                        projectionParams=QUEST,
                        T_Device_Camera=dict(
                            translation_xyz=device[:3, 3].tolist(), quaternion_wxyz=quat(device)
                        ),
                        maxSolidAngle=1.5,
                        serialNumber='',
                    )
                    for s in ('1201-1', '1201-2')
                ]
            ),
        )
    valid = torch.ones(N, 2, 21, dtype=torch.bool)
    valid[[4, 8]], valid[9, 0] = False, False
    seen = valid.clone()
    seen[[10, 11]], seen[12, 1] = False, False
    return m, cam, pinhole(params, aria, 1408), valid, seen


def pinhole(params, aria, height):
    "Intrinsics (N, 3, 3) of the upright, undistorted images"
    K = np.tile(np.eye(3), (len(params), 1, 1))
    f, c = params[:, [0, params.shape[1] - 15]], params[:, -14:-12]
    K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2] = (
        (f[:, 1], f[:, 0], height - 1 - c[:, 1], c[:, 0])
        if aria
        else (f[:, 0], f[:, 1], c[:, 0], c[:, 1])
    )
    return torch.from_numpy(K).float()


def write_clip(root, aria=True, seed=2, spelling='T_world_from_wrist', drawn=()):
    """The clips format:
    frames in a tar file, left hand missing in one, MANO in another, both in a third"""
    (orient, pose, transl), m, cam = scene15(seed)
    profile, angles, wrists, _ = tracked()
    params, stream, size = (
        (SMALL, '214-1', (704, 704)) if aria else (SMALL_QUEST, '1201-1', (640, 512))
    )
    params = np.array([params] * N) + 0.1 * np.arange(N)[:, None] * np.eye(len(params))[0]
    world_from_cam = np.linalg.inv((SIDE if aria else np.eye(4)) @ cam.double().numpy())
    members, plain = {}, jpg(*size)
    for i in range(N):
        cameras = {
            s: dict(
                calibration=dict(
                    label=LABEL[s],
                    stream_id=s,
                    serial_number='',
                    image_width=w,
                    image_height=h,
                    projection_model_type='CameraModelType.FISHEYE624',
                    projection_params=list(p),
                    T_device_from_camera=dict(
                        translation_xyz=[0, 0, 0], quaternion_wxyz=[1, 0, 0, 0]
                    ),
                    max_solid_angle=1.5,
                ),
                T_world_from_camera=dict(
                    translation_xyz=world_from_cam[i, :3, 3].tolist(),
                    quaternion_wxyz=quat(world_from_cam[i]),
                ),
            )
            for s, p, (w, h) in ((stream, params[i], size), ('1201-2', SLAM, (640, 480)))
        }

        def hand(h, i=i):
            return dict(
                mano_pose=dict(
                    thetas=pose[i, h].tolist(),
                    wrist_xform=torch.cat([orient[i, h], transl[i, h]]).tolist(),
                ),
                umetrack_pose={
                    'joint_angles': angles[i, h].tolist(),
                    spelling: dict(
                        quaternion_wxyz=quat(wrists[i, h]),
                        translation_xyz=wrists[i, h, :3, 3].tolist(),
                    ),
                },
                boxes_amodal={stream: [965.0, 724.0, 1312.0, 964.0]},
                visibilities_modeled={stream: 0.0 if i == 12 and h else 0.8, '1201-2': 0.0},
            )

        both = dict(left=hand(1), right=hand(0))
        if i == 4:
            del both['left']
        if i == 6:
            del both['right']['mano_pose']
        if i == 9:
            both['left']['mano_pose'] = None
        members |= {
            f'{i:06d}.cameras.json': cameras,
            f'{i:06d}.info.json': {},
            f'{i:06d}.objects.json': {},
            f'{i:06d}.hand_crops.json': {},
            f'{i:06d}.image_{stream}.jpg': plain,
        }
        if i != 8:
            members[f'{i:06d}.hands.json'] = both
    for i in drawn:
        lens = dots(
            torch.from_numpy(
                lens_px(
                    params[i],
                    transform(
                        invert(torch.from_numpy(world_from_cam[i])),
                        m.joints()[i, :, TIPS].flatten(0, 1).double(),
                    ).numpy(),
                )
            ),
            *size,
        )
        Image.open(io.BytesIO(lens)).save(b := io.BytesIO(), 'JPEG', quality=97)
        members[f'{i:06d}.image_{stream}.jpg'] = b.getvalue()
    members['__hand_shapes.json__'] = dict(mano=m.betas[0].tolist(), umetrack=profile)
    pack(root / ('train_aria' if aria else 'train_quest3') / 'clip-001849.tar', members)
    valid = torch.ones(N, 2, 21, dtype=torch.bool)
    valid[4, 1], valid[8], valid[6, 0], valid[9, 1] = False, False, False, False
    seen = valid.clone()
    seen[12, 1] = False
    return m, cam, pinhole(params, aria, size[1]), valid, seen, size, members


def pack(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w') as f:
        for name, data in members.items():
            data = data if isinstance(data, bytes) else json.dumps(data).encode()
            (info := tarfile.TarInfo(name)).size = len(data)
            f.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize('aria', (True, False))
def test_recording(tmp_path, aria):
    m, cam, K, valid, seen = write_recording(tmp_path / 'data/hot3d', aria=aria)
    seqs = hot3d.sequences(tmp_path, hand_id='mano')
    assert seqs.names == (
        ['P0003_c701bd11/214-1'] if aria else ['P0003_c701bd11/1201-1', 'P0003_c701bd11/1201-2']
    )
    seq, size = seqs[0], (1408, 1408) if aria else (1280, 1024)
    for c in windows(seq, 18, stride=6, shortest=18):
        same(
            replace(c, image=np.zeros((*size[::-1], 3), np.uint8)),
            m,
            cam,
            K,
            c.meta['row'],
            valid,
            size,
            seen,
        )
    assert len(windows(seq, 18, stride=6, shortest=18)) == 2
    result = check_sequence(seq)
    assert result['off'] == [] and result['motion_mm'] < 0.02
    assert seq.image is None and seq.meta['image'].startswith('images are in recording.vrs')
    assert pickle.loads(pickle.dumps(seqs)).names == seqs.names


@pytest.mark.parametrize('aria', (True, False))
def test_clips(tmp_path, aria):
    m, cam, K, valid, seen, size, _ = write_clip(tmp_path / 'data/hot3d', aria, drawn=(0, 3))
    seqs = hot3d.sequences(tmp_path / 'data', None, hand_id='mano')
    assert seqs.names == [
        f'clip-001849/{s}/undistorted' for s in (('214-1',) if aria else ('1201-1', '1201-2'))
    ]
    clips = windows(seqs[0], ranges=[(0, 17), (3, 23)])
    assert [(c.frame_ids[0].item(), len(c)) for c in clips] == [(0, 18), (3, 21)]
    for c in clips:
        same(c, m, cam, K, c.meta['row'], valid, size, seen)
        points = torch.cat(
            [torch.zeros(1, 1, 16, 2), c.keypoints2d[:1, :, TIPS].reshape(1, 1, 4, 2)], 2
        )
        assert (
            dot_error(replace(c, keypoints2d=points)) < 0.1
        )  # undistorted, upright pixels against projected labels
    assert check_sequence(seqs[0])['off'] == []
    assert np.array_equal(pickle.loads(pickle.dumps(seqs[0].image))(3), clips[1].image)


def test_turned_image(tmp_path):
    "An upright image is the sensor's, turned clockwise, but for the lens"
    *_, members = write_clip(tmp_path)
    a = np.zeros((704, 704, 3), np.uint8)
    a[:352, :352], a[:352, 352:], a[352:, :352] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    Image.fromarray(a).save(b := io.BytesIO(), 'JPEG')
    straight = members['000000.cameras.json']['214-1']['calibration']
    straight['projection_params'][4:] = [-1 / 3, 2 / 15, -17 / 315] + [0] * 9  # close to a pinhole
    pack(
        tmp_path / 'train_aria/clip-001849.tar', members | {'000000.image_214-1.jpg': b.getvalue()}
    )
    image = hot3d.sequences(tmp_path, None, 'mano')[0].image(0)
    for y, x in ((150, 150), (150, 550), (550, 150), (550, 550)):
        assert np.abs(image[y, x].astype(int) - np.rot90(a, -1)[y, x]).max() < 12


def test_landmarks(tmp_path):
    "Without MANO, the landmarks of UmeTrack's hand: all joints but the base of the thumb"
    profile, angles, wrists, points = tracked()
    known = [j for j in range(21) if j != 13]
    write_recording(tmp_path / 'a')
    write_clip(tmp_path / 'b')
    write_clip(tmp_path / 'c', aria=False, spelling='wrist_xform')
    for root, gone in (
        ('a', [(4, 0), (4, 1), (8, 0), (8, 1), (9, 0)]),
        ('b', [(4, 1), (8, 0), (8, 1)]),
        ('c', [(4, 1), (8, 0), (8, 1)]),
    ):
        seq = hot3d.sequences(tmp_path / root, None, None)[0]
        ok = torch.ones(N, 2, dtype=torch.bool)
        for i, h in gone:
            ok[i, h] = False
        assert (
            torch.equal(seq.valid3d[..., known], ok[..., None].expand(-1, -1, 20))
            and not seq.valid3d[..., 13].any()
        )
        assert (
            np.abs(from_mano21(seq.joints3d, 'hot3d20').numpy() - points[:, :, :20])[
                ok.numpy()
            ].max()
            < 1e-7
        )
        (clip,) = windows(seq, image=False)
        assert clip.labels == 'joints' and clip.motion is None


def test_left_hand(tmp_path):
    """The corrected left hand is the one that HOT3D's numbers belong to;
    the stock one makes other joints of them"""
    write_clip(tmp_path)
    fixed, stock = (hot3d.sequences(tmp_path, None, **k)[0] for k in ({}, dict(hand_id='mano')))
    assert (fixed.motion.hand_id, stock.motion.hand_id) == ('mano-left-fixed', 'mano')
    ok = fixed.valid3d.all(-1)
    apart = (fixed.joints3d - stock.joints3d).norm(dim=-1)
    assert apart[:, 0][ok[:, 0]].max() < 1e-6 < 1e-3 < apart[:, 1][ok[:, 1]].max()
    orient, pose, transl = scene15(2)[0]
    rot, wrist = from_mano(
        hand_pair('mano-left-fixed'),
        orient.float(),
        pose.float(),
        transl.float(),
        fixed.motion.betas.expand(N, 2, 10),
        'pca',
    )
    assert (hand_pair('mano-left-fixed').joints(rot, wrist, fixed.motion.betas) - fixed.joints3d)[
        ok
    ].abs().max() < 1e-5
    with pytest.raises(
        ValueError,
        match=r'hot3d stores MANO parameters, which need the licensed files \(or hand_id=None',
    ):
        hot3d.sequences(tmp_path, None, 'mano-2')[0]


def test_lost_headset(tmp_path):
    "Where the headset was not tracked there are no labels, and no window starts"
    m, cam, K, valid, seen = write_recording(tmp_path)
    f = tmp_path / 'P0003_c701bd11/masks/mask_headset_pose_available.csv'
    rows = pd.read_csv(f)
    rows.loc[
        (rows.stream_id == '214-1')
        & rows['timestamp[ns]'].isin(rows['timestamp[ns]'].unique()[[0, 12]]),
        'mask',
    ] = False
    rows.to_csv(f, index=False)
    seq = hot3d.sequences(tmp_path, hand_id='mano')[0]
    assert seq.cam_from_world.isnan().flatten(1).any(-1).nonzero().flatten().tolist() == [0, 6]
    assert not seq.valid3d[[0, 6]].any() and torch.equal(seq.valid3d[1:6], valid[1:6])
    (clip,) = windows(seq)
    assert clip.frame_ids[0] == 1 and not clip.valid3d[5].any() and clip.valid3d[6].all()


def test_splits(tmp_path):
    for name in ('P0001_aaaaaaaa', 'P0002_bbbbbbbb', 'P0004_cccccccc', 'P0012_dddddddd'):
        write(
            tmp_path / f'Aria/{name}/metadata.json',
            json.dumps(dict(headset='Aria', participant_id=name[:5])),
        )
    write(
        tmp_path / 'Quest3/P0003_eeeeeeee/metadata.json',
        json.dumps(dict(headset='Quest3', participant_id='P0003')),
    )
    names = {s: hot3d.sequences(tmp_path, s).names for s in ('train', 'val', None)}
    assert names['train'] == [
        'P0001_aaaaaaaa/214-1',
        'P0003_eeeeeeee/1201-1',
        'P0003_eeeeeeee/1201-2',
    ] and names['val'] == ['P0002_bbbbbbbb/214-1', 'P0012_dddddddd/214-1']
    assert sorted(names[None]) == sorted(
        names['train'] + names['val']
    )  # never the official test participants
    assert hot3d.sequences(tmp_path, 'val', every=True).names[:3] == [
        f'P0002_bbbbbbbb/{s}' for s in ('214-1', '1201-1', '1201-2')
    ]
    for f, i in (('train_aria', 10), ('train_aria', 11), ('train_quest3', 20), ('test_aria', 30)):
        write(tmp_path / f'clips/{f}/clip-{i:06d}.tar', b'')
    clips = tmp_path / 'clips'
    assert hot3d.sequences(clips, None).names == [
        f'clip-{i:06d}/{s}/undistorted'
        for i, s in ((10, '214-1'), (11, '214-1'), (20, '1201-1'), (20, '1201-2'))
    ]
    with pytest.raises(
        FileNotFoundError,
        match=(
            'hot3d: expected the participant of each clip '
            '.* in .*clip_definitions.json .FileNotFound'
        ),
    ):
        hot3d.sequences(clips)
    write(
        clips / 'clip_definitions.json',
        json.dumps(
            {
                '10': dict(sequence_id='P0001_x'),
                '20': dict(sequence_id='P0012_x'),
                '30': dict(sequence_id='P0004_x'),
            }
        ),
    )
    with pytest.raises(
        ValueError,
        match=(
            r'hot3d: expected headset and participant_id, or for '
            r'clips clip_definitions.json.* in .*clip-000011.tar'
        ),
    ):
        hot3d.sequences(clips)
    write(
        clips / 'clip_definitions.json',
        json.dumps(
            {
                str(i): dict(sequence_id=f'{p}_x')
                for i, p in ((10, 'P0001'), (11, 'P0002'), (20, 'P0012'), (30, 'P0004'))
            }
        ),
    )
    assert (
        hot3d.sequences(clips).names == ['clip-000010/214-1/undistorted']
        and len(hot3d.sequences(clips, 'val')) == 3
    )
    with pytest.raises(ValueError, match="split must be train, val or None, got 'test'"):
        hot3d.sequences(clips, 'test')
    with pytest.raises(
        FileNotFoundError, match=r'hot3d: expected clip-\*.tar or .* or P\*/metadata.json or .* in '
    ):
        hot3d.sequences(tmp_path / 'nowhere')


def test_split_pickle(tmp_path):
    "The authors count every camera of a clip as a video"
    m, cam, K, valid, seen, size, _ = write_clip(tmp_path / 'data/hot3d')
    write(
        tmp_path / 'train.pkl',
        pickle.dumps(dict(names=[('clip-001849/214-1/undistorted', '000002')], ranges=[(2, 21)])),
    )
    ((name, a, b),) = read_split(tmp_path / 'train.pkl')
    (clip,) = windows(hot3d.sequences(tmp_path, None, 'mano', every=True)[name], ranges=[(a, b)])
    assert len(clip) == 20
    same(clip, m, cam, K, 2, valid, size, seen)


def test_vrs(tmp_path, monkeypatch):
    """Images of a recording are read by projectaria_tools at their own times;
    without it the sequence says why it has none"""
    m, cam, K, *_ = write_recording(tmp_path)
    vrs, calls = tmp_path / 'P0003_c701bd11/recording.vrs', []
    write(vrs, b'VRS')

    def load():
        return hot3d.sequences(tmp_path, hand_id='mano')[0]

    monkeypatch.setattr(hot3d_files, 'find_spec', lambda name: None)
    assert load().image is None and 'pip install' in load().meta['image']

    class Picture:
        def to_numpy_array(self):
            return np.full((1408, 1408, 3), 77, np.uint8)

    class Provider:
        def get_image_data_by_time_ns(self, *a):
            calls.append(a)
            return Picture(), None

    core = ModuleType('projectaria_tools.core')
    core.data_provider, core.sensor_data, core.stream_id = (
        ModuleType(k) for k in ('data_provider', 'sensor_data', 'stream_id')
    )
    core.data_provider.create_vrs_data_provider = lambda path: (
        Provider() if path == str(vrs) else None
    )
    core.stream_id.StreamId = str
    core.sensor_data.TimeDomain, core.sensor_data.TimeQueryOptions = (
        type('T', (), dict(TIME_CODE=3)),
        type('Q', (), dict(CLOSEST=2)),
    )
    monkeypatch.setitem(sys.modules, 'projectaria_tools', ModuleType('projectaria_tools'))
    monkeypatch.setitem(sys.modules, 'projectaria_tools.core', core)
    monkeypatch.setattr(hot3d_files, 'find_spec', lambda name: ModuleSpec(name, None))
    monkeypatch.setattr(hot3d, 'undistort', lambda image, *a: image)
    seq = load()
    assert not calls and 'image' not in seq.meta  # lazily
    image = seq.image(7)
    assert image.shape == (1408, 1408, 3) and (image == 77).all()
    assert calls == [('214-1', START + round(7e9 / 30), 3, 2)]
    Picture.to_numpy_array = lambda self: np.zeros((480, 640), np.uint8)
    with pytest.raises(
        ValueError, match=r'hot3d: expected images 1408x1408 of 214-1.* in .*recording.vrs'
    ):
        seq.image(7)
    core.data_provider.create_vrs_data_provider = lambda path: None
    with pytest.raises(
        ValueError, match=r'hot3d: expected images 1408x1408 of 214-1.* in .*recording.vrs'
    ):
        seq.image(7)


DAMAGE = [  # file, what happens to it (None: gone), error
    (
        'headset_trajectory.csv',
        None,
        r'hot3d: expected t_wo_x\[m\].* in .*headset_trajectory.csv .FileNotFound',
    ),
    (
        'headset_trajectory.csv',
        'timestamp[ns],t_wo_x[m]\n1,2\n',
        r'hot3d: expected t_wo_x\[m\], t_wo_y.* in .*headset_trajectory.csv',
    ),
    (
        'headset_trajectory.csv',
        lambda s: s.replace('0.', 'zero.'),
        r'hot3d: expected t_wo_x.* in .*headset_trajectory.csv',
    ),
    (
        'masks/mask_hand_visible.csv',
        None,
        r'hot3d: expected mask in .*mask_hand_visible.csv .FileNotFound',
    ),
    (
        'masks/mask_hand_visible.csv',
        lambda s: s.replace('True', 'maybe', 1),
        r'hot3d: expected mask.* in .*mask_hand_visible.csv',
    ),
    (
        'masks/mask_headset_pose_available.csv',
        'timestamp[ns],stream_id,mask\n1,9-9,True\n',
        r'hot3d: expected images of camera 214-1 in .*masks, found none',
    ),
    ('box2d_hands.csv', '', r'hot3d: expected visibility_ratio.* in .*box2d_hands.csv'),
    (
        'mano_hand_pose_trajectory.jsonl',
        None,
        r'hot3d: expected hand_poses in .*mano_hand_pose_trajectory.jsonl .FileNotFound',
    ),
    (
        'mano_hand_pose_trajectory.jsonl',
        lambda s: s[:300],
        r'hot3d: expected hand_poses.* in .*mano_hand_pose_trajectory.jsonl',
    ),
    (
        'mano_hand_pose_trajectory.jsonl',
        lambda s: s.replace('betas', 'shape', 1),
        r"hot3d: expected a hand.* in .*mano_hand_pose_trajectory.jsonl, frame 0",
    ),
    (
        'mano_hand_pose_trajectory.jsonl',
        lambda s: s.replace('"pose": [', '"pose": [1, ', 1),
        r"hot3d: expected a hand.* in .*mano_hand_pose_trajectory.jsonl, frame 0",
    ),
    (
        'mps/slam/online_calibration.jsonl',
        None,
        (
            r'hot3d: expected a calibration of camera 214-1 '
            r'in .*online_calibration.jsonl .FileNotFound'
        ),
    ),
    (
        'mps/slam/online_calibration.jsonl',
        lambda s: s.replace('camera-rgb', 'camera'),
        (
            r"hot3d: expected a calibration of camera 214-1 in "
            r".*online_calibration.jsonl \(KeyError: 'camera-rgb'\)"
        ),
    ),
    (
        'mps/slam/online_calibration.jsonl',
        lambda s: s.replace('"UnitQuaternion": [', '"UnitQuaternion": [0, '),
        r'hot3d: expected a calibration of camera 214-1.* in .*online_calibration.jsonl',
    ),
    (
        'mps/slam/online_calibration.jsonl',
        lambda s: s.replace('"Params": [', '"Params": [1, 2, '),
        (
            r'hot3d: expected images of camera 214-1 with a '
            r'lens and a pose.* in .*P0003_c701bd11 .* got 17'
        ),
    ),
    ('metadata.json', '{}', r"hot3d: expected headset and participant_id.* in .*metadata.json"),
    ('metadata.json', '{', r"hot3d: expected headset and participant_id.* in .*metadata.json"),
]


@lru_cache
def intact(root):
    write_recording(root)
    return root


@pytest.mark.parametrize('file,change,match', DAMAGE)
def test_damaged_recording(tmp_path, tmp_path_factory, file, change, match):
    shutil.copytree(intact(tmp_path_factory.getbasetemp() / 'intact'), tmp_path, dirs_exist_ok=True)
    path = tmp_path / 'P0003_c701bd11' / file
    if change is None:
        path.unlink()
    else:
        path.write_text(change if isinstance(change, str) else change(path.read_text()))
    with pytest.raises(FileNotFoundError if change is None else ValueError, match=match):
        hot3d.sequences(tmp_path, hand_id='mano')[0]


def test_damaged_clip(tmp_path):
    *_, members = write_clip(tmp_path)
    tar = tmp_path / 'train_aria/clip-001849.tar'

    def damaged(match, change, error=ValueError, hand_id='mano', act=lambda s: s):
        pack(tar, {k: v for k, v in (members | change).items() if v is not None})
        with pytest.raises(error, match=match):
            act(hot3d.sequences(tmp_path, None, hand_id)[0])

    def image(s):
        return windows(s)

    damaged(
        r'hot3d: expected camera 214-1 in cameras.json.* in .*clip-001849.tar:000003',
        {'000003.cameras.json': b'{'},
    )
    damaged(
        (
            r"hot3d: expected camera 214-1 in cameras.json.* "
            r"in .*clip-001849.tar:000003.*KeyError: '214-1'"
        ),
        {'000003.cameras.json': {}},
    )
    damaged(
        r'hot3d: expected a hand.* in .*clip-001849.tar, frame 5',
        {'000005.hands.json': {'left': {'mano_pose': {'thetas': [1.0]}}}},
    )
    damaged(
        r"hot3d: expected mano.* in .*clip-001849.tar:__hand_shapes.json__ \(KeyError: 'mano'\)",
        {'__hand_shapes.json__': {}},
    )
    damaged(
        r"hot3d: expected umetrack.* in .*clip-001849.tar:__hand_shapes.json__",
        {'__hand_shapes.json__': dict(mano=[0] * 10)},
        hand_id=None,
    )
    damaged(
        r'clip-001849.tar: damaged image',
        {'000000.image_214-1.jpg': members['000000.image_214-1.jpg'][:400]},
        act=image,
    )
    damaged(
        r'clip-001849.tar: no such image for row 0',
        {'000000.image_214-1.jpg': None},
        FileNotFoundError,
        act=image,
    )
    damaged(
        r'640x480 pixels, expected 704x704', {'000000.image_214-1.jpg': jpg(640, 480)}, act=image
    )
    pack(tar, {'__hand_shapes.json__': members['__hand_shapes.json__']})
    with pytest.raises(
        ValueError,
        match=(
            r'hot3d: expected images of camera 214-1 with '
            r'a lens and a pose.* in .*clip-001849.tar'
        ),
    ):
        hot3d.sequences(tmp_path, None, 'mano')[0]
    pack(tar, members)
    write(tar, tar.read_bytes()[:300_000])
    with pytest.raises(
        ValueError, match=r'hot3d: expected an uncompressed tar file.* in .*clip-001849.tar'
    ):
        hot3d.sequences(tmp_path, None, 'mano')[0]


# ---- a genuine recording

REAL = Path(__file__).resolve().parents[2] / 'shared/real/hot3d'
real = pytest.mark.skipif(
    not REAL.is_dir(), reason='the genuine recording in ../shared/real is not there'
)


def iou(a, b):  # (N, 4) boxes x_min x_max y_min y_max
    inter = (np.minimum(a[:, 1], b[:, 1]) - np.maximum(a[:, 0], b[:, 0])).clip(0) * (
        np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 2], b[:, 2])
    ).clip(0)

    def area(x):
        return (x[:, 1] - x[:, 0]) * (x[:, 3] - x[:, 2])

    return inter / (area(a) + area(b) - inter)


@real
def test_real_recording():
    """UmeTrack's meshes through the fisheye onto the boxes of the dataset;
    landmarks that look like hands; an upright camera"""
    seq = hot3d.sequences(REAL, None, None)['P0003_c701bd11/214-1']
    result = check_sequence(seq)
    assert (
        result['off'] == [] and result['frames'] == 34 and result['right'] == result['left'] == 0
    ), result  # no frame has all 21: the base of the thumb is not known
    filled = seq.joints3d.clone()
    filled[..., 13, :] = (filled[..., 0, :] + filled[..., 14, :]) / 2
    assert (
        check_sequence(replace(seq, joints3d=filled, valid3d=filled.isfinite().all(-1)))['sides']
        == 1
    )  # fingers bend towards the palm of the right, and of the left hand
    assert seq.valid3d.float().mean() == pytest.approx(20 / 21) and seq.valid2d.any(-1).all()
    there = seq.in_camera()[0]
    assert (
        there[..., 0, 0][:, 0] > there[..., 0, 0][:, 1]
    ).all()  # the right wrist to the right of the left one
    assert (
        seq.cam_from_world[:, 1, 2] < -0.5
    ).all()  # the world's z axis, away from gravity, points up in the picture
    folder = REAL / 'Aria/P0003_c701bd11'
    profile = json.loads((folder / 'umetrack_hand_user_profile.json').read_text())['hand_model']
    mesh = profile | dict(
        landmark_rest_positions=profile['mesh_vertices'],
        landmark_rest_bone_weights=profile['dense_bone_weights'],
        landmark_rest_bone_indices=[list(range(17))] * 788,
    )
    found = hot3d_files.read_recording(hot3d_files.Source(folder, '214-1', True, 'umetrack'))
    head, cams, h = found.device, found.cameras, found.hands
    v = hot3d_files.umetrack_landmarks(mesh, h[..., 7:], hot3d_files.pose_matrices(h[..., :7]))
    side = transform(
        invert(head @ hot3d_files.pose_matrices(torch.from_numpy(np.stack([c[1] for c in cams]))))[
            :, None
        ],
        v,
    )
    px = fisheye624(torch.tensor([c[0] for c in cams]).double()[:, None, None], side)
    mine = torch.stack(
        [px[..., 0].amin(-1), px[..., 0].amax(-1), px[..., 1].amin(-1), px[..., 1].amax(-1)], -1
    ).numpy()
    boxes = pd.read_csv(folder / 'box2d_hands.csv').query('stream_id == "214-1"')
    for k, (index, least) in enumerate(((1, 0.955), (0, 0.96))):
        theirs = (
            boxes[boxes.hand_index == index]
            .sort_values('timestamp[ns]')[
                [f'{a}[pixel]' for a in ('x_min', 'x_max', 'y_min', 'y_max')]
            ]
            .to_numpy()
        )
        assert iou(mine[:, k], theirs).mean() > least


@real
def test_real_mano():
    """Wrists of MANO's real numbers, with the rest wrist that the open hand shares with MANO:
    at UmeTrack's, though its fingers need MANO's own directions"""
    mano, ume = (hot3d.sequences(REAL, None, k)[0].joints3d for k in ('mano', None))
    palm = [
        (j[:, :, 4] - j[:, :, 0]) / (j[:, :, 4] - j[:, :, 0]).norm(dim=-1, keepdim=True)
        for j in (mano, ume)
    ]
    assert (mano - ume)[:, :, 0].norm(dim=-1).max() < 0.02 and (palm[0] * palm[1]).sum(
        -1
    ).min() > 0.99
