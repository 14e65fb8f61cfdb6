"""Real input: bad files give one clear error;
recordings, photographs and the video of ../shared/real are read as they should be"""

from itertools import islice
import numpy as np
import pytest
import torch
from PIL import Image
from forehand4d.core.paths import project_root
from forehand4d.video.images import intrinsics_for, load_image
from forehand4d.video.videos import read_frames
from forehand4d.video.detection import MarkedHand, detect_hands, detection_table
from forehand4d.video.tracks import identify, load_tracks, track_video
from forehand4d.video.looks import detector_available
from forehand4d.video.recordings import load_leap, load_taco, recording_clip
from forehand4d.video.recordings import recording_clips
from forehand4d.models.photo import forecast_photo

REAL = project_root().parent / 'shared' / 'real'
real = pytest.mark.skipif(
    not REAL.is_dir(),
    reason='the recordings and photographs of ../shared/real are not on this machine',
)
detector = pytest.mark.skipif(not detector_available(), reason='mediapipe is not installed')


def bad_images(folder):
    Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)).save(
        folder / 'good.jpg'
    )
    (folder / 'text.jpg').write_text('a letter')
    (folder / 'empty.png').write_bytes(b'')
    (folder / 'cut.jpg').write_bytes((folder / 'good.jpg').read_bytes()[:900])
    Image.new('RGB', (1, 1)).save(folder / 'dot.png')
    (folder / 'folder.jpg').mkdir()
    return dict(
        absent='no image at',
        text='cannot be read as an image',
        empty='cannot be read as an image',
        cut='damaged or cut off',
        dot='1x1 pixels',
        folder='got the folder',
    )


def test_bad_images_give_one_clear_error_and_leave_nothing(tmp_path):
    for name, message in bad_images(tmp_path).items():
        path = next(iter(tmp_path.glob(f'{name}.*')), tmp_path / f'{name}.jpg')
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            forecast_photo(path, tmp_path / 'out', forecaster=lambda *a, **k: 1 / 0)
        assert str(path) in str(
            pytest.raises((ValueError, FileNotFoundError), load_image, path).value
        )
    assert not (tmp_path / 'out').exists()


def test_a_failure_while_writing_leaves_nothing(tmp_path):
    bad_images(tmp_path)
    with pytest.raises(ZeroDivisionError):
        forecast_photo(
            tmp_path / 'good.jpg', tmp_path / 'out', forecaster=lambda *a, **k: 1 / 0, detect=False
        )
    assert not list((tmp_path / 'out').glob('*')) if (tmp_path / 'out').exists() else True


@pytest.mark.parametrize('mode', ['L', 'P', 'RGBA', 'LA', 'CMYK', '1', 'I;16'])
def test_every_kind_of_pixel_becomes_rgb(tmp_path, mode):
    grey = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (40, 1)))
    im = (
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        if mode == 'I;16'
        else grey.convert('RGB').convert(mode)
        if mode != 'LA'
        else grey.convert('LA')
    )
    path = tmp_path / ('a.tif' if mode == 'CMYK' else 'a.png')
    im.save(path)
    out = load_image(path)
    assert out.shape == (40, 64, 3) and out.dtype == np.uint8
    if mode not in ('1', 'P', 'CMYK'):
        assert abs(out[..., 0].astype(int) - np.asarray(grey)).max() < 10


def test_bad_intrinsics_and_videos(tmp_path):
    image = np.zeros((48, 64, 3), np.uint8)
    for K in (
        [1, 2],
        [50, 50, 999, 20],
        [-1, 50, 30, 20],
        [float('nan'), 50, 30, 20],
        torch.zeros(3, 3),
    ):
        with pytest.raises(ValueError):
            intrinsics_for(image, K=K)
    for fov in (0.5, 180, float('nan')):
        with pytest.raises(ValueError):
            intrinsics_for(image, fov=fov)
    (tmp_path / 'a.mp4').write_text('no film')
    with pytest.raises(ValueError, match='cannot be read as a video'):
        next(read_frames(tmp_path / 'a.mp4'))
    with pytest.raises(FileNotFoundError, match='no video at'):
        track_video(tmp_path / 'b.mp4')
    (tmp_path / 't.npz').write_bytes(b'PK')
    with pytest.raises(ValueError, match='does not hold tracks'):
        load_tracks(tmp_path / 't.npz')


def test_bad_recordings(tmp_path):
    (tmp_path / 'a.npz').write_text('no arrays')
    np.savez(tmp_path / 'b.npz', other=np.zeros(3))
    for load in (load_leap, load_taco):
        with pytest.raises(ValueError):
            load(tmp_path / 'a.npz')
        with pytest.raises(ValueError, match='holds'):
            load(tmp_path / 'b.npz')
        with pytest.raises(FileNotFoundError):
            load(tmp_path / 'c.npz')


def test_identities_survive_wrong_labels():
    g = np.random.default_rng(0)
    hands = g.uniform(0, 100, (2, 21, 2)) + [[[0, 0]], [[300, 0]]]
    truth = [i % 2 for i in range(40)]  # which detection is the right hand
    frames = [
        [
            (hands[j] + g.normal(0, 2, (21, 2)), 0.9 if (j == 0) != (i % 7 == 3) else 0.1)
            for j in ((0, 1) if i % 2 == 0 else (1, 0))
        ]
        for i in range(40)
    ]
    assert [ids[0] for ids in identify(frames)] == truth


