"""The open hand against smplx fed with the same arrays,
its mirror image, its volume, and files that are no hands"""

import pickle
import numpy as np, pytest, torch, trimesh

from forehand4d.core.paths import project_root
from forehand4d.geometry.hands import SIDES, TIPS, mirror
from forehand4d.geometry.hand_models import hand_pair, load_hand, open_hand
from forehand4d.geometry.rotations import aa_to_mat, random_rotation

ASSET = project_root() / 'forehand4d' / 'assets' / 'open_hand'
MIRROR = torch.tensor([-1.0, 1, 1])


def arrays(
    side: str,  # right or left
) -> dict:  # what smplx reads from a MANO file
    "The asset in MANO's layout; the left hand by the rules for MANO files, not by our code"
    a = dict(np.load(ASSET / 'right.npz'))
    a = {k: v.astype(np.float32) if v.dtype.kind == 'f' else v for k, v in a.items()}
    a.update(
        f=a['faces'],
        kintree_table=np.stack([a['parents'], np.arange(16)]),
        posedirs=a['posedirs'].T.reshape(778, 3, 135),
    )
    if side == 'right':
        return a
    m = MIRROR.numpy()
    a['v_template'], a['shapedirs'] = a['v_template'] * m, a['shapedirs'] * m[:, None]
    a['posedirs'] = a['posedirs'] * m[:, None] * np.tile(np.outer(m, m).ravel(), 15)
    a['hands_mean'] = a['hands_mean'] * np.tile([1, -1, -1], 15)
    a['hands_components'] = a['hands_components'] * np.tile([1, -1, -1], 15)
    return a | {'f': a['f'][:, [1, 0, 2]]}


def poses(
    n: int,  # how many
    seed: int = 0,
) -> tuple:  # rot (n, 16, 3, 3), wrist (n, 3), betas (n, 10)
    "Random orientations, strongly bent fingers, shapes up to several standard deviations"
    g = torch.Generator().manual_seed(seed)
    rot = torch.cat(
        [random_rotation(n, 1, generator=g), aa_to_mat(torch.randn(n, 15, 3, generator=g) * 0.7)], 1
    )
    return rot, torch.randn(n, 3, generator=g), 2 * torch.randn(n, 10, generator=g)


def smplx_layer(
    side: str,  # right or left
    dtype: torch.dtype,
    **kwargs,  # further options of smplx
):
    "smplx with our arrays"
    smplx = pytest.importorskip('smplx')
    from smplx.utils import Struct

    return smplx.MANOLayer(
        '', is_rhand=side == 'right', data_struct=Struct(**arrays(side)), dtype=dtype, **kwargs
    )


