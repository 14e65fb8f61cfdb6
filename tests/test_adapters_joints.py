"""Recorded datasets without hand parameters: miniatures in exactly their official layout,
written from known motions, must come back as those motions"""

import json, pickle, subprocess, tempfile
from functools import cache, partial
from pathlib import Path
import imageio_ffmpeg, numpy as np, pytest, torch
from scipy.spatial.transform import Rotation, Slerp
from test_adapters import dot_error, dots, jpg, same, scene, stand_in, text, write  # noqa: F401, a fixture
from forehand4d.geometry.cameras import invert, make_T, project, transform
from forehand4d.geometry.mano import from_mano21
from forehand4d.datasets import assemblyhands
from forehand4d.datasets import holoassist, holoassist_keypoints
from forehand4d.datasets.sequences import read_split
from forehand4d.datasets.windows import windows
from forehand4d.datasets.checks import check_sequence
from forehand4d.video.tracks import Tracks

N = 48
ALL = torch.ones(N, 2, 21, dtype=torch.bool)


def bridged(cam, holes):
    "Cameras that nobody recorded lie between their neighbours"
    known, pose = [i for i in range(len(cam)) if i not in holes], invert(cam).numpy()
    R, t = (
        Slerp(known, Rotation.from_matrix(pose[known, :3, :3]))(range(len(cam))).as_matrix(),
        [np.interp(range(len(cam)), known, pose[known, k, 3]) for k in range(3)],
    )
    return invert(make_T(torch.from_numpy(R), torch.from_numpy(np.stack(t, -1)))).float()


# ---- AssemblyHands

SEQ, CAMS = (
    'nusar-2021_action_both_9081-c11b_9081_user_id_2021-02-12_161433',
    {'84355350': 270, '84347414': 180, '84346135': 0},
)  # degrees clockwise that make it upright
NAMES, K_HMC = (
    [f'{SEQ}/HMC_{s}_mono10bit' for s in CAMS],
    torch.tensor([[300.0, 0, 322.5], [0, 298, 231.25], [0, 0, 1]]),
)
FIRST, LOST, GAP = (
    1530,
    (9, 10),
    range(20, 30),
)  # number of the first frame; frames without an image of the first camera


def roll(degrees):
    a = torch.deg2rad(torch.tensor(float(degrees)))
    return make_T(
        torch.tensor([[a.cos(), -a.sin(), 0], [a.sin(), a.cos(), 0], [0, 0, 1]]), torch.zeros(3)
    )


def upright(K, degrees, w=636, h=480):
    "Intrinsics and size of an image after a turn clockwise, by what becomes of its edges"
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    fx, fy, cx, cy = {
        0: (fx, fy, cx, cy),
        180: (fx, fy, w - 1 - cx, h - 1 - cy),
        270: (fy, fx, cy, w - 1 - cx),
    }[degrees]
    return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), (h, w) if degrees == 270 else (w, h)


def write_assemblyhands(root, split='train', step=2):
    """Three cameras that hang at their angles around one head, so that upright they see the same;
    json as published, and the files themselves"""
    m, cam = scene(11, n=N)
    world, ids = (
        (1000 * from_mano21(m.joints().double(), 'assemblyhands42')).tolist(),
        [FIRST + step * i for i in range(N)],
    )
    label = {
        f'{f:06d}': dict(world_coord=world[i], joint_valid=[1] * 42) for i, f in enumerate(ids)
    }
    label[f'{ids[5]:06d}']['joint_valid'][20] = 0  # no right wrist: no right hand
    label[f'{ids[12]:06d}']['joint_valid'][21:39] = [0] * 18  # three joints are no hand
    label[f'{ids[13]:06d}']['world_coord'][3] = [float('nan')] * 3  # right thumb CMC
    valid, seen = ALL.clone(), ALL.clone()
    valid[5, 0], valid[12, 1], valid[13, 0, 13], seen[6, 1, 16], seen[7, 0] = (
        False,
        False,
        False,
        False,
        False,
    )
    images, annotations, calib = (
        [],
        [],
        dict(intrinsics={}, extrinsics={f'{f:06d}': {} for f in ids}),
    )
    for name, degrees in zip(NAMES, CAMS.values(), strict=True):
        key, stored = name.split('/')[1], roll(-degrees) @ cam
        calib['intrinsics'][key] = K_HMC.tolist()
        for i, f in enumerate(ids):
            calib['extrinsics'][f'{f:06d}'][key] = (
                torch.cat([stored[i, :3, :3], 1000 * stored[i, :3, 3:]], -1).double().tolist()
            )
            if name == NAMES[0] and (i in LOST or i in GAP):
                continue
            flags = (
                from_mano21(
                    seen[i][..., None].float() if name == NAMES[0] else ALL[i][..., None].float(),
                    'assemblyhands42',
                )[:, 0]
                .int()
                .tolist()
            )
            images.insert(
                0,
                dict(
                    id=len(images),
                    seq_name=SEQ,
                    camera=key.removesuffix('_mono10bit'),
                    frame_idx=f,
                    file_name=f'{name}/{f:06d}.jpg',
                    width=636,
                    height=480,
                ),
            )  # in no order
            annotations.append(
                dict(
                    id=7 * len(annotations),
                    image_id=len(annotations),
                    joint_valid=flags,
                    bbox=dict(right=[0.0, 0, 9, 9], left=None),
                )
            )
            if i in (0, 30):
                write(
                    root / f'images/ego_images_rectified/{split}/{name}/{f:06d}.jpg',
                    dots(project(transform(stored[i], m.joints()[i, 0, 16:]), K_HMC), 636, 480),
                )
    files = dict(
        ego_data=dict(images=images, annotations=annotations),
        ego_calib=dict(calibration={SEQ: calib}),
        joint_3d=dict(annotations={SEQ: label}),
    )
    for k, d in files.items():
        write(root / f'annotations/{split}/assemblyhands_{split}_{k}_v1-1.json', json.dumps(d))
    write(root / 'annotations/skeleton.txt', '...')
    assemblyhands.stored_recordings.cache_clear()
    return m, cam, valid, valid & seen, files


