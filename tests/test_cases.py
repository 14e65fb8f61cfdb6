"""Inputs that users' tools really produce, and their kinds:
the right value, or one clear error that names the file"""

import json, os, pickle, re, shutil, subprocess, sys, warnings
from pathlib import Path
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from forehand4d.networks.pretrained import read_state
from forehand4d.cli import main
from forehand4d.core.paths import project_root
from forehand4d.core.checks import MARK
from forehand4d.core.files import atomic_path, make_folder
from forehand4d.data.clip_store import ClipStore
from forehand4d.datasets.sequences import read_image, read_npy
from forehand4d.video.footage import film_sequence
from forehand4d.video.frame_cameras import read_cameras
from forehand4d.video.hand_files import read_hands
from forehand4d.video.images import files_of, intrinsics_for, load_image
from forehand4d.video.videos import read_frames, read_video
from forehand4d.video.keypoint_store import Footage, FootageSettings
from forehand4d.video.tracks import Tracks, in_time, load_tracks
from forehand4d.models.forecaster import build_forecaster
from forehand4d.models.forecasting import load_forecaster
from forehand4d.geometry.hand_models import load_hand
from forehand4d.runs.launch import run_notebook
from forehand4d.models.lifter import Lifter, LifterConfig
from forehand4d.models.lifting import load_lifter
from forehand4d.core.pickles import read_pickle
from forehand4d.runs.profiles import profile
from forehand4d.runs.record import list_runs, start_run
from forehand4d.training.loop import TrainConfig
from forehand4d.training.weights import save_weights
from fuzz.targets import clip_store

CASES = Path(os.environ.get('FOREHAND4D_CASES') or project_root().parent / 'shared' / 'cases')
SIZE = (640, 480)
cases = pytest.mark.skipif(not CASES.is_dir(), reason='../shared/cases is not on this machine')


def refused(path, call, *args, says=''):
    """One error, of a kind that the command line shows as one line,
    that names the file and what is wrong"""
    with pytest.raises((ValueError, OSError)) as e:
        call(*args)
    text = str(e.value)
    assert Path(path).name in text and says in text, text
    assert len(text.splitlines()) == 1 and 'lambda' not in text and '\x1b' not in text, text
    assert 'weights_only' not in text and 'Traceback' not in text, text
    return text


def film(path, *options, rate='30', seconds=1, size='96x64'):
    source = f'testsrc=size={size}:rate={rate}:duration={seconds}'
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        '-y',
        '-v',
        'error',
        '-f',
        'lavfi',
        '-i',
        source,
        *options,
        str(path),
    ]
    subprocess.run(command, check=True)
    return path


# ---- photographs


@cases
def test_case_photographs():
    assert load_image(CASES / 'portrait_odd_tag.jpg').shape == (48, 64, 3)
    assert Image.open(CASES / 'portrait_odd_tag.jpg').size == (
        48,
        64,
    )  # stored lying, shown upright
    assert intrinsics_for(CASES / 'portrait_odd_tag.jpg')[0].isfinite().all()
    grey = load_image(CASES / 'grey16_hot_pixel.png')
    assert np.percentile(grey, 95) > 100 and grey.std() > 20  # not black
    refused(
        'photo_nan.tiff', load_image, CASES / 'damaged' / 'photo_nan.tiff', says='no finite numbers'
    )
    refused(
        'photo_negative.tiff',
        load_image,
        CASES / 'damaged' / 'photo_negative.tiff',
        says='darkest pixel is -5',
    )
    refused(
        'photo_zeros.png',
        load_image,
        CASES / 'damaged' / 'photo_zeros.png',
        says='damaged or cut off',
    )
    refused('iphone_as.jpg', load_image, CASES / 'iphone_as.jpg', says='HEIC')


def test_every_orientation_shows_the_same_picture(tmp_path):
    upright = np.zeros((48, 64, 3), np.uint8)
    upright[:10, :20] = 255
    back = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    for turn, store in back.items():
        exif = Image.Exif()
        exif[0x0112] = turn
        Image.fromarray(np.ascontiguousarray(store(upright))).save(tmp_path / 'a.png', exif=exif)
        assert np.array_equal(load_image(tmp_path / 'a.png'), upright), turn


def test_notes_of_a_picture_never_refuse_it(tmp_path):
    "EXIF of random bytes: the pixels are read"
    g = np.random.default_rng(0)
    for _ in range(40):
        Image.new('RGB', (64, 48)).save(
            tmp_path / 'a.jpg', exif=b'Exif\0\0II*\0\x08\0\0\0' + g.bytes(60)
        )
        assert load_image(tmp_path / 'a.jpg').size == 64 * 48 * 3
        assert intrinsics_for(tmp_path / 'a.jpg')[0].isfinite().all()


def test_deep_pictures(tmp_path):
    yy, xx = np.mgrid[:48, :64]
    for hot in (0, 1, 3):
        deep = (xx * 16).astype(np.uint16)
        deep.flat[:hot] = 65535
        Image.fromarray(deep).save(tmp_path / 'a.png')
        assert (
            abs(
                load_image(tmp_path / 'a.png')[24, :, 0].astype(int) - xx[0] * 16 / 1008 * 255
            ).max()
            < 6
        )
    for value in (np.nan, np.inf, -1.0):
        Image.fromarray(np.where(xx == 1, value, 0.5).astype(np.float32)).save(tmp_path / 'a.tiff')
        refused('a.tiff', load_image, tmp_path / 'a.tiff')


def test_what_is_no_plain_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / 'pipe.mp4')
    (tmp_path / 'folder.mp4').mkdir()
    (tmp_path / 'lfs.mp4').write_text(
        'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n'
    )
    for read in (load_image, read_video, load_tracks, lambda p: list(read_frames(p))):
        refused('pipe.mp4', read, tmp_path / 'pipe.mp4', says='pipe or a device')
        refused('folder.mp4', read, tmp_path / 'folder.mp4', says='folder')
        refused('lfs.mp4', read, tmp_path / 'lfs.mp4', says='git lfs pull')
        refused('null', read, '/dev/null', says='pipe or a device')
        refused('b', read, 'a\0b')


def test_sizes_are_bounded_before_memory_is_taken(tmp_path, monkeypatch):
    Image.new('1', (20000, 20000)).save(tmp_path / 'wall.png')
    refused('wall.png', load_image, tmp_path / 'wall.png', says='FOREHAND4D_MAX_PIXELS')
    film(tmp_path / 'a.mp4')
    monkeypatch.setenv('FOREHAND4D_MAX_PIXELS', '1000')
    refused('a.mp4', read_video, tmp_path / 'a.mp4', says='FOREHAND4D_MAX_PIXELS')
    monkeypatch.setenv('FOREHAND4D_MAX_PIXELS', '10000')
    assert len(read_video(tmp_path / 'a.mp4')) == 30


# ---- videos


