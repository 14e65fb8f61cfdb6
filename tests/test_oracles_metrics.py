"""Metrics against the released code's numbers and against slow loops built on SciPy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from forehand4d.evaluation.alignment import METRICS
from forehand4d.evaluation.metrics import best_sample, clip_means, motion_metrics
from forehand4d.evaluation.variety import diversity, multimodality

FIXTURE = Path(__file__).resolve().parent / 'official/metrics.npz'


def test_official_equals_released_code():
    z = np.load(FIXTURE)

    def pair(k):
        return torch.stack([torch.as_tensor(z[f'{k}_{h}']) for h in 'rl'], 2)

    pred, gt, valid, lengths = (
        pair('pred'),
        pair('gt'),
        pair('valid'),
        torch.as_tensor(z['lengths']),
    )
    for v in (valid, valid.bool()):
        out = motion_metrics(pred, gt, v, lengths, 'official', pa=True)
        for k in METRICS + ('PA',):
            np.testing.assert_allclose(
                out[k].numpy() * 1e3, z[f'{k}_per_frame_mm'], rtol=0, atol=1e-4, err_msg=k
            )


def fit(x, y):
    "Similarity transform of SciPy's rotation and the least-squares scale"
    mx, my = x.mean(0), y.mean(0)
    R = Rotation.align_vectors(y - my, x - mx)[0].as_matrix()
    s = ((y - my) * ((x - mx) @ R.T)).sum() / ((x - mx) ** 2).sum()
    return lambda p: s * (p - mx) @ R.T + my


def full_of_nan(q):
    return np.full_like(q, np.nan)


def fit_of_three(x, y):
    "The fit, of three points at least"
    return fit(x, y) if len(x) >= 3 else full_of_nan


def slow_metrics(pred, gt, valid, n, strict):
    "One clip, one hand, one frame, one joint at a time"
    T, out = len(pred), {k: np.full((len(pred), 2), np.nan) for k in METRICS + ('PA',)}
    for h in range(2):
        p, g, v = pred[:n, h], gt[:n, h], valid[:n, h]
        used = v if strict else np.ones_like(v)

        clip = fit_of_three(p[used], g[used])
        frames = [t for t in range(n) if used[t].sum() >= 3]
        first = (
            fit_of_three(p[frames[0]][used[frames[0]]], g[frames[0]][used[frames[0]]])
            if frames
            else full_of_nan
        )
        for t in range(n):
            root = p[t] - p[t, 0] + g[t, 0] if v[t, 0] or not strict else full_of_nan(p[t])
            moved = dict(
                M=p[t],
                M_RA=root,
                M_G=clip(p[t]),
                M_F=first(p[t]),
                PA=fit_of_three(p[t][used[t]], g[t][used[t]])(p[t]),
            )
            for k, q in moved.items():
                e = [np.sqrt(((q[j] - g[t, j]) ** 2).sum()) for j in range(21) if v[t, j]]
                out[k][t, h] = np.mean(e) if e else np.nan
    mr = np.full(T, np.nan)
    for t in range(n):
        if valid[t, 0, 0] and valid[t, 1, 0]:
            mr[t] = np.linalg.norm(pred[t, 1, 0] - pred[t, 0, 0] - gt[t, 1, 0] + gt[t, 0, 0])

    def mean(row):
        return np.mean(row[~np.isnan(row)]) if (~np.isnan(row)).any() else np.nan

    return {k: np.array([mean(row) for row in v]) for k, v in out.items()} | {'MR': mr}


@pytest.mark.parametrize('protocol', ['official', 'strict'])
@pytest.mark.parametrize('missing', [0.0, 0.3, 0.8])
def test_batched_equals_loops(protocol, missing):
    rng = np.random.default_rng(int(missing * 10))
    B, S, T = 4, 2, 9
    gt = (
        rng.normal(size=(B, 1, 2, 21, 3)) * 0.05
        + rng.normal(size=(B, T, 2, 1, 3)) * 0.1
        + [0, 0, 0.5]
    )
    gt = gt + rng.normal(size=(B, T, 2, 21, 3)) * 0.01
    pred = gt[:, None] + rng.normal(size=(B, S, T, 2, 21, 3)) * 0.03
    valid = rng.random((B, T, 2, 21)) >= missing
    valid[1, :, 1] = False
    valid[2, :4, 0] = False
    gt[~valid] = 0
    lengths = np.array([T, T, 7, 5])
    t = torch.as_tensor
    out = motion_metrics(t(pred), t(gt), t(valid), t(lengths), protocol, pa=True)
    for b in range(B):
        for s in range(S):
            ref = slow_metrics(pred[b, s], gt[b], valid[b], lengths[b], protocol == 'strict')
            for k, v in ref.items():
                np.testing.assert_allclose(
                    out[k][b, s].numpy(), v, rtol=0, atol=1e-9, err_msg=f'{k} clip {b}'
                )


def test_float32_and_float64_inputs_agree():
    g = torch.Generator().manual_seed(0)
    gt = torch.randn(2, 8, 2, 21, 3, generator=g) * 0.05 + 2.0
    pred, valid = (
        gt + 0.01 * torch.randn(gt.shape, generator=g),
        torch.ones(2, 8, 2, 21, dtype=torch.bool),
    )
    a, b = motion_metrics(pred, gt, valid), motion_metrics(pred.double(), gt.double(), valid)
    assert max((a[k] - b[k]).abs().max() for k in METRICS) < 1e-12


def test_best_of_k_against_loops():
    rng = np.random.default_rng(0)
    clips = {k: rng.random((6, 5)) for k in METRICS}
    clips['MR'][2] = np.nan
    clips['M_F'][3, 1] = np.nan
    found = best_sample({k: torch.as_tensor(v) for k, v in clips.items()})
    for n in range(6):
        mm = [
            sum(1e7 if np.isnan(clips[k][n, s]) else 1e3 * clips[k][n, s] for k in METRICS)
            for s in range(5)
        ]
        assert found[n] == int(np.argmin(mm))


def test_diversity_against_loops():
    rng = np.random.default_rng(0)
    f, m = rng.normal(size=(12, 4, 6)), rng.random((12, 4)) > 0.3
    m[:, 0] = True
    g = torch.Generator().manual_seed(3)
    i, j = (torch.randperm(12, generator=g)[:10].tolist() for _ in range(2))
    both = [np.linalg.norm((f[a] - f[b])[m[a] & m[b]]) for a, b in zip(i, j, strict=True)]
    own = [
        np.linalg.norm(f[a] * m[a][:, None] - f[b] * m[b][:, None])
        for a, b in zip(i, j, strict=True)
    ]
    t = torch.as_tensor
    assert diversity(t(f), t(m), pairs=10, seed=3, repeats=1).item() == pytest.approx(np.mean(both))
    assert diversity(
        t(f), t(m), pairs=10, seed=3, repeats=1, masking='own'
    ).item() == pytest.approx(np.mean(own))
    s = rng.normal(size=(3, 4, 5, 6))
    ref = np.mean(
        [np.linalg.norm(s[n, a] - s[n, b]) for n in range(3) for a in range(4) for b in range(a)]
    )
    assert multimodality(t(s)).item() == pytest.approx(ref)
    clip = clip_means({'M': torch.tensor([[1.0, 3.0, torch.nan]])})
    assert clip['M'].item() == 2
