"What is read, how a good one looks, and what a value that was taken must be"

import json, pickle, struct, subprocess, warnings
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from collections.abc import Callable
import imageio_ffmpeg
import numpy as np
import torch
from PIL import Image
from fuzz import mutate as m


@dataclass
class Target:
    "A reader"

    name: str
    make: Callable  # folder → the file that is mutated
    read: Callable  # that file → value
    wrong: Callable  # value → what is impossible about it, '' if nothing
    extra: tuple = ()  # mutations beside those of bytes


def finite(*arrays):
    return '' if all(np.isfinite(np.asarray(a, float)).all() for a in arrays) else 'not finite'


# ---- pictures and videos


def picture(suffix, mode='RGB'):
    def make(folder):
        a = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
        im = (
            Image.fromarray(a).convert(mode)
            if mode != 'F'
            else Image.fromarray(a[..., 0].astype(np.float32))
        )
        im.save(folder / f'photo{suffix}')
        return folder / f'photo{suffix}'

    return make


def load(path):
    from forehand4d.video.images import intrinsics_for, load_image

    return load_image(path), intrinsics_for(path)[0]


def no_picture(value):
    image, K = value
    return finite(K) or (
        ''
        if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        else f'{image.dtype} {image.shape}'
    )


def video(suffix):
    def make(folder):
        path = folder / f'film{suffix}'
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(),
            '-y',
            '-v',
            'error',
            '-f',
            'lavfi',
            '-i',
            'testsrc=size=64x48:rate=30:duration=1',
            str(path),
        ]
        subprocess.run(command, check=True)
        subprocess.run([*command[:-1], str(folder / 'other.mp4')], check=True)
        return path

    return make


def watch(path):
    from forehand4d.video.videos import read_frames

    (fps, size, n), *frames = read_frames(path)
    return fps, size, n, {f.shape for f in frames}, len(frames)


def no_video(value):
    fps, (w, h), n, shapes, count = value
    if not 0 < fps < 1000 or n != count or shapes != {(h, w, 3)}:
        return f'{fps} fps, {n} frames announced, {count} came, {shapes}'
    return ''


# ---- our own files


def tracks(folder):
    from forehand4d.video.tracks import Tracks

    Tracks(
        torch.full((4, 2, 21, 2), 9.0),
        torch.ones(4, 2, 21).bool(),
        torch.full((4, 2), 0.9),
        30.0,
        (64, 48),
    ).save(folder / 'tracks.npz')
    return folder / 'tracks.npz'


def load_tracks(path):
    from forehand4d.video.tracks import load_tracks

    return load_tracks(path)


def no_tracks(t):
    T = len(t.keypoints)
    shapes = [tuple(x.shape) for x in (t.keypoints, t.valid, t.score)]
    if shapes != [(T, 2, 21, 2), (T, 2, 21), (T, 2)] or not T:
        return str(shapes)
    if not 0 < t.fps < 1e5 or not all(0 < s < 1e6 for s in t.size):
        return f'{t.fps} fps, {t.size}'
    return finite(t.keypoints, t.score) or (
        '' if t.valid.dtype == torch.bool else 'valid is no truth value'
    )


def lifter(folder):
    from forehand4d.models.lifter import Lifter, LifterConfig
    from forehand4d.training.weights import save_weights

    torch.manual_seed(0)
    save_weights(Lifter(LifterConfig(16, 4, 16, 1, 2)), folder / 'model.safetensors')
    return folder / 'model.safetensors'


def load_lifter(path):
    from forehand4d.models.lifting import load_lifter

    return load_lifter(path, 'cpu')


def no_lifter(model):
    net = getattr(model, 'model', model)
    return finite(*(p.detach() for p in net.parameters())) if hasattr(net, 'parameters') else ''


def clip_store(folder):
    from forehand4d.geometry.cameras import intrinsics_from_fov
    from forehand4d.data.clips import Clip
    from forehand4d.data.clip_store import write_clips

    T, g = 4, torch.Generator().manual_seed(0)

    def rand(*s):
        return torch.rand(*s, generator=g)

    K, eye = intrinsics_from_fov(60, 64, 48).repeat(T, 1, 1), torch.eye(4).repeat(T, 1, 1)
    clip = Clip(
        'toy',
        'a',
        30.0,
        torch.arange(T),
        K,
        eye,
        rand(T, 2, 21, 2),
        rand(T, 2, 21, 3),
        torch.ones(T, 2, 21).bool(),
        torch.ones(T, 2, 21).bool(),
        'joints',
    )
    return write_clips([replace(clip, sequence=s) for s in 'abc'], folder / 'store', shard_size=2)


def shard(folder):
    return clip_store(folder) / 'clips-00000.arrow'


def manifest(folder):
    return clip_store(folder) / 'manifest.json'


def open_store(path):
    from forehand4d.data.clip_store import ClipStore

    store = ClipStore(path.parent)
    return [store[i] for i in range(len(store))]