@cases
def test_case_videos():
    fps, size, n = next(read_frames(CASES / 'variable_rate.mp4'))
    assert (fps, n, n / fps, size) == (30, 60, 2.0, (64, 48))
    assert sum(1 for _ in read_frames(CASES / 'variable_rate.mp4')) - 1 == 60
    video = read_video(CASES / 'variable_rate.mp4')
    assert len(video.times) == 40 and set(video.taken) == {*range(40)}  # every frame of the file
    assert next(read_frames(CASES / 'no_duration.webm'))[::2] == (30, 60)
    refused(
        'film_half.mp4',
        read_video,
        CASES / 'damaged' / 'film_half.mp4',
        says='is cut off or damaged',
    )
    refused(
        'film_concat.mp4',
        read_video,
        CASES / 'damaged' / 'film_concat.mp4',
        says='cannot be read as a video',
    )


@pytest.mark.parametrize('suffix', ['mp4', 'm4v', 'mov', 'mkv', 'webm', 'avi', 'ts', 'flv', 'h264'])
@pytest.mark.parametrize('rate', ['25', '30', '24000/1001', '30000/1001'])
def test_rates_and_counts_of_containers(tmp_path, suffix, rate):
    if suffix == 'h264' and rate != '25':
        pytest.skip('a raw stream states its rate in ways that differ')
    video = read_video(film(tmp_path / f'a.{suffix}', rate=rate, seconds=2))
    a, b = map(int, (rate + '/1').split('/')[:2])
    assert (len(video), video.even) == (round(2 * a / b), True) and abs(video.fps - a / b) < 2e-3
    if suffix in ('mp4', 'mov', 'm4v', 'mkv'):
        assert (video.rate.numerator, video.rate.denominator) == (a, b)
    frames = read_frames(tmp_path / f'a.{suffix}')
    next(frames)
    assert sum(1 for _ in frames) == len(video)


def test_cut_videos_are_named(tmp_path):
    for name, options in (
        ('a.mp4', ['-movflags', 'faststart']),
        ('b.mp4', []),
        ('c.mkv', []),
        ('d.webm', []),
        ('e.avi', []),
    ):
        whole = film(tmp_path / name, *options).read_bytes()
        for share in (0.3, 0.5, 0.8):
            (tmp_path / f'cut_{name}').write_bytes(whole[: int(len(whole) * share)])
            refused(f'cut_{name}', read_video, tmp_path / f'cut_{name}')


STREAMS = {
    'a.ts': (),
    'b.m2ts': (),
    'c.mpg': (),
    'd.ogv': (),
    'e.wmv': (),
    'f.gif': (),
    'g.flv': (),
    'h.h264': (),
    'i.ts': ('-c:v', 'mpeg2video'),
}


@pytest.mark.parametrize('name', STREAMS)
@pytest.mark.parametrize('share', [0.3, 0.5, 0.9])
def test_streams_that_end_in_the_middle_say_so(tmp_path, monkeypatch, name, share):
    "Formats without a table of their frames: how many could be decoded, and that it is cut"
    whole = film(tmp_path / name, *STREAMS[name]).read_bytes()
    assert len(read_video(tmp_path / name)) in (29, 30)
    (tmp_path / f'cut_{name}').write_bytes(whole[: int(len(whole) * share) | 1])
    said = refused(f'cut_{name}', read_video, tmp_path / f'cut_{name}')
    found = re.search(r'is cut off or damaged: (\d+) frames could be decoded', said)
    assert found, said
    if int(found[1]) > 1:
        monkeypatch.setenv('FOREHAND4D_DAMAGED_VIDEO', '1')
        video = read_video(tmp_path / f'cut_{name}')
        assert len(video.times) == int(found[1]) < 30 and (np.diff(video.times) > 0).all()


def test_a_raw_stream_cut_between_two_frames_is_what_it_holds(tmp_path):
    "Nothing in it says that there was more: the frames that are there, with their times"
    whole = film(tmp_path / 'a.h264', '-bf', '0').read_bytes()
    starts = [found.start() for found in re.finditer(rb'\x00\x00\x00?\x01[\x41\x61]', whole)]
    (tmp_path / 'half.h264').write_bytes(whole[: starts[14]])
    video = read_video(tmp_path / 'half.h264')
    assert len(video) == 15 and video.even and abs(video.times[-1] - 14 / video.fps) < 1e-6


