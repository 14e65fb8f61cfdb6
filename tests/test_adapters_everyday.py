"""Ego-Exo4D and EPIC-KITCHENS:
miniatures in their official layouts, written from known motions, must come back as those motions"""

import io, json, pickle, tarfile
import numpy as np, pytest, torch
from PIL import Image
from scipy.spatial.transform import Rotation
from forehand4d.geometry.cameras import invert, make_T, project, transform, unproject
from forehand4d.geometry.mano import from_mano21
from forehand4d.datasets import egoexo4d
from forehand4d.datasets import epic
from forehand4d.data.clip_store import decode_clip, encode_clip
from forehand4d.geometry.lenses import brown_conrady
from forehand4d.datasets.sequences import read_split
from forehand4d.datasets.windows import windows
from forehand4d.datasets.checks import check_sequence
from test_adapters import jpg, same, scene, stand_in, write  # noqa: F401, a fixture

N, MARKS = 40, (0, 16, 20)  # frames; joints far enough apart to be found in a picture


def brightest(image, points, r=4):
    "Distance of the brightest blobs from points, pixels"
    worst = 0
    for u, v in points.tolist():
        y, x = np.mgrid[round(v) - r : round(v) + r + 1, round(u) - r : round(u) + r + 1]
        a = image[y, x, 0].astype(float) ** 2 + 1e-9
        worst = max(worst, np.hypot((a * x).sum() / a.sum() - u, (a * y).sum() / a.sum() - v))
    return worst


def painted(points, w, h):
    y, x = np.mgrid[:h, :w].astype(np.float32)
    a = np.max([255 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 4) for u, v in points.tolist()], 0)
    Image.fromarray(a.astype(np.uint8)).convert('RGB').save(b := io.BytesIO(), 'PNG')
    return b.getvalue()


# ---- Ego-Exo4D

UID, TAKE = '0a1b-22', 'cmu_soccer12_2'
K_ARIA, TURN = (
    torch.tensor([[150.0, 0, 255.5], [0, 150, 255.5], [0, 0, 1]]),
    torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]),
)
FINGERS = ('thumb', 'index', 'middle', 'ring', 'pinky')
JOINTS = ['wrist'] + [f'{f}_{k}' for f in FINGERS for k in (1, 2, 3, 4)]
LABELS = f'annotations/ego_pose/val/hand/annotation/{UID}.json'
POSES = f'annotations/ego_pose/val/camera_pose/{UID}.json'


def write_egoexo4d(root, step=1, first=0):
    """A take whose camera lies on its side;
    every `step`th frame is annotated, by hand and by a network"""
    m, up = scene(7, n=N)
    cam = make_T(TURN.mT, torch.zeros(3)) @ up  # as the glasses hold it
    world, valid, seen = (
        m.joints().double(),
        torch.zeros(2, N, 2, 21, dtype=torch.bool),
        torch.zeros(N, 2, 21, dtype=torch.bool),
    )
    px, data = project(transform(cam[:, None].double(), world), K_ARIA.double()), ({}, {})
    points, pixels = (from_mano21(x, 'openpose21') for x in (world, px))
    valid[:, ::step], seen[::step] = True, True

    def ours(joint):
        return from_mano21(torch.arange(21.0)[:, None], 'openpose21')[JOINTS.index(joint), 0].long()

    for i in range(0, N, step):
        a3 = {
            f'{s}_{j}': dict(x=x, y=y, z=z, num_views_for_3d=4)
            for h, s in enumerate(('right', 'left'))
            for j, (x, y, z) in zip(JOINTS, points[i, h].tolist(), strict=True)
        }
        a2 = {
            f'{s}_{j}': dict(x=x, y=y, placement='manual')
            for h, s in enumerate(('right', 'left'))
            for j, (x, y) in zip(JOINTS, pixels[i, h].tolist(), strict=True)
        }
        del a3['right_ring_4'], a2['left_pinky_1']  # not triangulated; not marked in this camera
        valid[:, i, 0, ours('ring_4')], seen[i, 1, ours('pinky_1')] = False, False
        a3['left_thumb_4']['num_views_for_3d'] = 2
        valid[:, i, 1, ours('thumb_4')] = valid[:, i, 1, ours('pinky_1')] = False
        if i == 12:
            del a3['left_wrist']  # no hand without it
            valid[:, i, 1] = False
        if i == 6:
            a3['left_index_2']['x'] = float('nan')
            valid[:, i, 1, ours('index_2')] = False
        if i == 18:
            a3 = {
                k: v for k, v in a3.items() if k.startswith('left') or k[6:] in JOINTS[:9]
            }  # nine joints are no hand
            valid[:, i, 0] = False
        frame = [dict(annotation3D=a3, annotation2D={'cam01': {}, 'aria01': a2})]
        if i == 24:
            frame = []
            valid[:, i], seen[i] = False, False
        for d in data:
            d[str(first + i)] = frame
    write(
        root / 'takes.json',
        json.dumps(
            [
                dict(
                    take_uid=UID,
                    take_name=TAKE,
                    capture=dict(
                        cameras=[
                            dict(cam_id='cam01', is_ego=False),
                            dict(cam_id='aria01', is_ego=True),
                        ]
                    ),
                ),
                dict(
                    take_uid='other',
                    take_name='elsewhere',
                    capture=dict(cameras=[dict(cam_id='aria02', is_ego='True')]),
                ),
            ]
        ),
    )
    write(
        root / 'annotations/splits.json',
        json.dumps(
            dict(
                split_to_take_uids=dict(train=['other'], val=[UID], test=[]),
                take_uid_to_benchmark={UID: ['hand_pose']},
            )
        ),
    )
    for kind, d in zip(('annotation', 'automatic'), data, strict=True):
        write(root / f'annotations/ego_pose/val/hand/{kind}/{UID}.json', json.dumps(d))
    pose = dict(
        camera_intrinsics=K_ARIA.tolist(),
        camera_extrinsics={str(first + i): cam[i, :3].double().tolist() for i in range(N)},
    )
    write(
        root / POSES,
        json.dumps(
            {
                'metadata': dict(take_uid=UID),
                'cam01': dict(
                    camera_intrinsics=K_ARIA.tolist(), camera_extrinsics=cam[0, :3].tolist()
                ),
                'aria01': pose,
            }
        ),
    )
    for i in range(0, N, step):
        write(
            root / f'image/undistorted/val/{TAKE}/{first + i:06d}.jpg',
            painted(px[0, 0, MARKS], 512, 512) if i == 0 else JPG,
        )
    return m, up, cam, valid, seen


