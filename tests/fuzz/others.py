"Entry points beside the first ones: downloads, notebooks, records, hands of every detector"

import json
import pickle
import shutil
import tempfile
import warnings
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
import numpy as np
import torch
from fuzz.cameras import CAMERAS
from fuzz import mutate as m
from fuzz.targets import TARGETS, Target, cameras_colmap, finite, hand_model
from fuzz.targets import hands_npz, lifter, no_film, no_lifter, of_film, picture, run_record
from fuzz.targets import load, no_hand, no_picture, spread, still, with_cameras

# ---- downloads of datasets


@cache
def miniature(writer, *arguments):
    "A small download in its official layout, written once; the open hand plays MANO's part"
    from forehand4d.geometry.hand_models import know_hands, open_hand

    know_hands(*(replace(open_hand(side), hand_id='mano') for side in ('right', 'left')))
    module, _, name = writer.partition('.')
    folder = Path(tempfile.mkdtemp())
    getattr(import_module(module), name)(folder, *arguments)
    return folder


def download(file, writer, *arguments):
    "A copy of a small download; the first file of a pattern is the one that is mutated"

    def make(folder):
        root = folder / 'download'
        shutil.copytree(miniature(writer, *arguments), root)
        return sorted(root.glob(file))[0]

    return make


def sequences_of(dataset, split, **options):
    "What reads all sequences of a download"

    def read(path):
        from forehand4d.datasets.convert import find_sequences
        from forehand4d.datasets.windows import windows

        root = next(p for p in path.parents if p.name == 'download')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            found = find_sequences(dataset, root, split, **options)
            read = [found.load(name) for name in found.names[:2]]
            return [s for s in read if windows(s, 20, shortest=4, image=False) is not None]

    return read


def no_sequences(found):
    for s in found:
        wrong = finite(s.joints3d[s.valid3d], s.intrinsics, s.cam_from_world)
        if wrong or not 0 < s.fps < 1e4:
            return wrong or f'{s.fps} frames per second'
    return ''


DOWNLOADS = {
    'dexycb-labels': ('*/*/*/labels_000005.npz', 'dexycb', None, (m.arrays,) * 4),
    'dexycb-meta': ('*/*/meta.yml', 'dexycb', None, (m.lines,) * 4),
    'dexycb-mano': ('calibration/mano_*/mano.yml', 'dexycb', None, (m.lines,) * 4),
    'dexycb-camera': ('calibration/intrinsics/*.yml', 'dexycb', None, (m.lines,) * 4),
    'h2o-hands': ('*/*/*/cam4/hand_pose/*.txt', 'h2o', 'train', (m.lines,) * 4),
    'h2o-camera': ('*/*/*/cam4/cam_intrinsics.txt', 'h2o', 'train', (m.lines,) * 4),
    'holoassist-hands': ('*/Export_py/Hands/Left_sync.txt', 'holoassist', None, (m.lines,) * 2),
    'holoassist-poses': ('*/Export_py/Video/Pose_sync.txt', 'holoassist', None, (m.lines,) * 2),
    'holoassist-clock': ('*/*/Video/VideoMp4Timing.txt', 'holoassist', None, (m.lines,) * 4),
    'holoassist-video': ('*/Export_py/Video_pitchshift.mp4', 'holoassist', None, ()),
    'arctic-camera': ('**/*.egocam.dist.npy', 'arctic', 'train', ()),
    'h2o3d-meta': ('**/meta/0004.pkl', 'h2o3d', 'train', ()),
}
WRITERS = dict(
    dexycb=('test_adapters.write_dexycb', 0, 0, 5),
    h2o=('test_adapters.write_h2o',),
    h2o3d=('test_adapters.write_h2o3d',),
    arctic=('test_adapters.write_arctic',),
    holoassist=('test_adapters_joints.write_holoassist',),
)
JOINTS_ONLY = ('dexycb', 'h2o', 'arctic', 'h2o3d')  # with MANO's parameters otherwise


def of_downloads():
    "A target for each kind of file"
    for name, (file, dataset, split, extra) in DOWNLOADS.items():
        options = dict(hand_id=None) if dataset in JOINTS_ONLY else {}
        options |= dict(keypoints='headset') if dataset == 'holoassist' else {}
        make = download(file, *WRITERS[dataset])
        yield Target(name, make, sequences_of(dataset, split, **options), no_sequences, extra)


# ---- hands of detectors


def hands_file(name, content):
    "A file about each of four pictures"

    def make(folder):
        still(folder)
        (folder / 'hands').mkdir()
        for i in range(4):
            path = folder / 'hands' / name.format(i)
            data = content(i)
            if path.suffix == '.npz':
                np.savez(path, **data)
            elif path.suffix == '.pkl':
                path.write_bytes(pickle.dumps(data))
            else:
                path.write_text(json.dumps(data))
        return folder / 'hands' / name.format(1)

    return make


def of_hamer(i):
    joints = np.random.default_rng(i).uniform(-0.05, 0.05, (2, 21, 3))
    place = np.array([[0.05, 0, 1.0], [-0.05, 0, 1.0]])
    return dict(
        is_right=np.array([1.0, 0.0]), joints3d=joints, cam_t=place, focal=np.full(2, 200.0)
    )