def test_half_a_video_can_be_used_when_asked_for(tmp_path, monkeypatch):
    whole = film(tmp_path / 'a.mkv').read_bytes()
    (tmp_path / 'a.mkv').write_bytes(whole[: len(whole) * 9 // 10])
    refused('a.mkv', read_video, tmp_path / 'a.mkv', says='FOREHAND4D_DAMAGED_VIDEO=1')
    monkeypatch.setenv('FOREHAND4D_DAMAGED_VIDEO', '1')
    assert 10 < len(read_video(tmp_path / 'a.mkv')) < 30


def test_turned_and_stretched_videos_are_upright_and_square(tmp_path):
    film(tmp_path / 'plain.mp4')
    command = [imageio_ffmpeg.get_ffmpeg_exe(), '-y', '-v', 'error']
    subprocess.run(
        [
            *command,
            '-display_rotation',
            '90',
            '-i',
            tmp_path / 'plain.mp4',
            '-c',
            'copy',
            tmp_path / 'turned.mp4',
        ],
        check=True,
    )
    assert read_video(tmp_path / 'turned.mp4').size == (64, 96)
    film(tmp_path / 'wide.mp4', '-vf', 'setsar=2/1')
    assert read_video(tmp_path / 'wide.mp4').size == (192, 64)
    for name in ('turned.mp4', 'wide.mp4'):
        (_, (w, h), _), *frames = read_frames(tmp_path / name)
        assert {f.shape for f in frames} == {(h, w, 3)} and len(frames) == 30


def test_a_list_never_opens_its_neighbour(tmp_path):
    film(tmp_path / 'other.mp4')
    for name, text in (
        ('a.mp4', 'ffconcat version 1.0\nfile other.mp4\n'),
        ('b.mp4', '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.mp4\n'),
        ('c.mp4', '<?xml version="1.0"?><MPD></MPD>'),
        ('d.mp4', 'v=0\nc=IN IP4 127.0.0.1\nm=video 1234 RTP/AVP 96\n'),
    ):
        (tmp_path / name).write_text(text)
        refused(name, read_video, tmp_path / name, says='cannot be read as a video')


def moving_bar(path, keep):
    "A bar at 2 i in picture i, at 30 a second; pictures for which `keep` is 0 are left out"
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        '-y',
        '-v',
        'error',
        '-f',
        'rawvideo',
        '-pix_fmt',
        'gray',
        '-s',
        '160x48',
        '-r',
        '30',
        '-i',
        '-',
        '-vf',
        f"select='{keep}'",
        '-fps_mode',
        'vfr',
        '-c:v',
        'libx264',
        '-qp',
        '0',
        str(path),
    ]
    pictures = [
        np.where(abs(np.arange(160) - 2 * i - 10) < 4, 255, 0)
        .astype(np.uint8)[None]
        .repeat(48, 0)
        .tobytes()
        for i in range(60)
    ]
    subprocess.run(command, input=b''.join(pictures), check=True)
    return path


@pytest.mark.parametrize(
    'keep',
    ['lt(n,30)+not(mod(n,3))', 'not(mod(n,2))+gt(n,40)', 'mod(n,5)', 'between(n,0,9)+gt(n,25)'],
)
def test_motion_keeps_its_speed_at_variable_rate(tmp_path, keep):
    """A bar that moves evenly does so in tracks of a film whose rate varies;
    nothing that was filmed is lost"""
    video = read_video(moving_bar(tmp_path / 'a.mp4', keep))
    (fps, _, n), *frames = read_frames(video.path)
    at = np.array([(f[0, :, 0] > 127) @ np.arange(160) / (f[0, :, 0] > 127).sum() for f in frames])
    assert (
        abs(fps - 30) < 0.01
        and len(frames) == n
        and {*np.unique(at).round()} >= {float(round(x)) for x in at[0] + 60 * video.times}
    )
    px = torch.from_numpy(at).float()[:, None, None, None].expand(n, 2, 21, 2).clone()
    tracks = in_time(
        Tracks(px, torch.ones(n, 2, 21).bool(), torch.ones(n, 2), fps, (160, 48)), video
    )
    assert abs(tracks.keypoints[:, 0, 0, 0].numpy() - at[0] - 2 * np.arange(n)).max() < 1.05


# ---- films with hands and cameras of other tools


def pictures(folder, names, size=SIZE):
    folder.mkdir()
    for n in names:
        Image.new('RGB', size).save(folder / f'{n}.png')
    return folder


@cases
def test_case_footage(tmp_path):
    still = pictures(tmp_path / 'film', ('98', '99', '100', '101'))
    s = film_sequence(still, CASES / 'padded_hands')
    assert s.valid2d[:, 0].all()  # all four frames
    truth = np.array(json.loads((CASES / 'padded_hands' / '098.json').read_text())[0]['joints2d'])
    assert abs(s.keypoints2d[0, 0, 0].numpy() - truth[0]).max() < 0.01

    frames = [f'{i:012d}' for i in range(3)]
    tracks = read_hands(CASES / 'openpose_scale3', frames, SIZE, 30.0)
    given = json.loads(
        (CASES / 'openpose_scale3' / 'film_000000000000_keypoints.json').read_text()
    )['people'][0]['hand_right_keypoints_2d']
    assert abs(tracks.keypoints[0, 0, 0].numpy() - np.array(given[:2]) * (639, 479)).max() < 0.01

    names = ['frame_0000', 'frame_0001']
    pose = read_cameras(CASES / 'colmap_bare_names', names, SIZE).cam_from_world
    assert pose.isfinite().all() and pose[1, 2, 3] == 0.1

    two = read_hands(CASES / 'hamer_scalar_focal', ['000000'], (1280, 720), 30.0)
    with np.load(CASES / 'hamer_scalar_focal' / '000000.npz') as z:
        p = z['joints3d'] + z['cam_t'][:, None]
        focal = float(z['focal'])
    wrist = p[0, 0, :2] / p[0, 0, 2] * focal + (640, 360)
    assert (
        two.valid.any(-1).all() and abs(two.keypoints[0, :, 0].numpy() - wrist).max(-1).min() < 0.01
    )

    names = [f'{i:06d}' for i in range(3)]
    refused(
        'transforms_no_size.json',
        read_cameras,
        CASES / 'transforms_no_size.json',
        names,
        SIZE,
        says='principal point',
    )
    assert (
        read_cameras(CASES / 'transforms_no_size.json', names, (1242, 982)).intrinsics[0, 0, 2]
        == 620.5
    )


def hand(shift=0.0):
    g = np.random.default_rng(0)
    return g.uniform(-40, 40, (21, 2)) + (320 + shift, 240)


def write_hands(folder, names, **change):
    folder.mkdir()
    for i, n in enumerate(names):
        (folder / f'{n}.json').write_text(
            json.dumps([dict(is_right=1, joints2d=hand(i).tolist()) | change])
        )
    return folder


@pytest.mark.parametrize(
    'shown, called',
    [
        ('8,9,10,11', '008,009,010,011'),
        ('f_0008,f_0009', 'f_8,f_9'),
        ('000000,000001', 'a_000000_keypoints,a_000001_keypoints'),
        ('v1.2_1,v1.2_2', 'v1.2_1,v1.2_2'),
        ('a,b', 'a,b'),
    ],
)
def test_names_of_frames_match(tmp_path, shown, called):
    shown, called = shown.split(','), called.split(',')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        tracks = read_hands(write_hands(tmp_path / 'hands', called), shown, SIZE, 30.0)
    assert (
        tracks.valid[:, 0].all()
        and abs(tracks.keypoints[:, 0, 0].numpy() - [hand(i)[0] for i in range(len(shown))]).max()
        < 1e-3
    )


def test_misfit_names_say_what_is_missing(tmp_path):
    names = [f'{i:06d}' for i in range(4)]
    one_based = write_hands(tmp_path / 'from1', [1, 2, 3, 4])
    refused('from1', read_hands, one_based, names, SIZE, 30.0, says='set `first`')
    surplus = write_hands(tmp_path / 'surplus', range(6))
    refused('surplus', read_hands, surplus, names, SIZE, 30.0, says='speaks of frames 4, 5')
    few = write_hands(tmp_path / 'few', [0, 1, 3])
    with pytest.warns(UserWarning, match='few: nothing on 1 of 4 frames: 000002'):
        read_hands(few, names, SIZE, 30.0)
    twice = write_hands(tmp_path / 'twice', ['l_0', 'r_0', 'l_1', 'r_1', 'l_2', 'l_3'])
    refused('twice', read_hands, twice, names, SIZE, 30.0, says='6 entries for 4 frames')


def test_numbers_of_other_tools_are_pixels_or_refused(tmp_path):
    names = ['0', '1']
    mixed = [*(hand() / (639, 479))[1:].tolist(), [300, 200]]
    shares = write_hands(tmp_path / 'shares', names, joints2d=(hand() / (639, 479)).tolist())
    assert (
        abs(read_hands(shares, names, SIZE, 30.0).keypoints[0, 0].numpy()[0] - hand()[0]).max()
        < 1e-3
    )
    for name, change, says in (
        ('around', dict(joints2d=(hand() / 320 - 1).tolist()), 'coordinates from'),
        ('large', dict(joints2d=(hand() * 4).tolist()), 'lie outside of the video'),
        ('mixed', dict(joints2d=mixed), 'coordinates from'),
        ('side', dict(is_right=7), 'is_right should be'),
        ('few', dict(joints2d=hand()[:20].tolist()), 'joints2d should be'),
        ('text', dict(joints2d='no'), 'joints2d should be'),
        ('ragged', dict(joints2d=[[1, 2], [3]]), 'joints2d should be'),
    ):
        refused(
            name,
            read_hands,
            write_hands(tmp_path / name, names, **change),
            names,
            SIZE,
            30.0,
            says=says,
        )
    for text in ('7', 'null', '{"people": 3}', '{"people": [1]}', '[[[', '"a"'):
        (tmp_path / 'side' / '0.json').write_text(text)
        refused('side', read_hands, tmp_path / 'side', names, SIZE, 30.0)


def test_cameras_of_another_size_or_cut_off(tmp_path):
    (tmp_path / 'model').mkdir()
    (tmp_path / 'model' / 'images.bin').write_bytes(b'')
    (tmp_path / 'model' / 'cameras.bin').write_bytes(b'')
    says = 'cameras.bin is cut off after 0 bytes'
    refused('model', read_cameras, tmp_path / 'model', ['0'], SIZE, says=says)
    eye = np.eye(4).tolist()
    for change, says in (
        (dict(fl_x=-500.0), 'focal'),
        (dict(fl_x=1e9), 'focal'),
        (dict(cx=-900.0), 'principal point'),
        (dict(w=640, h=640), 'cameras of 640x640'),
        (dict(fl_x=0), 'neither fl_x'),
        (dict(fl_x=0, camera_angle_x=60.0), 'expected radians'),
        (dict(frames=[dict(file_path='0', transform_matrix=[1])]), 'cameras'),
        (dict(frames=3), 'cameras'),
    ):
        d = (
            dict(fl_x=500.0, cx=320.0, cy=240.0, frames=[dict(file_path='0', transform_matrix=eye)])
            | change
        )
        (tmp_path / 't.json').write_text(json.dumps(d))
        refused('t.json', read_cameras, tmp_path / 't.json', ['0'], SIZE, says=says)


def test_files_of_variable_rate_are_numbered_by_decoded_frames(tmp_path):
    "Another detector decodes 40 frames of a film of 58 even ones"
    moving_bar(tmp_path / 'a.mp4', 'lt(n,30)+not(mod(n,3))')
    video = read_video(tmp_path / 'a.mp4')
    spread = np.random.default_rng(0).uniform(-8, 8, (21, 2)) + (12, 24)
    (tmp_path / 'hands').mkdir()
    for i, t in enumerate(video.times):
        (tmp_path / 'hands' / f'{i}.json').write_text(
            json.dumps([dict(is_right=1, joints2d=(spread + (60 * t, 0)).tolist())])
        )
    s = film_sequence(tmp_path / 'a.mp4', tmp_path / 'hands')
    assert s.fps == 30 and len(s) == 58 and s.valid2d[:, 0].all()
    assert abs(s.keypoints2d[:, 0, 0, 0].numpy() - spread[0, 0] - 2 * np.arange(58)).max() < 0.1


# ---- weights and hands of others


def checkpoint(path, state, **more):
    torch.save(dict(state_dict=state, **more), path)
    return path


class Settings:
    "Stands for a class of somebody's project"

    def __init__(self):
        self.lr = 1e-4


@cases
def test_case_checkpoints_and_pickles():
    with pytest.warns(
        UserWarning, match='lightning_namespace.ckpt: left out objects of argparse.Namespace'
    ):
        state = read_state(CASES / 'lightning_namespace.ckpt')
    assert state.keys() == {'model.x'}
    assert read_state(CASES / 'ddp_module_prefix.ckpt').keys() == {'model.x'}
    permuted = read_pickle(CASES / 'permuted_protocol5.pkl')['a']
    assert permuted.shape == (3, 2, 4) and np.array_equal(
        permuted.transpose(1, 0, 2).ravel(), np.arange(24)
    )


@cases
@pytest.mark.parametrize(
    'name, says',
    [
        ('f', 'faces holds values'),
        ('posedirs', 'posedirs has the shape (778, 3, 7)'),
        ('v_template', '2334 values that are no finite numbers'),
    ],
)
def test_case_hands(name, says):
    refused(
        f'hand_{name}.npz', load_hand, CASES / 'damaged' / f'hand_{name}.npz', 'right', says=says
    )


def test_objects_in_checkpoints_are_skipped_and_named(tmp_path):
    from argparse import Namespace
    from collections import defaultdict
    from functools import partial
    import pathlib

    state = {'module.model.x': torch.arange(3.0)}
    for thing, name in (
        (Settings(), 'test_cases.Settings'),
        (Namespace(a=1), 'argparse.Namespace'),
        (pathlib.Path('a'), 'pathlib'),
        (partial(dict, a=1), 'functools.partial'),
        ({'deep': [Settings()]}, 'test_cases.Settings'),
    ):
        with pytest.warns(UserWarning, match=name):
            found = read_state(checkpoint(tmp_path / 'a.ckpt', state, hyper_parameters=thing))
        assert torch.equal(found['model.x'], state['module.model.x'])
    assert read_state(checkpoint(tmp_path / 'b.ckpt', state, hyper_parameters=defaultdict(int)))
    refused(
        'c.ckpt', read_state, checkpoint(tmp_path / 'c.ckpt', state, call=print), says='refused'
    )


def test_nothing_in_a_checkpoint_is_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'owned'),)

    class Sly:
        def __reduce__(self):
            return shutil.copytree, (str(tmp_path), str(tmp_path / 'owned'))

    for bad in (Evil(), Sly()):
        refused(
            'a.ckpt',
            read_state,
            checkpoint(tmp_path / 'a.ckpt', {'x': torch.ones(1)}, bad=bad),
            says='refused',
        )
    assert not (tmp_path / 'owned').exists()