JPG = jpg(512, 512)


@pytest.mark.parametrize('upright', (True, False))
@pytest.mark.parametrize('kind', ('annotation', 'automatic'))
def test_egoexo4d(tmp_path, kind, upright):
    m, up, cam, valid, seen = write_egoexo4d(tmp_path / 'data/egoexo4d')
    seqs = egoexo4d.sequences(tmp_path, kind=kind, upright=upright)
    assert seqs.names == [TAKE]
    seq, by = seqs[TAKE], ('annotation', 'automatic').index(kind)
    for c in windows(seq, 18, stride=11, shortest=18):
        same(c, m, up if upright else cam, K_ARIA, c.meta['row'], valid[by], (512, 512), seen=seen)
    result = check_sequence(seq)
    assert result['off'] == [] and result['reprojection_px'] < 0.01 and result['in_front'] == 1
    first = windows(seq)[0]
    assert (
        brightest(first.image, first.keypoints2d[0, 0, MARKS]) < 0.5
    )  # the picture turns with the labels
    assert first.meta['take_uid'] == UID and pickle.loads(pickle.dumps(seqs)).names == seqs.names


def edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    write(path, json.dumps(data))


def test_egoexo4d_every_third_frame(tmp_path):
    """Labels at a third of the camera's rate: clips at that rate have a label in every frame,
    those at 30 fps, the default, in every third"""
    m, up, cam, valid, seen = write_egoexo4d(tmp_path, step=3, first=100)
    seq = egoexo4d.sequences(tmp_path)[0]
    assert len(seq) == N and seq.frame_ids[0] == 100 and seq.meta['label_fps'] == 10
    (clip,) = windows(seq, fps=10.0, shortest=10)
    assert clip.frame_ids.tolist() == list(range(100, 100 + N, 3)) and clip.fps == 10
    assert (
        torch.equal(clip.valid3d, valid[0, ::3])
        and (clip.joints3d - transform(up[0], m.joints())[::3])[clip.valid3d].abs().max() < 1e-5
    )
    assert (clip.cam_from_view - (up @ invert(up[0]))[::3]).abs().max() < 1e-5
    (fine,) = windows(seq)
    assert (
        len(fine) == N and torch.equal(fine.valid3d, valid[0]) and fine.image.shape == (512, 512, 3)
    )
    write(
        tmp_path / 'val.pkl',
        pickle.dumps(
            dict(
                names=[(TAKE, '100')],
                ranges=[(1, 9)],
                subsampled_indices=[list(range(100, 100 + N, 3))],
            )
        ),
    )
    ((name, a, b),) = read_split(tmp_path / 'val.pkl')
    (clip,) = windows(egoexo4d.sequences(tmp_path)[name], ranges=[(a, b)], fps=10.0, shortest=9)
    assert (a, b, len(clip)) == (103, 127, 9)


