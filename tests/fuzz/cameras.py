"Cameras of a video's frames, read alone: transforms.json by focal length and by angle, COLMAP, npz"

import json, struct
import numpy as np
from fuzz import mutate as m
from fuzz.targets import Target, finite

NAMES = [f'{i:04d}.png' for i in range(4)]
SIZE = (64, 48)


def transforms(**lens):
    "Maker of a transforms.json whose lens is stated in one way"

    def make(folder):
        frames = []
        for i, name in enumerate(NAMES):
            pose = np.eye(4)
            pose[0, 3] = i / 10
            frames.append(dict(file_path=f'images/{name}', transform_matrix=pose.tolist()))
        content = dict(w=64, h=48, frames=frames) | lens
        (folder / 'transforms.json').write_text(json.dumps(content))
        return folder / 'transforms.json'

    return make


def arrays(folder):
    K = np.array([[50.0, 0, 31.5], [0, 50, 23.5], [0, 0, 1]])
    poses = np.stack([np.eye(4)] * 4)
    np.savez(folder / 'cameras.npz', intrinsics=K, cam_from_world=poses, dist=np.zeros(8))
    return folder / 'cameras.npz'


def colmap_text(changed):
    "Maker of a model in text, of which one file is mutated"

    def make(folder):
        model = folder / 'model'
        model.mkdir()
        (model / 'cameras.txt').write_text('# cameras\n1 OPENCV 64 48 50 50 32 24 .01 0 0 0\n')
        rows = [f'{i + 1} 1 0 0 0 0 0 .{i} 1 {n}\n1.5 2.5 -1\n' for i, n in enumerate(NAMES)]
        (model / 'images.txt').write_text(''.join(rows))
        return model / changed

    return make


def colmap_binary(changed):
    "Maker of a binary model, of which one file is mutated"

    def make(folder):
        model = folder / 'model'
        model.mkdir()
        lens = struct.pack('<QiiQQ8d', 1, 1, 4, 64, 48, 50, 50, 32, 24, 0.01, 0, 0, 0)
        (model / 'cameras.bin').write_bytes(lens)
        images = struct.pack('<Q', len(NAMES))
        for i, name in enumerate(NAMES):
            images += struct.pack('<i7di', i + 1, 1, 0, 0, 0, 0, 0, i / 10, 1)
            images += name.encode() + struct.pack('<xQddq', 1, 1.5, 2.5, -1)
        (model / 'images.bin').write_bytes(images)
        return model / changed

    return make


def read(path):
    from forehand4d.video.frame_cameras import read_cameras

    return read_cameras(path.parent if path.parent.name == 'model' else path, NAMES, SIZE)


def wrong(cameras):
    "What no camera of these frames can be"
    K, poses = cameras.intrinsics.numpy(), cameras.cam_from_world.numpy()
    if K.shape != (4, 3, 3) or poses.shape != (4, 4, 4) or cameras.lens.shape != (4, 8):
        return f'{K.shape} {poses.shape}'
    if not (K[:, [0, 1], [0, 1]] > 0).all():
        return 'focal lengths of zero or less'
    known = poses[np.isfinite(poses).all((1, 2))]
    whole_or_nothing = len(known) + np.isnan(poses[:, :3]).all((1, 2)).sum() == 4
    if not len(known) or not whole_or_nothing:
        return 'poses that are known in part'
    R = known[:, :3, :3]
    if abs(R @ R.transpose(0, 2, 1) - np.eye(3)).max() > 1e-2:
        return 'a pose that is no rotation'
    if abs(known[:, 3] - [0, 0, 0, 1]).max() > 0:
        return 'a pose whose last row is not 0 0 0 1'
    return finite(K, cameras.lens)


CENTRE = dict(cx=32.0, cy=24.0)
MADE = {
    'transforms': (transforms(fl_x=50.0, fl_y=50.0, k1=0.01, **CENTRE), m.values),
    'angle-x': (transforms(camera_angle_x=1.1, **CENTRE), m.values),
    'angle-y': (transforms(camera_angle_y=0.9), m.values),
    'frames-npz': (arrays, m.arrays),
    'images-txt': (colmap_text('images.txt'), m.lines),
    'cameras-txt': (colmap_text('cameras.txt'), m.lines),
}
CAMERAS = [Target(name, make, read, wrong, (way,) * 4) for name, (make, way) in MADE.items()]
for name in ('images.bin', 'cameras.bin'):
    CAMERAS.append(Target(name.replace('.', '-'), colmap_binary(name), read, wrong))