@pytest.mark.parametrize('step', (1, 2))
def test_assemblyhands(tmp_path, step):
    m, cam, valid, seen, _ = write_assemblyhands(tmp_path / 'data/assembly', step=step)
    seqs = pickle.loads(pickle.dumps(assemblyhands.sequences(tmp_path)))  # goes to worker processes
    assert sorted(seqs.names) == sorted(NAMES)
    for name, degrees in zip(NAMES, CAMS.values(), strict=True):
        seq, (K, size) = seqs[name], upright(K_HMC, degrees)
        assert (
            seq.fps == 30
            and seq.size == size
            and check_sequence(seq)['off'] == []
            and len(seq) == (N - 12 if name == NAMES[0] else N)
        )
        clip, *rest = windows(seq, 20, stride=100)
        assert (
            clip.labels == 'joints'
            and clip.motion is None
            and clip.fps == 30
            and clip.frame_ids[0] == FIRST
        )
        hole = ALL.clone()
        hole[list(LOST)] = name != NAMES[0]
        same(
            clip,
            m,
            bridged(cam, LOST) if name == NAMES[0] else cam,
            K,
            0,
            valid & hole,
            size,
            (seen if name == NAMES[0] else valid) & hole,
        )
        assert dot_error(clip) < 0.1  # images, intrinsics and poses were turned together
    assert (
        not rest
        and (clip.joints3d[:, 1] - transform(cam[0], m.joints()[:20, 1]))[valid[:20, 1]]
        .norm(dim=-1)
        .max()
        < 1e-5
    )  # metres


def test_assemblyhands_gaps(tmp_path):
    "Two frames without image are a hole in a clip, ten end it"
    m, cam, valid, seen, _ = write_assemblyhands(tmp_path)
    K, size = upright(K_HMC, 270)
    first, second = windows(assemblyhands.sequences(tmp_path)[NAMES[0]])
    assert [c.frame_ids[0].item() for c in (first, second)] == [FIRST, FIRST + 60] and [
        len(c) for c in (first, second)
    ] == [20, 18]
    assert not first.valid3d[list(LOST)].any() and first.valid3d[11].all()
    same(second, m, cam, K, 30, valid, size, seen)
    assert dot_error(second) < 0.1


def test_assemblyhands_split_pickle(tmp_path):
    """Entries count in their own list of frame numbers;
    annotations and images lie where the release looks for them"""
    m, cam, valid, *_ = write_assemblyhands(tmp_path / 'assembly')
    (tmp_path / 'data/assembly').mkdir(parents=True)
    (tmp_path / 'assembly/images').rename(tmp_path / 'data/assembly/images')
    ids = [FIRST + 2 * i for i in range(30, N)]
    write(
        tmp_path / 'train.pkl',
        pickle.dumps(
            dict(names=[(NAMES[2], f'{ids[0]:06d}')], ranges=[(0, 17)], subsampled_indices=[ids])
        ),
    )
    ((name, a, b),) = read_split(tmp_path / 'train.pkl')
    (clip,) = windows(assemblyhands.sequences(tmp_path)[name], ranges=[(a, b)])
    assert len(clip) == 18 and clip.image.shape == (480, 636, 3)
    same(clip, m, cam, K_HMC, 30, valid, (636, 480))