def test_egoexo4d_pixels_judge(tmp_path):
    """A joint far from its pixel is no label in space;
    all of them far away are those of another take"""
    m, up, *_ = write_egoexo4d(tmp_path)

    def off(px):
        return lambda d: [
            p.update(x=p['x'] + px) for p in [d['3'][0]['annotation2D']['aria01']['right_index_3']]
        ]

    before = egoexo4d.sequences(tmp_path)[0].valid3d
    edit(tmp_path / LABELS, off(25))
    assert torch.equal(egoexo4d.sequences(tmp_path)[0].valid3d, before)
    edit(tmp_path / LABELS, off(10))
    s = egoexo4d.sequences(tmp_path)[0]
    assert (s.valid3d != before).nonzero().tolist() == [[3, 0, 3]] and s.valid2d[3, 0, 3]
    edit(
        tmp_path / LABELS, lambda d: [f[0]['annotation2D'].pop('aria01') for f in d.values() if f]
    )  # nothing marked in this camera: nothing to trust
    s = egoexo4d.sequences(tmp_path)[0]
    assert s.keypoints2d is None and not s.valid3d.any() and windows(s, image=False) == []
    write_egoexo4d(tmp_path)
    edit(
        tmp_path / POSES,
        lambda d: d['aria01']['camera_extrinsics'].update(
            {
                k: make_T(torch.eye(3), torch.tensor([0.5, 0, 1]))[:3].tolist()
                for k in map(str, range(N))
            }
        ),
    )
    with pytest.raises(ValueError, match='not the cameras of these labels'):
        egoexo4d.sequences(tmp_path)[0]


def changed(tmp_path, frame, change):
    "Joints (hand, joint) that are no labels any more, after a change to an annotation of a frame"
    labels = (tmp_path / LABELS).read_text()
    before = egoexo4d.sequences(tmp_path)[0].valid3d
    edit(tmp_path / LABELS, lambda d: change(d[str(frame)][0]))
    s = egoexo4d.sequences(tmp_path)[0]
    write(tmp_path / LABELS, labels)
    where = (s.valid3d != before).nonzero().tolist()
    assert all(row == frame and not s.valid3d[row, hand, joint] for row, hand, joint in where)
    return [(hand, joint) for _, hand, joint in where]


def in_3d(name, **change):
    return lambda frame: frame['annotation3D'][name].update(change)


def in_2d(name, **change):
    return lambda frame: frame['annotation2D']['aria01'][name].update(change)


def test_egoexo4d_as_the_benchmark_prepares_it(tmp_path):
    "Joints in our order: wrist 0, index 1 2 3 and its tip 17, thumb 13 14 15, tip 16"
    of_index = (0, 1), (0, 2), (0, 3), (0, 17)
    write_egoexo4d(tmp_path)
    place = json.loads((tmp_path / LABELS).read_text())['3'][0]['annotation3D']

    # the wrist is exempt from the comparison with pixels, other joints are not
    assert changed(tmp_path, 3, in_2d('right_wrist', x=20, y=20)) == []
    assert changed(tmp_path, 3, lambda f: f['annotation2D']['aria01'].pop('right_wrist')) == []
    assert changed(tmp_path, 3, in_2d('right_index_2', x=20, y=20)) == [of_index[1]]
    assert changed(tmp_path, 3, in_2d('right_index_2', x=512.5)) == [of_index[1]]
    assert changed(tmp_path, 3, lambda f: f['annotation2D']['aria01'].pop('right_index_2')) == [
        of_index[1]
    ]

    # no hand without a wrist that three cameras saw
    whole = [(0, joint) for joint in range(21) if joint != 19]  # its ring finger has no tip
    assert changed(tmp_path, 3, in_3d('right_wrist', num_views_for_3d=2)) == whole
    assert changed(tmp_path, 3, lambda f: f['annotation3D'].pop('right_wrist')) == whole
    assert changed(tmp_path, 3, in_3d('right_index_2', num_views_for_3d=2)) == [of_index[1]]

    # distances: a tip on the joint before it; angles: a tip folded back to the first joint
    before = {key: place['right_index_3'][key] for key in 'xyz'}
    assert changed(tmp_path, 3, in_3d('right_index_4', **before)) == [of_index[3]]
    first = {key: place['right_index_1'][key] for key in 'xyz'}
    assert of_index[2] in changed(tmp_path, 3, in_3d('right_index_4', **first))


