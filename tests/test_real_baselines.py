"""HaMeR by its authors' weights and by its saved output, on a recorded dataset:
known pictures and hands come back, rows are called what they are"""

import pickle
import numpy as np, pytest, torch
from pathlib import Path
from PIL import Image
from test_adapters import N, stand_in, write, write_h2o  # noqa: F401, a fixture
from forehand4d.baselines.hamer import Hamer, HamerHead, load_hamer
from forehand4d.baselines.lifting_baselines import BaselineSettings, hamer_motions
from forehand4d.baselines.lifting_baselines import saved_motions, with_authors
from forehand4d.baselines.perframe import hands_in_boxes, labelled_hands, whole_intrinsics
from forehand4d.baselines.saved import saved_static, write_pictures
from forehand4d.data.clip_store import ClipStore
from forehand4d.datasets.convert import convert
from forehand4d.handworld.generate import make_clip
from forehand4d.geometry.hand_models import forget_hands, hand_pair, know_hands, open_hand
from forehand4d.geometry.hands import rest_wrist
from forehand4d.geometry.rotations import mat_to_aa
from forehand4d.baselines.forecasters import load_forecasters
from forehand4d.study.forecast_evaluation import find_forecasters
from forehand4d.study.ready import Downloads
from forehand4d.core.paths import project_root
from forehand4d.video.detection import detect_hands, detector_available
from dataclasses import replace

OFFICIAL = Path(__file__).parent / 'official'
PHOTO = project_root().parent / 'shared' / 'real' / 'images' / 'hamer_test1.jpg'


@pytest.fixture(autouse=True)
def fixed(stand_in):  # noqa: F811
    know_hands(*(replace(open_hand(s), hand_id='mano-left-fixed') for s in ('right', 'left')))
    yield
    forget_hands('mano-left-fixed')


@pytest.fixture
def recorded(tmp_path):
    "A clip of H2O in squares of 64 pixels, and its download, of which picture 5 is white"
    m, cam, K, _ = write_h2o(tmp_path / 'downloads/h2o')
    white = Image.new('RGB', (1280, 720), 'white')
    white.save(tmp_path / 'downloads/h2o/subject1_ego/h1/0/cam4/rgb/000005.png')
    store = convert('h2o', tmp_path / 'downloads/h2o', out=tmp_path / 'clips', image_size=64)
    (clip,) = ClipStore(store)
    return clip, m, cam, K, tmp_path


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    "hamer.ckpt, small: the backbone of the fixtures and a head with random weights"
    torch.manual_seed(0)
    state = torch.load(OFFICIAL / 'hamer_backbone.ckpt', weights_only=True)['state_dict']
    head = HamerHead(context=64, dim=32, depth=1, heads=8, inner=64, hidden=32)
    head.init_cam += torch.tensor([0.9, 0, 0])
    state |= {f'mano_head.{name}': value for name, value in head.state_dict().items()}
    path = tmp_path_factory.mktemp('hamer') / 'hamer.ckpt'
    torch.save({'state_dict': state}, path)
    return path


def test_every_frame_of_a_clip(recorded):
    clip, m, cam, K, folder = recorded
    known = Downloads.of_folder(folder / 'downloads')
    (first, fifth), intrinsics = known.pictures(clip, (0, 5))
    assert first.shape == (720, 1280, 3) and first[0, 0].tolist() == [90, 120, 60]
    assert fifth.min() == 255 and (intrinsics[1] - K).abs().max() < 1e-3
    assert (whole_intrinsics(clip)[3] - K).abs().max() < 1e-2
    pixels, valid = labelled_hands(clip, 5, K)
    there = m.to_frame(cam).joints()[5] @ K.T
    there = there[..., :2] / there[..., 2:]
    assert (pixels - there)[valid].abs().max() < 0.05
    names = [path.name for path in write_pictures(clip, known.pictures, folder / 'pictures')]
    assert names == [f'{i:06d}.jpg' for i in range(N)]
    assert np.asarray(Image.open(folder / 'pictures/000005.jpg')).min() > 250
    with pytest.raises(FileNotFoundError, match='arctic: no download is known, only of h2o'):
        known.pictures(replace(clip, dataset='arctic'), (0,))
    with pytest.raises(ValueError, match="no recording 'subject9': .*it is not in h2o:train"):
        known.pictures(replace(clip, meta=clip.meta | dict(source='subject9')), (0,))
    with pytest.raises(FileNotFoundError, match='expected folders such as arctic, found none'):
        Downloads.of_folder(folder / 'pictures')


