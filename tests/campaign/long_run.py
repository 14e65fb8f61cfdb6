"Memory and open descriptors over many forecasts and training steps"

import argparse
import gc
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from campaign.small import FRAMES, store, tiny_lifter

MB = 1 << 20


@dataclass(frozen=True)
class Use:
    "What this process holds"

    rss: float  # MB
    descriptors: int

    def __str__(self):
        return f'{self.rss:7.1f} MB {self.descriptors:4} descriptors'


def use():
    "What this process holds now, garbage aside"
    gc.collect()
    me = psutil.Process()
    return Use(me.memory_info().rss / MB, me.num_fds())


class Watch:
    "Looks at this process when so many steps are done"

    def __init__(self, when):
        self.when, self.steps, self.seen = set(when), 0, {}

    def step(self):
        "One more is done"
        self.steps += 1
        if self.steps in self.when:
            self.seen[self.steps] = use()


def a_forecaster():
    "The smallest network, untrained"
    from forehand4d.models.forecaster import build_forecaster
    from forehand4d.models.forecasting import LoadedForecaster
    from forehand4d.runs.profiles import profile

    return LoadedForecaster(build_forecaster(profile('tiny')), Path('tiny'))


def forecasts(n, watch):
    "Forecast pictures of changing sizes, one after the other"
    forecaster, g = a_forecaster(), np.random.default_rng(0)
    for seed in range(n):
        image = g.integers(0, 255, (48 + seed % 5, 64, 3), np.uint8)
        forecast = forecaster(image, samples=2, steps=2, seed=seed, hands=None)
        assert forecast.joints.isfinite().all()
        watch.step()


def training(n, watch):
    "Train the smallest network, with checkpoints"
    from forehand4d.data.loaders import ClipDataset
    from forehand4d.runs.record import start_run
    from forehand4d.training.loop import TrainConfig, train

    with tempfile.TemporaryDirectory() as folder:
        data = ClipDataset([store(Path(folder) / 'data', 6)])
        cfg = TrainConfig(steps=n, batch=2, frames=FRAMES, save_every=max(1, n // 20))
        run = start_run('train', dict(steps=n), name='long', root=Path(folder) / 'outputs')
        log = run.log

        def watched(**row):
            log(**row)
            watch.step()

        run.log = watched
        train(tiny_lifter(), data, cfg, run)
        run.finish()


def measure(work, n, warm):
    "Steps → what was held, after warm-up, in the middle and at the end"
    watch = Watch((warm, n // 4, n // 2, 3 * n // 4, n))
    work(n, watch)
    return watch.seen


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--forecasts', type=int, default=500)
    p.add_argument('--steps', type=int, default=2000)
    args = p.parse_args()
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    for work, n in ((forecasts, args.forecasts), (training, args.steps)):
        for step, held in measure(work, n, n // 20).items():
            print(f'{work.__name__:10} {step:5}: {held}', flush=True)


if __name__ == '__main__':
    main()
