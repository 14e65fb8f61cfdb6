"""Forecasts in other people's programs:
each file is read back by a reader that knows nothing of us"""

import io, json
from dataclasses import replace
import numpy as np, pytest, torch

from forehand4d.core.checks import MARK
from forehand4d.core.paths import project_root
from forehand4d.geometry.cameras import intrinsics_from_fov
from forehand4d.geometry.hands import JOINT_NAMES, SIDES, TIPS
from forehand4d.geometry.hand_models import know_hands, load_hand
from forehand4d.geometry.motion import HandMotion, rest_motion
from forehand4d.geometry.rotations import aa_to_mat, random_rotation
from forehand4d.models.forecast import Forecast, load_forecast
from forehand4d.models.forecast_file import FIELDS, schema_table

FRAMES = 9


def random_motion(*shape, seed=0, hand_id='open-hand'):
    "Strongly bent fingers, any orientation, unusual hands, one frame without a left hand"
    g = torch.Generator().manual_seed(seed)
    rest = rest_motion(*shape)
    bend = aa_to_mat(torch.randn(*shape, 2, 15, 3, generator=g) * 0.5)
    rot = torch.cat([random_rotation(*shape, 2, 1, generator=g), bend], -3)
    wrist = torch.randn(*shape, 2, 3, generator=g) * 0.2 + torch.tensor([0.0, 0, 0.6])
    betas = 1.5 * torch.randn(*shape[:-1], 2, 10, generator=g)
    return HandMotion(rot, wrist, betas, rest.valid, hand_id)


@pytest.fixture
def forecast():
    g = np.random.default_rng(0)
    return Forecast(
        random_motion(3, FRAMES),
        intrinsics_from_fov(60.0, 64, 48),
        fps=25.0,
        image=g.integers(0, 255, (48, 64, 3), dtype=np.uint8),
        source='random',
        point=random_motion(FRAMES, seed=1),
        weights=torch.tensor([0.2, 0.5, 0.3]),
        seen=torch.tensor([True, False]),
        detected=torch.tensor([True, True]),
        intrinsics_from='a test',
        seed=7,
    )


# -- NumPy and JSON, without our reader


def test_npz_explains_itself(forecast, tmp_path):
    forecast.save(tmp_path / 'a.npz')
    z = np.load(tmp_path / 'a.npz', allow_pickle=False)
    told = json.loads(str(z['schema']))
    sizes = dict(S=3, T=FRAMES)
    for name, entry in told['fields'].items():
        wanted = [s.strip() for s in entry['shape'].strip('()').split(',') if s.strip()]
        assert z[name].shape == tuple(sizes.get(s) or int(s) for s in wanted), name
    assert set(z.files) == set(told['fields']) | {MARK}
    assert (z['detected'].tolist(), z['seen'].tolist()) == ([True, True], [True, False])
    assert (int(z['seed']), float(z['fps']), str(z['intrinsics_from'])) == (7, 25.0, 'a test')
    assert (z['image_size'].tolist(), str(z['hand_id'])) == ([64, 48], 'open-hand')
    assert tuple(z['joint_names']) == JOINT_NAMES and tuple(z['hand_names']) == SIDES


def test_the_page_and_the_schema_agree():
    assert schema_table() in (project_root() / 'docs' / 'forecast_file.md').read_text()


def test_json_says_the_same(forecast, tmp_path):
    path = forecast.to_json(tmp_path / 'a.json')
    told = json.loads(path.read_text())
    forecast.save(tmp_path / 'a.npz')
    z = np.load(tmp_path / 'a.npz')
    assert set(FIELDS) - set(told) == {'rot', 'likely_rot'}
    for name in FIELDS:
        if name in told and FIELDS[name].kind == 'float32':
            assert np.abs(np.array(told[name]) - z[name]).max() < 1e-6, name
    again = load_forecast(tmp_path / 'a.npz')
    assert torch.equal(again.joints, forecast.joints)
    assert torch.equal(again.pick().rot, forecast.point.rot)


# -- smplx


