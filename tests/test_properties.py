"Laws of the geometry, the codecs, the metrics and the masks, for whatever Hypothesis thinks of"

import os
import tempfile
from dataclasses import fields, replace
from pathlib import Path
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from forehand4d.geometry.cameras import crop_intrinsics, intrinsics_from_fov, invert
from forehand4d.geometry.cameras import look_at, make_T, project, resize_intrinsics
from forehand4d.geometry.cameras import transform, unproject
from forehand4d.training.augment import mirror_motion
from forehand4d.data.clips import Clip, pad_clip, window
from forehand4d.data.clip_store import ClipStore, decode_clip, encode_clip, write_clips
from forehand4d.video.tracks import Tracks, load_tracks
from forehand4d.geometry.lenses import brown_conrady, fisheye624, straighten
from forehand4d.geometry.hand_models import hand_pair, open_hand
from forehand4d.models.lifter import Lifter, LifterConfig
from forehand4d.training.losses import masked_mean, motion_loss
from forehand4d.geometry.mano import JOINT_ORDERS, from_mano, from_mano21, to_mano
from forehand4d.geometry.mano import to_mano21
from forehand4d.evaluation.metrics import best_sample, clip_means, motion_metrics
from forehand4d.geometry.motion import HandMotion, load_motion
from forehand4d.geometry.motion_vector import LEGACY_STATS, MotionStats, anchor_of
from forehand4d.geometry.motion_vector import decode198, decode_from, encode198, encode_from
from forehand4d.geometry.rotations import aa_to_mat, hat, mat_to_6d, mat_to_aa
from forehand4d.geometry.rotations import random_rotation, sixd_to_mat, slerp
from forehand4d.training.weights import read_weights, save_weights

settings.register_profile(
    'laws',
    derandomize=True,
    deadline=None,
    max_examples=25,
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile(
    'wide', parent=settings.get_profile('laws'), derandomize=False, max_examples=300
)
settings.load_profile(os.environ.get('LAWS', 'laws'))  # LAWS=wide: other examples, and more

PI = float(np.pi)
seeds = st.integers(0, 2**31)
leads = st.lists(st.integers(0, 3), max_size=3).map(tuple)  # leading shapes, empty ones included
some = st.lists(st.integers(1, 3), max_size=2).map(tuple)  # leading shapes that hold something
dtypes = st.sampled_from([torch.float32, torch.float64])
unit = st.floats(-1, 1, allow_nan=False)
directions = st.tuples(unit, unit, unit).filter(lambda v: np.linalg.norm(v) > 1e-3)
angles = st.one_of(
    st.floats(0, PI),
    st.sampled_from([0.0, 1e-12, 1e-7, 1e-4, 1e-3, PI / 2, PI]),
    st.floats(0, 2e-3),
    st.floats(PI - 2e-3, PI),
)
rough = {torch.float32: 3e-6, torch.float64: 1e-12}  # of rotation matrices


def rand(seed):
    return torch.Generator().manual_seed(seed)


def close(a, b, tol):
    torch.testing.assert_close(a, b, rtol=tol, atol=tol)


def axis_angle(direction, angle, dtype):
    "A vector of this direction and length, made in double precision"
    v = torch.tensor(direction, dtype=torch.float64)
    return (v / v.norm() * angle).to(dtype)


def turns(seed, *shape, dtype=torch.float64):
    "Rotation matrices that are orthonormal to the last digits of their type"
    x = torch.randn(*shape, 6, generator=rand(seed), dtype=torch.float64)
    return sixd_to_mat(x).to(dtype)


# ---- rotations


@given(directions, angles, dtypes)
def test_axis_angle_to_matrix_and_back(direction, angle, dtype):
    "Near no turn and near half a turn, too; at half a turn the axis has two signs"
    aa = axis_angle(direction, angle, dtype)
    R = aa_to_mat(aa)
    close(R @ R.mT, torch.eye(3, dtype=dtype), rough[dtype])
    close(torch.linalg.det(R), torch.ones((), dtype=dtype), rough[dtype])
    back = mat_to_aa(R)
    assert back.dtype == dtype and back.norm() <= PI + 1e-6
    close(aa_to_mat(back), R, rough[dtype])
    if angle < PI - 1e-2:
        close(back, aa, 30 * rough[dtype])


@given(directions, st.floats(0, 50), dtypes)
def test_more_than_half_a_turn_is_the_same_rotation(direction, angle, dtype):
    R = aa_to_mat(axis_angle(direction, angle, dtype))
    close(aa_to_mat(mat_to_aa(R)), R, rough[dtype] * (10 + angle))


@given(seeds, leads, dtypes)
def test_any_leading_shape(seed, lead, dtype):
    "Shapes and types pass through, and each rotation is treated on its own"
    R = turns(seed, *lead, dtype=dtype)
    aa, d = mat_to_aa(R), mat_to_6d(R)
    assert aa.shape == (*lead, 3) and d.shape == (*lead, 6) and hat(aa).shape == R.shape
    assert aa.dtype == d.dtype == dtype
    close(sixd_to_mat(d), R, rough[dtype])
    close(aa_to_mat(aa), R, rough[dtype])
    one_by_one = [mat_to_aa(r) for r in R.reshape(-1, 3, 3)]
    if one_by_one:
        close(aa, torch.stack(one_by_one).view(*lead, 3), rough[dtype])


@given(seeds, st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), unit)
def test_six_numbers_need_not_be_orthonormal(seed, a, b, mix):
    "Gram-Schmidt forgets the lengths of the rows, and how much of the first is in the second"
    R = turns(seed)
    rows = torch.cat([a * R[0], b * R[1] + mix * R[0]])
    close(sixd_to_mat(rows), R, 1e-9 + 1e-12 / b)


