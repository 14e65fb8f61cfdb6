"""Hands that leave the view: there, and only there, HaWoR's way differs from single frames."""

from dataclasses import replace

import pytest
import torch

from forehand4d.baselines.hawor import Infiller
from forehand4d.baselines.lifting_baselines import BaselineSettings, hand_found, run_baselines
from forehand4d.baselines.perframe import PerFrame
from forehand4d.catalogue import open_dataset
from forehand4d.data.batches import collate
from forehand4d.data.clip_store import write_clips
from forehand4d.handworld.generate import make_clip
from forehand4d.runs.profiles import profile

FRAMES = 64


def networks(sizes, data):
    "Networks that have learned nothing, the infiller with an answer of its own"
    torch.manual_seed(0)
    infiller = Infiller.build(sizes, data).eval()
    for weights in infiller.net.out.parameters():
        torch.nn.init.normal_(weights, std=0.05)
    return dict(hands=PerFrame.build(sizes).eval(), infiller=infiller)


@pytest.mark.parametrize('domain, leaves', [('wild-joints', False), ('wild-leaving', True)])
def test_hawor_differs_where_hands_leave(tmp_path, domain, leaves):
    clips = [make_clip(domain, 'test', i, FRAMES, image_size=64, truth=True) for i in range(2)]
    write_clips(clips, tmp_path / 'clips')
    sizes = replace(profile('tiny'), frames=FRAMES)
    parts = networks(sizes, open_dataset(str(tmp_path / 'clips')))
    batch = collate(clips, FRAMES)
    settings = BaselineSettings(FRAMES, 16, 1, '', 'tiny', None)
    motions, _ = run_baselines(['hamer', 'hawor'], parts, clips, batch, settings)

    known = batch.real[..., None] & batch.hand_valid
    lost = known & ~hand_found(batch)
    assert bool(lost.any()) == leaves
    apart = (motions['hamer'].joints() - motions['hawor'].joints()).norm(dim=-1).amax(-1)
    assert apart[known & ~lost].max() < 1e-5
    if leaves:
        assert apart[lost].max() > 0.01


def test_leaving_is_for_tests_alone():
    with pytest.raises(ValueError, match='for tests alone'):
        open_dataset('wild-leaving', split='train', n=1, frames=8, image_size=32)