@pytest.mark.parametrize('side', SIDES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_agrees_with_smplx(side, dtype):
    """Vertices, joints and fingertips to a micrometre;
    smplx rotates about the wrist and adds its rest position"""
    hand = open_hand(side).to(dtype)
    rot, wrist, betas = (t.to(dtype) for t in poses(64))
    layer = smplx_layer(side, dtype)
    rest = torch.eye(3, dtype=dtype).expand(64, 16, 3, 3)
    at_rest = layer(betas=betas, global_orient=rest[:, :1], hand_pose=rest[:, 1:]).joints[:, 0]
    theirs = layer(
        betas=betas, global_orient=rot[:, :1], hand_pose=rot[:, 1:], transl=wrist - at_rest
    )
    ours, joints = hand.vertices(rot, wrist, betas), hand.joints(rot, wrist, betas)
    tol = 1e-6  # positions of metres have a step of 2.4e-7 in float32
    assert (ours - theirs.vertices).abs().max() < tol
    assert (joints[:, :16] - theirs.joints).abs().max() < tol
    assert (joints[:, 16:] - theirs.vertices[:, list(TIPS)]).abs().max() < tol
    assert torch.equal(hand.faces, layer.faces_tensor)


@pytest.mark.parametrize('side', SIDES)
def test_mean_pose_of_smplx(side):
    "smplx's `MANO` with zero pose is the relaxed hand"
    smplx = pytest.importorskip('smplx')
    from smplx.utils import Struct

    model = smplx.MANO(
        '',
        is_rhand=side == 'right',
        data_struct=Struct(**arrays(side)),
        use_pca=True,
        num_pca_comps=15,
    )
    hand = open_hand(side)
    coefficients = 0.3 * torch.randn(1, 15, generator=torch.Generator().manual_seed(1))
    aa = hand.mean_aa + (coefficients @ hand.components[:15]).reshape(15, 3)
    theirs = model(hand_pose=coefficients)
    ours = hand.vertices(torch.cat([torch.eye(3)[None], aa_to_mat(aa)])[None], theirs.joints[:, 0])
    assert (ours - theirs.vertices).abs().max() < 1e-6


def test_left_is_the_mirror_image():
    "A mirrored pose of the left hand is the mirrored mesh of the right"
    rot, wrist, betas = poses(16)
    flip = MIRROR[:, None] * MIRROR
    right = open_hand('right').vertices(rot, wrist, betas)
    left = open_hand('left').vertices(rot * flip, wrist * MIRROR, betas)
    assert (left - right * MIRROR).abs().max() < 2e-6
    pair = hand_pair().vertices(
        torch.stack([rot, rot * flip], 1),
        torch.stack([wrist, wrist * MIRROR], 1),
        torch.stack([betas, betas], 1),
    )
    assert (pair - torch.stack([right, left], 1)).abs().max() < 2e-6
    again = mirror(open_hand('left'))
    assert torch.equal(again.faces.sort(1).values, open_hand('right').faces.sort(1).values)


@pytest.mark.parametrize('side', SIDES)
def test_volume(side):
    "Sealed hands are closed, face outwards, and hold about 343 cm³; bending keeps most of it"
    hand = open_hand(side)
    rest = torch.eye(3).expand(16, 3, 3)
    fist = torch.cat(
        [
            torch.eye(3)[None],
            aa_to_mat(hand.flexion_axes * 1.2 * torch.tensor([1.0] * 12 + [0.4] * 3)[:, None]),
        ]
    )
    vertices = hand.vertices(torch.stack([rest, fist]), torch.zeros(2, 3)).double()
    closed = [trimesh.Trimesh(v.numpy(), hand.faces.numpy(), process=False) for v in vertices]
    for mesh in closed:
        assert not mesh.is_watertight and trimesh.repair.fill_holes(mesh, use_fan=True)
        assert mesh.is_watertight and mesh.is_winding_consistent
    flat, bent = (1e6 * mesh.volume for mesh in closed)  # negative if faces looked inwards
    assert 335 < flat < 350
    assert 0.92 * flat < bent < flat


def test_ring_in_sealing_order():
    """The lid that public code puts over MANO's wrist fits ours:
    its edges run against those of the hand"""
    ring = [108, 79, 78, 121, 214, 215, 279, 239, 234, 92, 38, 122, 118, 117, 119, 120]
    for side, order in (('right', 1), ('left', -1)):
        directed = set(
            map(tuple, open_hand(side).faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).tolist())
        )
        lid = [(ring[i - 1], ring[i])[::order] for i in range(16)]
        assert all(e not in directed and e[::-1] in directed for e in lid)


def test_load_hand_reads_the_asset():
    "The shipped file is an ordinary hand file that knows its name"
    hand, ours = load_hand(ASSET / 'right.npz', 'right'), open_hand('right')
    assert hand.hand_id == 'open-hand'
    assert torch.equal(hand.v_template, ours.v_template) and torch.equal(
        hand.posedirs, ours.posedirs
    )


