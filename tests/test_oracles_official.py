"Schedule, noising and conditioning against the released code's numbers"

from pathlib import Path
import numpy as np
import pytest
import torch
from forehand4d.geometry.cameras import fourier, kpe_angles, project, transform, invert
from forehand4d.released.conditions import legacy_conditions
from forehand4d.networks.process import alphas_bar, cosine_betas, log_variance, posterior
from forehand4d.networks.process import q_sample

OFFICIAL = Path(__file__).resolve().parent / 'official'


def load(name):
    return {k: torch.from_numpy(v) for k, v in np.load(OFFICIAL / name).items()}


def test_diffusion():
    f = load('diffusion.npz')
    torch.testing.assert_close(cosine_betas(), f['betas'].double(), atol=1e-9, rtol=1e-6)
    torch.testing.assert_close(alphas_bar(), f['alphas_cumprod'].double(), atol=1e-9, rtol=1e-6)
    x0, noise, t = (f[k] for k in ('x0', 'noise', 't'))
    xt = q_sample(x0, t, noise)
    torch.testing.assert_close(xt, f['x_t'].to(xt), atol=1e-5, rtol=1e-5)
    mean, _ = posterior(x0, f['x_t'].to(x0), t)
    torch.testing.assert_close(mean, f['posterior_mean'].to(mean), atol=1e-5, rtol=1e-5)
    want = f['posterior_log_variance'].double().reshape(len(t), -1)
    torch.testing.assert_close(log_variance(t)[:, None].expand_as(want), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('hand', 'rl')
def test_conditioning(hand):
    f = load('conditioning.npz')
    K, T = f['intrinsics'].float(), invert(f['future2view'].float())
    torch.testing.assert_close(T, f['cam'].float(), atol=1e-5, rtol=1e-5)
    seen = transform(T, f[f'joints_view_{hand}'].float())
    px = project(seen, K[:, None, None])
    front = (
        seen[..., 2] > 0.02
    )  # behind the camera the release divides by what it finds; ours clamps the depth
    assert front.float().mean() > 0.9
    torch.testing.assert_close(px[front], f[f'pixels_{hand}'].to(px)[front], atol=2e-3, rtol=1e-4)
    kpe = fourier(kpe_angles(f[f'pixels_{hand}'].float(), K[:, None, None]))
    torch.testing.assert_close(kpe, f[f'kpe_{hand}'].to(kpe), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('hand', 'rl')
def test_legacy_rays(hand):
    f = load('conditioning.npz')
    K, T = f['intrinsics'].float(), invert(f['future2view'].float())
    side = 'rl'.index(hand)

    def both(x):
        return torch.stack([x, x], 2).float()

    seen = torch.ones(*T.shape[:2], 2, 21, dtype=torch.bool)
    given = both(f[f'pixels_{hand}']), seen, K[:, None].expand(*T.shape[:2], 3, 3), T
    got = {
        'plucker_fixed_depth': legacy_conditions(*given),
        'plucker_gt_joints': legacy_conditions(*given, joints3d=both(f[f'joints_view_{hand}'])),
    }
    for name, c in got.items():
        rays = c['plucker'].unflatten(-1, (2, 21, 6))[:, :, side]
        torch.testing.assert_close(rays, f[f'{name}_{hand}'].to(rays), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            c['kpe'].unflatten(-1, (21, 2, 16))[:, :, :, side],
            f[f'kpe_{hand}'].to(rays),
            atol=1e-5,
            rtol=1e-5,
        )
        torch.testing.assert_close(c['cam'], f['cam'].to(rays), atol=1e-5, rtol=1e-5)