def test_precision_and_damage_of_checkpoints(tmp_path):
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        x = read_state(checkpoint(tmp_path / 'a.ckpt', {'x': torch.arange(3, dtype=kind)}))['x']
        assert x.dtype == torch.float32 and x.tolist() == [0, 1, 2]
    refused(
        'nan.ckpt',
        read_state,
        checkpoint(tmp_path / 'nan.ckpt', {'x': torch.tensor([1.0, float('nan')])}),
        says='x holds numbers that are not finite',
    )
    for odd in (torch.eye(2).to_sparse(), torch.ones(2, dtype=torch.complex64)):
        path = checkpoint(tmp_path / 'odd.ckpt', {'x': odd})
        refused('odd.ckpt', read_state, path, says='expected plain numbers')
    whole = checkpoint(tmp_path / 'a.ckpt', {'x': torch.randn(50)}).read_bytes()
    g = np.random.default_rng(0)
    for _ in range(30):
        (tmp_path / 'cut.ckpt').write_bytes(whole[: int(g.integers(1, len(whole)))])
        refused('cut.ckpt', read_state, tmp_path / 'cut.ckpt')
    torch.save([1, 2], tmp_path / 'list.ckpt')
    refused('list.ckpt', read_state, tmp_path / 'list.ckpt', says='no state_dict')