def of_wilor(i):
    return [dict(is_right=side, joints2d=spread().tolist(), score=0.8) for side in (1, 0)]


def of_mediapipe(i):
    shares = (spread() / (63, 47)).clip(0, 1)
    return [dict(is_right=1, keypoints=np.c_[shares, np.ones(21)].tolist())]


def coco(folder):
    "One file about all pictures"
    still(folder)
    k = np.c_[spread(), np.full(21, 0.9)].ravel().tolist()
    images = [dict(id=i, file_name=f'{i:04d}.png') for i in range(4)]
    found = [dict(image_id=i, righthand_kpts=k, lefthand_kpts=[0] * 63) for i in range(4)]
    (folder / 'hands.json').write_text(json.dumps(dict(images=images, annotations=found)))
    return folder / 'hands.json'


def pictures(folder):
    "A picture of a folder of pictures"
    hands_npz(folder)
    return folder / 'pictures' / '0001.png'


def all_pictures(path):
    from forehand4d.video.footage import film_sequence

    folder = path.parents[1]
    s = film_sequence(folder / 'pictures', folder / 'hands.npz')
    [s.image(i) for i in range(len(s))]
    return s


# ---- cameras


def colmap_lenses(folder):
    cameras_colmap(folder)
    return folder / 'model' / 'cameras.txt'


def campose(folder):
    "Cameras of EPIC-Fields"
    cameras_colmap(folder)
    camera = dict(id=1, model='OPENCV', width=64, height=48, params=[50, 50, 32, 24, 0, 0, 0, 0])
    images = {f'{i:04d}.png': [1, 0, 0, 0, 0, 0, 0.1 * i] for i in range(4)}
    (folder / 'cameras.json').write_text(json.dumps(dict(camera=camera, images=images, points=[])))
    return folder / 'cameras.json'


# ---- hand models


def mano_pickle(folder):
    "The open hand in MANO's layout, the left one beside it"
    arrays = dict(np.load(hand_model(folder)))
    ours = ('tip_ids', 'hand_id', 'flexion_axes', 'hands_std', 'parents')
    arrays = {name: array for name, array in arrays.items() if name not in ours}
    flip = np.array([-1.0, 1, 1])
    left = arrays | dict(
        v_template=arrays['v_template'] * flip, shapedirs=arrays['shapedirs'] * flip[:, None]
    )
    (folder / 'MANO_RIGHT.pkl').write_bytes(pickle.dumps(arrays, 2))
    (folder / 'MANO_LEFT.pkl').write_bytes(pickle.dumps(left, 2))
    return folder / 'MANO_RIGHT.pkl'


def load_mended(path):
    "The right hand, by way of the left one that is compared with it"
    from forehand4d.geometry.hand_models import load_hand

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        load_hand(path.with_name('MANO_LEFT.pkl'), 'left', fix_left=True)
        return load_hand(path, 'right')


def odd_pickle(data, g):
    "An array of a pickled table is wrong or missing"
    arrays = pickle.loads(data)
    name = sorted(arrays)[int(g.integers(len(arrays)))]
    if g.uniform() < 0.2:
        del arrays[name]
    else:
        arrays[name] = m._odd_array(arrays[name], g)
    return pickle.dumps(arrays, 2)


# ---- recordings, networks, notebooks, records


def leap(folder):
    joints = np.random.default_rng(0).normal(0, 0.1, (30, 2, 21, 3))
    np.savez(folder / 'leap.npz', a__joints=joints, a__t=np.arange(30) / 60)
    return folder / 'leap.npz'


def taco(folder):
    joints = np.random.default_rng(0).normal(0, 0.1, (30, 21, 3)) + (0, 0, 1)
    np.savez(folder / 'taco.npz', joints=joints)
    return folder / 'taco.npz'


def read_leap(path):
    from forehand4d.video.recordings import load_leap

    return load_leap(path)


def read_taco(path):
    from forehand4d.video.recordings import load_taco

    return load_taco(path)


def no_recordings(found):
    return finite(*(x for r in found for x in (r.joints, r.up, r.viewer)))


def forecaster(folder):
    from forehand4d.models.forecaster import build_forecaster
    from forehand4d.runs.profiles import profile
    from forehand4d.training.weights import save_weights

    save_weights(build_forecaster(profile('tiny')), folder / 'model.safetensors')
    return folder / 'model.safetensors'


def load_forecaster(path):
    from forehand4d.models.forecasting import load_forecaster

    return load_forecaster(path, 'cpu')


def run_of_weights(folder):
    "A finished run with a model in it"
    path = run_record(folder)
    lifter(path.parent)
    return path


def load_run(path):
    from forehand4d.models.lifting import load_lifter

    return load_lifter(path.parent, 'cpu')


def notebook(folder):
    from nbformat import v4, write

    given = 'steps: int = 3 # of it\nname: str = ""'
    tagged = dict(tags=['parameters'])
    cells = [v4.new_code_cell(given, metadata=tagged), v4.new_code_cell('1')]
    kernel = dict(name='python3', display_name='python3', language='python')
    write(v4.new_notebook(cells=cells, metadata=dict(kernelspec=kernel)), folder / 'toy.ipynb')
    return folder / 'toy.ipynb'