def test_hamer_by_its_weights(recorded, checkpoint):
    clip, *_, folder = recorded
    known = Downloads.of_folder(folder / 'downloads')
    model = load_hamer(checkpoint)
    assert type(model) is Hamer
    settings = BaselineSettings(N, every=4, pictures=known.pictures)
    motion, seconds = hamer_motions(model, [clip], settings)
    assert motion.wrist.shape == (1, N, 2, 3) and motion.wrist.isfinite().all() and seconds > 0
    assert [*with_authors(dict(hamer=motion), model)] == ['authors-hamer']
    needed = 'name the folder of the downloads .downloads., or that'
    with pytest.raises(FileNotFoundError, match=needed):
        hamer_motions(model, [clip], BaselineSettings(N))

    # looked at through the square picture, the hands stand in the same direction
    def squares(clip, frames):
        return [clip.image] * len(frames), clip.intrinsics[list(frames)]

    small, _ = hamer_motions(model, [clip], BaselineSettings(N, every=N, pictures=squares))
    large, _ = hamer_motions(model, [clip], BaselineSettings(N, every=N, pictures=known.pictures))
    ahead = [x.wrist[0, 0] / x.wrist[0, 0, :, 2:] for x in (small, large)]
    assert (ahead[0] - ahead[1]).abs().max() < 0.05


def test_hamer_as_a_forecast(checkpoint):
    found = find_forecasters(str(checkpoint), 'tiny')
    assert [*found] == ['authors-static-hamer'] and find_forecasters('none', 'tiny') == {}
    model = load_forecasters(found, 16)['authors-static-hamer']
    assert (model.cfg.frames, model.cfg.method) == (16, 'static')
    with pytest.raises(FileNotFoundError):
        load_forecasters(find_forecasters('nowhere/hamer.ckpt', 'tiny'), 16)


def wilor_hands(m, cam, K, t, size=(1280, 720)):
    "The true hands of a frame as WiLoR-mini returns them, by its nominal camera"
    there = m.to_frame(cam)
    focal = 5000 / 256 * max(size)
    transl = there.wrist[t] - rest_wrist(hand_pair('mano-left-fixed'), m.betas)
    scale = transl[:, 2:] / K[0, 0]
    sideways = transl[:, :2] + scale * (K[:2, 2] - torch.tensor(size) / 2)
    place = torch.cat([sideways, scale * focal], 1)
    turn = mat_to_aa(there.rot[t])
    hands = []
    for side in (0, 1):
        found = dict(
            global_orient=turn[side, None, :1].numpy(), hand_pose=turn[side, None, 1:].numpy(),
            betas=m.betas[side, None].numpy(), pred_cam_t_full=place[side, None].numpy(),
            scaled_focal_length=focal)  # fmt: skip
        hands.append(dict(is_right=float(side == 0), wilor_preds=found))
    return hands


def test_saved_output(recorded):
    "Hands of whole pictures, read for a clip of squares, where they truly are"
    clip, m, cam, K, folder = recorded
    place = folder / 'saved/wilor/h2o' / clip.sequence
    for t in range(0, N, 2):
        write(place / f'{t:06d}.pkl', pickle.dumps(wilor_hands(m, cam, K, t)))
    found = saved_motions(str(folder / 'saved'), [clip], N)
    assert [*found] == ['saved-wilor']
    joints, true = found['saved-wilor'].joints()[0], m.to_frame(cam[:1].expand(N, 4, 4)).joints()
    assert (joints - true)[::2].abs().max() < 1e-4
    assert (joints - true)[1:-1:2].abs().max() < 0.01  # interpolated
    held = saved_static(folder / 'saved', 'wilor', clip)
    assert (held.joints() - true[:1]).abs().max() < 1e-4
    other = replace(clip, sequence='elsewhere')
    with pytest.raises(FileNotFoundError, match='expected wilor of this clip as a folder or .npz'):
        saved_motions(str(folder / 'saved'), [clip, other], N)
    write(place / '000000.pkl', pickle.dumps([dict(is_right=1, wilor_preds={})]))
    with pytest.raises(ValueError, match="000000.pkl .KeyError: 'global_orient'"):
        saved_motions(str(folder / 'saved'), [clip], N)
    with pytest.raises(FileNotFoundError, match='expected a folder hamer, wilor, hawor, easymocap'):
        saved_motions(str(folder / 'downloads'), [clip], N)