def no_clips(clips):
    import tempfile

    with tempfile.TemporaryDirectory() as d:
        good = open_store(shard(Path(d)))
    if [c.sequence for c in clips] != list('abc'):
        return f'{len(clips)} clips'
    same = all(
        torch.equal(a.joints3d, b.joints3d)
        and torch.equal(a.intrinsics, b.intrinsics)
        and a.fps == b.fps
        for a, b in zip(clips, good, strict=False)
    )
    return '' if same else 'other numbers than were written'


def run_record(folder):
    from forehand4d.runs.record import start_run

    for name in ('a', 'b'):
        start_run('train', dict(steps=1), name=name, root=folder).finish(dict(loss=0.5))
    return folder / 'train' / 'a' / 'manifest.json'


def read_runs(path):
    from forehand4d.runs.record import list_runs

    return path, list_runs('train', path.parent.parent.parent)


def no_runs(value):
    path, runs = value
    if 'b' not in [str(r.name) for r in runs]:
        return 'one odd record hides the others'
    try:
        [
            (
                r.done,
                r.params.get('steps'),
                r.manifest['started'][:16],
                float(r.manifest['duration'] or 0),
                list(r.metrics),
            )
            for r in runs
        ]
    except (TypeError, KeyError, AttributeError, ValueError) as e:
        return f'a record that cannot be used: {e!r}'
    return ''


def motion(folder):
    from forehand4d.geometry.motion import rest_motion

    rest_motion(4).save(folder / 'motion.npz')
    return folder / 'motion.npz'


def load_motion(path):
    from forehand4d.geometry.motion import load_motion

    return load_motion(path)


def no_motion(v):
    T = v.rot.shape[-5]
    shapes = tuple(v.rot.shape), tuple(v.wrist.shape), tuple(v.valid.shape)
    return finite(v.rot, v.wrist, v.betas) or (
        '' if shapes == ((T, 2, 16, 3, 3), (T, 2, 3), (T, 2)) else str(shapes)
    )


# ---- other people's files


def still(folder):
    "Four pictures of a film"
    (folder / 'pictures').mkdir()
    for i in range(4):
        Image.new('RGB', (64, 48)).save(folder / 'pictures' / f'{i:04d}.png')


def spread():
    return np.random.default_rng(0).uniform(8, 40, (21, 2))


def hands_json(folder):
    still(folder)
    (folder / 'hands').mkdir()
    for i in range(4):
        k = np.c_[spread(), np.full(21, 0.9)].ravel().tolist()
        (folder / 'hands' / f'{i:04d}_keypoints.json').write_text(
            json.dumps(dict(people=[dict(hand_right_keypoints_2d=k, hand_left_keypoints_2d=[])]))
        )
    return folder / 'hands' / '0001_keypoints.json'


def hands_npz(folder):
    still(folder)
    np.savez(
        folder / 'hands.npz',
        frame=np.arange(4),
        is_right=np.ones(4),
        joints2d=np.stack([spread()] * 4),
    )
    return folder / 'hands.npz'


def hands_pkl(folder):
    still(folder)
    (folder / 'hands').mkdir()
    for i in range(4):
        (folder / 'hands' / f'{i:04d}.pkl').write_bytes(
            pickle.dumps(dict(right=dict(joints2d=spread()[None])))
        )
    return folder / 'hands' / '0001.pkl'


def of_film(path):
    from forehand4d.video.footage import film_sequence

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        folder = path.parent if path.parent.name == 'hands' else path
        return film_sequence(
            next(p for p in path.parents if (p / 'pictures').is_dir()) / 'pictures', folder
        )


def no_film(s):
    ok = s.valid2d
    px = s.keypoints2d[ok]
    if len(px) and (px.min() < -0.5 or px[:, 0].max() > 63.5 or px[:, 1].max() > 47.5):
        return 'hands outside of the picture'
    sizes = [
        float((s.keypoints2d[t, h][ok[t, h]].amax(0) - s.keypoints2d[t, h][ok[t, h]].amin(0)).max())
        for t in range(len(s))
        for h in (0, 1)
        if ok[t, h].sum() > 4
    ]
    if sizes and min(sizes) < 1:
        return 'a hand inside one pixel'
    K = s.intrinsics if s.intrinsics.dim() == 3 else s.intrinsics[None]
    if not (K[:, 0, 2] >= 0).all() or not (K[:, 0, 2] < 64).all() or not (K[:, 0, 0] > 0).all():
        return 'impossible camera'
    return finite(s.keypoints2d[ok], K)


def cameras_json(folder):
    hands_json(folder)
    frames = [
        dict(file_path=f'images/{i:04d}.png', transform_matrix=np.eye(4).tolist()) for i in range(4)
    ]
    (folder / 'transforms.json').write_text(
        json.dumps(dict(w=64, h=48, fl_x=50.0, fl_y=50.0, cx=32.0, cy=24.0, frames=frames))
    )
    return folder / 'transforms.json'


