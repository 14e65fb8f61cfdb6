"""Unlabelled videos as data: from a video to clips with imputed labels,
other people's detections and cameras, nothing lost or moved on the way"""

import json
from dataclasses import replace
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from forehand4d.geometry.cameras import look_at, project, transform
from forehand4d.core.paths import project_root
from forehand4d.video import tracks as keypoints
from forehand4d.data.clip_store import write_clips
from forehand4d.video.footage import film_sequence
from forehand4d.video.tracks import Tracks, make_tracks, track_video
from forehand4d.video.looks import detector_available
from forehand4d.catalogue import open_dataset
from forehand4d.geometry.lenses import brown_conrady
from forehand4d.datasets.windows import windows
from forehand4d.models.imputation import impute
from forehand4d.fitting.procedure import procedure
from forehand4d.models.lifting import load_lifter
from forehand4d.geometry.mano import from_mano21
from forehand4d.geometry.motion import rest_motion

VIDEO = project_root().parent / 'shared' / 'real' / 'video' / 'two_hands.mp4'
SIZE, N = (320, 240), 40
LENS = torch.tensor([-0.15, 0.04, 0.002, -0.001, 0.005, 0, 0, 0]).double()


@pytest.fixture
def filmed(tmp_path):
    """A folder of images seen through a lens,
    COLMAP's cameras in units of half a metre, OpenPose's keypoints, and the truth"""
    K, t = (
        torch.tensor([[250.0, 0, 155], [0, 252, 118], [0, 0, 1]]).double(),
        torch.linspace(0, 1, N).double(),
    )
    cam = look_at(
        torch.stack([0.2 * torch.sin(3 * t), -0.1 - 0.1 * t, -0.55 + 0 * t], -1),
        torch.zeros(3).double(),
        torch.tensor([0.0, -1, 0]).double(),
    )
    m = rest_motion(N)
    m = replace(
        m,
        wrist=torch.tensor([[0.09, 0.05, 0], [-0.09, 0.05, 0]])
        + 0.03 * torch.sin(5 * t.float())[:, None, None] * torch.tensor([1.0, 0.5, 0.3]),
    )
    there = transform(cam[:, None], m.joints().double())
    seen = brown_conrady(K, LENS, there)
    film, model, hands = (tmp_path / n for n in ('film', 'colmap', 'hands'))
    for f in (film, model, hands):
        f.mkdir()
    yx = np.mgrid[:240, :320]
    rows, side = [], dict(hand_right_keypoints_2d=0, hand_left_keypoints_2d=1)
    for i in range(N):
        u, v = seen[i, 0, 0].tolist()  # a bright spot at the right wrist
        Image.fromarray(
            np.repeat(255 * np.exp(-((yx[1] - u) ** 2 + (yx[0] - v) ** 2) / 30), 3)
            .reshape(240, 320, 3)
            .astype(np.uint8)
        ).save(film / f'{i + 1}.png')
        q, x = (
            Rotation.from_matrix(cam[i, :3, :3].numpy()).as_quat(scalar_first=True),
            cam[i, :3, 3] / 0.5,
        )
        if i != 20:
            rows.append(
                f'{i + 1} {" ".join(map(str, [*q.tolist(), *x.tolist()]))} 1 {i + 1}.png\n'
                f'1.5 2.5 -1\n'
            )
        k = from_mano21(seen[i], 'openpose21').numpy()
        (hands / f'film_{i + 1:012d}_keypoints.json').write_text(
            json.dumps(
                dict(
                    people=[
                        {s: np.c_[k[h], np.full(21, 0.9)].ravel().tolist() for s, h in side.items()}
                    ]
                )
            )
        )
    (model / 'images.txt').write_text(''.join(rows))
    (model / 'cameras.txt').write_text(
        f'1 FULL_OPENCV 320 240 250 252 155.5 118.5 {" ".join(map(str, LENS.tolist()))}\n'
    )
    return film, model, hands, K, cam, there