def test_assemblyhands_refusals(tmp_path):
    files = write_assemblyhands(tmp_path)[-1]
    folder, image = (
        tmp_path / 'annotations/train',
        tmp_path / f'images/ego_images_rectified/train/{NAMES[2]}/{FIRST:06d}.jpg',
    )

    def path(k):
        return folder / f'assemblyhands_train_{k}_v1-1.json'

    def broken(kind, data):
        write(path(kind), data if isinstance(data, str) else json.dumps(data))
        assemblyhands.stored_recordings.cache_clear()
        return pytest.raises((ValueError, FileNotFoundError), match=expected)

    with pytest.raises(
        ValueError, match="assemblyhands: split must be one of train, val, test, got 'eval'"
    ):
        assemblyhands.sequences(tmp_path, 'eval')
    with pytest.raises(FileNotFoundError, match=r'assemblyhands: expected annotations/val/\*.json'):
        assemblyhands.sequences(tmp_path, 'val')
    with pytest.raises(KeyError, match='no sequence'):
        assemblyhands.sequences(tmp_path)['HMC_84347414']
    image.unlink()
    with pytest.raises(FileNotFoundError, match=f'{FIRST:06d}.jpg: no such image'):
        windows(assemblyhands.sequences(tmp_path)[NAMES[2]])
    write(image, jpg(480, 636))
    with pytest.raises(ValueError, match='480x636 pixels, expected 636x480'):
        windows(assemblyhands.sequences(tmp_path)[NAMES[2]])
    assert windows(assemblyhands.sequences(tmp_path)[NAMES[2]], image=False)[0].image is None
    calib, labels = files['ego_calib']['calibration'][SEQ], files['joint_3d']['annotations'][SEQ]
    expected = 'expected json in .*train_ego_calib_v1-1.json'
    with broken('ego_calib', json.dumps(files['ego_calib'])[:5000]):
        assemblyhands.sequences(tmp_path)
    expected = (
        f"assemblyhands: expected cameras and joints of {SEQ}/HMC.* "
        f".otherwise download .* again. in .*annotations/train .KeyError"
    )
    with broken('ego_calib', {'calibration': {SEQ: calib | dict(intrinsics={})}}):
        assemblyhands.sequences(tmp_path)
    write(path('ego_calib'), json.dumps(files['ego_calib']))
    expected = f"cameras and joints of {SEQ}/HMC.* .KeyError: 'world_coord'"
    with broken(
        'joint_3d', {'annotations': {SEQ: labels | {f'{FIRST:06d}': dict(joint_valid=[1] * 42)}}}
    ):
        assemblyhands.sequences(tmp_path)
    expected = f'cameras and joints of {SEQ}/HMC.* .ValueError'
    with broken(
        'joint_3d',
        {
            'annotations': {
                SEQ: labels
                | {f'{FIRST:06d}': dict(world_coord=[[0, 0, 0]] * 21, joint_valid=[1] * 21)}
            }
        },
    ):
        assemblyhands.sequences(tmp_path)
    expected = (
        "assemblyhands: expected cameras and joints of .*annotations/train .KeyError: 'annotations'"
    )
    with broken('joint_3d', {'labels': {}}):
        assemblyhands.sequences(tmp_path)
    expected = 'no sequences: expected images with joints and a camera in'
    with broken('joint_3d', {'annotations': {SEQ: {}}}):
        assemblyhands.sequences(tmp_path)
    path('joint_3d').unlink()
    assemblyhands.stored_recordings.cache_clear()
    with pytest.raises(
        FileNotFoundError,
        match=(
            'assemblyhands: expected ego_data, ego_calib '
            'and joint_3d.*of the test split are not public'
        ),
    ):
        assemblyhands.sequences(tmp_path)


def test_assemblyhands_unlabelled_frames(tmp_path):
    "A frame without joints, camera or annotation of its image is a hole, not a shift"
    m, cam, valid, _, files = write_assemblyhands(tmp_path)
    key = [f'{FIRST + 2 * i:06d}' for i in range(N)]
    files['joint_3d']['annotations'][SEQ].pop(key[15])
    files['ego_calib']['calibration'][SEQ]['extrinsics'].pop(key[16])
    files['ego_calib']['calibration'][SEQ]['extrinsics'][key[18]].clear()
    for k, d in files.items():
        write(tmp_path / f'annotations/train/assemblyhands_train_{k}_v1-1.json', json.dumps(d))
    assemblyhands.stored_recordings.cache_clear()
    (clip,) = windows(assemblyhands.sequences(tmp_path)[NAMES[2]], image=False)
    valid[[15, 16, 18]] = False
    same(clip, m, bridged(cam, (15, 16, 18)), K_HMC, 0, valid, (636, 480))


# ---- HoloAssist

VIDEO, START, K_PV = (
    'R007-7July-DSLR',
    637613405551234567,
    torch.tensor([[685.88, 0, 451.2], [0, 686.13, 248.4], [0, 0, 1]]),
)
FRAMES = 24  # of the video, a second; the sensors give 30
headset = partial(holoassist.sequences, keypoints='headset')


def device_axes(cam):
    """Pose of the camera as the device states it:
    where its front, left and top point to in the world, and where it is"""
    R, out = cam[:, :3, :3], torch.eye(4).repeat(len(cam), 1, 1)
    out[:, :3, 0], out[:, :3, 1], out[:, :3, 2], out[:, :3, 3] = (
        R[:, 2],
        -R[:, 0],
        -R[:, 1],
        -(R.mT @ cam[:, :3, 3:])[..., 0],
    )
    return out


def rows(seconds, head, *columns):
    ticks = [START + round(1e7 * s) for s in np.asarray(seconds, float).tolist()]
    return ''.join(
        '\t'.join(
            [
                f'{s:.7f}',
                str(k),
                *head,
                *text(np.concatenate([np.ravel(c[i]) for c in columns])).split(),
            ]
        )
        + '\n'
        for i, (s, k) in enumerate(zip(seconds, ticks, strict=True))
    )