def test_egoexo4d_outside_of_the_lens(tmp_path):
    "What is black in every image is no place for a joint; a dark take has no such places"
    m, up, cam, *_ = write_egoexo4d(tmp_path)
    before = egoexo4d.sequences(tmp_path)[0]
    seen_at = project(transform(cam[:, None], m.joints()), K_ARIA)
    u, v = seen_at[4, 0, 3].round().int().tolist()
    image = np.full((512, 512, 3), 90, np.uint8)
    image[v - 3 : v + 4, u - 3 : u + 4] = 0
    Image.fromarray(image).save(b := io.BytesIO(), 'JPEG', quality=95)
    files = sorted((tmp_path / f'image/undistorted/val/{TAKE}').iterdir())
    for file in files:
        write(file, b.getvalue())
    s = egoexo4d.sequences(tmp_path)[0]
    lost = before.valid3d & ~s.valid3d
    assert lost[4, 0, 3] and not s.valid2d[4, 0, 3]
    off = (seen_at - seen_at[4, 0, 3]).abs().amax(-1)
    assert lost[off < 2].any() and not lost[off > 6].any()
    for file in files:
        write(file, jpg(512, 512, (0, 0, 0)))
    assert torch.equal(egoexo4d.sequences(tmp_path)[0].valid3d, before.valid3d)


def test_egoexo4d_holes(tmp_path):
    "A frame without camera has no row, one with a NaN in it ends nothing and is never used"
    m, up, cam, valid, seen = write_egoexo4d(tmp_path)

    def change(d):
        del d['aria01']['camera_extrinsics']['9']
        d['aria01']['camera_extrinsics']['30'][1][2] = float('nan')

    edit(tmp_path / POSES, change)
    seq = egoexo4d.sequences(tmp_path, kind='automatic')[0]
    assert len(seq) == N - 1 and 9 not in seq.frame_ids.tolist()
    (clip,) = windows(seq)
    assert (
        len(clip) == N
        and not clip.valid3d[[9, 30]].any()
        and torch.equal(clip.valid3d[10:30], valid[1, 10:30])
    )
    assert (clip.joints3d - transform(up[0], m.joints()))[clip.valid3d].abs().max() < 1e-5


def test_egoexo4d_refusals(tmp_path):
    write_egoexo4d(tmp_path)
    load, labels, poses = (
        lambda: egoexo4d.sequences(tmp_path)[0],
        tmp_path / LABELS,
        tmp_path / POSES,
    )
    with pytest.raises(FileNotFoundError, match='egoexo4d: expected takes.json in'):
        egoexo4d.sequences(tmp_path / 'annotations')
    with pytest.raises(
        ValueError,
        match="egoexo4d: expected split_to_take_uids of the split 'eval' in .*splits.json",
    ):
        egoexo4d.sequences(tmp_path, 'eval')
    with pytest.raises(
        FileNotFoundError,
        match=r"no sequences: expected .*train.hand.annotation/TAKE_UID.json of a take of 'train'",
    ):
        egoexo4d.sequences(tmp_path, 'train')
    with pytest.raises(FileNotFoundError, match='hand.byhand/TAKE_UID.json'):
        egoexo4d.sequences(tmp_path, kind='byhand')
    with pytest.raises(KeyError, match='no sequence'):
        egoexo4d.sequences(tmp_path)['elsewhere']
    with pytest.raises(FileNotFoundError, match='000001.jpg: no such image'):
        (tmp_path / f'image/undistorted/val/{TAKE}/000001.jpg').unlink()
        load().image(1)
    write(tmp_path / f'image/undistorted/val/{TAKE}/000002.jpg', jpg(64, 64))
    with pytest.raises(ValueError, match='000002.jpg: 64x64 pixels, expected 512x512'):
        load().image(2)
    whole = labels.read_text()
    for change, message in (
        (lambda d: d['0'][0]['annotation3D'].update(right_nose=dict(x=0, y=0, z=0)), 'right_nose'),
        (lambda d: d['0'][0]['annotation3D']['left_wrist'].pop('z'), "'z'"),
        (lambda d: d['0'].insert(0, 'hand'), 'AttributeError'),
        (lambda d: d['0'][0]['annotation3D']['left_wrist'].update(x='far'), 'could not convert'),
    ):
        edit(labels, change)
        with pytest.raises(
            ValueError,
            match=(
                rf'egoexo4d: expected frame . \[annotation3D, '
                rf'annotation2D\].*{UID}.json.*{message}'
            ),
        ):
            load()
        write(labels, whole)
    write(labels, json.dumps({'900': json.loads(whole)['0']}))
    with pytest.raises(ValueError, match='no joint in a frame that has a camera pose, 0…39'):
        load()
    write(labels, whole[:5000])
    with pytest.raises(ValueError, match=f'{UID}.json.*expected json'):
        load()
    write(labels, whole)
    whole = poses.read_text()
    for change, message in (
        (lambda d: d.pop('aria01'), 'StopIteration'),
        (lambda d: d['aria01'].pop('camera_intrinsics'), 'camera_intrinsics'),
        (lambda d: d['aria01']['camera_extrinsics']['4'].pop(), '.'),
        (
            lambda d: d['aria01']['camera_intrinsics'][0].__setitem__(0, float('nan')),
            'not intrinsics',
        ),
        (lambda d: d['aria01']['camera_extrinsics']['4'][0].__setitem__(0, 3.0), 'and rotations'),
    ):
        edit(poses, change)
        with pytest.raises(
            ValueError,
            match=(
                rf"egoexo4d: expected the camera of the head, "
                rf"one of \['aria01'\].*camera_pose.*{message}"
            ),
        ):
            load()
        write(poses, whole)
    poses.unlink()
    with pytest.raises(
        FileNotFoundError, match='egoexo4d: expected the camera of the head.*camera_pose'
    ):
        load()
    write(tmp_path / 'takes.json', '[{"take_uid": "0a1b-22"}]')
    with pytest.raises(
        ValueError, match='egoexo4d: expected take_uid, take_name, and capture.*takes.json'
    ):
        load()


