"""Recorded datasets: miniatures in exactly their official layout,
written from known motions, must come back as those motions"""

import io, json, math, os, pickle, shutil, warnings
from dataclasses import replace
import cv2
import numpy as np, pytest, torch, yaml
from PIL import Image
from forehand4d.geometry.cameras import invert, look_at, project
from forehand4d.geometry.cameras import resize_intrinsics, transform
from forehand4d.geometry.hand_models import forget_hands, know_hands, open_hand
from forehand4d.geometry.mano import from_mano21, to_mano
from forehand4d.geometry.motion import rest_motion
from forehand4d.geometry.rotations import aa_to_mat, mat_to_aa
from forehand4d.datasets import arctic
from forehand4d.datasets import dexycb
from forehand4d.datasets import h2o
from forehand4d.datasets import h2o3d
from forehand4d.data.clip_store import ClipStore, decode_clip, encode_clip
from forehand4d.geometry.lenses import brown_conrady
from forehand4d.datasets.check_download import check_dataset
from forehand4d.datasets.convert import convert
from forehand4d.datasets.sequences import read_npy, read_split
from forehand4d.datasets.windows import windows
from forehand4d.datasets.checks import check_sequence

N = 24


@pytest.fixture(autouse=True)
def stand_in():
    "The open hand plays the part of MANO"
    know_hands(*(replace(open_hand(s), hand_id='mano') for s in ('right', 'left')))
    yield
    forget_hands('mano')


def scene(seed, moving=True, one_shape=False, n=N):
    """Two different hands that move in the world,
    and a camera that turns around them (or stands still, then its frame is the world)"""
    g, t = torch.Generator().manual_seed(seed), torch.arange(n) / 30
    m, wave = (
        rest_motion(n, hand_id='mano'),
        lambda *s: torch.randn(*s, generator=g) * torch.sin(2 * t + 0.5).view(-1, *[1] * len(s)),
    )
    wrist = torch.tensor([[0.13, 0.02, 0], [-0.13, 0, 0]]) + 0.05 * wave(2, 3)
    betas = torch.randn(1 if one_shape else 2, 10, generator=g).expand(2, 10).clone()
    m = replace(m, rot=aa_to_mat(0.4 * wave(2, 16, 3)) @ m.rot, wrist=wrist, betas=betas)
    cam = look_at(
        torch.stack([0.25 * t, -0.3 + 0.2 * t, -0.45 + 0.1 * t], -1),
        torch.zeros(3),
        torch.tensor([0.1, -1, 0]),
    )
    if moving:
        return m, cam
    return m.to_frame(cam[0]), torch.eye(4).repeat(n, 1, 1)


def jpg(w, h, colour=(90, 120, 60)):
    Image.new('RGB', (w, h), colour).save(b := io.BytesIO(), 'JPEG')
    return b.getvalue()


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data) if isinstance(data, bytes) else path.write_text(data)


def npy(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, data, allow_pickle=True)


def text(x):
    return ' '.join(f'{v:.9g}' for v in np.asarray(x).ravel())


def same(clip, m, cam, K, start, valid, size, seen=None):
    "Everything that a clip says, against the scene that the files were written from"
    n = len(clip)
    joints, cam, K, valid = (
        m.joints()[start : start + n],
        cam[start : start + n],
        K.expand(len(m), 3, 3)[start : start + n],
        valid[start : start + n],
    )
    view = transform(cam[0], joints)
    assert torch.equal(clip.valid3d, valid)
    assert (clip.joints3d - view)[valid].abs().max() < 1e-5 and not clip.joints3d[~valid].any()
    assert (clip.cam_from_view - cam @ invert(cam[0])).abs().max() < 1e-5
    assert (clip.intrinsics - K).abs().max() < 1e-3
    there = transform(cam[:, None], joints)
    px = project(there, K[:, None, None])
    inside = ((px > -0.5) & (px < torch.tensor(size) - 0.5)).all(-1) & (there[..., 2] > 0.01)
    assert torch.equal(
        clip.valid2d, valid & inside if seen is None else seen[start : start + n] & inside
    )
    assert clip.valid2d.float().sum() > 0.3 * valid.sum()
    assert (clip.keypoints2d - px)[clip.valid2d].abs().max() < 0.1
    hand = valid.any(-1)
    if clip.motion is not None:
        assert (
            torch.equal(clip.motion.valid, hand)
            and clip.motion.hand_id == 'mano'
            and clip.labels == 'mano'
        )
        assert (clip.motion.joints() - view)[hand].abs().max() < 1e-5
        assert (clip.motion.betas - m.betas)[hand.any(0)].abs().max() < 1e-5
    assert clip.image is None or clip.image.shape == (size[1], size[0], 3)
    assert decode_clip(encode_clip(clip)).labels == clip.labels


ALL = torch.ones(N, 2, 21, dtype=torch.bool)

# ---- ARCTIC

