"The authors' checkpoints: networks in the layout of the release, with its inputs and outputs"

from dataclasses import replace
from pathlib import Path
import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from forehand4d.networks.backbones import build_backbone
from forehand4d.networks.pretrained import load_backbone
from forehand4d.released.conditions import legacy_crop_matrix, legacy_image
from forehand4d.models.forecasting import load_forecaster
from forehand4d.geometry.hand_models import know_hands, open_hand
from forehand4d.models.lifting import load_lifter
from forehand4d.released.checkpoints import import_official, load_hamer_backbone
from forehand4d.released.checkpoints import load_official

HERE = Path(__file__).resolve().parent / 'official'
# whole networks are too large for the repository
OFFICIAL = Path(__file__).resolve().parents[2] / 'shared' / 'fixtures' / 'official'
needed = pytest.mark.skipif(
    not OFFICIAL.is_dir(), reason='the reference numbers of the released code are not here'
)


def load(name):
    return {k: torch.from_numpy(v) for k, v in np.load(OFFICIAL / name).items()}


@needed
@pytest.mark.parametrize('kind', ('forecast', 'lifting'))
def test_networks(kind, tmp_path):
    f = load(f'{kind}_io.npz')
    cond = {k: f[k] for k in ('image', 'j2d', 'cam', 'plucker', 'kpe') if k in f}
    report = import_official(OFFICIAL / f'{kind}_official.ckpt', tmp_path)
    assert report['leftovers'] == []
    for model in (load_official(OFFICIAL / f'{kind}_official.ckpt'), load_official(tmp_path)):
        torch.testing.assert_close(
            model.predict_x0(f['x_t'], f['t'], **cond), f['x0'], atol=1e-4, rtol=1e-4
        )
    with safe_open(tmp_path / 'model.safetensors', 'pt') as s:
        assert not any(778 in s.get_slice(k).get_shape() for k in s.keys())  # noqa: SIM118, not a dict
    if kind == 'forecast':
        torch.testing.assert_close(model.tokens(cond), f['tokens'], atol=1e-4, rtol=1e-4)


def test_hamer_backbone():
    io = {k: torch.from_numpy(v) for k, v in np.load(HERE / 'hamer_io.npz').items()}
    path = HERE / 'hamer_backbone.ckpt'
    features = load_hamer_backbone(path)(io['image'])
    torch.testing.assert_close(features, io['vit_features'], atol=1e-4, rtol=1e-4)
    # one that sees the whole width: the table of positions is stretched
    whole = build_backbone('vitpose-64x2x4', 224)
    load_backbone(whole, path)
    assert whole(io['image']).shape == (1, 256, 64)
    with pytest.raises(ValueError, match='encoder.layer.2'):
        load_backbone(build_backbone('vitpose-64x3x4', 224), path)


@needed
def test_driven_from_outside(tmp_path):
    "One line from a photograph or a track to a motion of MANO (the open hand under its id)"
    know_hands(*(replace(open_hand(s), hand_id='mano') for s in ('right', 'left')))
    import_official(OFFICIAL / 'forecast_official.ckpt', tmp_path / 'f', frames=32)
    import_official(OFFICIAL / 'lifting_official.ckpt', tmp_path / 'l', frames=32)
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    f = load_forecaster(tmp_path / 'f')(image, samples=2, steps=3)
    assert (
        f.joints.shape == (2, 32, 2, 21, 3)
        and f.motion.hand_id == 'mano'
        and f.joints.isfinite().all()
    )
    T = 50  # more than a window
    px, K = (
        torch.rand(T, 2, 21, 2) * 100,
        torch.tensor([[150.0, 0, 79.5], [0, 150, 59.5], [0, 0, 1]]).expand(T, 3, 3),
    )
    m = load_lifter(tmp_path / 'l')(px, torch.ones(T, 2, 21, dtype=torch.bool), K, steps=3)
    assert m.wrist.shape == (T, 2, 3) and m.hand_id == 'mano'
    with pytest.raises(ValueError, match='not a forecasting one'):
        load_forecaster(tmp_path / 'l')
    with pytest.raises(ValueError, match='not a lifting one'):
        load_lifter(tmp_path / 'f')


@pytest.mark.parametrize('size', ((320, 240), (270, 480), (224, 224), (130, 100)))
def test_crop_is_that_of_opencv(size):
    "Blur and cubic warp of the release, which uses OpenCV: within two grey levels"
    image = cv2.resize(
        np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8),
        size,
        interpolation=cv2.INTER_CUBIC,
    )
    warped = cv2.warpAffine(
        cv2.GaussianBlur(image, (5, 5), 8),
        legacy_crop_matrix(size).numpy()[:2],
        (224, 224),
        flags=cv2.INTER_CUBIC,
    )
    ours = legacy_image(torch.from_numpy(image))[0].permute(1, 2, 0).numpy() * [
        0.229,
        0.224,
        0.225,
    ] + [0.485, 0.456, 0.406]
    off = np.abs(ours * 255 - warped)
    assert off.max() <= 4 and off.mean() < 0.2