# ---- EPIC-KITCHENS

FIELDS, UNIT = (
    dict(
        id=1,
        model='OPENCV',
        width=456,
        height=256,
        params=[262.0, 264.0, 229.5, 127.25, -0.11, 0.03, 0.0015, -0.002],
    ),
    3.7,
)  # metres in one unit
K_EPIC, LENS = (
    torch.tensor([[262.0, 0, 229], [0, 264, 126.75], [0, 0, 1]]).double(),
    torch.tensor([-0.11, 0.03, 0.0015, -0.002, 0, 0, 0, 0]).double(),
)
VISOR = 'GroundTruth-SparseAnnotations/annotations/train'


def circle(px, r=14):
    "A polygon of VISOR around a pixel of the small frame"
    a = torch.linspace(0, 2 * np.pi, 25)[:-1]
    return (
        (px + r * torch.stack([a.cos(), a.sin()], -1) + 0.5)
        * torch.tensor([1920 / 456, 1080 / 256])
        - 0.5
    ).tolist()


def write_epic(root, name='P01_01', rate=60.0, fps=None, size=(456, 256), n=60, tar=False, lost=()):
    """A video whose frames count from 1:
    cameras in units of `UNIT` metres, pixels as the lens made them, sides as a detector had them"""
    (m, _), (_, cam) = scene(8, n=n), scene(8, n=n)
    there = transform(cam[:, None], m.joints()).double()
    px = brown_conrady(K_EPIC, LENS, there)
    kp = (px + 0.5) * torch.tensor(size) / torch.tensor([456, 256]) - 0.5
    kp[list(lost)] = kp[list(lost)].flip(1)
    valid = ((px > -0.5) & (px < torch.tensor([455.5, 255.5]))).all(-1)
    valid[5, 1], valid[7] = False, False
    kept = valid.clone()
    kept[list(lost)] = kept[list(lost)].flip(1)
    step = round(rate / (fps or rate))
    (root / 'epic_hands').mkdir(parents=True, exist_ok=True)
    np.savez(
        root / f'epic_hands/{name}.npz',
        keypoints=kp[::step].float().numpy(),
        valid=kept[::step].numpy(),
        score=np.ones((len(kp[::step]), 2), np.float32),
        fps=fps or rate,
        size=size,
    )
    q = Rotation.from_matrix(cam[:, :3, :3].double().numpy()).as_quat(scalar_first=True)
    g = torch.Generator().manual_seed(1)
    points = torch.randn(200, 3, generator=g) * 0.3 + torch.tensor([0, 0, 0.3])
    write(
        root / f'campose/{name}.json',
        json.dumps(
            dict(
                camera=FIELDS,
                points=[[*(p / UNIT).tolist(), 9, 9, 9] for p in points],
                images={
                    f'frame_{i + 1:010d}.jpg': [
                        *q[i].tolist(),
                        *(cam[i, :3, 3].double() / UNIT).tolist(),
                    ]
                    for i in range(n)
                    if i != 20
                },
            )
        ),
    )

    def hand(i, h):
        return dict(
            id=f'{i}{h}',
            name=f'{("right", "left")[h]} hand',
            segments=[circle(px[i, h].mean(0))],
            exhaustive='y',
            in_contact_object='hand-not-in-contact',
        )

    knife = dict(id='k', name='knife', segments=[[[5, 5], [300, 5], [300, 300]]])
    frames = [
        dict(
            image=dict(
                name=f'{name}_frame_{i + 1:010d}.jpg',
                image_path=f'{name}/{name}_frame_{i + 1:010d}.jpg',
            ),
            annotations=[hand(i, 1), knife, hand(i, 0)],
        )
        for i in (2, 30, 50)
    ]
    write(root / VISOR / f'{name}.json', json.dumps(dict(video_annotations=frames)))
    folder, pictures = (
        root / name[:3] / 'rgb_frames',
        {i: painted(px[0, 0, MARKS], 456, 256) if i == 0 else SMALL for i in range(n)},
    )
    if tar:
        folder.mkdir(parents=True)
        with tarfile.open(folder / f'{name}.tar', 'w') as t:
            for i, b in pictures.items():
                (e := tarfile.TarInfo(f'./frame_{i + 1:010d}.jpg')).size = len(b)
                t.addfile(e, io.BytesIO(b))
    else:
        for i, b in pictures.items():
            write(folder / name / f'frame_{i + 1:010d}.jpg', b)
    return m, cam, there, px, valid