def cameras_npz(folder):
    hands_json(folder)
    np.savez(
        folder / 'cameras.npz',
        intrinsics=np.array([[50.0, 0, 31.5], [0, 50, 23.5], [0, 0, 1]]),
        cam_from_world=np.stack([np.eye(4)] * 4),
    )
    return folder / 'cameras.npz'


def cameras_colmap(folder):
    hands_json(folder)
    (folder / 'model').mkdir()
    (folder / 'model' / 'cameras.txt').write_text('# cameras\n1 PINHOLE 64 48 50 50 32 24\n')
    (folder / 'model' / 'images.txt').write_text(
        ''.join(f'{i + 1} 1 0 0 0 0 0 .{i} 1 {i:04d}.png\n1.5 2.5 -1\n' for i in range(4))
    )
    return folder / 'model' / 'images.txt'


def cameras_binary(folder):
    hands_json(folder)
    (folder / 'model').mkdir()
    lens = struct.pack('<QiiQQ4d', 1, 1, 1, 64, 48, 50, 50, 32, 24)
    (folder / 'model' / 'cameras.bin').write_bytes(lens)
    images = struct.pack('<Q', 4)
    for i in range(4):
        images += struct.pack('<i7di', i + 1, 1, 0, 0, 0, 0, 0, i / 10, 1)
        images += f'{i:04d}.png'.encode() + struct.pack('<xQddq', 1, 1.5, 2.5, -1)
    (folder / 'model' / 'images.bin').write_bytes(images)
    return folder / 'model' / 'images.bin'


def with_cameras(path):
    from forehand4d.video.footage import film_sequence

    folder = next(p for p in path.parents if (p / 'pictures').is_dir())
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return film_sequence(
            folder / 'pictures',
            folder / 'hands',
            path.parent if path.parent.name == 'model' else path,
        )


def hand_model(folder):
    path = folder / 'hand.npz'
    path.write_bytes((files('forehand4d') / 'assets' / 'open_hand' / 'right.npz').read_bytes())
    return path


def load_hand(path):
    from forehand4d.geometry.hand_models import load_hand

    return load_hand(path, 'right')


def no_hand(h):
    if int(h.faces.min()) < 0 or int(h.faces.max()) >= len(h.v_template):
        return 'faces without vertices'
    size = float((h.v_template.amax(0) - h.v_template.amin(0)).max())
    return finite(h.v_template, h.shapedirs, h.posedirs, h.weights, h.J_template) or (
        '' if 0.05 < size < 0.6 else f'a hand of {size} m'
    )


def checkpoint(folder):
    state = {'module.model.x': torch.arange(6.0).view(2, 3), 'module.model.y': torch.ones(2).half()}
    torch.save(
        dict(state_dict=state, hyper_parameters=dict(lr=1e-4), epoch=3), folder / 'model.ckpt'
    )
    return folder / 'model.ckpt'


def load_state(path):
    from forehand4d.networks.pretrained import read_state

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return read_state(path)


def no_state(state):
    return finite(*(v.float() for v in state.values()))


def plain_pickle(folder):
    data = dict(
        pose=np.arange(12.0).reshape(3, 4),
        names=['a', 'b'],
        n=3,
        turned=np.arange(6.0).reshape(2, 3).T,
    )
    (folder / 'data.pkl').write_bytes(pickle.dumps(data, 5))
    return folder / 'data.pkl'


def load_pickle(path):
    from forehand4d.core.pickles import read_pickle

    return read_pickle(path)


TARGETS = [
    Target('png', picture('.png'), load, no_picture),
    Target('jpg', picture('.jpg'), load, no_picture),
    Target('tiff', picture('.tiff', 'F'), load, no_picture),
    Target('gif', picture('.gif', 'P'), load, no_picture),
    Target('mp4', video('.mp4'), watch, no_video),
    Target('webm', video('.webm'), watch, no_video),
    Target('tracks', tracks, load_tracks, no_tracks, (m.arrays,) * 4),
    Target('weights', lifter, load_lifter, no_lifter, (m.config, m.config, m.config, m.weights)),
    Target('shard', shard, open_store, no_clips),
    Target('store', manifest, open_store, no_clips, (m.values,) * 4),
    Target('run', run_record, read_runs, no_runs, (m.values,) * 4),
    Target('motion', motion, load_motion, no_motion, (m.arrays,) * 4),
    Target('hands-json', hands_json, of_film, no_film, (m.values,) * 4),
    Target('hands-npz', hands_npz, of_film, no_film, (m.arrays,) * 4),
    Target('hands-pkl', hands_pkl, of_film, no_film),
    Target('cameras-json', cameras_json, with_cameras, no_film, (m.values,) * 4),
    Target('cameras-npz', cameras_npz, with_cameras, no_film, (m.arrays,) * 4),
    Target('colmap', cameras_colmap, with_cameras, no_film, (m.lines,) * 4),
    Target('colmap-binary', cameras_binary, with_cameras, no_film),
    Target('hand', hand_model, load_hand, no_hand, (m.arrays,) * 4),
    Target('checkpoint', checkpoint, load_state, no_state),
    Target('pickle', plain_pickle, load_pickle, lambda v: ''),
]
