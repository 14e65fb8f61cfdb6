"Long steps in seconds, without notebooks: `python small.py training` or `store`"

import sys
import torch
from forehand4d.geometry.cameras import intrinsics_from_fov
from forehand4d.core.paths import outputs_root
from forehand4d.data.clips import Clip
from forehand4d.data.clip_store import ClipStore, write_clips
from forehand4d.data.loaders import ClipDataset
from forehand4d.models.lifter import Lifter, LifterConfig
from forehand4d.geometry.motion import rest_motion
from forehand4d.runs.record import start_run
from forehand4d.training.loop import TrainConfig, train

FRAMES = 16


def clip(i):
    "Hands that move a little, seen by a camera that stands"
    g = torch.Generator().manual_seed(i)
    motion = rest_motion(FRAMES)
    way = 0.01 * torch.randn(FRAMES, 2, 3, generator=g).cumsum(0)
    motion.wrist.add_(way + torch.tensor([0.0, 0.0, 0.6]))
    joints = motion.joints()
    seen = torch.ones(FRAMES, 2, 21, dtype=torch.bool)
    K = intrinsics_from_fov(60, 64, 64).repeat(FRAMES, 1, 1)
    pixels = 32 + 20 * joints[..., :2]
    cameras = torch.eye(4).repeat(FRAMES, 1, 1)
    return Clip(
        'toy',
        f's{i}',
        30.0,
        torch.arange(FRAMES),
        K,
        cameras,
        pixels,
        joints,
        seen,
        seen,
        'mano',
        motion,
    )


def store(folder, clips=300):
    "A clip store, unless it is there"
    if not (folder / 'manifest.json').exists():
        write_clips(map(clip, range(clips)), folder, shard_size=2)
    return ClipStore(folder)


def tiny_lifter():
    "A network that is trained in no time"
    torch.manual_seed(0)
    return Lifter(LifterConfig(FRAMES, 4, 16, 1, 2))


def training(folder, steps=60):
    "A training with checkpoints, from the last of them"
    data = ClipDataset([store(folder / 'data', 6)])
    cfg = TrainConfig(steps=steps, batch=2, frames=FRAMES, save_every=10)
    run = start_run(folder.name, dict(steps=steps), name='toy')
    if run.done:
        return
    train(tiny_lifter(), data, cfg, run)
    run.add_artifact('model.safetensors')
    run.finish(dict(loss=run.log_rows()[-1]['loss']))


if __name__ == '__main__':
    what = sys.argv[1]
    dict(training=training, store=store)[what](outputs_root() / what)