def parameters_of(path):
    from forehand4d.runs.launch import check_parameters

    return check_parameters(path, dict(steps='4'))


def no_parameters(found):
    return '' if found.get('steps', 4) == 4 else str(found)


def official(folder):
    "A checkpoint that is none of the authors'"
    torch.save(dict(state_dict={'model.x': torch.ones(3)}), folder / 'authors.ckpt')
    return folder / 'authors.ckpt'


def load_authors(path):
    from forehand4d.released.checkpoints import load_official

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return load_official(path)


def split_of_authors(folder):
    data = dict(names=['a', 'b'], ranges=[(0, 9), (3, 12)])
    (folder / 'split.pkl').write_bytes(pickle.dumps(data))
    return folder / 'split.pkl'


def read_split(path):
    from forehand4d.datasets.sequences import read_split

    return read_split(path)


def hand_results(name):
    "Arrays that HaMeR or HaWoR leave, by our names"

    def make(folder):
        n = 5
        turn = np.tile(np.eye(3), (n, 1, 1))
        arrays = dict(
            frame=np.arange(n),
            is_right=np.ones(n),
            global_orient=turn,
            hand_pose=np.tile(np.eye(3), (n, 15, 1, 1)),
            betas=np.zeros((n, 10)),
            cam=np.tile([1.0, 0, 0], (n, 1)),
            box_center=np.full((n, 2), 30.0),
            box_size=np.full(n, 20.0),
        )
        if name == 'hawor':
            pair = dict(pred_rot=3, pred_hand_pose=45, pred_trans=3, pred_betas=10)
            arrays = {key: np.zeros((2, n, size)) for key, size in pair.items()}
            arrays |= dict(pred_valid=np.ones((2, n)), scale=np.float64(1))
            arrays['traj'] = np.tile([0.0, 0, 0, 0, 0, 0, 1], (n, 1))
        np.savez(folder / f'{name}.npz', **arrays)
        return folder / f'{name}.npz'

    return make


def results_of(name):
    def read(path):
        from forehand4d.baselines.hawor import read_hawor
        from forehand4d.baselines.perframe import read_hamer
        from forehand4d.geometry.hand_models import know_hands, open_hand
        from campaign.small import clip

        hands = [replace(open_hand(side), hand_id='mano') for side in ('right', 'left')]
        know_hands(*hands)
        whole = clip(0)
        short = replace(
            whole,
            motion=None,
            labels='joints',
            **{key: getattr(whole, key)[:5] for key in CLIP_ROWS},
        )
        return (read_hawor if name == 'hawor' else read_hamer)(path, short, 'mano')

    return read


CLIP_ROWS = ('frame_ids', 'intrinsics', 'cam_from_view', 'keypoints2d', 'joints3d')
CLIP_ROWS += ('valid2d', 'valid3d')


def no_hands(motion):
    return finite(motion.rot, motion.wrist, motion.betas)


OTHERS = [
    *of_downloads(),
    Target('hamer-npz', hands_file('{:04d}.npz', of_hamer), of_film, no_film, (m.arrays,) * 4),
    Target('hamer-pkl', hands_file('{:04d}.pkl', of_hamer), of_film, no_film, (odd_pickle,) * 4),
    Target('wilor', hands_file('{:04d}.json', of_wilor), of_film, no_film, (m.values,) * 4),
    Target('mediapipe', hands_file('{:04d}.json', of_mediapipe), of_film, no_film, (m.values,) * 4),
    Target('coco', coco, of_film, no_film, (m.values,) * 4),
    Target('pictures', pictures, all_pictures, no_film),
    Target('colmap-lens', colmap_lenses, with_cameras, no_film, (m.lines,) * 4),
    Target('campose', campose, with_cameras, no_film, (m.values,) * 4),
    Target('mano', mano_pickle, load_mended, no_hand, (odd_pickle,) * 4),
    Target('webp', picture('.webp'), load, no_picture),
    Target('bmp', picture('.bmp'), load, no_picture),
    Target('png16', picture('.png', 'I;16'), load, no_picture),
    Target('leap', leap, read_leap, no_recordings, (m.arrays,) * 4),
    Target('taco', taco, read_taco, no_recordings, (m.arrays,) * 4),
    Target('forecaster', forecaster, load_forecaster, no_lifter, (m.config, m.config, m.weights)),
    Target('model-run', run_of_weights, load_run, no_lifter, (m.values,) * 4),
    Target('notebook', notebook, parameters_of, no_parameters, (m.values,) * 4),
    Target('official', official, load_authors, no_lifter),
    Target('split', split_of_authors, read_split, lambda found: '', (odd_pickle,) * 2),
    Target('hamer-rows', hand_results('hamer'), results_of('hamer'), no_hands, (m.arrays,) * 4),
    Target('hawor', hand_results('hawor'), results_of('hawor'), no_hands, (m.arrays,) * 4),
]
EVERY = [*TARGETS, *OTHERS, *CAMERAS]