def test_clips_of_a_film_see_what_a_pinhole_camera_would_have_seen(filmed):
    film, model, hands, K, cam, there = filmed
    before = {p: p.read_bytes() for f in (film, model, hands) for p in f.iterdir()}
    s = film_sequence(film, hands, model, scale=0.5)
    assert (s.cam_from_world - cam)[torch.arange(N) != 20].abs().max() < 1e-6 and s.cam_from_world[
        20
    ].isnan().any()
    pinhole = project(there, K)
    inside = s.valid2d
    assert (
        inside.float().mean() > 0.95 and (s.keypoints2d - pinhole).norm(dim=-1)[inside].max() < 0.1
    )
    clips = windows(s, 16, stride=8)
    assert [len(c) for c in clips] == [16] * 4 and {c.labels for c in clips} == {'keypoints'}
    for c in clips:
        u, v = c.keypoints2d[0, 0, 0].round().int().tolist()
        spot = np.unravel_index(c.image[..., 0].argmax(), (240, 320))
        assert abs(spot[0] - v) <= 1 and abs(spot[1] - u) <= 1
        world = cam[c.meta['row']]
        assert (
            project(
                transform(
                    c.cam_from_view[5].double() @ world, there.new_tensor([[0.01, 0.02, 0.03]])
                ),
                K,
            )
            - project(transform(cam[c.frame_ids[5]], there.new_tensor([[0.01, 0.02, 0.03]])), K)
        ).norm() < 0.1 or 20 in c.frame_ids.tolist()
    assert before == {p: p.read_bytes() for f in (film, model, hands) for p in f.iterdir()}


def test_a_nominal_camera_leaves_no_trace(filmed, tmp_path):
    """Joints before the camera that HaMeR assumes,
    5000/256 of the longer side, land on the pixels of the video"""
    film, _, _, K, cam, there = filmed
    px, f, middle = project(there, K), 5000 / 256 * 320, np.array([160, 120])
    out = tmp_path / 'hamer'
    out.mkdir()
    for i in range(N):
        j = there[i].numpy()
        wide = np.dstack(
            [(px[i].numpy() - middle) * j[..., 2:] / f, j[..., 2:]]
        )  # the same rays through the other focal length, moved away with it
        at = wide[:, 0]
        np.savez(
            out / f'{i + 1}.npz',
            is_right=[1, 0],
            joints3d=from_mano21(torch.from_numpy(wide - at[:, None]), 'openpose21').numpy(),
            cam_t=at,
            focal=[f, f],
            box=np.zeros((2, 4)),
        )
    s = film_sequence(film, out, 60.0)
    assert (s.keypoints2d - px).norm(dim=-1)[
        s.valid2d
    ].max() < 0.1 and s.valid2d.float().mean() > 0.95


def test_swapped_sides_are_repaired(filmed):
    film, model, hands, *_ = filmed
    straight = film_sequence(film, hands, model).keypoints2d
    for i in (3, 9, 17, 30):
        p = hands / f'film_{i + 1:012d}_keypoints.json'
        d = json.loads(p.read_text())['people'][0]
        p.write_text(
            json.dumps(
                dict(
                    people=[
                        dict(
                            hand_right_keypoints_2d=d['hand_left_keypoints_2d'],
                            hand_left_keypoints_2d=d['hand_right_keypoints_2d'],
                        )
                    ]
                )
            )
        )
    assert (film_sequence(film, hands, model).keypoints2d - straight).abs().max() < 1e-6


def test_misfits_are_named(filmed, tmp_path):
    film, model, hands, *_ = filmed
    (model / 'cameras.txt').write_text('1 OPENCV 320 240 250 252 155.5\n')
    with pytest.raises(
        ValueError, match='footage: expected cameras in .*colmap .*OPENCV with 3 parameters'
    ):
        film_sequence(film, hands, model)
    (model / 'cameras.txt').unlink()
    with pytest.raises(FileNotFoundError, match='cameras.txt'):
        film_sequence(film, hands, model)
    (tmp_path / 't.json').write_text(
        json.dumps(
            dict(
                fl_x=250.0,
                w=320,
                h=240,
                frames=[dict(file_path='1.png', transform_matrix=(2 * np.eye(4)).tolist())],
            )
        )
    )
    with pytest.raises(ValueError, match='no rotation'):
        film_sequence(film, hands, tmp_path / 't.json')
    (hands / 'film_000000000003_keypoints.json').write_text(
        '{"people": [{"hand_right_keypoints_2d": [1, 2'
    )
    with pytest.raises(
        ValueError, match='footage: expected hands in .*film_000000000003_keypoints.json'
    ):
        film_sequence(film, hands)
    with pytest.raises(ValueError, match='tracks of 3 frames'):
        film_sequence(
            film,
            Tracks(
                torch.zeros(3, 2, 21, 2),
                torch.zeros(3, 2, 21).bool(),
                torch.zeros(3, 2),
                30.0,
                (160, 120),
            ),
        )