def test_rows_that_do_not_fit_are_refused():
    clip = make_clip('lab-pour', 'test', 0, 8, 64, image=False)
    turns = torch.eye(3).expand(2, 16, 3, 3)
    table = dict(
        frame=torch.zeros(2),
        is_right=torch.ones(2),
        global_orient=turns[:, 0],
        hand_pose=turns[:, 1:],
        betas=torch.zeros(2, 10),
        cam=torch.ones(2, 3),
        box_center=torch.full((2, 2), 30.0),
        box_size=torch.full((2,), 20.0),
    )
    assert hands_in_boxes(table, clip).place.shape == (2, 3)
    with pytest.raises(ValueError, match='box_size'):
        hands_in_boxes(table | {'box_size': torch.full((2, 1), 20.0)}, clip)
    for name in set(table) - {'frame'}:
        for wrong in (table[name][:1], table[name][:0], torch.zeros(2, 7)):
            with pytest.raises((ValueError, RuntimeError), match=f'{name}|invalid for input|frame'):
                hands_in_boxes(table | {name: wrong}, clip)
    as_network = table | {'global_orient': turns[:, :1]}
    assert torch.equal(hands_in_boxes(as_network, clip).turn, hands_in_boxes(table, clip).turn)


def test_hamer_looks_where_labels_are():
    clip = make_clip('lab-pour', 'test', 0, 16, 64, image=False)
    valid = torch.zeros_like(clip.valid2d)
    valid[2::3] = True  # pictures of labelled frames alone, as in Ego-Exo4D
    asked = []

    def pictures(_, frames):
        asked.extend(frames)
        raise FileNotFoundError('seen')

    settings = BaselineSettings(16, 4, pictures=pictures)
    sparse = replace(clip, dataset='egoexo4d', valid2d=valid)
    for boxes, expected in (('labels', [2, 5, 8, 14]), ('detector', [0, 4, 8, 12])):
        asked.clear()
        with pytest.raises(FileNotFoundError):
            hamer_motions(object(), [sparse], replace(settings, boxes=boxes))
        assert asked == expected


def boxes_and_wrists(motion, K, pixels, valid):
    "Of each hand that is there: the box around its keypoints, widened, and where its wrist is seen"
    for hand in motion.valid[0, 0].nonzero()[:, 0].tolist():
        seen = pixels[hand][valid[hand]]
        low, high = seen.amin(0), seen.amax(0)
        margin = (high - low).max()
        wrist = motion.wrist[0, 0, hand] @ K.T
        yield low - margin, high + margin, wrist[:2] / wrist[2]


@pytest.mark.skipif(
    not PHOTO.is_file() or not detector_available(),
    reason='the photographs of ../shared/real are not here, or mediapipe is not installed',
)
def test_hamer_looks_where_the_detector_finds_hands(checkpoint):
    "In a photograph, whatever the labels say; in an empty picture nowhere"
    photo = np.array(Image.open(PHOTO).convert('RGB'))
    height, width = photo.shape[:2]
    found = detect_hands(photo)
    assert found.valid.all(-1).any()
    K = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    clip = make_clip('lab-pour', 'test', 0, 4, 64, image=False)
    corner = torch.rand(clip.keypoints2d.shape, generator=torch.Generator().manual_seed(0))
    labelled = dict(keypoints2d=corner * 40, valid2d=torch.ones_like(clip.valid2d))
    still = torch.eye(4).repeat(len(clip), 1, 1)
    clip = replace(clip, dataset='arctic', cam_from_view=still, meta={}, **labelled)
    clip = replace(clip, intrinsics=K.repeat(len(clip), 1, 1))
    model = load_hamer(checkpoint)

    def look(picture, boxes):
        def pictures(_, frames):
            return [picture] * len(frames), K.repeat(len(frames), 1, 1)

        settings = BaselineSettings(4, 4, pictures=pictures, boxes=boxes)
        return hamer_motions(model, [clip], settings)[0]

    for boxes, keypoints in (('detector', found.keypoints), ('labels', clip.keypoints2d[0])):
        valid = found.valid if boxes == 'detector' else clip.valid2d[0]
        motion = look(photo, boxes)
        assert motion.valid[0, 0].equal(valid.sum(-1) >= 4), boxes
        for low, high, wrist in boxes_and_wrists(motion, K, keypoints, valid):
            assert (low < wrist).all() and (wrist < high).all(), (boxes, low, high, wrist)
    assert not look(np.full_like(photo, 128), 'detector').valid.any()