def hand_text(seconds, joints, valid, tracked, head=('1',)):
    """Joints (n, 21, 3) and flags (n, 21) as 26 poses and twice 26 flags;
    palm and metacarpals, which ours lack, are somewhere"""
    pose = torch.eye(4).repeat(len(joints), 26, 1, 1)
    pose[..., :3, :3] = roll(37)[:3, :3]
    pose[..., :3, 3] = from_mano21(joints, 'hololens26').where(
        from_mano21(torch.ones(21, 1), 'hololens26').isfinite(), torch.tensor(0.7)
    )
    flags = [
        from_mano21(f[..., None].float(), 'hololens26').nan_to_num(1) for f in (valid, tracked)
    ]
    return rows(seconds, head, pose, *flags)


def write_holoassist(root, name=VIDEO, head=('1',), video=True, drop=()):
    m, cam = scene(12, n=N)
    f, t, keep = (
        root / name / 'Export_py',
        torch.arange(N).double() / 30,
        [i for i in range(N) if i not in drop],
    )
    valid, tracked, joints = ALL.clone(), ALL.clone(), m.joints().clone()
    valid[5, 0], valid[8], tracked[11, 1], tracked[12, 0, 3:9], joints[13, 1, 4] = (
        False,
        False,
        False,
        False,
        torch.nan,
    )
    write(
        f / 'Video/Intrinsics.txt',
        '\t'.join(
            text(torch.cat([K_PV.flatten(), torch.zeros(14), torch.tensor([896.0, 504])])).split()
        ),
    )
    write(f / 'Video/VideoMp4Timing.txt', f'{START}\n{START + round(1e7 * (N - 1) / 30)}\n')
    write(f / 'Video/Pose_sync.txt', rows(t[keep], (), device_axes(cam)[keep]))
    for h, side in enumerate(('Right', 'Left')):
        write(
            f / f'Hands/{side}_sync.txt',
            hand_text(t[keep], joints[keep, h], valid[keep, h], tracked[keep, h], head),
        )
    for k in ('Eyes/Eyes_sync.txt', 'IMU/Gyro_sync.txt', 'Head/Head_sync.txt'):
        write(f / k, '0\n')
    if video:
        write(f / 'Video_pitchshift.mp4', movie())
    valid[13, 1, 4] = False
    return m, cam, valid, valid & tracked