OFFSET, DIST = 3, torch.tensor([-0.35, 0.12, 0.002, -0.003, 0.01, 0.02, -0.01, 0.005])
K_EGO = torch.tensor([[1600.0, 0, 1404.1], [0, 1590, 996.9], [0, 0, 1]])


def dots(points, w=840, h=600):
    y, x = np.mgrid[:h, :w].astype(np.float32)
    a = np.max([255 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 4) for u, v in points.tolist()], 0)
    Image.fromarray(a.astype(np.uint8)).convert('RGB').save(b := io.BytesIO(), 'PNG')
    return b.getvalue()


def write_arctic(root, name='s01/box_grab_01', split='train'):
    """`raw_seqs` and, apart from it, `splits`, of the same recording;
    the images are what the lens saw"""
    m, cam = scene(1)
    g, here = np.random.default_rng(0), m.to_frame(cam)
    orient, pose, transl = (
        x.numpy().astype(np.float32) for x in to_mano(m.hand(), m.rot, m.wrist, m.betas)
    )
    world2ego, subject = cam.numpy().astype(np.float32), name.split('/')[0]

    def hand(h):
        return dict(
            rot=orient[:, h],
            pose=pose[:, h],
            trans=transl[:, h],
            shape=m.betas[h].numpy(),
            fitting_err=np.zeros(N),
        )

    npy(root / f'raw_seqs/{name}.mano.npy', dict(right=hand(0), left=hand(1)))
    npy(
        root / f'raw_seqs/{name}.egocam.dist.npy',
        {
            'R_k_cam_np': world2ego[:, :3, :3],
            'T_k_cam_np': world2ego[:, :3, 3:],
            'intrinsics': K_EGO.numpy(),
            'dist8': DIST.numpy(),
            'R0': np.eye(3),
            'T0': np.zeros(3),
            'ego_markers.ref': g.normal(size=(5, 3)),
            'ego_markers.label': ['a', 'b'],
        },
    )
    camera, valid = (
        lambda h: np.concatenate(
            [here.joints()[:, None, h].numpy(), g.normal(size=(N, 9, 21, 3)).astype(np.float32)], 1
        ),
        np.ones((3, N, 9), np.int64),
    )
    valid[0, 4, 0] = valid[1, 7, 0] = valid[2, 9, 0] = (
        0  # nothing in frame 4, no right hand in 7, no left in 9
    )

    def px(h):
        return np.concatenate(
            [project(here.joints()[:, h], K_EGO).numpy()[:, None], g.normal(size=(N, 9, 21, 2))], 1
        ).astype(np.float32)

    params = {
        f'{k}_{s}': v[:, h]
        for h, s in enumerate('rl')
        for k, v in dict(
            rot=orient,
            pose=pose,
            trans=transl,
            shape=np.broadcast_to(m.betas.numpy(), (N, 2, 10)).copy(),
        ).items()
    }
    params |= dict(
        world2ego=world2ego,
        K_ego=np.repeat(K_EGO.numpy()[None], N, 0),
        dist=np.repeat(DIST.numpy()[None], N, 0),
        obj_arti=np.zeros(N),
        obj_rot=np.zeros((N, 3)),
        obj_trans=np.zeros((N, 3)),
    )
    cam_coord = {
        'joints.right': camera(0),
        'joints.left': camera(1),
        'rot_r_cam': np.repeat(mat_to_aa(here.rot[:, :1, 0]).numpy(), 9, 1),
        'rot_l_cam': np.repeat(mat_to_aa(here.rot[:, 1:, 0]).numpy(), 9, 1),
        'is_valid': valid[0],
        'right_valid': valid[1],
        'left_valid': valid[2],
    }
    entry = {
        'cam_coord': cam_coord,
        '2d': {'joints.right': px(0), 'joints.left': px(1)},
        'bbox': np.tile(np.float32([1400, 1000, 14]), (N, 9, 1)),
        'params': params,
    }
    npy(
        root / f'splits/p2_{split}.npy',
        {
            'data_dict': {name: entry},
            'imgnames': [
                f'./arctic_data/data/images/{name}/0/{i:05d}.jpg'
                for i in range(10 + OFFSET, N - 10 + OFFSET)
            ],
        },
    )
    write(
        root / 'splits_json/protocol_p2.json',
        json.dumps({split: [name], 'test': ['s03/box_use_01']}),
    )
    write(
        root / 'meta/misc.json',
        json.dumps(
            {
                subject: dict(
                    world2cam=np.eye(4)[None].repeat(8, 0).tolist(),
                    intris_mat=np.eye(3)[None].repeat(8, 0).tolist(),
                    image_size=[[2800, 2000]] * 9,
                    ioi_offset=OFFSET,
                    gender='male',
                )
            }
        ),
    )
    for i in range(N + OFFSET):
        write(root / f'cropped_images/{name}/0/{i:05d}.jpg', jpg(840, 600))
    for i in (0, 6):
        write(
            root / f'cropped_images/{name}/0/{i + OFFSET:05d}.jpg',
            dots(brown_conrady(resize_intrinsics(K_EGO, 0.3, 0.3), DIST, here.joints()[i, 0, 16:])),
        )
    split_valid = torch.from_numpy(
        np.stack([valid[0] * valid[1], valid[0] * valid[2]], -1)[:, 0] > 0
    )[..., None].expand(N, 2, 21)
    return m, cam, resize_intrinsics(K_EGO, 0.3, 0.3), split_valid


