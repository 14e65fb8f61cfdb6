"""Real hands, seen by virtual cameras:
what the fit of tracks is worth, and that no row of the study fits otherwise"""

import inspect
import pytest, torch
from forehand4d.core.paths import project_root
from forehand4d.video.recordings import Spoil, load_leap, measured, recording_clip, spoiled
from forehand4d.fitting.procedure import PROCEDURES, procedure
from forehand4d.models.imputation import impute
from forehand4d.runs.parameters import notebook_parameters
from forehand4d.models.lifting import FitChoice, load_lifter
from forehand4d.evaluation.metrics import clip_means, motion_metrics

LEAP = project_root().parent / 'shared' / 'real' / 'leap' / 'leap_two_hands.npz'


def errors(motion, clip):
    "M, M_G and so on in millimetres"
    found = clip_means(
        motion_metrics(
            motion.joints()[None], clip.joints3d[None], clip.valid3d[None], protocol='strict'
        )
    )
    return {k: 1000 * float(v) for k, v in found.items()}


@pytest.mark.skipif(not LEAP.exists(), reason='needs recordings of real hands beside the project')
def test_real_hands():
    """Spoiled tracks of real hands:
    the fit is far better than what the model says, and keeps both hands together"""
    clip = recording_clip(load_leap(LEAP)[0], 0, 32)
    tracks = spoiled(measured(clip), Spoil(noise=4, missing=0.2, gap=0.2))
    seen = (tracks.keypoints2d, tracks.valid2d, tracks.intrinsics, tracks.cam_from_view)
    lifter = load_lifter(device='cpu')
    fitted, report = lifter.fit(*seen, how=procedure('best', 200))
    before, after = errors(lifter(*seen), clip), errors(fitted, clip)
    assert (
        after['M_G'] < 0.5 * before['M_G']
        and after['M'] < before['M']
        and after['MR'] < before['MR']
    )
    assert {name.split()[0] for name in report['candidate'].values()} <= {'sample', 'search'}
    assert 1.0 < report['noise'] < 3.5  # 4 px in 1280 are 2 px here
    joined = fitted.valid.all(-1)
    assert (fitted.wrist[joined, 0, 2] - fitted.wrist[joined, 1, 2]).abs().max() < 0.5


def test_one_procedure_everywhere():
    "The best procedure is the default, and the paper's can be had by name"
    assert FitChoice().how == 'best'
    assert inspect.signature(impute).parameters['how'].default == procedure('best')
    for notebook in ('impute_labels', 'lift_video'):
        assert notebook_parameters(notebook)['procedure']['default'] == 'best'
    for notebook in ('lift_recordings', 'evaluate_lifting'):
        assert set(notebook_parameters(notebook)['procedures']['default'].split('+')) == {
            *PROCEDURES,
            'paper',
        }


def test_papers_procedure():
    """One sample, Adam at 0.01, 1000 steps, gradient norm 1,
    squared errors of 2D keypoints, and nothing else"""
    how = procedure('paper')
    cfg = how.refine
    assert (how.samples, how.searches, cfg.iterations, cfg.lr, cfg.max_norm) == (
        1,
        (),
        1000,
        0.01,
        1.0,
    )
    assert not (
        cfg.robust or cfg.place or cfg.smooth or cfg.prior or cfg.bones or cfg.alike or cfg.reach
    )


def test_weak_input():
    "One frame, one hand, hardly any keypoint: a motion all the same"
    lifter = load_lifter(device='cpu')
    valid = torch.zeros(3, 2, 21, dtype=torch.bool)
    valid[1, 0, :8] = True
    K = torch.tensor([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]])
    px = 160 + 20 * torch.randn(3, 2, 21, 2, generator=torch.Generator().manual_seed(0))
    motion, report = lifter.fit(px, valid, K.expand(3, 3, 3), how=procedure('best', 5))
    assert motion.joints().isfinite().all() and len(motion) == 3
    with pytest.raises(ValueError, match='choose one of'):
        lifter.fit(px, valid, K, how='finest')