@real
def test_leap_hands_have_sides_bones_and_time():
    recordings = {r.name: r for r in load_leap(REAL / 'leap' / 'leap_two_hands.npz')}
    assert {k: len(r) for k, r in recordings.items()} == {'flapping': 94, 'three-claps': 112}
    for r in recordings.values():
        right, left = r.joints[:, :, 0].mean(0)
        assert r.valid.all() and right[0] > left[0] + 0.05  # x points to the right of the person
        bones = (r.joints[:, :, [1, 2, 17]] - r.joints[:, :, [0, 1, 3]]).norm(dim=-1)
        assert (bones.std(0) < 0.012).all() and (bones.mean(0) > 0.015).all()


@real
def test_clips_of_recordings_are_seen_from_a_plausible_distance():
    recordings = load_leap(REAL / 'leap' / 'leap_two_hands.npz') + load_taco(
        REAL / 'taco' / 'taco_right_hand.npz'
    )
    assert recordings[-1].meta['side'] == 1  # filed as a right hand, shaped like a left one
    for c in recording_clips(recordings, 64, sway=0.12):
        assert c.valid2d[c.valid3d].float().mean() > 0.98
        assert 0.3 < c.joints3d[c.valid3d][:, 2].median() < 0.7
        centre = -(c.cam_from_view[:, :3, :3].mT @ c.cam_from_view[:, :3, 3:])[..., 0]
        assert 0.02 < (centre.amax(0) - centre.amin(0)).max() < 0.16
        assert centre.diff(dim=0).norm(dim=-1).max() * c.fps < 0.5
    assert (recording_clip(recordings[0]).cam_from_view == torch.eye(4)).all()


# what a person sees in the photographs: side (0 right, 1 left), middle and size in pixels,
# whose hand; 9: partly hidden
MARKED = dict(
    gesture_call=[MarkedHand(1, (335, 150), 60)],
    gesture_four=[MarkedHand(1, (257, 205), 48), MarkedHand(0, (267, 290), 30, 9)],
    gesture_rock=[MarkedHand(0, (84, 170), 75), MarkedHand(1, (209, 394), 40, 9)],
    hamer_test1=[
        MarkedHand(0, (320, 250), 170),
        MarkedHand(1, (165, 520), 110),
        MarkedHand(0, (470, 370), 130, 1),
        MarkedHand(1, (420, 440), 130, 1),
    ],
    hamer_test2=[MarkedHand(0, (300, 110), 180), MarkedHand(1, (400, 360), 220)],
    hamer_test5=[MarkedHand(0, (498, 690), 420), MarkedHand(1, (719, 690), 420)],
)


@real
@detector
def test_hands_are_found_in_photographs():
    images = {
        name: (load_image(REAL / 'images' / f'{name}.jpg'), marked)
        for name, marked in MARKED.items()
    }
    table = {score.name: score for score in detection_table(images)}
    assert table['hamer_test5'].both
    for score in table.values():
        assert (score.wrong_side, score.invented, score.mixed) == (0, 0, False), score
    for name in ('gesture_call', 'gesture_four', 'gesture_rock', 'hamer_test1', 'hamer_test5'):
        image = images[name][0]
        hands = detect_hands(image)
        assert hands.found.any(), name
        height, width = image.shape[:2]
        seen = hands.keypoints[hands.valid]
        assert (seen > -1).all() and (seen < torch.tensor([width, height])).all()
        assert not hands.keypoints[~hands.found].any()


@real
@detector
def test_photographs_of_two_hands_have_both():
    path = REAL / 'video' / 'two_hands.mp4'
    tracks = track_video(path)
    images = {}
    for row, frame in enumerate(islice(read_frames(path), 1, None)):
        if row % 25 != 12 or not tracks.valid[row].any(-1).all():
            continue
        marked = []
        for side, hand in enumerate(tracks.keypoints[row]):
            size = float((hand.amax(0) - hand.amin(0)).max())
            marked.append(MarkedHand(side, tuple(hand.mean(0).tolist()), size))
        images[str(row)] = frame, marked
    table = detection_table(images)
    assert len(table) >= 15
    assert sum(score.both for score in table) >= 0.8 * len(table), table
    assert sum(score.wrong_side for score in table) <= 1, table
    assert sum(score.invented for score in table) == 0, table


@real
@detector
def test_mirrored_photographs_have_mirrored_hands():
    image = load_image(REAL / 'images' / 'gesture_rock.jpg')
    a, b = detect_hands(image), detect_hands(image[:, ::-1].copy())
    assert a.found.tolist() == b.found.tolist()[::-1]
    assert (
        a.keypoints[0]
        - (b.keypoints[1] * torch.tensor([-1, 1]) + torch.tensor([image.shape[1] - 1, 0]))
    ).norm(dim=-1).mean() < 4


@real
@detector
def test_two_hands_are_tracked_with_stable_identities(tmp_path):
    path = REAL / 'video' / 'two_hands.mp4'
    tracks = track_video(path, max_frames=30, start=100, cache=False)
    assert (len(tracks), tracks.fps, tracks.size) == (30, 30.0, (1280, 720))
    assert tracks.valid.any(-1).all(-1).float().mean() > 0.9
    assert (
        tracks.keypoints[:, 0, 0, 0] < tracks.keypoints[:, 1, 0, 0]
    ).all()  # the person faces the camera with uncrossed arms
    assert tracks.keypoints[tracks.valid].isfinite().all()
    tracks.save(tmp_path / 't.npz')
    assert torch.equal(load_tracks(tmp_path / 't.npz').keypoints, tracks.keypoints)
    assert sum(1 for _ in zip(range(3), read_frames(path), strict=False)) == 3