def smplx_model(
    arrays,  # of a MANO file
    side,  # right or left
):
    smplx = pytest.importorskip('smplx')
    from smplx.utils import Struct

    return smplx.MANO(
        '',
        is_rhand=side == 'right',
        data_struct=Struct(**arrays),
        use_pca=False,
        flat_hand_mean=False,
        batch_size=FRAMES,
    )


@pytest.mark.parametrize('side', SIDES)
@pytest.mark.parametrize('sample', [None, 2])
def test_smplx(forecast, side, sample):
    "smplx with the arrays of the open hand, by the rules for MANO files"
    from test_open_hand import arrays

    theirs = smplx_model(arrays(side), side)(**forecast.to_smplx(sample)[side])
    hand = SIDES.index(side)
    motion = forecast.pick(sample)
    vertices, joints = motion.vertices()[:, hand], motion.joints()[:, hand]
    assert (theirs.vertices - vertices).abs().max() < 1e-6
    assert (theirs.joints - joints[:, :16]).abs().max() < 1e-6
    assert (theirs.vertices[:, list(TIPS)] - joints[:, 16:]).abs().max() < 1e-6


@pytest.mark.parametrize('side', SIDES)
def test_smplx_from_the_file(forecast, tmp_path, side):
    "The entries of the .npz as they lie there"
    from test_open_hand import arrays

    forecast.save(tmp_path / 'a.npz')
    z, hand = np.load(tmp_path / 'a.npz'), SIDES.index(side)
    given = {name: z[name][1, :, hand] for name in ('global_orient', 'hand_pose', 'transl')}
    given['betas'] = np.repeat(z['betas'][1, None, hand], FRAMES, 0)
    given = {name: torch.from_numpy(value) for name, value in given.items()}
    theirs = smplx_model(arrays(side), side)(**given)
    assert np.abs(theirs.joints.detach().numpy() - z['joints'][1, :, hand, :16]).max() < 1e-6


def stranger(side):
    "A hand of another build in MANO's layout: longer fingers, another mean pose"
    from test_open_hand import arrays

    a = arrays(side)
    a = {k: a[k] for k in a if k not in ('hand_id', 'flexion_axes', 'tip_ids', 'faces', 'parents')}
    a['v_template'] = a['v_template'] * np.float32([1.07, 0.98, 1.03])
    a['hands_mean'] = a['hands_mean'] * np.float32(0.8)
    return a


def test_to_mano(forecast, tmp_path):
    "The open hand's forecast with another hand, whose own file smplx reads"
    import pickle

    hands = []
    for side in SIDES:
        path = tmp_path / f'STRANGER_{side.upper()}.pkl'
        path.write_bytes(pickle.dumps(stranger(side)))
        hands.append(load_hand(path, side, hand_id='stranger'))
    know_hands(*hands)
    bent = replace(forecast.motion, betas=0 * forecast.motion.betas)
    told = replace(forecast, motion=bent, point=None).to_mano('stranger')
    assert told.motion.hand_id == 'stranger'
    apart = (told.joints - bent.joints()).norm(dim=-1)
    before = (replace(bent, hand_id='stranger').joints() - bent.joints()).norm(dim=-1)
    assert apart.mean() < 2e-3 < before.mean()
    theirs = smplx_model(stranger('left'), 'left')(**told.to_smplx(0)['left'])
    assert (theirs.joints - told.joints[0, :, 1, :16]).abs().max() < 1e-6


# -- GLB