@given(seeds, st.floats(0, 1))
def test_slerp_turns_by_its_share(seed, w):
    a, b = turns(seed, 2)
    whole = mat_to_aa(a.mT @ b)
    part = mat_to_aa(a.mT @ slerp(a, b, torch.tensor(w, dtype=torch.float64)))
    close(part, w * whole, 1e-8)


@given(directions, angles, dtypes)
def test_gradients_of_rotations_are_finite(direction, angle, dtype):
    aa = axis_angle(direction, angle, dtype).requires_grad_()
    mat_to_aa(aa_to_mat(aa)).sum().backward()
    assert aa.grad.isfinite().all()


@given(seeds, leads, st.one_of(st.none(), st.floats(0, 3)))
def test_random_rotations(seed, lead, most):
    R = random_rotation(*lead, generator=rand(seed), max_angle=most)
    assert R.shape == (*lead, 3, 3)
    close(R @ R.mT, torch.eye(3).expand_as(R), 1e-5)
    if most is not None:
        assert (mat_to_aa(R).norm(dim=-1) <= most + 1e-3).all()


# ---- cameras and lenses

focal = st.floats(50, 5000)
centre = st.floats(-500, 2500)
depths = st.floats(0.05, 20)


def intrinsics(fx, fy, cx, cy, skew=0.0):
    return torch.tensor([[fx, skew, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)


lenses = st.builds(intrinsics, focal, focal, centre, centre, st.floats(-5, 5))


@given(lenses, seeds, some, depths)
def test_a_pinhole_and_back(K, seed, lead, depth):
    px = 1000 * torch.randn(*lead, 4, 2, generator=rand(seed), dtype=torch.float64)
    z = torch.full(px.shape[:-1], depth, dtype=torch.float64)
    points = unproject(px, K, z)
    close(points[..., 2], z, 1e-12)
    close(project(points, K), px, 1e-8)


@given(
    lenses, seeds, st.floats(-300, 300), st.floats(-300, 300), st.floats(0.1, 8), st.floats(0.1, 8)
)
def test_crops_and_sizes_move_pixels(K, seed, x0, y0, sx, sy):
    "Intrinsics of a cropped, resized image see points where the pixels have gone"
    points = torch.randn(7, 3, generator=rand(seed), dtype=torch.float64)
    points[:, 2] = points[:, 2].abs() + 0.2
    px = project(points, K)
    corner = torch.tensor([x0, y0], dtype=torch.float64)
    scale = torch.tensor([sx, sy], dtype=torch.float64)
    there = resize_intrinsics(crop_intrinsics(K, x0, y0), sx, sy)
    close(project(points, there), (px - corner + 0.5) * scale - 0.5, 1e-8)
    back = crop_intrinsics(resize_intrinsics(there, 1 / sx, 1 / sy), -x0, -y0)
    close(back, K, 1e-8)


bends = st.tuples(
    *[st.floats(-0.08, 0.08)] * 2, *[st.floats(-0.004, 0.004)] * 2, *[st.floats(-0.02, 0.02)] * 4
)


@given(bends, seeds)
def test_a_bent_lens_and_back(bend, seed):
    "`straighten` undoes `brown_conrady` inside an ordinary field of view"
    K, dist = intrinsics(600.0, 620.0, 320.0, 240.0), torch.tensor(bend, dtype=torch.float64)
    xy = 0.5 * torch.rand(20, 2, generator=rand(seed), dtype=torch.float64) - 0.25
    points = torch.cat([xy, torch.ones(20, 1, dtype=torch.float64)], -1)
    seen = brown_conrady(K, dist, points)
    close(straighten(seen, K, dist), project(points, K), 1e-6)
    close(brown_conrady(K, torch.zeros(8, dtype=torch.float64), points), project(points, K), 1e-9)


@given(st.tuples(*[st.floats(-0.05, 0.05)] * 6), seeds, st.floats(0.01, 100), st.floats(-PI, PI))
def test_a_fisheye(k, seed, far, turn):
    "Depth along a ray does not matter, and a lens without tangential terms is round"
    zeros = [0.0] * 6
    params = torch.tensor([300.0, 0, 0, *k, *zeros], dtype=torch.float64)
    two = torch.tensor([300.0, 300.0, 0, 0, *k, *zeros], dtype=torch.float64)
    points = torch.randn(9, 3, generator=rand(seed), dtype=torch.float64)
    points[:, 2] = points[:, 2].abs() + 0.1
    px = fisheye624(params, points)
    assert torch.equal(px, fisheye624(two, points))
    close(fisheye624(params, far * points), px, 1e-7)
    roll = aa_to_mat(torch.tensor([0, 0, turn], dtype=torch.float64))
    close(fisheye624(params, points @ roll.mT), px @ roll[:2, :2].mT, 1e-7)


@given(seeds, some, dtypes)
def test_rigid_transforms_have_an_inverse(seed, lead, dtype):
    g = rand(seed)
    T = make_T(turns(seed, *lead, dtype=dtype), torch.randn(*lead, 3, generator=g).to(dtype))
    S = make_T(turns(seed + 1, *lead, dtype=dtype), torch.randn(*lead, 3, generator=g).to(dtype))
    points = torch.randn(*lead, 5, 3, generator=g).to(dtype)
    close(invert(T) @ T, torch.eye(4, dtype=dtype).expand_as(T), 10 * rough[dtype])
    close(transform(invert(T), transform(T, points)), points, 10 * rough[dtype])
    close(transform(S, transform(T, points)), transform(S @ T, points), 10 * rough[dtype])
    apart = torch.cdist(points, points, compute_mode='donot_use_mm_for_euclid_dist')
    there = transform(T, points)
    close(
        torch.cdist(there, there, compute_mode='donot_use_mm_for_euclid_dist'),
        apart,
        30 * rough[dtype],
    )


@given(seeds, st.floats(5, 150), st.integers(20, 4000), st.integers(20, 4000))
def test_a_camera_sees_what_it_looks_at_in_the_middle(seed, fov, width, height):
    eye, target = torch.randn(2, 3, generator=rand(seed))
    T = look_at(eye, target, torch.tensor([0.0, 1, 0]))
    K = intrinsics_from_fov(fov, width, height)
    seen = transform(T, target[None])[0]
    if seen[2] < 0.1:
        return
    close(project(seen, K), torch.tensor([(width - 1) / 2, (height - 1) / 2]), 1e-3)
    close(T[:3, :3] @ T[:3, :3].mT, torch.eye(3), 1e-5)


# ---- hands and their motion


def a_motion(seed, *lead, dtype=torch.float32):
    "Two hands in any poses, some of them absent"
    g = rand(seed)
    rot = turns(seed, *lead, 2, 16, dtype=dtype)
    wrist = torch.randn(*lead, 2, 3, generator=g).to(dtype)
    betas = torch.randn(*lead[:-1], 2, 10, generator=g).to(dtype)
    return HandMotion(rot, wrist, betas, torch.rand(*lead, 2, generator=g) > 0.2)


def double(m):
    return m.map(lambda x: x.double() if x.is_floating_point() else x)


def joints_of(m):
    "Joints in double precision"
    pair = hand_pair().to(torch.float64)
    m = double(m)
    return pair.joints(m.rot, m.wrist, m.betas[..., None, :, :])


times = st.tuples(st.integers(1, 2), st.integers(1, 5))


@given(seeds, times)
def test_moving_the_hand_moves_its_joints(seed, shape):
    "A rigid transform of wrist and orientation is one of the joints; shapes stay"
    m = double(a_motion(seed, *shape))
    T = make_T(turns(seed + 1), torch.randn(3, generator=rand(seed), dtype=torch.float64))
    before, after = joints_of(m), joints_of(m.to_frame(T))
    close(after, transform(T, before.flatten(0, -2)).view_as(before), 1e-9)
    assert torch.equal(before[..., 0, :], m.wrist)
    shift = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    close(joints_of(replace(m, wrist=m.wrist + shift)), before + shift, 1e-12)


@given(seeds, times)
def test_to_another_frame_and_back(seed, shape):
    m = double(a_motion(seed, *shape))
    t = torch.randn(*shape, 3, generator=rand(seed), dtype=torch.float64)
    T = make_T(turns(seed + 1, *shape), t)  # of a camera that moves
    back = m.to_frame(T).to_frame(invert(T))
    close(back.rot, m.rot, 1e-12)
    close(back.wrist, m.wrist, 1e-11)


@given(seeds, times)
def test_mirrored_hands_are_mirrored(seed, shape):
    "Right and left change places, joints change the sign of x, and twice is once too often"
    m = a_motion(seed, *shape)
    flipped = joints_of(m).flip(-3) * torch.tensor([-1.0, 1, 1])
    close(joints_of(mirror_motion(m)), flipped, 1e-6)
    twice = mirror_motion(mirror_motion(m))
    for f in fields(m):
        if f.name != 'hand_id':
            assert torch.equal(getattr(twice, f.name), getattr(m, f.name))


@given(seeds)
def test_joints_are_those_of_the_mesh(seed):
    "Fingertips are vertices, and bones keep their lengths in every pose"
    m, hand = a_motion(seed, 1, 2), hand_pair()
    close(m.joints()[..., 16:, :], m.vertices()[..., hand.tips, :], 1e-5)
    other = replace(m, rot=a_motion(seed + 1, 1, 2).rot)
    lengths = [(x.joints()[..., 1:4, :] - x.joints()[..., :3, :]).norm(dim=-1) for x in (m, other)]
    close(lengths[0], lengths[1], 1e-5)


@given(
    seeds,
    some,
    st.sampled_from(['relative', 'absolute', 'pca']),
    st.sampled_from(['right', 'left']),
)
def test_mano_parameters_and_back(seed, lead, kind, side):
    hand, g = open_hand(side).to(torch.float64), rand(seed)
    aa = torch.randn(*lead, 16, 3, generator=g, dtype=torch.float64)
    rot = aa_to_mat(aa / aa.norm(dim=-1, keepdim=True) * 2.5)  # below half a turn
    wrist = torch.randn(*lead, 3, generator=g, dtype=torch.float64)
    betas = torch.randn(*lead, 10, generator=g, dtype=torch.float64)
    orient, pose, transl = to_mano(hand, rot, wrist, betas, kind)
    again, there = from_mano(hand, orient, pose, transl, betas, kind)
    close(again, rot, 1e-6)
    close(there, wrist, 1e-12)


@given(seeds, some, st.sampled_from(sorted(JOINT_ORDERS)))
def test_joint_orders_and_back(seed, lead, order):
    "What another order knows returns to the place where it was"
    n, source = JOINT_ORDERS[order]
    hands = (2,) if n == 42 else ()
    ours = torch.randn(*lead, *hands, 21, 3, generator=rand(seed))
    there = from_mano21(ours, order)
    assert there.shape == (*lead, n, 3)
    back = to_mano21(there, order)
    known = back.isfinite()
    assert torch.equal(back[known], ours[known])
    assert known.all() or -1 in source


# ---- codecs

stats = st.builds(
    MotionStats, st.tuples(*[st.floats(-1, 1)] * 3), st.tuples(*[st.floats(0.01, 2)] * 3)
)


@given(seeds, times, stats, dtypes)
def test_network_channels_and_back(seed, shape, s, dtype):
    m = a_motion(seed, *shape, dtype=dtype)
    x = encode198(m, s)
    assert x.shape == (*shape, 198) and x.dtype == dtype
    back = decode198(x, s, m.betas, m.valid)
    close(back.rot, m.rot, rough[dtype])
    close(back.wrist, m.wrist, 10 * rough[dtype])
    close(encode198(back, s), x, 100 * rough[dtype])


@given(seeds, times)
def test_channels_relative_to_an_anchor_and_back(seed, shape):
    "Of known and of unknown hands; the first frame is the anchor, exactly"
    m, g = a_motion(seed, *shape), rand(seed)
    anchor = anchor_of(m, torch.rand(*shape[:-1], 2, generator=g) > 0.5)
    x = encode_from(m, LEGACY_STATS, anchor)
    back = decode_from(x, LEGACY_STATS, anchor, betas=m.betas, valid=m.valid)
    close(back.rot, m.rot, 1e-5)
    close(back.wrist, m.wrist, 1e-5)
    known = anchor.known
    assert torch.equal(back.wrist[..., 0, :, :][known], m.wrist[..., 0, :, :][known])
    first = x[..., 0, 192:].unflatten(-1, (2, 3))
    assert (first[known] == 0).all()


def a_clip(seed, frames=5, image=True, motion=True):
    "A clip of any numbers that a clip may have"
    g = rand(seed)
    size = (torch.randint(1, 40, (2,), generator=g)).tolist()
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8) if image else None
    cameras = make_T(turns(seed, frames, dtype=torch.float32), torch.randn(frames, 3, generator=g))
    cameras[0] = torch.eye(4)
    K = intrinsics_from_fov(60, *size[::-1]).repeat(frames, 1, 1)
    px = 30 * torch.randn(frames, 2, 21, 2, generator=g)
    joints = torch.randn(frames, 2, 21, 3, generator=g)
    seen = torch.rand(2, frames, 2, 21, generator=g) > 0.3
    m = a_motion(seed, frames) if motion else None
    return Clip(
        'toy',
        f's{seed}',
        29.97,
        torch.arange(frames),
        K,
        cameras,
        px,
        joints * seen[1][..., None],
        seen[0],
        seen[1],
        'mano' if motion else 'joints',
        m,
        pixels,
        dict(note='ä', n=[1, 2.5]),
    )


def same_clip(a, b):
    "To the bit, but for the image, which is a JPEG, and the third row of rotations"
    plain = [f.name for f in fields(a) if f.name not in ('motion', 'image', 'past', 'meta')]
    for name in plain:
        x, y = getattr(a, name), getattr(b, name)
        assert torch.equal(x, y.to(x.dtype)) if isinstance(x, torch.Tensor) else x == y, name
    assert (a.meta or {}) == b.meta and (a.image is None) == (b.image is None)
    if a.image is not None:
        assert a.image.shape == b.image.shape
    assert (a.motion is None) == (b.motion is None)
    if a.motion is None:
        return
    close(a.motion.rot, b.motion.rot, 1e-5)
    for name in ('wrist', 'betas', 'valid'):
        assert torch.equal(getattr(a.motion, name), getattr(b.motion, name)), name


@given(seeds, st.integers(1, 7), st.booleans(), st.booleans())
def test_a_clip_as_a_row_and_back(seed, frames, image, motion):
    clip = a_clip(seed, frames, image, motion)
    row = encode_clip(clip)
    same_clip(clip, decode_clip(row))
    again = encode_clip(replace(decode_clip(row), image=None))
    assert {k: v for k, v in row.items() if k != 'image'} == again, 'a row of what was read'


@settings(max_examples=8)
@given(seeds, st.integers(1, 40), st.integers(1, 20))
def test_a_store_and_back(seed, n, shard):
    "Whatever the number of clips and the size of a shard"
    clips = [a_clip(seed % 1000 + i, 1 + i % 3, i % 4 == 0, i % 2 == 0) for i in range(n)]
    with tempfile.TemporaryDirectory() as folder:
        store = ClipStore(write_clips(clips, Path(folder) / 'store', shard_size=shard))
        assert len(store) == n and len(store.manifest['shards']) == -(-n // shard)
        for i in range(n):
            same_clip(clips[i], store[i])
        same_clip(clips[-1], store[-1])


@given(seeds, st.integers(2, 6), st.data())
def test_a_window_of_a_window_is_a_window(seed, frames, data):
    clip = a_clip(seed, frames, motion=False)
    a = data.draw(st.integers(0, frames - 1))
    b = data.draw(st.integers(a + 1, frames))
    c = data.draw(st.integers(a, b - 1))
    direct, nested = window(clip, c, b), window(window(clip, a, b), c - a, b - a)
    close(nested.joints3d, direct.joints3d, 1e-4)
    close(nested.cam_from_view, direct.cam_from_view, 1e-4)
    assert torch.equal(nested.frame_ids, direct.frame_ids)
    px = [
        project(transform(x.cam_from_view[:, None], x.joints3d), x.intrinsics[:, None, None])
        for x in (direct, window(clip, a, b))
    ]
    there = transform(direct.cam_from_view[:, None], direct.joints3d)
    sure = direct.valid3d & (there[..., 2] > 0.3)
    close(px[0][sure], px[1][c - a :][sure], 2e-2)


@given(seeds, st.integers(1, 8), st.floats(1, 240), st.integers(1, 8000), st.integers(1, 8000))
def test_tracks_in_a_file_and_back(seed, frames, fps, width, height):
    g = rand(seed)
    px = 1000 * torch.rand(frames, 2, 21, 2, generator=g)
    valid = torch.rand(frames, 2, 21, generator=g) > 0.5
    tracks = Tracks(px, valid, torch.rand(frames, 2, generator=g), fps, (width, height))
    with tempfile.TemporaryDirectory() as folder:
        tracks.save(Path(folder) / 'tracks.npz')
        back = load_tracks(Path(folder) / 'tracks.npz')
    for name in ('keypoints', 'valid', 'score'):
        assert torch.equal(getattr(back, name), getattr(tracks, name)), name
    assert (back.fps, back.size) == (fps, (width, height))


@given(seeds, times)
def test_a_motion_in_a_file_and_back(seed, shape):
    m = a_motion(seed, *shape)
    with tempfile.TemporaryDirectory() as folder:
        m.save(Path(folder) / 'motion.npz')
        back = load_motion(Path(folder) / 'motion.npz')
    for name in ('rot', 'wrist', 'betas', 'valid'):
        assert torch.equal(getattr(back, name), getattr(m, name)), name
    assert back.hand_id == m.hand_id


@settings(max_examples=8)
@given(seeds, st.booleans())
def test_weights_in_a_file_and_back(seed, small):
    "To the bit, or to a 254th of the largest number of a row"
    torch.manual_seed(seed)
    model = Lifter(LifterConfig(8, 4, 8, 1, 2))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'model.safetensors'
        save_weights(model, path, small)
        state, cfg = read_weights(path, 'lifter', 'open-hand')
    assert {k: tuple(v) if isinstance(v, list) else v for k, v in cfg.items()} == model.config()
    for name, value in model.state_dict().items():
        if not small or value.dim() < 2:
            assert torch.equal(state[name], value), name
            continue
        most = value.flatten(1).abs().amax(1).view(-1, *[1] * (value.dim() - 1))
        assert ((state[name] - value).abs() <= most / 254 * 1.001 + 1e-12).all(), name


# ---- metrics


def predictions(seed, clips=2, frames=4, seen=1.0):
    "Ground truth, something near it, and which joints are labelled"
    g = rand(seed)
    gt = 0.3 * torch.randn(clips, frames, 2, 21, 3, generator=g, dtype=torch.float64)
    pred = gt + 0.05 * torch.randn(gt.shape, generator=g, dtype=torch.float64)
    valid = torch.rand(gt.shape[:-1], generator=g) < seen
    return pred, gt, valid


def measured(pred, gt, valid, lengths=None, protocol='strict'):
    return motion_metrics(pred, gt, valid, lengths, protocol, pa=True)


protocols = st.sampled_from(['official', 'strict'])
scales = st.floats(0.2, 5)


def moved(x, seed, scale):
    "A similarity of all points"
    t = torch.randn(3, generator=rand(seed), dtype=torch.float64)
    return scale * x @ turns(seed).mT + t


@given(seeds, scales, protocols, st.sampled_from([1.0, 0.8]))
def test_aligned_metrics_ignore_a_similarity(seed, scale, protocol, seen):
    "Of the whole motion (M_G), of its first frame (M_F) and of every frame (PA)"
    pred, gt, valid = predictions(seed, seen=seen if protocol == 'strict' else 1.0)
    before = measured(pred, gt, valid, protocol=protocol)
    after = measured(moved(pred, seed, scale), gt, valid, protocol=protocol)
    for name in ('M_G', 'M_F', 'PA'):
        torch.testing.assert_close(after[name], before[name], rtol=1e-6, atol=1e-9, equal_nan=True)


@given(seeds, protocols)
def test_root_aligned_ignores_a_translation_of_each_hand_and_frame(seed, protocol):
    pred, gt, valid = predictions(seed)
    shift = torch.randn(2, 4, 2, 1, 3, generator=rand(seed), dtype=torch.float64)
    before = measured(pred, gt, valid, protocol=protocol)
    after = measured(pred + shift, gt, valid, protocol=protocol)
    close(after['M_RA'], before['M_RA'], 1e-9)
    close(after['PA'], before['PA'], 1e-6)
    together = measured(pred + shift[:, :1, :1], gt, valid, protocol=protocol)
    close(together['MR'], before['MR'], 1e-9)


@given(seeds, protocols)
def test_all_metrics_ignore_the_frame_of_reference_and_know_the_truth(seed, protocol):
    pred, gt, valid = predictions(seed)
    before = measured(pred, gt, valid, protocol=protocol)
    after = measured(moved(pred, seed, 1.0), moved(gt, seed, 1.0), valid, protocol=protocol)
    for name, value in before.items():
        close(after[name], value, 1e-6)
        assert (value >= 0).all(), name
    for name, value in measured(gt, gt, valid, protocol=protocol).items():
        assert (value < 1e-6).all(), name


@given(seeds, protocols, st.permutations(range(4)))
def test_order_of_clips_does_not_matter(seed, protocol, order):
    pred, gt, valid = predictions(seed, 4)
    before = measured(pred, gt, valid, protocol=protocol)
    after = measured(pred[order], gt[order], valid[order], protocol=protocol)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value[order], rtol=0, atol=1e-12, equal_nan=True)


@given(seeds, st.permutations(range(3)))
def test_the_best_sample_moves_with_the_samples(seed, order):
    pred, gt, valid = predictions(seed)
    many = pred[:, None] + 0.05 * torch.randn(2, 3, *pred.shape[1:], generator=rand(seed))
    best = best_sample(clip_means(measured(many, gt, valid)))
    again = best_sample(clip_means(measured(many[:, order], gt, valid)))
    assert [order[i] for i in again] == best.tolist()


# ---- masks


@given(seeds, protocols, st.integers(1, 5), st.floats(-1e3, 1e3))
def test_padding_changes_no_metric(seed, protocol, more, what):
    "Whatever stands in frames after the last"
    pred, gt, valid = predictions(seed, seen=0.9)
    lengths = torch.tensor([4, 4])
    before = measured(pred, gt, valid, lengths, protocol)

    def longer(x, value):
        return torch.cat([x, x.new_full((2, more, *x.shape[2:]), value)], 1)

    after = measured(longer(pred, what), longer(gt, -what), longer(valid, True), lengths, protocol)
    for name, value in before.items():
        torch.testing.assert_close(after[name][:, :4], value, rtol=0, atol=1e-9, equal_nan=True)
        if name != 'MR':
            assert after[name][:, 4:].isnan().all(), name


@given(seeds, st.floats(-1e3, 1e3))
def test_what_is_not_labelled_changes_no_strict_metric(seed, what):
    pred, gt, valid = predictions(seed, seen=0.7)
    before = measured(pred, gt, valid)
    hidden = torch.where(valid[..., None], gt, what)
    for name, value in measured(pred, hidden, valid).items():
        torch.testing.assert_close(value, before[name], rtol=1e-9, atol=1e-9, equal_nan=True)


@given(seeds, some, st.floats(-1e6, 1e6))
def test_a_masked_mean_sees_nothing_else(seed, lead, what):
    g = rand(seed)
    x = torch.randn(2, *lead, generator=g, dtype=torch.float64)
    mask = torch.rand(2, generator=g) > 0.4
    hidden = x.clone()
    hidden[~mask] = what
    close(masked_mean(hidden, mask), masked_mean(x, mask), 1e-9)
    if mask.any():
        close(masked_mean(x, mask), x[mask].mean(), 1e-9)
    assert masked_mean(x, mask & False) == 0


@settings(max_examples=10)
@given(seeds, st.integers(1, 4), st.floats(-10, 10))
def test_padding_changes_no_loss(seed, more, what):
    "Nor do the hands that are not there"
    truth, s = a_motion(seed, 2, 4), MotionStats()
    target = encode198(truth, s)
    x0 = target + 0.1 * torch.randn(target.shape, generator=rand(seed))
    abar = torch.rand(2, generator=rand(seed))
    before, _ = motion_loss(x0, target, truth, s, abar)
    padded = truth.pad(4 + more)
    longer = torch.cat([x0, torch.full((2, more, 198), what)], 1)
    after, _ = motion_loss(longer, encode198(padded, s), padded, s, abar)
    close(after, before, 1e-5)


@given(seeds, st.integers(1, 5), st.integers(0, 6))
def test_padding_a_clip_keeps_its_frames(seed, frames, more):
    clip = a_clip(seed, frames)
    padded = pad_clip(clip, frames + more)
    assert len(padded) == frames + more and padded.length == clip.length == frames
    assert not padded.valid2d[frames:].any() and not padded.motion.valid[frames:].any()
    for name in ('keypoints2d', 'joints3d', 'intrinsics', 'cam_from_view', 'valid3d'):
        assert torch.equal(getattr(padded, name)[:frames], getattr(clip, name)), name
    with pytest.raises(ValueError, match='longer'):
        pad_clip(clip, frames - 1)