@pytest.mark.parametrize(
    'key',
    [
        'v_template',
        'shapedirs',
        'posedirs',
        'weights',
        'J_regressor',
        'faces',
        'hands_mean',
        'hands_components',
    ],
)
def test_arrays_that_are_no_hand(tmp_path, key):
    from importlib.resources import files

    with np.load(files('forehand4d') / 'assets' / 'open_hand' / 'right.npz') as z:
        arrays = dict(z)
    a = arrays[key]
    changes = [
        a[:-1],
        a[..., None],
        a.astype(float) * np.nan,
        a.astype(float) * 1e6,
        a.astype(complex),
        a.astype(str),
        np.zeros(0),
    ]
    if key in ('faces', 'hands_mean', 'hands_components'):
        changes[0] = a[:, :-1] if a.ndim > 1 else a[:-1]
    for odd in changes:
        np.savez(tmp_path / 'hand.npz', **arrays | {key: odd})
        refused('hand.npz', load_hand, tmp_path / 'hand.npz', 'right', says=key)
    np.savez(tmp_path / 'hand.npz', **{k: v for k, v in arrays.items() if k != key})
    refused('hand.npz', load_hand, tmp_path / 'hand.npz', 'right', says=key)


def test_pickles_that_ask_for_memory(tmp_path):
    from scipy import sparse

    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(sparse.csc_matrix((200_000, 200_000))))
    refused('a.pkl', read_pickle, tmp_path / 'a.pkl', says='too large')
    (tmp_path / 'a.pkl').write_bytes(b'\x80\x04cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R.')
    refused('a.pkl', read_pickle, tmp_path / 'a.pkl', says='refused bytearray')
    deep = []
    for _ in range(400):
        deep = [deep]
    for data in (pickle.dumps(deep)[:-30], b'(' * 10_000, b'', b'\x80\x05.', b'I1\n.'[:2]):
        (tmp_path / 'a.pkl').write_bytes(data)
        refused('a.pkl', read_pickle, tmp_path / 'a.pkl')


# ---- our own files


@cases
@pytest.mark.parametrize(
    'name, says',
    [
        ('cut', 'no .npz archive, or cut off'),
        ('flip', 'not a readable'),
        ('fps', 'fps holds values from -30'),
        ('nan', '168 values that are no finite numbers'),
        ('npy', 'no .npz archive'),
        ('valid', 'valid has the shape (21, 2, 2)'),
    ],
)
def test_case_tracks(name, says):
    refused(f'tracks_{name}.npz', load_tracks, CASES / 'damaged' / f'tracks_{name}.npz', says=says)


OURS = dict(
    keypoints=np.full((20, 2, 21, 2), 30.0, np.float32) + np.arange(21)[:, None],
    valid=np.ones((20, 2, 21), bool),
    score=np.ones((20, 2), np.float32),
    fps=30.0,
    size=np.array([96, 64]),
)


@pytest.mark.parametrize(
    'change, says',
    [
        (dict(fps='30'), 'fps is of type <U2, expected floats or whole numbers'),
        (dict(fps=None), 'fps is missing; there is keypoints'),
        (dict(schema=9), 'holds schema beside tracks, which this version'),
        (dict(keypoints=OURS['keypoints'] + 500), '100% of the joints lie outside of the video'),
        (dict(keypoints=0 * OURS['keypoints']), 'hands of 0 pixels'),
        (dict(valid=~OURS['valid']), 'no hand in any of 20 frames'),
    ],
)
def test_tracks_that_no_video_has(tmp_path, change, says):
    "Also where only the mark says that the file is ours"
    arrays = {k: v for k, v in (OURS | {MARK: True} | change).items() if v is not None}
    np.savez(tmp_path / 'a.npz', **arrays)
    names = [f'{i:04d}' for i in range(20)]
    text = refused('a.npz', read_hands, tmp_path / 'a.npz', names, (96, 64), 30.0, says=says)
    assert 'whole numbers or whole numbers' not in text


def test_tracks_of_the_other_byte_order(tmp_path):
    swapped = {k: np.asarray(v).astype(np.asarray(v).dtype.newbyteorder()) for k, v in OURS.items()}
    np.savez(tmp_path / 'a.npz', **swapped)
    assert (load_tracks(tmp_path / 'a.npz').keypoints.numpy() == OURS['keypoints']).all()


def test_videos_without_a_clip_say_what_is_missing(tmp_path):
    still = pictures(tmp_path / 'still', [f'{i:04d}' for i in range(20)], (96, 64))
    few = {k: v[:9] if np.ndim(v) > 1 else v for k, v in OURS.items()}
    np.savez(tmp_path / 'few.npz', **few)
    footage = Footage([still], tmp_path / 'few.npz', None, FootageSettings(), tmp_path / 'kept')
    says = 'few.npz: a clip needs 16 frames in a row'
    refused('still', list, footage.clips([]), says=says)
    numbers = (torch.from_numpy(OURS[k]) for k in ('keypoints', 'valid', 'score'))
    many = Tracks(*numbers, 25, (96, 64))
    many.save(tmp_path / 'slow.npz')
    says = '30 frames per second, the tracks in ' + str(tmp_path / 'slow.npz') + ' have 25'
    refused('slow.npz', film_sequence, still, tmp_path / 'slow.npz', says=says)


@cases
@pytest.mark.parametrize('name', ['huge', 'list', 'nokind', 'unknown'])
def test_case_weights(name):
    for load in (load_lifter, load_forecaster):
        refused(
            f'weights_{name}.safetensors',
            load,
            CASES / 'damaged' / f'weights_{name}.safetensors',
            says='configuration',
        )


@cases
def test_case_store():
    assert len(load_tracks(CASES / 'damaged' / 'ok_tracks.npz')) == 2
    store = ClipStore(CASES / 'damaged' / 'store_abort')
    for i in range(len(store)):
        refused('clips-00000.arrow', store.__getitem__, i, says='196602 bytes, expected 196610')


@pytest.fixture
def lifter(tmp_path):
    "A small lifting model: its file, configuration and weights"
    from safetensors import safe_open

    torch.manual_seed(0)
    save_weights(Lifter(LifterConfig(16, 4, 16, 2, 2)), tmp_path / 'good.safetensors')
    with safe_open(tmp_path / 'good.safetensors', 'pt') as f:
        state = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118, not a dict
        return tmp_path, json.loads(f.metadata()['config']), state


@pytest.mark.parametrize(
    'change',
    [
        dict(width=10**9),
        dict(width=-1),
        dict(width='16'),
        dict(width=None),
        dict(width=16.5),
        dict(layers=10**6),
        dict(layers=True),
        dict(frames=0),
        dict(dropout=7.0),
        dict(mean=[0, 0]),
        dict(std=[0, 1, 1]),
        dict(std=[float('nan')] * 3),
        dict(kinds='kps'),
        dict(kinds=[1]),
        dict(kinds=['sound']),
        dict(layout='round'),
        dict(hand_id=3),
        dict(kind='cat'),
        dict(more=1),
        dict(drop_token='x'),
    ],
    ids=str,
)
def test_configurations_of_weights(lifter, change):
    from safetensors.torch import save_file

    folder, cfg, state = lifter
    save_file(state, folder / 'odd.safetensors', {'config': json.dumps(cfg | change)})
    refused('odd.safetensors', load_lifter, folder / 'odd.safetensors')