class Glb:
    "A GLB file by the rules of glTF alone: arrays, nodes, and what an animation makes of them"

    def __init__(self, content):
        pygltflib = pytest.importorskip('pygltflib')
        self.file = pygltflib.GLTF2().load_from_bytes(content)
        self.blob = self.file.binary_blob()
        self.node = {node.name: n for n, node in enumerate(self.file.nodes)}

    def array(self, number):
        a = self.file.accessors[number]
        view = self.file.bufferViews[a.bufferView]
        kind = {5126: np.float32, 5123: np.uint16}[a.componentType]
        width = {'SCALAR': 1, 'VEC3': 3, 'VEC4': 4}[a.type]
        values = np.frombuffer(self.blob, kind, a.count * width, view.byteOffset)
        values = values.reshape(a.count, width)
        assert np.allclose(values.min(0), a.min) and np.allclose(values.max(0), a.max)
        return values

    def curve(self, node, path, time):
        "A moving property at a time"
        (animation,) = self.file.animations
        for channel in animation.channels:
            if (channel.target.node, channel.target.path) == (node, path):
                sampler = animation.samplers[channel.sampler]
                times = self.array(sampler.input)[:, 0]
                values = self.array(sampler.output).reshape(len(times), -1).astype(float)
                time = float(np.clip(time, times[0], times[-1]))
                if sampler.interpolation == 'STEP':
                    return values[np.searchsorted(times, time + 1e-6) - 1]
                if path == 'rotation':
                    return self.turned(times, values, time)
                return np.array([np.interp(time, times, v) for v in values.T])
        return None

    @staticmethod
    def turned(times, values, time):
        from scipy.spatial.transform import Rotation, Slerp

        return Slerp(times, Rotation.from_quat(values))(time).as_quat()

    def vertices(self, node, time):
        mesh = self.file.meshes[self.file.nodes[node].mesh].primitives[0]
        weights = self.curve(node, 'weights', time)
        offsets = np.stack([self.array(target['POSITION']) for target in mesh.targets])
        return self.array(mesh.attributes.POSITION) + np.einsum('k,kvc->vc', weights, offsets)

    def places(self, time):
        "Positions of all nodes below the root, in its frame"
        from scipy.spatial.transform import Rotation

        found = {}

        def walk(n, turn, place):
            node = self.file.nodes[n]
            offset = self.curve(n, 'translation', time)
            offset = offset if offset is not None else np.array(node.translation or [0, 0, 0])
            quat = self.curve(n, 'rotation', time)
            place = place + turn @ offset
            turn = turn if quat is None else turn @ Rotation.from_quat(quat).as_matrix()
            found[node.name] = place
            for child in node.children or []:
                walk(child, turn, place)

        (root,) = self.file.scenes[0].nodes
        for child in self.file.nodes[root].children:
            walk(child, np.eye(3), np.zeros(3))
        return found


def test_glb_shows_our_vertices(forecast, tmp_path):
    glb = Glb(forecast.to_glb(tmp_path / 'a.glb').read_bytes())
    vertices = forecast.point.vertices().numpy()
    names = 'right hand', 'left hand (a guess)'  # nobody saw the left one
    for hand, name in enumerate(names):
        for t in (0, 1, 4, FRAMES - 1):
            shown = glb.vertices(glb.node[name], t / 25)
            assert np.abs(shown - vertices[t, hand]).max() < 1e-6
        between = glb.vertices(glb.node[name], 3.5 / 25)
        assert np.abs(between - vertices[3:5, hand].mean(0)).max() < 1e-6


def test_glb_has_our_joints(forecast):
    glb = Glb(forecast.to_glb(sample=1))
    joints = forecast.joints[1].numpy()
    for t in (0, 3, FRAMES - 1):
        found = glb.places(t / 25)
        for hand, side in enumerate(SIDES):
            read = np.stack([found[f'{side}_{name}'] for name in JOINT_NAMES])
            assert np.abs(read - joints[t, hand]).max() < 2e-6


def test_glb_is_upright_and_faces_outwards(forecast):
    "trimesh: y up, outside out, and the normals are those of the surface"
    trimesh = pytest.importorskip('trimesh')
    scene = trimesh.load(io.BytesIO(forecast.to_glb()), file_type='glb')
    whole = scene.to_geometry() if hasattr(scene, 'to_geometry') else scene.dump(True)
    upright = forecast.point.vertices()[0].numpy().reshape(-1, 3) * [1, -1, -1]
    assert np.abs(whole.bounds - [upright.min(0), upright.max(0)]).max() < 1e-5
    mesh = scene.geometry['right hand']
    stored = mesh.vertex_normals
    mesh = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert (stored * mesh.vertex_normals).sum(-1).mean() > 0.99