SMALL = jpg(456, 256)


def check_epic(clip, cam, there, valid, row, step):
    "Everything that a clip says, `step` frames of the scene apart"
    at = torch.arange(len(clip)) * step + row
    pinhole = project(there, K_EPIC)[at]
    inside = valid[at] & ((pinhole > -0.5) & (pinhole < torch.tensor([455.5, 255.5]))).all(-1)
    inside[at == 20] = False  # no camera
    assert torch.equal(clip.valid2d, inside) and clip.valid2d.float().mean() > 0.5
    assert (clip.keypoints2d - pinhole)[clip.valid2d].abs().max() < 0.1
    known = at != 20
    assert (clip.cam_from_view - cam[at] @ invert(cam[row]))[known].abs().max() < 1e-5
    assert (clip.intrinsics - K_EPIC).abs().max() < 1e-3
    assert (
        clip.labels == 'keypoints'
        and clip.motion is None
        and not clip.valid3d.any()
        and not clip.joints3d.any()
    )
    assert decode_clip(encode_clip(clip)).labels == 'keypoints'


@pytest.mark.parametrize('tar', (False, True))
def test_epic(tmp_path, tar):
    m, cam, there, px, valid = write_epic(tmp_path / 'data/epic', tar=tar)
    seqs = epic.sequences(tmp_path, scale={'P01_01': UNIT})
    assert seqs.names == ['P01_01'] == epic.sequences(tmp_path, split=None).names
    seq = pickle.loads(pickle.dumps(seqs))[0]
    assert (
        len(seq) == 59
        and seq.fps == 60
        and seq.frame_ids[0] == 1
        and seq.meta['scale_from'] == 'given'
        and seq.meta['swapped'] == 0
    )
    for c in windows(seq, 20, stride=8, shortest=16, image=False):
        check_epic(c, cam, there, valid, c.frame_ids[0].item() - 1, 2)
    (full,) = windows(seq, fps=60.0)
    check_epic(full, cam, there, valid, 0, 1)
    bent = (px - project(there, K_EPIC))[valid].norm(dim=-1).max()
    assert (
        bent > 2 and brightest(full.image, full.keypoints2d[0, 0, MARKS]) < 0.5
    )  # the lens matters, and is gone from the image
    assert check_sequence(seq)['off'] == []


@pytest.mark.parametrize(
    'fps,size', ((60.0, (1920, 1080)), (30.0, (456, 256)), (29.97, (912, 512)))
)
def test_epic_tracks_of_the_video(tmp_path, fps, size):
    "Keypoints of the film itself, at its own size and rate, find their frames"
    m, cam, there, px, valid = write_epic(tmp_path, fps=fps, size=size)
    seq = epic.sequences(tmp_path, scale=UNIT)[0]
    assert seq.valid2d.flatten(1).any(-1)[[0, 2, 4]].all() and seq.valid2d[1].any() == (fps == 60)
    check_epic(windows(seq, image=False)[0], cam, there, valid, 0, 2)


def test_epic_later_videos(tmp_path):
    "Three digits: 50 frames a second; frames of the keypoints may be named"
    m, cam, there, px, valid = write_epic(tmp_path, 'P02_101', rate=50.0)
    seq = epic.sequences(tmp_path, scale=UNIT)['P02_101']
    assert seq.fps == 50
    check_epic(windows(seq, fps=25.0, shortest=10, image=False)[0], cam, there, valid, 0, 2)
    with np.load(tmp_path / 'epic_hands/P02_101.npz') as z:
        d = dict(z)
    np.savez(
        tmp_path / 'epic_hands/P02_101.npz',
        frames=np.arange(31, 61),
        **d | {k: d[k][30:] for k in ('keypoints', 'valid', 'score')},
    )
    again = epic.sequences(tmp_path, scale=UNIT)['P02_101']
    assert (
        not again.valid2d[:29].any()
        and torch.equal(again.valid2d[29:], seq.valid2d[29:])
        and torch.equal(again.keypoints2d[29:], seq.keypoints2d[29:])
    )