def dot_error(clip):
    "Distance of the brightest blobs from the keypoints, pixels"
    worst = 0
    for u, v in clip.keypoints2d[0, 0, 16:].tolist():
        y, x = np.mgrid[round(v) - 4 : round(v) + 5, round(u) - 4 : round(u) + 5]
        a = clip.image[y, x, 0].astype(float) + 1e-9
        worst = max(worst, math.hypot((a * x).sum() / a.sum() - u, (a * y).sum() / a.sum() - v))
    return worst


@pytest.mark.parametrize('raw', (False, True))
def test_arctic(tmp_path, raw):
    m, cam, K, valid = write_arctic(tmp_path / 'data/arctic/data')
    seqs = arctic.sequences(tmp_path, raw=raw)
    assert len(seqs) == 1 and seqs.names == ['s01/box_grab_01']
    seq = seqs[0]
    clips = windows(seq, 18, stride=6, shortest=18)
    assert [c.frame_ids[0].item() for c in clips] == [3, 9]
    for c in clips:
        same(c, m, cam, K, c.meta['row'], ALL if raw else valid, (840, 600))
        assert dot_error(c) < 0.1  # undistorted pixels against undistorted labels
    result = check_sequence(seq)
    assert result['off'] == [] and result['motion_mm'] < 0.01 and result['in_front'] == 1
    assert pickle.loads(pickle.dumps(seqs)).names == seqs.names  # goes to worker processes
    lens = pickle.loads(pickle.dumps(seq.image))(6)
    assert np.array_equal(lens, clips[1].image)


def test_lens_is_opencv_s():
    g = np.random.default_rng(0)
    points = g.uniform([-0.5, -0.4, 0.6], [0.5, 0.4, 1.5], (50, 3))
    theirs = cv2.projectPoints(
        points, np.zeros(3), np.zeros(3), K_EGO.double().numpy(), DIST.double().numpy()
    )[0][:, 0]
    assert (
        np.abs(
            brown_conrady(K_EGO.double(), DIST.double(), torch.from_numpy(points)).numpy() - theirs
        ).max()
        < 1e-3
    )


def test_arctic_hand_out_of_view(tmp_path):
    "From `raw_seqs`, a hand counts while its wrist and three joints are in the distorted image"
    m, cam, *_ = write_arctic(tmp_path)
    path = tmp_path / 'raw_seqs/s01/box_grab_01.mano.npy'
    data = read_npy(path)
    data['left']['trans'][10:] += np.float32([5, 0, 0])
    npy(path, data)
    seq = arctic.sequences(tmp_path, raw=True)[0]
    assert (
        seq.valid3d.all(-1).all(0).tolist() == [True, False]
        and seq.valid3d[:10].all()
        and not seq.valid3d[10:, 1].any()
    )
    assert torch.equal(seq.motion.valid, seq.valid3d.any(-1))


def test_arctic_split_pickle(tmp_path):
    m, cam, K, valid = write_arctic(tmp_path / 'data/arctic/data')
    write(
        tmp_path / 'motion_splits/arctic/p2_train.pkl',
        pickle.dumps(dict(names=['s01/box_grab_01'], ranges=[(8, 25)])),
    )
    ((name, a, b),) = read_split(tmp_path / 'motion_splits/arctic/p2_train.pkl')
    (clip,) = windows(arctic.sequences(tmp_path)[name], ranges=[(a, b)])
    assert (clip.frame_ids[0], len(clip)) == (8, 18)  # a file number: row 5
    same(clip, m, cam, K, 8 - OFFSET, valid, (840, 600))