def test_glb_hides_an_absent_hand(forecast):
    point = replace(forecast.point, valid=forecast.point.valid.clone())
    point.valid[4:, 1] = False
    glb = Glb(replace(forecast, point=point).to_glb())
    node = glb.node['left hand (a guess)']
    assert glb.curve(node, 'scale', 3 / 25).tolist() == [1, 1, 1]
    assert glb.curve(node, 'scale', 4 / 25).tolist() == [0, 0, 0]


# -- BVH


def test_bvh(forecast, tmp_path):
    "bvhio's forward kinematics puts the joints where ours does, in every frame"
    bvhio = pytest.importorskip('bvhio')
    path = forecast.to_bvh(tmp_path / 'a.bvh', sample=2)
    joints = forecast.joints[2].numpy()
    root = bvhio.readAsHierarchy(str(path))
    assert abs(bvhio.readAsBvh(str(path)).FrameTime - 1 / 25) < 1e-6
    for t in range(FRAMES):
        root.loadPose(t)
        place = {j.Name: np.array(j.PositionWorld) * [1, -1, -1] for j, _, _ in root.layout()}
        for hand, side in enumerate(SIDES):
            read = np.stack([place[f'{side}_{name}'] for name in JOINT_NAMES[:16]])
            assert np.abs(read - joints[t, hand, :16]).max() < 1e-5
    assert MARK in path.read_text()[:200]


# -- LeRobot


def test_lerobot(forecast, tmp_path):
    "pyarrow and pandas find the episodes, and forward kinematics of the state our joints"
    import pandas as pd
    from pyarrow import parquet

    folder = forecast.to_lerobot(tmp_path / 'hands', task='open a jar')
    info = json.loads((folder / 'meta' / 'info.json').read_text())
    assert (info['codebase_version'], info['total_episodes'], info['fps']) == ('v3.0', 3, 25)
    first = dict(chunk_index=0, file_index=0)
    table = parquet.read_table(folder / info['data_path'].format(**first))
    assert set(table.column_names) == set(info['features'])
    for name, feature in info['features'].items():
        width = getattr(table.schema.field(name).type, 'list_size', 1)
        assert [width] == feature['shape'], name
        names = feature['names']
        assert names is None or len(names) == width, name
    steps = table.to_pandas()
    names = info['features']['observation.state']['names']
    states = pd.DataFrame(np.stack(steps['observation.state']), columns=names)
    for episode in range(3):
        rows = states[steps.episode_index == episode]
        for hand, side in enumerate(SIDES):
            assert_state_gives_joints(rows, side, forecast, episode, hand)
    moved = np.stack(steps['action'])
    for start in range(0, 3 * FRAMES, FRAMES):
        own = np.stack(steps['observation.state'])[start : start + FRAMES]
        assert np.array_equal(moved[start : start + FRAMES - 1], own[1:])
    assert np.allclose(steps.timestamp, steps.frame_index / 25)
    assert np.allclose(steps['sample.weight'].unique(), [0.2, 0.5, 0.3])
    tasks = pd.read_parquet(folder / 'meta' / 'tasks.parquet')
    assert tasks.loc['open a jar'].task_index == 0
    episodes = pd.read_parquet(folder / 'meta/episodes/chunk-000/file-000.parquet')
    assert episodes.dataset_from_index.tolist() == [0, FRAMES, 2 * FRAMES]
    assert episodes.length.tolist() == [FRAMES] * 3 and episodes.tasks[1].tolist() == ['open a jar']
    stats = json.loads((folder / 'meta' / 'stats.json').read_text())
    assert np.allclose(stats['action']['mean'], moved.mean(0), atol=1e-6)