@cache
def movie(size=(896, 504)):
    "Frame i is as bright as i"
    with tempfile.TemporaryDirectory() as d:
        w = imageio_ffmpeg.write_frames(
            f'{d}/a.mp4', size, fps=FRAMES, quality=8, macro_block_size=1
        )
        w.send(None)
        for i in range(N * FRAMES // 30):
            w.send(np.full((*size[::-1], 3), 30 + 5 * i, np.uint8))
        w.close()
        return Path(f'{d}/a.mp4').read_bytes()


@pytest.mark.parametrize('head', (('1',), ('1', '0', '1')))
def test_holoassist(tmp_path, head):
    m, cam, valid, tracked = write_holoassist(tmp_path / 'data/holo/video_pitch_shifted', head=head)
    seqs = pickle.loads(pickle.dumps(headset(tmp_path, None)))
    seq = seqs[VIDEO]
    assert seqs.names == [VIDEO] and abs(seq.fps - 30) < 1e-3 and check_sequence(seq)['off'] == []
    assert (seq.cam_from_world - cam).abs().max() < 1e-5 and (
        seq.intrinsics - K_PV
    ).abs().max() < 1e-3  # the calibrated focal length
    for clip in windows(seq, 20, stride=14, shortest=20):
        assert clip.labels == 'joints' and clip.motion is None
        same(clip, m, cam, K_PV, clip.meta['row'], tracked, (896, 504))
        assert (
            abs(clip.image.mean() - (30 + 5 * round(clip.meta['row'] * FRAMES / 30))) < 2.4
        )  # the frame shown at that moment
    (clip,) = windows(headset(tmp_path, None, inferred=True)[0], image=False)
    same(clip, m, cam, K_PV, 0, valid, (896, 504))

def hands_in_frames(m, cam):
    "Pixels of both hands (n, 2, 21, 2) in the frames of the video"
    at = torch.arange(N * FRAMES // 30) * 30 / FRAMES
    pixels = project(transform(cam[:, None], m.joints()), K_PV)
    return pixels[at.floor().long()].lerp(pixels[at.ceil().long()], (at % 1)[:, None, None, None])


def write_authors(root, name, pixels, absent=()):
    "A pickle a frame: detections of both hands, in OpenPose's order, of which the first counts"
    ours = from_mano21(pixels, 'openpose21').numpy()
    for frame, both in enumerate(ours):
        found = {
            side: dict(joints2d=[] if (frame, hand) in absent else [both[hand], both[hand] + 50])
            for hand, side in enumerate(('right', 'left'))
        }
        write(root / f'holo_hands/{name}/{frame:06d}.pkl', pickle.dumps(found))


def write_hamer(root, name, pixels, absent=()):
    "A row a hand, and a less sure one that does not count"
    ours = from_mano21(pixels, 'openpose21').numpy()
    rows = [(f, h) for f in range(len(ours)) for h in (0, 1) if (f, h) not in absent]
    table = [(f, 1 - h, ours[f, h] + off, 0.9 - off / 100) for f, h in rows for off in (50, 0)]
    frame, is_right, joints2d, score = (np.array(column) for column in zip(*table, strict=True))
    (root / 'hamer').mkdir(exist_ok=True, parents=True)
    columns = dict(frame=frame, is_right=is_right, joints2d=joints2d, score=score)
    np.savez(root / f'hamer/{name}.npz', **columns)


def write_tracks(root, name, pixels, absent=()):
    valid = torch.ones(pixels.shape[:-1], dtype=torch.bool)
    for where in absent:
        valid[where] = False
    (root / 'tracks').mkdir(exist_ok=True, parents=True)
    zeros = torch.where(valid[..., None], pixels, 0)
    found = Tracks(zeros, valid, valid.any(-1).float(), float(FRAMES), (896, 504))
    found.save(root / f'tracks/{name}.npz')


HANDS = dict(authors=write_authors, hamer=write_hamer, tracks=write_tracks)


@pytest.mark.parametrize('source', HANDS)
def test_holoassist_keypoints(tmp_path, source):
    "What HaMeR saw, at the moments of the camera; nothing in 3D"
    m, cam, *_ = write_holoassist(tmp_path / 'video_pitch_shifted')
    with pytest.raises(FileNotFoundError, match='expected keypoints, holo_hands/VIDEO.* or hamer'):
        holoassist.sequences(tmp_path, None)
    HANDS[source](tmp_path, VIDEO, hands_in_frames(m, cam), absent=[(8, 1)])  # at .333 s
    (seq,) = holoassist.sequences(tmp_path, None)
    assert seq.meta['keypoints'] == source and not seq.valid3d.any() and seq.motion is None
    (clip,) = windows(seq, image=False)
    assert clip.labels == 'keypoints' and (clip.intrinsics - K_PV).abs().max() < 1e-3
    lost = (~clip.valid2d.all(-1)).nonzero().tolist()
    last = [[row, hand] for row in range(len(clip)) for hand in (0, 1) if row * FRAMES / 30 > 30]
    assert [row for row in lost if row not in last] == [[9, 1], [10, 1], [11, 1]]
    true = project(transform(cam[:, None], m.joints()), K_PV)[: len(clip)]
    assert (clip.keypoints2d - true)[clip.valid2d].abs().max() < 0.5
    before = [name for name in HANDS if name != source]
    says = f'expected keypoints, {before[0] and holoassist_keypoints.SOURCES[before[0]]}'
    with pytest.raises(FileNotFoundError, match=f'{says}.*headset .VIDEO/Export_py'):
        holoassist.sequences(tmp_path, None, keypoints=before[0])
    assert headset(tmp_path, None)[0].valid3d.any()  # only where it is asked for


def test_holoassist_keypoints_refusals(tmp_path):
    m, cam, *_ = write_holoassist(tmp_path)
    write_holoassist(tmp_path, 'R012-7July-Nespresso')
    pixels = hands_in_frames(m, cam)
    write_authors(tmp_path, VIDEO, pixels)
    with pytest.warns(UserWarning, match='1 of 2 .*holo_hands/R012.*find the hands of these'):
        seqs = holoassist.sequences(tmp_path, None)
    assert seqs.names == [VIDEO]
    write(tmp_path / f'holo_hands/{VIDEO}/000003.pkl', pickle.dumps(dict(right=dict(joints2d=[]))))
    with pytest.raises(ValueError, match="joints2d, a list .* in .*000003.pkl .KeyError: 'left'"):
        seqs[0]
    write_hamer(tmp_path, VIDEO, pixels)
    np.savez(tmp_path / f'hamer/{VIDEO}.npz', frame=[0], is_right=[1])
    with pytest.raises(ValueError, match="hamer/.*npz .KeyError: 'joints2d'"):
        holoassist.sequences(tmp_path, None, keypoints='hamer')[0]
    write_tracks(tmp_path, VIDEO, pixels)
    with np.load(tmp_path / f'tracks/{VIDEO}.npz') as kept:
        np.savez(tmp_path / f'tracks/{VIDEO}.npz', **{**kept, 'size': (448, 252)})
    with pytest.raises(ValueError, match=r'size is \[448, 252\], that of the video \[896, 504\]'):
        holoassist.sequences(tmp_path, None, keypoints='tracks')[0]
    with pytest.raises(ValueError, match="one of authors, hamer, tracks, headset, got 'kinect'"):
        holoassist.sequences(tmp_path, None, keypoints='kinect')


def test_holoassist_every_frame_of_the_video(tmp_path):
    write_holoassist(tmp_path)
    seq = headset(tmp_path, None)[0]
    shown = [round((seq.image(i).mean() - 30) / 5) for i in range(0, N, 6)]
    times = np.arange(0, N, 6) / 30 * FRAMES
    assert (
        np.abs(np.array(shown) - times).max() < 0.51
        and (np.abs(seq.frame_ids[::6].numpy() - times) < 0.51).all()
    )


def test_holoassist_clocks(tmp_path):
    """Camera and each hand have uneven clocks of their own; at constant speed,
    every clip is right to the millimetre's hundredth, but a hole of one hand is not bridged"""
    write_holoassist(tmp_path)
    f, g, n = tmp_path / VIDEO / 'Export_py', np.random.default_rng(0), 46
    own = [np.arange(n) / 30 + 0.01 + g.uniform(-0.006, 0.006, n) for _ in range(3)]
    m, speed = (
        scene(12, n=1)[0].joints()[0].double(),
        torch.tensor([[0.8, -0.2, 0.3], [-0.1, 0.7, 0.2]]).double(),
    )

    def at(t):
        return m + torch.as_tensor(np.asarray(t)).view(-1, 1, 1, 1) * speed[:, None]

    def place(t):
        return device_axes(scene(12, n=1)[1]) + torch.nn.functional.pad(
            torch.as_tensor(t).float().view(-1, 1, 1) * torch.tensor([[0.2], [0.1], [-0.1]]),
            (3, 0, 0, 1),
        )

    write(f / 'Video/Pose_sync.txt', rows(own[2], (), place(own[2])))
    hole, own[0] = own[0][[19, 23]], np.delete(own[0], [20, 21, 22])
    for h, side in enumerate(('Right', 'Left')):
        write(
            f / f'Hands/{side}_sync.txt',
            hand_text(
                own[h], at(own[h])[:, h].float(), ALL[: len(own[h]), 0], ALL[: len(own[h]), 0]
            ),
        )
    seq = headset(tmp_path, None)[0]
    (clip,) = windows(seq, image=False)
    assert clip.fps == 30 and clip.valid3d[2:-2, 1].all() and len(clip) >= n - 2
    t = own[2][clip.meta['row']] + np.arange(len(clip)) / 30
    lost = np.abs(t - hole.mean()) < np.diff(hole) / 2
    assert (
        lost.sum() >= 3
        and not clip.valid3d[lost, 0].any()
        and clip.valid3d[2:-2, 0][np.abs(t - hole.mean())[2:-2] > np.diff(hole) / 2 + 2 / 30].all()
    )
    view = transform(seq.cam_from_world[clip.meta['row']], at(t))
    assert (clip.joints3d - view)[clip.valid3d].abs().max() < 1e-5
    world = transform(
        torch.linalg.inv(clip.cam_from_view.double() @ seq.cam_from_world[clip.meta['row']]),
        torch.zeros(1, 3).double(),
    )[:, 0]
    assert (world - place(t)[:, :3, 3]).abs().max() < 1e-5
    px = project(
        transform(
            torch.linalg.inv(place(t).double() @ torch.linalg.inv(holoassist.AXES))[:, None], at(t)
        ),
        K_PV.double(),
    )
    assert (clip.keypoints2d - px)[clip.valid2d].abs().max() < 0.1


def test_holoassist_gaps(tmp_path):
    """Moments that the device lost are holes:
    short ones in a clip, long ones between clips; nothing is pulled together"""
    m, cam, valid, tracked = write_holoassist(tmp_path, video=False, drop=(3, *range(20, 30)))
    for i in range(N * FRAMES // 30):
        write(tmp_path / VIDEO / f'Export_py/Video/images_jpg/{i:06d}.jpg', jpg(896, 504))
    first, second = windows(headset(tmp_path, None)[0])
    assert (len(first), len(second)) == (20, 18) and first.image.shape == (504, 896, 3)
    tracked[3] = False
    same(first, m, bridged(cam, (3,)), K_PV, 0, tracked, (896, 504))
    same(second, m, cam, K_PV, 30, tracked, (896, 504))
    write(
        tmp_path / 'train.pkl',
        pickle.dumps(dict(names=[VIDEO], ranges=[(24, 37)], max_frames=[38])),
    )  # frames of the video: 1 s … 1.54 s
    ((name, a, b),) = read_split(tmp_path / 'train.pkl')
    (clip,) = windows(headset(tmp_path, None)[name], ranges=[(a, b)])
    same(clip, m, cam, K_PV, 30, tracked, (896, 504))


def test_holoassist_lost_poses(tmp_path):
    """Rows of zeros, of a camera that does not know where it is,
    and rows from before and after the video"""
    m, cam, _, tracked = write_holoassist(tmp_path)
    path = tmp_path / VIDEO / 'Export_py/Video/Pose_sync.txt'
    lines = path.read_text().splitlines()
    zero = '\t'.join(lines[6].split('\t')[:2] + ['0'] * 16)
    none = '\t'.join(lines[7].split('\t')[:2] + ['NaN'] * 16)
    early, late = rows([-1.0, N / 30 + 1], (), device_axes(cam)[:2]).splitlines()
    write(
        path, '\n'.join([late, *lines[:6], zero, none, *lines[8:], lines[-1], early]) + '\n'
    )  # in no order, one of them twice
    (clip,) = windows(headset(tmp_path, None)[0], image=False)
    tracked[[6, 7]] = False
    same(clip, m, bridged(cam, (6, 7)), K_PV, 0, tracked, (896, 504))


@pytest.mark.parametrize(
    'lost, says',
    [
        ('Video/Intrinsics.txt', '25 numbers a row .unpack every modality'),
        ('Video/VideoMp4Timing.txt', '1 or 2 numbers a row .unpack every modality'),
        ('Video/Pose_sync.txt', '18 numbers a row .unpack every modality'),
        ('Hands/Left_sync.txt', '471 or 473 numbers a row .unpack every modality'),
        ('Video_pitchshift.mp4', 'a frame at 0.00 s .or all frames in .*images_jpg'),
    ],
)
def test_holoassist_missing_and_cut_files(tmp_path, lost, says):
    "One error that names the file, what was expected in it and how to go on"
    write_holoassist(tmp_path)
    path = tmp_path / VIDEO / 'Export_py' / lost
    whole = path.read_bytes()
    seqs = headset(tmp_path, None)
    for left in (None, b'', whole[: len(whole) * 3 // 5]):
        path.unlink(missing_ok=True)
        if left is not None:
            path.write_bytes(left)
        if left and lost == 'Video/VideoMp4Timing.txt':
            continue  # a shorter list of moments is one, too
        with pytest.raises((ValueError, FileNotFoundError), match=f'expected {says}.*') as e:
            seqs[0]
        assert path.name in str(e.value) and len(str(e.value).splitlines()) == 1


def test_holoassist_videos_cut_off(tmp_path, monkeypatch):
    "What can be decoded is used, a frame behind it is named with its moment"
    write_holoassist(tmp_path)
    video = tmp_path / VIDEO / 'Export_py' / 'Video_pitchshift.mp4'
    command = [imageio_ffmpeg.get_ffmpeg_exe(), '-y', '-v', 'error', '-i', str(video)]
    flat = tmp_path / 'a.mp4'
    subprocess.run([*command, '-c', 'copy', '-movflags', 'faststart', str(flat)], check=True)
    data = flat.read_bytes()
    video.write_bytes(data[: len(data) // 2])
    seq = headset(tmp_path, None)[0]
    assert seq.image(0).shape == (504, 896, 3)
    with pytest.raises(ValueError, match=r'expected a frame at \d.\d\d s .*mp4 .*cut off'):
        seq.image(len(seq) - 1)


def test_holoassist_partial_downloads(tmp_path):
    "Videos without labels, labels that end early, images that are not all there"
    write_holoassist(tmp_path)
    write_holoassist(tmp_path, 'R012-7July-Nespresso', video=False)
    (tmp_path / 'R013-only-a-video').mkdir()
    with pytest.warns(UserWarning, match='1 of 3 .*R013-only-a-video/Export_py: unpack every'):
        seqs = headset(tmp_path, None)
    assert len(seqs) == 2
    write(tmp_path / 'train-v1_2.txt', f'{VIDEO}\nR999-not-downloaded\n')
    with pytest.warns(UserWarning, match='1 of 2 are not there .*R999-not-downloaded'):
        assert headset(tmp_path).names == [VIDEO]

    folder = tmp_path / VIDEO / 'Export_py'
    lines = (folder / 'Hands/Left_sync.txt').read_text().splitlines(keepends=True)
    write(folder / 'Hands/Left_sync.txt', ''.join(lines[:5]))
    with pytest.warns(UserWarning, match=r'Left_sync.txt ends at 0.1 s of 1.\d s of video'):
        seq = seqs[VIDEO]
    assert seq.valid3d[:5, 1].any() and not seq.valid3d[5:, 1].any()

    other = tmp_path / 'R012-7July-Nespresso' / 'Export_py'
    for i in range(N // 3):
        write(other / f'Video/images_jpg/{i:06d}.jpg', jpg(896, 504))
    with pytest.raises(ValueError, match=rf'{N // 3 - 1:06d}.jpg: the last of {N // 3} images'):
        seqs['R012-7July-Nespresso']


def test_holoassist_splits(tmp_path):
    folder = tmp_path / 'video_pitch_shifted'
    for name in ('R007-7July-DSLR', 'R012-7July-Nespresso', 'z010-june-16-22-gopro'):
        write_holoassist(folder, name, video=False)
    with pytest.raises(
        FileNotFoundError,
        match=r'expected train-v1_2.txt or data-annotation-train-v1_1.json in .*split=None reads',
    ):
        headset(tmp_path)
    write(tmp_path / 'train-v1_1.txt', 'z010-june-16-22-gopro\n')
    write(tmp_path / 'train-v1_2.txt', 'R007-7July-DSLR\r\nR999-not-downloaded\r\n')
    write(folder / 'val-v1_2.txt', 'R012-7July-Nespresso')
    write(folder / 'test-v1_2.txt', 'R999-not-downloaded')
    write(
        tmp_path / 'data-annotation-trainval-v1_1.json',
        json.dumps(
            [
                dict(video_name=n, videoMetadata={}, events=[])
                for n in ('R007-7July-DSLR', 'R012-7July-Nespresso')
            ]
        ),
    )
    names = {s: headset(tmp_path, s).names for s in ('train', 'val', 'trainval', None)}
    assert names == dict(
        train=['R007-7July-DSLR'],
        val=['R012-7July-Nespresso'],
        trainval=['R007-7July-DSLR', 'R012-7July-Nespresso'],
    ) | {None: ['R007-7July-DSLR', 'R012-7July-Nespresso', 'z010-june-16-22-gopro']}
    with pytest.raises(
        FileNotFoundError, match='no sequences: expected VIDEO/Export_py in .*test-v1_2.txt names'
    ):
        headset(tmp_path, 'test')
    with pytest.raises(
        ValueError,
        match="holoassist: split must be one of train, val, test, trainval, or None, got 'all'",
    ):
        headset(tmp_path, 'all')
    write(tmp_path / 'data-annotation-trainval-v1_1.json', '[{"video": 1}]')
    with pytest.raises(
        ValueError,
        match=(
            'holoassist: expected a list of videos with '
            'video_name in .*data-annotation-trainval-v1_1.json'
        ),
    ):
        headset(tmp_path, 'trainval')
    write(tmp_path / 'data-annotation-trainval-v1_1.json', '[{"video_name": "R0')
    with pytest.raises(ValueError, match='expected json in .*trainval-v1_1.json'):
        headset(tmp_path, 'trainval')
    with pytest.raises(FileNotFoundError, match=r'holoassist: expected \*/Export_py'):
        headset(tmp_path / 'nowhere')


@pytest.mark.parametrize(
    'file,change,error',
    (
        (
            'Hands/Left_sync.txt',
            lambda t: t[:-700],
            'expected 471 or 473 numbers a row.* in .*Left_sync.txt .*columns changed',
        ),
        (
            'Hands/Right_sync.txt',
            lambda t: '1 2 3\n4 5 6\n',
            'expected 471 or 473 numbers a row.* in .*Right_sync.txt .*found 3',
        ),
        (
            'Hands/Right_sync.txt',
            lambda t: '',
            'unpack every modality into the same folder.* in .*Right_sync.txt .*found nothing',
        ),
        (
            'Hands/Left_sync.txt',
            lambda t: None,
            'unpack every modality into the same folder.* in .*Left_sync.txt .FileNotFound',
        ),
        (
            'Video/Pose_sync.txt',
            lambda t: t.replace('\t', ' x ', 1),
            'expected 18 numbers a row.* in .*Pose_sync.txt',
        ),
        (
            'Video/Pose_sync.txt',
            lambda t: t.replace('6376', '5376'),
            (
                'Pose_sync.txt: expected poses between the '
                'ticks 637613405551234567 and .* found 0 of 48'
            ),
        ),
        (
            'Video/Intrinsics.txt',
            lambda t: '1 2 3',
            'expected 25 numbers a row.* in .*Intrinsics.txt .*found 3',
        ),
        (
            'Video/Intrinsics.txt',
            lambda t: '\t'.join(['0'] * 25),
            'Intrinsics.txt: expected fx 0 cx 0 fy cy 0 0 1 first, found',
        ),
        (
            'Video/VideoMp4Timing.txt',
            lambda t: 'soon',
            'expected 1 or 2 numbers a row.* in .*VideoMp4Timing.txt',
        ),
        (
            'Video_pitchshift.mp4',
            lambda t: None,
            (
                'holoassist: expected a frame at 0.00 s .or all '
                'frames in .*images_jpg. in .*Video_pitchshift.mp4'
            ),
        ),
        (
            'Video_pitchshift.mp4',
            lambda t: 'no video',
            'holoassist: expected a frame at 0.00 s .* in .*Video_pitchshift.mp4',
        ),
    ),
)
def test_holoassist_refusals(tmp_path, file, change, error):
    write_holoassist(tmp_path)
    path = tmp_path / VIDEO / 'Export_py' / file
    new = change('' if path.suffix == '.mp4' else path.read_text())
    path.unlink() if new is None else write(path, new)
    with pytest.raises((ValueError, FileNotFoundError), match=error):
        headset(tmp_path, None)[0]


def test_holoassist_missing_images(tmp_path):
    write_holoassist(tmp_path, video=False)
    f = tmp_path / VIDEO / 'Export_py'
    write(f / 'Video_pitchshift.mp4', movie((448, 252)))
    seq = headset(tmp_path, None)[0]
    with pytest.raises(ValueError, match='Video_pitchshift.mp4 .*448x252 pixels, expected 896x504'):
        windows(seq)
    assert windows(seq, image=False)[0].image is None
    write(f / 'Video/images_jpg/000037.jpg', jpg(896, 504))
    seq = headset(tmp_path, None)[0]
    with pytest.raises(FileNotFoundError, match='images_jpg/000000.jpg: no such image'):
        windows(seq)