def test_weights_that_are_not_the_network(lifter):
    from safetensors.torch import save_file

    folder, cfg, state = lifter
    key = 'net.blocks.0.mlp.0.bias' if 'net.blocks.0.mlp.0.bias' in state else sorted(state)[0]
    for odd, says in (
        ({**state, key: state[key] * torch.nan}, 'not finite'),
        ({k: v for k, v in state.items() if k != key}, 'missing'),
        ({**state, 'x': torch.ones(1)}, 'unknown'),
        ({**state, key: state[key][:-1].clone()}, 'expected'),
    ):
        save_file(odd, folder / 'odd.safetensors', {'config': json.dumps(cfg)})
        refused('odd.safetensors', load_lifter, folder / 'odd.safetensors', says=says)
    save_file(state, folder / 'odd.safetensors', {})
    refused('odd.safetensors', load_lifter, folder / 'odd.safetensors')
    assert load_lifter(folder / 'good.safetensors')


def test_every_flipped_bit_of_a_store_is_noticed(tmp_path):
    path = clip_store(tmp_path) / 'clips-00000.arrow'
    whole, g = path.read_bytes(), np.random.default_rng(0)
    for _ in range(30):
        odd = bytearray(whole)
        odd[int(g.integers(len(odd)))] ^= 1 << int(g.integers(8))
        path.write_bytes(odd)
        refused('clips-00000.arrow', ClipStore(path.parent).__getitem__, 0, says='its hash')
    for k in range(0, len(whole), len(whole) // 20):
        path.write_bytes(whole[:k] + whole[k + 8 :])
        refused('clips-00000.arrow', ClipStore(path.parent).__getitem__, 0, says='bytes, expected')
    path.unlink()
    refused('clips-00000.arrow', ClipStore(path.parent).__getitem__, 0, says='no such file')


def test_many_shards_need_few_descriptors(tmp_path, monkeypatch):
    """Two hundred shards under a limit of 64 descriptors more;
    what the machine lacks is not called damage"""
    import resource
    from forehand4d.data import clip_store as clips
    from forehand4d.data import tables

    clip = ClipStore(clip_store(tmp_path))[0]
    store = ClipStore(clips.write_clips([clip] * 200, tmp_path / 'many', shard_size=1))
    monkeypatch.setattr(clips, 'MAPPED', 32)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir('/proc/self/fd')) if os.path.isdir('/proc/self/fd') else 256
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 64, hard))
    try:
        assert sum(len(store[i]) for i in range(200)) == 200 * len(clip)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    monkeypatch.setattr(
        tables.mmap,
        'mmap',
        lambda *a, **k: (_ for _ in ()).throw(OSError(24, 'Too many open files')),
    )
    assert 'not damaged' in refused('.arrow', ClipStore(tmp_path / 'many').__getitem__, 0)


def test_one_odd_record_hides_no_other(tmp_path):
    for name in 'abc':
        start_run('train', dict(steps=1), name=name, root=tmp_path).finish(dict(loss=0.5))
    good = json.loads((tmp_path / 'train' / 'b' / 'manifest.json').read_text())
    for odd in (
        '',
        '[]',
        'null',
        '{"status": 3, "started": 4}',
        json.dumps(good | dict(metrics=[])),
        json.dumps(good | dict(started=None)),
        json.dumps({k: v for k, v in good.items() if k != 'run'}),
        json.dumps(good | dict(duration='long')),
        '{"status": "done", "sta',
    ):
        (tmp_path / 'train' / 'b' / 'manifest.json').write_text(odd)
        with warnings.catch_warnings(record=True):
            assert [r.name for r in list_runs('train', tmp_path)] == ['a', 'c'], odd
    refused('manifest.json', start_run, 'train', dict(steps=1), 'b', tmp_path)
    (tmp_path / 'data' / 'store').mkdir(parents=True)
    (tmp_path / 'data' / 'store' / 'manifest.json').write_text(
        '{"shards": []}'
    )  # another kind of folder
    with warnings.catch_warnings(record=True) as said:
        assert len(list_runs(root=tmp_path)) == 2
    assert len(said) == 1


# ---- names and outputs


@pytest.mark.parametrize(
    'name',
    [
        '../../x',
        'a/b',
        '../train_forecast/x',
        '/elsewhere/x',
        '.hidden',
        'lab+mine',  # + joins names in parameters
        'a\nb',
        'x\x1b[31m',
        'x' * 200,
        '-p',
    ],
)
def test_names_of_runs_are_checked_first(tmp_path, monkeypatch, name):
    monkeypatch.setenv('FOREHAND4D_OUTPUTS', str(tmp_path / 'outputs'))
    with pytest.raises(ValueError, match='expected a name'):
        run_notebook('train_lifting', {}, name=name)
    with pytest.raises(ValueError, match='expected a name'):
        start_run('train_lifting', {}, name)
    assert not list(tmp_path.rglob('*'))


def test_links_of_locks_are_not_followed(tmp_path):
    (tmp_path / 'precious').write_text('mine')
    (tmp_path / 'train' / 'a').mkdir(parents=True)
    (tmp_path / 'train' / 'a' / '.lock').symlink_to(tmp_path / 'precious')
    refused('.lock', start_run, 'train', {}, 'a', tmp_path, says='is a link')
    assert (tmp_path / 'precious').read_text() == 'mine'


def test_leftovers_are_told_apart(tmp_path):
    "Names with brackets are swept, the files of other machines and of living processes are not"
    from forehand4d.core.files import process_space

    ended, alive = 2**22 + 1, os.getpid()
    mine = [tmp_path / f'.photo[1].{ended}.{process_space()}.ab.tmp.jpg']
    others = [
        tmp_path / f'.photo[1].{ended}.123456.ab.tmp.jpg',
        tmp_path / f'.photo[1].{alive}.{process_space()}.ab.tmp.jpg',
        tmp_path / '.photo1.old.tmp.jpg',
        tmp_path / f'.photo.{ended}.{process_space()}.ab.tmp.jpg',
    ]
    for p in mine + others:
        p.touch()
    with atomic_path(tmp_path / 'photo[1].jpg') as p:
        p.touch()
    assert not any(p.exists() for p in mine) and all(p.exists() for p in others)
    with atomic_path(tmp_path / ('x' * 250)) as p:
        p.touch()  # a hidden name must not be too long
    assert (tmp_path / ('x' * 250)).exists()


@pytest.fixture
def forecast(tmp_path, capsys, monkeypatch):
    "The command with the smallest network and without drawings; exit code and messages"
    from matplotlib.figure import Figure
    from forehand4d.models import photo as module

    monkeypatch.setattr(module, 'overlay_forecast', lambda *a, **k: Figure())
    weights = tmp_path / 'weights.safetensors'
    save_weights(build_forecaster(profile('tiny')), weights)

    def call(*args):
        code = main(
            [
                'forecast',
                *map(str, args),
                '--weights',
                str(weights),
                '--samples',
                '1',
                '--no-detector',
            ]
        )
        return code, capsys.readouterr().err

    return call


def photo(path, shade=100):
    Image.fromarray(np.full((48, 64, 3), shade, np.uint8)).save(path)
    return path