def test_load_hand_refuses(tmp_path):
    "Each bad file gives one clear error"
    with pytest.raises(FileNotFoundError, match='no such hand model'):
        load_hand(tmp_path / 'none.npz', 'right')
    with pytest.raises(ValueError, match='left was asked for'):
        load_hand(ASSET / 'right.npz', 'left')
    with pytest.raises(ValueError, match="'right' or 'left'"):
        load_hand(ASSET / 'right.npz', 'both')
    data = (ASSET / 'right.npz').read_bytes()
    for n in (0, 100, len(data) // 2, len(data) - 10):
        (tmp_path / 'cut.npz').write_bytes(data[:n])
        with pytest.raises(ValueError, match='not a readable'):
            load_hand(tmp_path / 'cut.npz', 'right')
    middle = len(data) // 2
    (tmp_path / 'bits.npz').write_bytes(data[:middle] + bytes(64) + data[middle + 64 :])
    with pytest.raises(ValueError, match='not a readable'):
        load_hand(tmp_path / 'bits.npz', 'right')
    np.savez(tmp_path / 'part.npz', v_template=np.zeros((778, 3)))
    with pytest.raises(ValueError, match='arrays missing'):
        load_hand(tmp_path / 'part.npz', 'right')
    (tmp_path / 'MANO_RIGHT.pkl').write_bytes(b'x')
    with pytest.raises(ValueError, match='not a readable pickle'):
        load_hand(tmp_path / 'MANO_RIGHT.pkl', 'right')


OURS = ('faces', 'parents', 'tip_ids', 'hand_id', 'hands_std', 'flexion_axes')


def mano_layout(side):
    "The open hand's arrays as MANO's files have them (posedirs (778, 3, 135), faces as f)"
    return {name: array for name, array in arrays(side).items() if name not in OURS}


FLIP = np.array([-1.0, 1, 1])[:, None]  # x of shape directions


@pytest.mark.parametrize(
    'left_name, right_name',
    [
        ('MANO_LEFT.pkl', 'MANO_RIGHT.pkl'),
        ('MANO_LEFT.npz', 'MANO_RIGHT.pkl'),
        ('mano_left.pkl', 'mano_right.npz'),
        ('Left.npz', 'Right.npz'),
    ],
)
def test_a_left_hand_is_mended_once(tmp_path, left_name, right_name):
    "Stock or fixed already: in every shape direction, the left hand mirrors the right one"

    def save(name, a):
        if name.endswith('.npz'):
            np.savez(tmp_path / name, **a)
        else:
            (tmp_path / name).write_bytes(pickle.dumps(a, 2))
        return tmp_path / name

    right, mended = mano_layout('right'), mano_layout('left')
    stock = mended | dict(shapedirs=mended['shapedirs'] * FLIP)
    truth = (right['shapedirs'] * FLIP).astype(np.float32)
    at_right = save(right_name, right)

    path = save(left_name, mended)
    with pytest.warns(UserWarning, match='fixed already'):
        plain = load_hand(path, 'left')
    for hand in (plain, load_hand(path, 'left', fix_left=True), load_hand(path, 'left', 'mine')):
        for k in range(10):
            assert np.abs(hand.shapedirs[..., k].numpy() - truth[..., k]).max() < 1e-7, k
    assert plain.hand_id == 'mano-left-fixed' == load_hand(at_right, 'right').hand_id
    with pytest.raises(ValueError, match=f'{left_name}: this left hand is fixed already'):
        load_hand(path, 'left', 'mano')

    path = save(left_name, stock)
    hand = load_hand(path, 'left', fix_left=True)
    assert np.abs(hand.shapedirs.numpy() - truth).max() < 1e-7
    hand = load_hand(path, 'left')
    assert np.abs(hand.shapedirs.numpy() - truth * FLIP).max() < 1e-7
    assert hand.hand_id == 'mano' == load_hand(at_right, 'right').hand_id
    with pytest.raises(ValueError, match=f'{left_name}: this left hand is not fixed'):
        load_hand(path, 'left', 'mano-left-fixed')

    half = np.where(np.arange(10) < 4, mended['shapedirs'], stock['shapedirs'])
    path = save(left_name, mended | dict(shapedirs=half))
    with pytest.raises(ValueError, match=f'{left_name}: .* neither .* in {right_name}'):
        load_hand(path, 'left', fix_left=True)


def test_mano_file_layout(tmp_path):
    "A file in MANO's own layout loads for both sides; without the other hand, under MANO's id"
    for side in SIDES:
        folder = tmp_path / side
        folder.mkdir()
        np.savez(folder / f'MANO_{side.upper()}.npz', **mano_layout(side))
        hand = load_hand(folder / f'MANO_{side.upper()}.npz', side)
        rot, wrist, betas = poses(4)
        assert hand.hand_id == 'mano'
        assert (
            hand.vertices(rot, wrist, betas) - open_hand(side).vertices(rot, wrist, betas)
        ).abs().max() < 1e-6