def assert_state_gives_joints(rows, side, forecast, episode, hand):
    "Wrist pose and finger joints, through smplx's own kinematics"
    from scipy.spatial.transform import Rotation
    from test_open_hand import smplx_layer

    numbers = rows[[f'{side}_wrist_{n}' for n in ('x', 'y', 'z', 'qw', 'qx', 'qy', 'qz')]].values
    fingers = rows[[c for c in rows if c.startswith(side) and '_wrist_' not in c]].values
    wrist = torch.tensor(numbers[:, :3]).float()
    turn = Rotation.from_quat(numbers[:, [4, 5, 6, 3]]).as_matrix()
    bend = Rotation.from_rotvec(fingers.reshape(-1, 3)).as_matrix().reshape(-1, 15, 3, 3)
    layer = smplx_layer(side, torch.float32)
    betas = forecast.motion.betas[episode, hand].expand(FRAMES, 10)
    given = dict(
        global_orient=torch.from_numpy(turn[:, None]).float(),
        hand_pose=torch.from_numpy(bend).float(),
    )
    found = layer(betas=betas, **given).joints
    found = found - found[:, :1] + wrist[:, None]
    assert (found - forecast.joints[episode, :, hand, :16]).abs().max() < 1e-5


def test_lerobot_reads_it(forecast, tmp_path):
    "LeRobot's own reader, where it is installed"
    lerobot = pytest.importorskip('lerobot.datasets.lerobot_dataset')
    folder = forecast.to_lerobot(tmp_path / 'hands')
    data = lerobot.LeRobotDataset('local/hands', root=folder)
    assert (data.num_episodes, len(data)) == (3, 3 * FRAMES)


# -- Rerun


def test_rerun(forecast, tmp_path):
    "Rerun's own reader finds every vertex at its time"
    pytest.importorskip('rerun', reason='an optional extra')
    from rerun.chunk import RrdReader

    path = forecast.to_rerun(tmp_path / 'a.rrd')
    vertices = forecast.joints[1].numpy()
    found = {}
    for chunk in RrdReader(path).stream().to_chunks():
        if chunk.entity_path != '/futures/sample-2/left/joints':
            continue
        batch = chunk.to_record_batch().to_pydict()
        times = batch['time']
        (name,) = [n for n in batch if n.endswith('positions')]
        for time, places in zip(times, batch[name], strict=True):
            found[round(time.total_seconds() * 25)] = np.array(places)
    assert sorted(found) == list(range(FRAMES))
    for frame, places in found.items():
        assert np.abs(places - vertices[frame, 1]).max() < 1e-6
    assert MARK.encode() in path.read_bytes()[: 1 << 16]


# -- whose files they are


def test_files_of_others_stay(forecast, tmp_path):
    for kind in ('json', 'glb', 'bvh'):
        path, write = tmp_path / f'a.{kind}', getattr(forecast, f'to_{kind}')
        path.write_text('precious')
        with pytest.raises(ValueError, match='not made by this program'):
            write(path)
        assert path.read_text() == 'precious'
        write(path, overwrite=True)
        before = path.read_bytes()
        write(path)  # our own are replaced, by the same bytes
        assert path.read_bytes() == before


# -- the command


def test_formats_are_checked_first(tmp_path, capsys):
    "Before an image is looked for"
    from forehand4d.cli import main

    assert main(['forecast', str(tmp_path / 'none.jpg'), '--format', 'npz,gbl']) == 2
    assert 'did you mean glb?' in capsys.readouterr().err
    assert main(['forecast', str(tmp_path / 'none.jpg'), '--format', '']) == 2


def test_every_format_of_a_photograph(forecast, tmp_path):
    from forehand4d.core.checks import FORMATS, made_here
    from forehand4d.models.photo import Results, forecast_photo
    from PIL import Image

    photo = tmp_path / 'photo.jpg'
    Image.fromarray(forecast.image).save(photo)
    formats = tuple(kind for kind in FORMATS if kind != 'rrd')  # an optional extra
    where = Results(tmp_path / 'out', formats=formats)

    def forecaster(image, **told):
        return forecast

    made = forecast_photo(photo, where, forecaster, detect=False)
    assert [path.name for path in made.files] == [f'photo.{kind}' for kind in formats]
    assert all(made_here(path) for path in made.files)
    forecast_photo(photo, where, forecaster, detect=False)  # our own are replaced
    glb = next(path for path in made.files if path.suffix == '.glb')
    glb.write_text('precious')
    with pytest.raises(ValueError, match='photo.glb is there and was not made by this program'):
        forecast_photo(photo, where, forecaster, detect=False)