def test_results_never_replace_what_is_not_theirs(tmp_path, forecast):
    mine = photo(tmp_path / 'photo.png')
    before = mine.read_bytes()
    code, said = forecast(mine, '-o', tmp_path)
    assert code == 2 and 'is an input and is not replaced' in said and mine.read_bytes() == before
    assert (
        forecast(mine, '-o', tmp_path, '--overwrite')[0] == 2 and mine.read_bytes() == before
    )  # not even then
    out = tmp_path / 'out'
    out.mkdir()
    np.savez(out / 'photo.npz', precious=np.arange(3))
    code, said = forecast(mine, '-o', out)
    assert (
        code == 2
        and 'photo.npz' in said
        and '--overwrite' in said
        and sorted(p.name for p in out.iterdir()) == ['photo.npz']
    )
    assert forecast(mine, '-o', out, '--overwrite')[0] == 0 and 'joints' in np.load(
        out / 'photo.npz'
    )
    assert forecast(mine, '-o', out)[0] == 0  # its own results are


def test_photographs_of_one_stem(tmp_path, forecast):
    folder = tmp_path / 'photos'
    (folder / 'deep').mkdir(parents=True)
    photos = [
        photo(folder / n, 40 * i + 40)
        for i, n in enumerate(('a.jpg', 'a.png', 'b.jpg', 'deep/b.jpg'))
    ]
    assert forecast(*photos, '-o', tmp_path / 'out')[0] == 0
    assert sorted(p.stem for p in (tmp_path / 'out').glob('*.npz')) == [
        'a-jpg',
        'a-png',
        'b-jpg',
        'b-jpg-2',
    ]


@cases
def test_case_photo_and_stems(tmp_path, forecast):
    shutil.copy(CASES / 'photo.png', tmp_path / 'photo.png')
    code, said = forecast(tmp_path / 'photo.png', '-o', tmp_path)
    assert (
        code == 2
        and 'is an input' in said
        and (tmp_path / 'photo.png').read_bytes() == (CASES / 'photo.png').read_bytes()
    )
    read, skipped = files_of(CASES / 'same_stem')
    assert [p.name for p in read] == ['a.jpg', 'a.png', 'c.gif'] and [p.name for p in skipped] == [
        'b.heic'
    ]
    code, said = forecast(*read, *skipped, '-o', tmp_path / 'out')
    assert code == 2 and 'b.heic is a HEIC image' in said and '1 of 4' in said
    assert sorted(p.stem for p in (tmp_path / 'out').glob('*.npz')) == ['a-jpg', 'a-png', 'c']


def test_nothing_in_a_folder_of_photographs_is_passed_over(tmp_path, forecast):
    "HEIC images, links to nothing, pipes, folders called photographs and notes are named"
    folder = tmp_path / 'photos'
    (folder / 'b.jpg').mkdir(parents=True)
    photo(folder / 'a.jpg')
    (folder / 'c.png').symlink_to('nowhere')
    os.mkfifo(folder / 'd.jpg')
    (folder / 'e.heic').write_bytes(b'\0\0\0\x18ftypheic')
    (folder / 'notes.txt').write_text('of a holiday')
    code, said = forecast(folder, '-o', tmp_path / 'out')
    skipped = [line for line in said.splitlines() if line.startswith('skipped, no picture')]
    named = ['b.jpg', 'c.png', 'd.jpg', 'e.heic', 'notes.txt']
    assert code == 0 and [Path(line).name for line in skipped] == named
    assert [p.name for p in (tmp_path / 'out').glob('*.npz')] == ['a.npz']


def test_a_frame_of_a_folder_that_is_no_file_is_named(tmp_path):
    still = pictures(tmp_path / 'film', ('0', '1', '2'))
    (still / '1.png').unlink()
    for make, says in (
        (Path.mkdir, 'got a folder'),
        (os.mkfifo, 'got a pipe'),
        (lambda path: path.symlink_to('nowhere'), 'no such image'),
    ):
        make(still / '1.png')
        refused('1.png', film_sequence, still, says=says)
        if (still / '1.png').is_dir():
            (still / '1.png').rmdir()
        else:
            (still / '1.png').unlink()


def test_notebooks_and_checkpoints_that_are_none_are_named(tmp_path):
    from forehand4d.released.checkpoints import import_official, load_official
    from forehand4d.runs.launch import notebook_parameters

    cell = dict(
        cell_type='code',
        id='a',
        source='steps: int = 3',
        metadata=dict(tags=['parameters']),
        outputs=[],
        execution_count=None,
    )
    bare = dict(cells=[cell], metadata={}, nbformat=4, nbformat_minor=5)
    (tmp_path / 'bare.ipynb').write_text(json.dumps(bare))
    assert notebook_parameters(tmp_path / 'bare.ipynb')['steps']['default'] == 3
    (tmp_path / 'half.ipynb').write_text('{"cells": [')
    refused('half.ipynb', notebook_parameters, tmp_path / 'half.ipynb', says='notebook')
    odd = checkpoint(tmp_path / 'odd.ckpt', {'model.x': torch.ones(3)})
    refused('odd.ckpt', load_official, odd, says='not a checkpoint of ForeHand4D')
    refused('odd.ckpt', import_official, odd, tmp_path / 'out', says='not a checkpoint')
    assert not (tmp_path / 'out').exists()


def test_readers_of_recordings_refuse_pipes_and_odd_numbers(tmp_path):
    from forehand4d.video.recordings import load_leap, load_taco

    for read in (load_leap, load_taco):
        path = tmp_path / f'{read.__name__}.npz'
        os.mkfifo(path)
        refused(path, read, path, says='pipe or a device')
        path.unlink()
        joints = np.full((5, 21, 3), 1e9)
        np.savez(path, joints=joints, a__joints=np.stack([joints] * 2, 1), a__t=np.arange(5) / 30)
        refused(path, read, path, says='values from 1e+09')


def test_a_name_cannot_move_the_cursor(tmp_path, forecast):
    (tmp_path / 'a\x1b[2J\nb.jpg').write_text('no photograph')
    code, said = forecast(tmp_path / 'a\x1b[2J\nb.jpg', '-o', tmp_path / 'out')
    assert code == 2 and '\x1b' not in said and len(said.splitlines()) == 1
    photo(tmp_path / 'c\x1b[2J\nd.jpg')
    assert forecast(tmp_path / 'c\x1b[2J\nd.jpg', '-o', tmp_path / 'out')[0] == 0
    assert all(p.name.isprintable() for p in (tmp_path / 'out').iterdir())


def test_the_package_is_a_command(tmp_path):
    done = subprocess.run(
        [sys.executable, '-m', 'forehand4d', 'runs'],
        capture_output=True,
        text=True,
        env=os.environ | dict(FOREHAND4D_OUTPUTS=str(tmp_path)),
    )
    assert done.returncode == 0 and done.stdout.startswith('no runs in')


# ---- cameras of frames: lines that are lost, names that come twice