def test_arctic_refusals(tmp_path):
    write_arctic(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected a list 'val'"):
        arctic.sequences(tmp_path, 'val')
    with pytest.raises(
        FileNotFoundError, match='arctic: expected .*s03/box_use_01.mano.npy .FileNotFound'
    ):
        arctic.sequences(tmp_path, 'test')[0]
    with pytest.raises(FileNotFoundError, match='arctic: expected meta/misc.json'):
        arctic.sequences(tmp_path / 'nowhere')
    assert (
        arctic.sequences(tmp_path, hand_id=None)[0].motion is None
        and windows(arctic.sequences(tmp_path, hand_id=None)[0])[0].labels == 'joints'
    )
    path = tmp_path / 'raw_seqs/s01/box_grab_01.mano.npy'
    write(path, path.read_bytes()[:400])
    with pytest.raises(ValueError, match='expected an array or plain data in .*mano.npy'):
        arctic.sequences(tmp_path, raw=True)[0]
    npy(path, dict(right=os.system, left={}))
    with pytest.raises(ValueError, match='refused (posix|nt).system'):
        arctic.sequences(tmp_path, raw=True)[0]
    npy(path, dict(right=dict(rot=np.zeros((N, 3)))))
    with pytest.raises(ValueError, match='arctic: expected s01/box_grab_01 .*KeyError'):
        arctic.sequences(tmp_path, raw=True)[0]
    write(tmp_path / 'cropped_images/s01/box_grab_01/0/00003.jpg', jpg(64, 48))
    seq = arctic.sequences(tmp_path)[0]
    with pytest.raises(ValueError, match='00003.jpg: 64x48 pixels, expected 840x600'):
        windows(seq)
    assert windows(seq, image=False)[0].image is None


# ---- H2O


def write_h2o(root, subject='subject1', scene_='h1/0', seed=2):
    m, cam = scene(seed)
    here, f, K = (
        m.to_frame(cam),
        root / f'{subject}_ego' / scene_ / 'cam4',
        torch.tensor([[636.6, 0, 635.3], [0, 636.2, 366.9], [0, 0, 1]]),
    )
    orient, pose, transl = to_mano(m.hand(), here.rot, here.wrist, m.betas, 'absolute')
    valid = ALL.clone()
    valid[5, 1], valid[6], valid[11] = False, False, False
    write(f / 'cam_intrinsics.txt', text([636.6, 636.2, 635.3, 366.9, 1280, 720]) + '\n')
    points = from_mano21(here.joints(), 'openpose21')
    for i in range(N):
        flags = valid[i, :, :1].float()
        both = (
            torch.cat([flags, points[i].flatten(1) * flags], 1),
            torch.cat(
                [flags, torch.cat([transl, orient, pose], -1)[i] * flags, m.betas * flags], 1
            ),
        )
        write(f / f'cam_pose/{i:06d}.txt', text(invert(cam[i].double())))
        for k, x in zip(('hand_pose', 'hand_pose_mano'), both, strict=True):
            if i != 11:
                write(
                    f / k / f'{i:06d}.txt', text(x.flip(0))
                )  # left first; no annotation of frame 11
        write(f / f'rgb/{i:06d}.png', PNG)
    return m, cam, K, valid


Image.new('RGB', (1280, 720), (90, 120, 60)).save(_b := io.BytesIO(), 'PNG')
PNG = _b.getvalue()


def test_h2o(tmp_path):
    m, cam, K, valid = write_h2o(tmp_path / 'data/h2o')
    for subject, scene_ in (
        ('subject2', 'o1/3'),
        ('subject3', 'k1/0'),
        ('subject3', 'k2/0'),
        ('subject4', 'h1/0'),
    ):
        write_h2o(tmp_path / 'data/h2o', subject, scene_, seed=3)
    names = {split: h2o.sequences(tmp_path, split).names for split in h2o.SPLITS}
    assert names == dict(
        train=['subject1/h1/0/cam4', 'subject2/o1/3/cam4', 'subject3/k1/0/cam4'],
        val=['subject3/k2/0/cam4'],
        test=['subject4/h1/0/cam4'],
    )
    seq = h2o.sequences(tmp_path / 'data', 'train')['subject1/h1/0/cam4']
    for c in windows(seq, 18, stride=6, shortest=16):
        same(c, m, cam, K, c.meta['row'], valid, (1280, 720))
    assert check_sequence(seq)['off'] == [] and check_sequence(seq)['motion_mm'] < 0.02
    assert (seq.motion.joints() - m.joints())[
        valid
    ].abs().max() < 1e-5  # world frame: the direction of cam_pose
    (clip,) = windows(h2o.sequences(tmp_path, hand_id=None)[0])
    assert clip.motion is None and clip.labels == 'joints'
    write(
        tmp_path / 'train.pkl', pickle.dumps(dict(names=['subject1/h1/0/cam4'], ranges=[[2, 20]]))
    )
    ((name, a, b),) = read_split(tmp_path / 'train.pkl')
    (clip,) = windows(h2o.sequences(tmp_path)[name], ranges=[(a, b)])
    same(clip, m, cam, K, 2, valid, (1280, 720))


def test_h2o_spells_mano_in_two_ways(tmp_path):
    "hand_pose_MANO of the description, hand_pose_mano of the loaders"
    m, _, _, valid = write_h2o(tmp_path)
    cam4 = tmp_path / 'subject1_ego/h1/0/cam4'
    (cam4 / 'hand_pose_mano').rename(cam4 / 'hand_pose_MANO')
    motion = h2o.sequences(tmp_path)[0].motion
    assert torch.equal(motion.valid, valid.all(-1))
    assert (motion.joints() - m.joints())[valid].abs().max() < 1e-5
    (cam4 / 'hand_pose_MANO').rename(cam4 / 'mano')
    says = r'expected .*hand_pose_mano/000000.txt or .*hand_pose_MANO/000000.txt …: nothing there'
    with pytest.raises(FileNotFoundError, match=says):
        h2o.sequences(tmp_path)[0]


def test_h2o_refusals(tmp_path):
    write_h2o(tmp_path)
    f = tmp_path / 'subject1_ego/h1/0/cam4'
    with pytest.raises(FileNotFoundError, match='subject3/k2'):
        h2o.sequences(tmp_path, 'val')
    with pytest.raises(ValueError, match="split must be one of train, val, test, got 'eval'"):
        h2o.sequences(tmp_path, 'eval')
    write(f / 'rgb/000000.png', PNG[:50])
    with pytest.raises(ValueError, match='000000.png: damaged image'):
        windows(h2o.sequences(tmp_path)[0])
    write(f / 'hand_pose/000003.txt', '1 2 3')
    with pytest.raises(ValueError, match=r'h2o: expected 128 numbers in .*000003.txt .*size 3'):
        h2o.sequences(tmp_path)[0]
    write(f / 'hand_pose/000003.txt', 'one two')
    with pytest.raises(ValueError, match=r'h2o: expected 128 numbers in .*000003.txt'):
        h2o.sequences(tmp_path)[0]
    (f / 'hand_pose/000003.txt').unlink()
    (f / 'cam_intrinsics.txt').unlink()
    with pytest.raises(FileNotFoundError, match='h2o: expected 6 numbers in .*cam_intrinsics.txt'):
        h2o.sequences(tmp_path)[0]
    for p in (f / 'hand_pose_mano').iterdir():
        p.unlink()
    with pytest.raises(FileNotFoundError, match='expected .*hand_pose_mano/000000.txt'):
        h2o.sequences(tmp_path)[0]


# ---- H2O-3D


def write_h2o3d(root, name='ABF12', n=N):
    m, cam = scene(4, moving=False, one_shape=True, n=n)
    gl = torch.diag(torch.tensor([1.0, -1, -1, 1]))
    there, K, valid = (
        m.to_frame(gl),
        torch.tensor([[614.6, 0, 320.3], [0, 614.9, 241.7], [0, 0, 1]]),
        torch.ones(n, 2, 21, dtype=torch.bool),
    )
    orient, pose, transl = to_mano(m.hand(), there.rot, there.wrist, m.betas, 'absolute')
    valid[8], valid[10, 1, 4:], valid[12, 0, 3:], joints = (
        False,
        False,
        False,
        there.joints().numpy(),
    )
    for i in range(n):
        a = dict(
            camMat=K.numpy().astype(np.float64),
            objName='011_banana',
            objRot=np.zeros(3),
            objTrans=np.zeros(3),
            handBeta=m.betas[0].numpy(),
        )
        for h, side in enumerate(('right', 'left')):
            a |= {
                f'{side}HandPose': torch.cat([orient, pose], -1)[i, h].numpy(),
                f'{side}HandTrans': transl[i, h].numpy(),
                f'{side}HandJoints3D': joints[i, h],
                f'jointValid{side.title()}': valid[i, h].numpy().astype(np.uint8),
            }
        if i == 8:
            a = {k: v if k == 'objName' else None for k, v in a.items()}
        write(root / f'train/{name}/meta/{i:04d}.pkl', pickle.dumps(a, protocol=2))
        write(root / f'train/{name}/rgb/{i:04d}.jpg', jpg(640, 480))
        wrist = {k: a[k] for k in ('camMat', 'objName', 'objRot')} | {
            f'{s}HandJoints3D': joints[i, h, 0] for h, s in enumerate(('right', 'left'))
        }
        write(
            root / f'evaluation/SM4/meta/{i:04d}.pkl',
            pickle.dumps(
                wrist
                | dict(camMat=K.numpy(), objRot=np.zeros(3), rightHandBoundingBox=[0, 0, 9, 9]),
                protocol=2,
            ),
        )
    valid[12, 0] = False  # three joints are no hand
    return m, cam, K, valid


def test_h2o3d(tmp_path):
    m, cam, K, valid = write_h2o3d(tmp_path / 'data/h2o3d')
    assert m.joints()[..., 2].min() > 0
    seq = h2o3d.sequences(tmp_path)['ABF12']
    for c in windows(seq, 20, stride=4, shortest=20):
        same(c, m, cam, K, c.meta['row'], valid, (640, 480))
    result = check_sequence(seq)
    assert result['off'] == [] and result['motion_mm'] < 0.02 and result['in_front'] == 1
    wrists = h2o3d.sequences(tmp_path, 'test')['SM4']
    (clip,) = windows(wrists, image=False)
    assert (
        clip.labels == 'joints' and clip.valid3d[..., 0].all() and not clip.valid3d[..., 1:].any()
    )
    assert (clip.joints3d - m.joints())[..., 0, :].abs().max() < 1e-5


def test_h2o3d_split_pickle(tmp_path):
    "Every tenth frame, the first of which the authors leave out, by position"
    m, cam, K, valid = write_h2o3d(tmp_path, n=200)
    ids = [f'{i:04d}' for i in range(0, 200, 10)]
    write(
        tmp_path / 'train.pkl',
        pickle.dumps(dict(names=[('ABF12', '0000')], ranges=[(0, 17)], subsampled_indices=[ids])),
    )
    ((name, a, b),) = read_split(tmp_path / 'train.pkl', skip=1)
    assert (name, a, b) == ('ABF12', 10, 180)
    (clip,) = windows(h2o3d.sequences(tmp_path)[name], ranges=[(a, b)])
    assert len(clip) == 171
    (sparse,) = windows(h2o3d.sequences(tmp_path)[name], ranges=[(a, b)], fps=3.0)
    assert (len(sparse), sparse.fps) == (18, 3.0) and sparse.frame_ids.tolist() == [
        int(i) for i in ids[1:19]
    ]
    assert (sparse.joints3d - m.joints()[10:181:10])[sparse.valid3d].abs().max() < 1e-5


def test_h2o3d_windows_of_the_authors(tmp_path):
    "A store of their windows: at 30 fps, or at their own rate of every tenth frame"
    m, *_ = write_h2o3d(tmp_path / 'h2o3d', n=200)
    ids = [f'{i:04d}' for i in range(0, 200, 10)]
    split = dict(names=[('ABF12', '0000')], ranges=[(1, 17)], subsampled_indices=[ids])
    write(tmp_path / 'train.pkl', pickle.dumps(split))
    how = dict(ranges=tmp_path / 'train.pkl', image_size=None, workers=1)
    out = convert('h2o3d', tmp_path / 'h2o3d', out=tmp_path / 'theirs', fps=None, **how)
    (clip,) = ClipStore(out)
    assert clip.fps == 3 and clip.frame_ids.tolist() == list(range(20, 181, 10))
    assert (clip.joints3d - m.joints()[20:181:10])[clip.valid3d].abs().max() < 1e-5
    (clip,) = ClipStore(convert('h2o3d', tmp_path / 'h2o3d', out=tmp_path / 'ours', **how))
    assert clip.fps == 30 and clip.frame_ids.tolist() == list(range(20, 181))


def test_h2o3d_refusals(tmp_path):
    write_h2o3d(tmp_path)
    meta = tmp_path / 'train/ABF12/meta/0004.pkl'
    with pytest.raises(ValueError, match="h2o3d has the splits train and test, got 'val'"):
        h2o3d.sequences(tmp_path, 'val')
    write(meta, meta.read_bytes()[:100])
    with pytest.raises(ValueError, match='0004.pkl: not a readable pickle of plain data'):
        h2o3d.sequences(tmp_path)[0]
    write(meta, b"cos\nsystem\n(S'touch hacked'\ntR.")
    with pytest.raises(ValueError, match='refused os.system'):
        h2o3d.sequences(tmp_path)[0]
    write(meta, pickle.dumps({'camMat': None}))
    with pytest.raises(ValueError, match='h2o3d: expected an annotation in .*0004.pkl .KeyError'):
        h2o3d.sequences(tmp_path)[0]
    write(meta, pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match='h2o3d: expected an annotation in .*0004.pkl'):
        h2o3d.sequences(tmp_path)[0]
    meta.unlink()  # a frame without file is a hole, not a shift
    seq = h2o3d.sequences(tmp_path)[0]
    (clip,) = windows(seq)
    assert (
        len(seq) == N - 1 and len(clip) == N and not clip.valid3d[4].any() and clip.valid3d[5].all()
    )


# ---- DexYCB

SERIALS = ('836212060125', '839512060362')


def write_dexycb(root, index, hand, seed):
    "One sequence with frames, the other 99 folders of the subject empty"
    m, cam = scene(seed, moving=False, one_shape=True)
    subject, seq = root / '20200709-subject-01', f'20200709_1{index:05d}'
    for i in range(100):
        (subject / f'20200709_1{i:05d}').mkdir(parents=True, exist_ok=True)
    K, side, calib = (
        torch.tensor([[614.5, 0, 312.2], [0, 613.8, 247.9], [0, 0, 1]]),
        ('right', 'left')[hand],
        f'20200709_140042_subject-01_{("right", "left")[hand]}',
    )
    orient, pose, transl = to_mano(m.hand(), m.rot, m.wrist, m.betas, 'pca')
    joints = from_mano21(m.joints(), 'openpose21')[:, hand]
    write(
        subject / seq / 'meta.yml',
        yaml.safe_dump(
            dict(
                serials=list(SERIALS),
                num_frames=N,
                ycb_ids=[1, 2],
                ycb_grasp_ind=0,
                mano_sides=[side],
                mano_calib=[calib],
                extrinsics='20200702_151821',
            )
        ),
    )
    write(
        root / f'calibration/mano_{calib}/mano.yml',
        yaml.safe_dump(dict(betas=m.betas[hand].tolist())),
    )
    for serial in SERIALS:
        write(
            root / f'calibration/intrinsics/{serial}_640x480.yml',
            yaml.safe_dump(
                dict(
                    depth=dict(fx=1.0, fy=1.0, ppx=1.0, ppy=1.0),
                    color=dict(fx=614.5, fy=613.8, ppx=312.2, ppy=247.9),
                ),
                sort_keys=False,
            ),
        )
        for i in range(N):
            a = dict(
                pose_m=torch.cat([orient, pose, transl], -1)[i, hand][None].numpy(),
                joint_3d=joints[i, None].numpy(),
                joint_2d=project(joints[i, None], K).numpy(),
            )
            if i < 3 or i == 9:
                a = dict(
                    pose_m=np.zeros((1, 51), np.float32),
                    joint_3d=-np.ones((1, 21, 3), np.float32),
                    joint_2d=-np.ones((1, 21, 2), np.float32),
                )
            path = subject / seq / serial / f'labels_{i:06d}.npz'
            path.parent.mkdir(exist_ok=True)
            np.savez(
                path,
                seg=np.zeros((480, 640), np.uint8),
                pose_y=np.zeros((2, 3, 4), np.float32),
                **a,
            )
            write(subject / seq / serial / f'color_{i:06d}.jpg', jpg(640, 480))
    valid = torch.zeros(N, 2, 21, dtype=torch.bool)
    valid[3:, hand], valid[9] = True, False
    return f'{subject.name}/{seq}/{SERIALS[0]}', m, cam, K, valid


@pytest.mark.parametrize('hand', (0, 1))
def test_dexycb(tmp_path, hand):
    name, m, cam, K, valid = write_dexycb(tmp_path / 'data/dexycb', 16, hand, seed=5)
    with pytest.raises(FileNotFoundError, match='no sequences'):
        dexycb.sequences(tmp_path)  # the 17th: group 3, validation
    seqs = dexycb.sequences(tmp_path, 'val')
    assert len(seqs) == 2 and name in seqs.names
    seq = seqs[name]
    (clip,) = windows(seq)
    assert clip.frame_ids[0] == 3  # the first frame with a hand
    same(clip, m, cam, K, 3, valid, (640, 480))
    result = check_sequence(seq)
    assert result['off'] == [] and result['motion_mm'] < 0.02 and result['reprojection_px'] < 0.01
    write(
        tmp_path / 's3_val.pkl',
        pickle.dumps(dict(names=[name], ranges=[(np.int64(4), np.int64(23))])),
    )
    ((name, a, b),) = read_split(tmp_path / 's3_val.pkl')
    (clip,) = windows(seqs[name], ranges=[(a, b)])
    assert len(clip) == 20  # to the last frame of the range
    same(clip, m, cam, K, 4, valid, (640, 480))


def test_dexycb_splits(tmp_path):
    "s3 counts sequences by five; splits are disjoint and complete"
    for index in (0, 15, 35, 99):
        write_dexycb(tmp_path, index, 0, seed=6)
    names = {
        s: [n.split('/')[1][-3:] for n in dexycb.sequences(tmp_path, s).names[::2]]
        for s in dexycb.SPLITS
    }
    assert names == dict(train=['000'], val=['015', '099'], test=['035'])
    assert len(dexycb.sequences(tmp_path, None)) == 8


def test_dexycb_refusals(tmp_path):
    name, *_ = write_dexycb(tmp_path, 0, 0, seed=5)
    labels, calib = (
        tmp_path / name / 'labels_000004.npz',
        next((tmp_path / 'calibration').glob('mano_*')) / 'mano.yml',
    )
    write(labels, labels.read_bytes()[:300])
    with pytest.raises(
        ValueError, match='dexycb: expected pose_m, joint_3d and joint_2d in .*labels_000004.npz'
    ):
        dexycb.sequences(tmp_path)[name]
    np.savez(labels, pose_m=np.array([print], dtype=object), joint_3d=0, joint_2d=0)
    with pytest.raises(ValueError, match='dexycb: expected pose_m.* in .*labels_000004.npz'):
        dexycb.sequences(tmp_path)[name]
    write(calib, 'shape: [1, 2]')
    with pytest.raises(ValueError, match='dexycb: expected betas in .*mano.yml'):
        dexycb.sequences(tmp_path)[name]
    calib.unlink()
    with pytest.raises(FileNotFoundError, match='dexycb: expected betas in .*mano.yml'):
        dexycb.sequences(tmp_path)[name]
    (tmp_path / '20200709-subject-01/20200709_100050').rmdir()
    with pytest.raises(ValueError, match='99 sequences; s3 counts them'):
        dexycb.sequences(tmp_path)
    with pytest.raises(FileNotFoundError, match=r'dexycb: expected \*-subject-\*'):
        dexycb.sequences(tmp_path / 'calibration')


def said_of(read):
    "The warnings of a call"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        read()
    return [str(one.message) for one in said if one.category is UserWarning]


def test_dexycb_partial_downloads(tmp_path):
    "What is not there is named, with how much is; what can be read is read"
    root = tmp_path / 'data' / 'dexycb'
    name, *_ = write_dexycb(root, 0, 0, seed=5)
    recording = (root / name).parent

    empty, subjects = said_of(lambda: dexycb.sequences(root, None))
    assert '99 of 101 are not there' in empty and '20200709_100001' in empty and 'again' in empty
    assert '9 of 10 are not there' in subjects and 'unpack the other archives' in subjects
    shutil.rmtree(recording / SERIALS[1])
    camera, _ = said_of(lambda: dexycb.sequences(root, None))
    assert f'{recording.name}/{SERIALS[1]}' in camera and '100 of 101' in camera

    seqs = dexycb.sequences(root)
    for lost in ('labels_000007.npz', f'labels_{N - 1:06d}.npz'):
        whole = (root / name / lost).read_bytes()
        (root / name / lost).unlink()
        with pytest.raises(FileNotFoundError, match=f'{lost}; {N - 1} of the {N} label files'):
            seqs[name]
        (root / name / lost).write_bytes(whole)
    (recording / 'meta.yml').rename(tmp_path / 'meta.yml')
    with pytest.raises(FileNotFoundError, match='expected mano_sides in .*meta.yml'):
        seqs[name]
    (tmp_path / 'meta.yml').rename(recording / 'meta.yml')
    image = root / name / 'color_000003.jpg'
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(ValueError, match='color_000003.jpg: damaged image'):
        seqs[name].image(3)
    image.unlink()
    with pytest.raises(FileNotFoundError, match='color_000003.jpg: no such image'):
        seqs[name].image(3)
    shutil.rmtree(root / 'calibration')
    with pytest.raises(FileNotFoundError, match='calibration, found only 1 subj.*calibration.tar'):
        dexycb.sequences(root)


def test_dexycb_check_of_a_partial_download(tmp_path):
    "What adapters warn of is part of what is off"
    name, *_ = write_dexycb(tmp_path, 0, 0, seed=5)
    (tmp_path / name / 'labels_000007.npz').unlink()
    table, wrong = check_dataset('dexycb', tmp_path, 'train')
    assert len(table) == 1 and 'unpack the archives' in wrong[0]
    assert [w for w in wrong if w.startswith(name) and 'labels_000007.npz' in w]


# ---- all of them


@pytest.mark.parametrize(
    'dataset,writer', ((arctic, write_arctic), (h2o, write_h2o), (h2o3d, write_h2o3d))
)
def test_without_mano(tmp_path, monkeypatch, dataset, writer):
    "Who has no MANO files is told so, and can read joints where they are stored"
    writer(tmp_path)
    forget_hands('mano')
    monkeypatch.setenv('FOREHAND4D_MANO', str(tmp_path / 'nowhere'))
    with pytest.raises(
        ValueError,
        match=(
            r'stores MANO parameters, which need the '
            r'licensed files \(or hand_id=None.*MANO_RIGHT.pkl'
        ),
    ):
        dataset.sequences(tmp_path)[0]
    (clip,) = windows(dataset.sequences(tmp_path, hand_id=None)[0])
    assert clip.labels == 'joints' and clip.motion is None


def test_other_rates(tmp_path):
    """30 frames a second become 20:
    instants between frames, never in a hole, and a first frame that has an image"""
    m, cam, K, valid = write_h2o(tmp_path)
    seq = h2o.sequences(tmp_path)[0]
    (clip,) = windows(seq, fps=20.0, shortest=10)
    assert clip.fps == 20 and len(clip) == 16 and clip.image is not None
    assert clip.valid3d.all(-1).all(-1).tolist() == [
        i not in (3, 4, 7) for i in range(16)
    ]  # frames 4.5, 6 and 10.5 touch an unlabelled hand
    assert clip.valid3d[3].all(-1).tolist() == [True, False]
    view, fine = transform(cam[0], m.joints()), scene_at(m, clip)
    assert (clip.joints3d[::2] - view[::3])[clip.valid3d[::2]].abs().max() < 1e-5
    assert (clip.joints3d[1] - (view[1] + view[2]) / 2).abs().max() < 1e-5 and fine < 2e-3


def scene_at(m, clip):
    "Interpolated parameters against interpolated joints, metres"
    return (clip.motion.joints() - clip.joints3d)[clip.valid3d].norm(dim=-1).max()


def test_split_pickles_are_data(tmp_path):
    write(tmp_path / 'a.pkl', b"cos\nsystem\n(S'touch hacked'\ntR.")
    with pytest.raises(ValueError, match='refused os.system'):
        read_split(tmp_path / 'a.pkl')
    write(tmp_path / 'b.pkl', pickle.dumps(dict(names=['a', 'b'], ranges=[(0, 3)])))
    with pytest.raises(ValueError, match='of equal length'):
        read_split(tmp_path / 'b.pkl')
    with pytest.raises(FileNotFoundError):
        read_split(tmp_path / 'c.pkl')