@pytest.mark.parametrize('lost', (range(60), range(25, 43), range(44, 60)))
def test_epic_sides_are_visors(tmp_path, lost):
    "A detector that takes one hand for the other, always or for a while, is put right"
    m, cam, there, px, valid = write_epic(tmp_path, lost=lost)
    seq = epic.sequences(tmp_path, scale=UNIT)[0]
    check_epic(windows(seq, fps=60.0, image=False)[0], cam, there, valid, 0, 1)
    assert seq.meta['swapped'] == len([i for i in lost if i != 20])
    (tmp_path / VISOR / 'P01_01.json').unlink()
    plain = epic.sequences(tmp_path, split=None, scale=UNIT)[0]  # nobody to ask
    wrong = ((plain.keypoints2d - seq.keypoints2d).abs() * plain.valid2d[..., None]).flatten(
        1
    ).amax(-1) > 1
    assert plain.meta['swapped'] == 0 and set((plain.frame_ids[wrong] - 1).tolist()) == set(
        lost
    ) - {7, 20}  # no hand, no camera


def test_epic_verdicts_reach_a_second(tmp_path):
    "Farther from an annotated frame the detector is believed"
    write_epic(tmp_path, n=130, lost=range(130))
    seq = epic.sequences(tmp_path, scale=UNIT)[0]
    told = seq.frame_ids <= 51 + 60  # the last annotated frame, and a second
    assert seq.meta['swapped'] == told.sum() == 110
    (tmp_path / VISOR / 'P01_01.json').unlink()
    plain = epic.sequences(tmp_path, None, scale=UNIT)[0]
    assert torch.equal(
        seq.valid2d, torch.where(told[:, None, None], plain.valid2d.flip(1), plain.valid2d)
    )


def test_epic_masks(tmp_path):
    """Polygons of the large, distorted image in the small,
    straight one, under the frame numbers of the images"""
    m, cam, there, px, valid = write_epic(tmp_path)
    masks = epic.hand_masks(tmp_path, 'P01_01')
    assert list(masks) == [3, 31, 51] and masks[3].shape == (2, 256, 456) and masks[3].dtype == bool
    v, u = torch.meshgrid(torch.arange(256.0).double(), torch.arange(456.0).double(), indexing='ij')
    for i, mask in masks.items():
        middle, lens = (
            px[i - 1].mean(1),
            brown_conrady(
                K_EPIC, LENS, unproject(torch.stack([u, v], -1), K_EPIC, torch.ones_like(u))
            ),
        )
        r = (lens - middle[:, None, None]).norm(dim=-1)
        assert (torch.from_numpy(mask) == (r < 14))[(r - 14).abs() > 1.2].all() and mask.any(
            (1, 2)
        ).all()
    write(
        tmp_path / 'frame_mapping.json',
        json.dumps({'P01_01': {'P01_01_frame_0000000031.jpg': 'frame_0000000029.jpg'}}),
    )
    assert list(epic.hand_masks(tmp_path, 'P01_01')) == [3, 29, 51]
    with pytest.raises(FileNotFoundError, match='campose/P09_01.json'):
        epic.hand_masks(tmp_path, 'P09_01')


def test_epic_scale(tmp_path):
    """Without a scale the units are guessed from the points ahead, whatever they were;
    rotations stay"""
    m, cam, *_ = write_epic(tmp_path)
    seqs = [epic.sequences(tmp_path, scale=s)[0] for s in (None, UNIT, {'P07_01': 2.0})]
    assert [s.meta['scale_from'][:5] for s in seqs] == ['guess', 'given', 'guess'] and torch.equal(
        seqs[0].cam_from_world, seqs[2].cam_from_world
    )
    ahead = transform(
        seqs[0].cam_from_world,
        torch.tensor(
            [p[:3] for p in json.loads((tmp_path / 'campose/P01_01.json').read_text())['points']]
        ).double()
        * seqs[0].meta['scale'],
    )[..., 2]
    assert abs(ahead[ahead > 0].median() - epic.DEPTH) < 0.05
    assert torch.equal(seqs[0].cam_from_world[:, :3, :3], seqs[1].cam_from_world[:, :3, :3])
    assert windows(seqs[0], image=False)[0].meta['scale_from'].startswith('guess')
    edit(tmp_path / 'campose/P01_01.json', lambda d: d.update(points=[]))
    with pytest.raises(ValueError, match='epic/P01_01: expected a positive scale, or points ahead'):
        epic.sequences(tmp_path)[0]
    with pytest.raises(ValueError, match='got -1'):
        epic.sequences(tmp_path, scale=-1.0)[0]
    assert epic.sequences(tmp_path, scale=2.0)[0].meta['scale'] == 2