def colmap_model(folder, cameras='1 PINHOLE 64 48 50 50 32 24\n', images=''):
    folder.mkdir(exist_ok=True)
    (folder / 'cameras.txt').write_text(cameras)
    (folder / 'images.txt').write_text(images)
    return folder


POSED = ['1 1 0 0 0 0 0 0 1 0000.png\n1.5 2.5 -1\n', '2 1 0 0 0 0 0 1 1 0001.png\n\n']


@pytest.mark.parametrize(
    'line',
    [
        '2 1 0 nan 0 0 0 1 1 0001.png',
        '2 1 0 0 0 0 1 1 0001.png',
        '2 1 0 x 0 0 0 1 1 0001.png',
        '1.5 2.5',
    ],
)
def test_no_line_of_colmap_is_passed_over(tmp_path, line):
    names = ['0000.png', '0001.png']
    good = colmap_model(tmp_path / 'good', images=''.join(POSED))
    assert read_cameras(good, names, (64, 48)).cam_from_world.isfinite().all()
    bad = colmap_model(tmp_path / 'bad', images=POSED[0] + line + '\n')
    refused('bad', read_cameras, bad, names, (64, 48), says=f'images.txt holds the line {line!r}')


@pytest.mark.parametrize('line', ['1 PINHOLE 64 48 f 50 32 24', '1 PINHOLE 64', 'a PINHOLE 64 48'])
def test_cameras_of_colmap_are_numbers(tmp_path, line):
    model = colmap_model(tmp_path / 'model', line + '\n', ''.join(POSED))
    says = f'cameras.txt holds the line {line!r}, expected a camera (number'
    refused('model', read_cameras, model, ['0000.png'], (64, 48), says=says)


def test_a_quaternion_of_zeros_names_its_image(tmp_path):
    model = colmap_model(tmp_path / 'model', images=POSED[0].replace('1 1 0', '1 0 0', 1))
    says = 'the pose of the image 0000.png is no rotation'
    refused('model', read_cameras, model, ['0000.png'], (64, 48), says=says)


def test_names_that_come_twice(tmp_path):
    names = ['0000.png', '0001.png']
    again = POSED[0].replace('0 1 0000', '7 1 0000')
    model = colmap_model(tmp_path / 'images', images=''.join(POSED) + again)
    refused('images', read_cameras, model, names, (64, 48), says='image 0000.png is there twice')
    lens = '1 PINHOLE 64 48 50 50 32 24\n1 PINHOLE 64 48 90 90 32 24\n'
    model = colmap_model(tmp_path / 'lenses', lens, ''.join(POSED))
    refused('lenses', read_cameras, model, names, (64, 48), says='camera 1 is there twice')
    frame = dict(file_path='0000.png', transform_matrix=np.eye(4).tolist())
    path = tmp_path / 'transforms.json'
    path.write_text(json.dumps(dict(fl_x=50, frames=[frame, frame])))
    refused(path, read_cameras, path, names, (64, 48), says='frame 0000.png is there twice')


@pytest.mark.parametrize('value', [True, '50', [50], None])
@pytest.mark.parametrize('key', ['fl_x', 'camera_angle_y', 'cx', 'k1', 'w'])
def test_lenses_are_stated_in_numbers(tmp_path, key, value):
    frame = dict(file_path='0000.png', transform_matrix=np.eye(4).tolist())
    path = tmp_path / 'transforms.json'
    path.write_text(json.dumps({'fl_x': 50, 'frames': [frame], key: value}))
    refused(path, read_cameras, path, ['0000.png'], (64, 48), says=f'{key} is {value!r}')


def test_a_pose_ends_with_0_0_0_1(tmp_path):
    K = np.array([[50.0, 0, 31.5], [0, 50, 23.5], [0, 0, 1]])
    pose = np.diag([1.0, 1, 1, 2])
    np.savez(tmp_path / 'cameras.npz', intrinsics=K, cam_from_world=pose)
    path = tmp_path / 'cameras.npz'
    refused(path, read_cameras, path, ['0000.png'], (64, 48), says='no rotation and translation')


# ---- sizes of datasets' files, places of results, settings


def test_datasets_are_bounded(tmp_path):
    image = [tmp_path / 'wall.png']
    for width, says in ((52000, 'FOREHAND4D_MAX_PIXELS'), (62000, 'exceeds limit')):
        Image.new('1', (width, 3000)).save(tmp_path / 'wall.png')
        refused('wall.png', read_image, image, (width, 3000), 0, says=says)
    with (tmp_path / 'bomb.npy').open('wb') as file:
        head = dict(descr='|u1', fortran_order=False, shape=(5 * 10**9,))
        np.lib.format.write_array_header_1_0(file, head)
    refused('bomb.npy', read_npy, tmp_path / 'bomb.npy', says='FOREHAND4D_MAX_BYTES')


@pytest.mark.parametrize('way', ['out', 'out/below', 'nowhere', 'new/../out'])
def test_a_file_in_the_way_of_a_folder(tmp_path, way):
    (tmp_path / 'out').write_text('mine')
    (tmp_path / 'nowhere').symlink_to(tmp_path / 'gone')
    refused(Path(way).name, make_folder, tmp_path / way, says='choose another folder')
    assert (tmp_path / 'out').read_text() == 'mine' and not (tmp_path / 'gone').exists()


def test_errors_of_arguments_leave_the_terminal_alone(capsys):
    with pytest.raises(SystemExit):
        main(['import-official', 'a.ckpt', '--odd\x1b[31m'])
    said = ''.join(capsys.readouterr())
    assert '\\x1b[31m' in said and '\x1b' not in said


@pytest.mark.parametrize(
    'odd',
    [dict(steps=-1), dict(steps=0), dict(batch=-2), dict(lr=float('nan')), dict(lr=-1.0)],
)
def test_settings_that_train_nothing(odd):
    with pytest.raises(ValueError, match='expected a'):
        TrainConfig(**{'steps': 4, 'batch': 2, 'frames': 8} | odd)


def test_a_forecast_asks_for_its_folder_first(tmp_path, capsys):
    (tmp_path / 'out').write_text('mine')
    (tmp_path / 'a.jpg').write_text('no picture')
    assert main(['forecast', str(tmp_path / 'a.jpg'), '-o', str(tmp_path / 'out')]) == 2
    said = capsys.readouterr().err
    assert 'choose another folder' in said and 'a.jpg' not in said
    assert (tmp_path / 'out').read_text() == 'mine'


def test_results_are_named_without_control_characters(monkeypatch, tmp_path, capsys):
    from forehand4d.cli import Forecast

    class Result:
        def __str__(self):
            return 'a\x1b[31m/a.html\n  b\x1b[2J.png'

    class Job:
        what = 'a\x1b[31m'
        work = Result

    monkeypatch.setattr(Forecast, 'jobs', lambda self: [Job()])
    Image.new('RGB', (4, 4)).save(tmp_path / 'a.png')
    assert main(['forecast', str(tmp_path / 'a.png'), '-o', str(tmp_path / 'out')]) == 0
    assert capsys.readouterr().out == 'a\\x1b[31m/a.html\n  b\\x1b[2J.png\n'