def test_what_was_tracked_is_not_tracked_again(filmed, outputs, monkeypatch):
    film, looked = filmed[0], []
    g = np.random.default_rng(0)
    hand = g.uniform(50, 150, (21, 2))

    class Idle:
        def close(self):
            pass

    monkeypatch.setattr(keypoints, 'new_detector', lambda *a: Idle())
    monkeypatch.setattr(
        keypoints, 'hands_of_frame', lambda frame, *a: looked.append(1) or [(hand, 0.9)]
    )
    a, b = track_video(film, fps=25.0), track_video(film, fps=25.0)
    assert (
        len(looked) == N
        and torch.equal(a.keypoints, b.keypoints)
        and (a.fps, a.size) == (25.0, SIZE)
    )
    (film / '1.png').write_bytes((film / '2.png').read_bytes())
    track_video(film, fps=25.0)
    assert len(looked) == 2 * N  # another film


def test_half_a_hand_is_followed():
    "Joints that a detector leaves out are missing, and do not hinder identity or cleaning"
    g = np.random.default_rng(1)
    hands = g.uniform(0, 80, (2, 21, 2)) + [[[40, 40]], [[180, 60]]]
    found = [
        [
            (np.where(g.uniform(size=(21, 1)) < 0.4, np.nan, hands[h] + t), (0.9, 0.1)[h], 0.8)
            for h in (0, 1)
        ]
        for t in range(30)
    ]
    tracks = make_tracks(found, 30.0, SIZE)
    for t in range(30):
        for h in (0, 1):
            assert torch.equal(
                tracks.valid[t, h],
                torch.from_numpy(
                    np.isfinite(found[t][h][0]).all(-1)
                    & (found[t][h][0] < np.array(SIZE) - 0.5).all(-1)
                ),
            )
    assert tracks.keypoints.isfinite().all()


@pytest.mark.skipif(
    not VIDEO.is_file() or not detector_available(),
    reason='the video of ../shared/real is not on this machine, or mediapipe is not installed',
)
def test_a_real_video_gets_labels(tmp_path, outputs):
    "128 frames: tracks, store, lifting and refinement, a store of imputed labels"
    tracks = track_video(VIDEO, max_frames=128)
    s = film_sequence(VIDEO, tracks)
    store = write_clips(windows(s, 64), tmp_path / 'clips', dict(labels='keypoints'))
    data, rejected = open_dataset(str(store)), []
    assert [len(c) for c in data] == [64, 64] and data[0].image.shape == (720, 1280, 3)
    kept = list(impute(data, load_lifter(), procedure('best', 60), batch=2, rejected=rejected))
    assert len(kept) + len(rejected) == 2 and len(kept) >= 1
    for c in kept:
        off = (
            project(
                transform(c.cam_from_view[:, None], c.motion.joints()), c.intrinsics[:, None, None]
            )
            - c.keypoints2d
        ).norm(dim=-1)[c.valid2d]
        size = (
            (c.keypoints2d.amax(2) - c.keypoints2d.amin(2))
            .amax(-1)[..., None]
            .expand(-1, -1, 21)[c.valid2d]
        )
        assert (
            c.labels == 'imputed' and (off / size).median() < 0.12 and c.meta['residual2d'] < 0.15
        )
    again = open_dataset(str(write_clips(kept, tmp_path / 'labels')))
    assert len(again) == len(kept)