def test_epic_split_pickle(tmp_path):
    "Ranges count positions in a list of frames, and the clip holds both ends"
    m, cam, there, px, valid = write_epic(tmp_path)
    write(
        tmp_path / 'train.pkl',
        pickle.dumps(
            dict(names=['P01_01'], ranges=[(2, 18)], subsampled_indices=[list(range(23, 61, 2))])
        ),
    )
    ((name, a, b),) = read_split(tmp_path / 'train.pkl')
    (clip,) = windows(epic.sequences(tmp_path, scale=UNIT)[name], ranges=[(a, b)], image=False)
    assert clip.frame_ids.tolist() == list(range(27, 60, 2))
    check_epic(clip, cam, there, valid, 26, 2)


def test_epic_refusals(tmp_path):
    write_epic(tmp_path)
    load, cams, hands, visor = (
        lambda: epic.sequences(tmp_path, scale=UNIT)[0],
        tmp_path / 'campose/P01_01.json',
        tmp_path / 'epic_hands/P01_01.npz',
        tmp_path / VISOR / 'P01_01.json',
    )
    with pytest.raises(FileNotFoundError, match=r'epic: expected campose/\*.json in'):
        epic.sequences(tmp_path / 'P01')
    for split in ('val', 'eval'):
        with pytest.raises(
            FileNotFoundError,
            match=f'no sequences: expected .*with .*annotations/{split}/VIDEO.json',
        ):
            epic.sequences(tmp_path, split)
    whole = cams.read_text()
    for change, message in (
        (
            lambda d: d['camera'].update(model='SIMPLE_RADIAL', params=[260.0, 228.0, 128.0, 0.1]),
            'ValueError',
        ),
        (lambda d: d['camera'].update(model='OPENCV_FISHEYE'), 'OPENCV_FISHEYE'),
        (lambda d: d.pop('images'), "'images'"),
        (lambda d: d.update(images={}), 'ValueError'),
        (lambda d: d['images'].update({'frame_0000000004.jpg': [1, 0, 0]}), 'ValueError'),
        (lambda d: d['images'].update(first=[1, 0, 0, 0, 0, 0, 0]), 'ValueError'),
        (lambda d: d['camera']['params'].__setitem__(0, float('nan')), 'nan'),
    ):
        edit(cams, change)
        with pytest.raises(
            ValueError, match=f'epic: expected the cameras of EPIC-Fields.*P01_01.json.*{message}'
        ):
            load()
        write(cams, whole)
    write(cams, whole[:3000])
    with pytest.raises(ValueError, match='P01_01.json.*expected json'):
        load()
    write(cams, whole)
    edit(cams, lambda d: d['images']['frame_0000000011.jpg'].__setitem__(5, float('nan')))
    assert (
        not windows(load(), fps=60.0, image=False)[0].valid2d[10].any()
    )  # a pose that is not a number is none
    whole = visor.read_text()
    for change in (
        lambda d: d.pop('video_annotations'),
        lambda d: d['video_annotations'][1].pop('image'),
        lambda d: d['video_annotations'][0]['annotations'][0].update(segments=[[['a', 'b']]]),
    ):
        edit(visor, change)
        with pytest.raises(
            ValueError, match='epic: expected video_annotations of VISOR.*P01_01.json'
        ):
            load()
        write(visor, whole)
    data = hands.read_bytes()
    for bad in (data[:400], b'PK', b''):
        write(hands, bad)
        with pytest.raises(
            ValueError, match='epic: expected keypoints, valid, fps, size .*P01_01.npz'
        ):
            load()
    np.savez(hands, keypoints=np.array([print], dtype=object))
    with pytest.raises(ValueError, match='epic: expected keypoints.*holds Python objects'):
        load()
    np.savez(
        hands,
        keypoints=np.zeros((3, 2, 21, 2)),
        valid=np.ones((3, 2, 21), bool),
        fps=60.0,
        size=(456, 256),
        frames=[900, 901, 902],
    )
    with pytest.raises(ValueError, match='no frame that has a camera, 1…60'):
        load()
    hands.unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r'track_video\(".*P01/rgb_frames/P01_01", fps=60\).save\(".*epic_hands/P01_01.npz"\)',
    ):
        load()
    write(hands, data)
    write(tmp_path / 'P01/rgb_frames/P01_01/frame_0000000001.jpg', SMALL[:300])
    with pytest.raises(ValueError, match='frame_0000000001.jpg: damaged image'):
        load().image(0)
    for p in (tmp_path / 'P01/rgb_frames/P01_01').iterdir():
        p.unlink()
    with pytest.raises(FileNotFoundError, match='frame_0000000001.jpg: no such image'):
        load().image(0)
    (tmp_path / 'P01/rgb_frames/P01_01').rmdir()
    write(tmp_path / 'P01/rgb_frames/P01_01.tar', b'no archive')
    with pytest.raises(ValueError, match='epic: expected frame_0000000001.jpg in .*P01_01.tar'):
        load().image(0)
