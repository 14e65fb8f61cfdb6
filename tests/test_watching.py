"A training that is watched is the same training, and what is seen can be read by others"

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from forehand4d.catalogue import open_dataset
from forehand4d.data.clip_store import write_clips
from forehand4d.handworld.generate import make_clip
from forehand4d.runs.record import start_run
from forehand4d.training.loop import TrainConfig, train
from forehand4d.training.watching import Watch, training_facts

CFG = TrainConfig(steps=20, batch=2, frames=8, lr=0.05, save_every=5)


class Toy(nn.Module):
    "Learns the mean wrist, with dropout and noise"

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, 3))
        self.drop = nn.Dropout(0.2)

    def config(self):
        return dict(kind='toy', hand_id='open-hand')

    def loss(self, batch, generator):
        noise = torch.randn(batch.wrist.shape, generator=generator) * 0.01
        error = self.drop(self.w.expand_as(batch.wrist)) - batch.wrist - noise
        return (error**2).mean(), {}


def picture(network):
    "A picture, drawn with random numbers"
    return (torch.rand(16, 48, 3) * 255).byte().numpy()


@pytest.fixture
def data(tmp_path):
    clips = [make_clip('lab-pour', 'train', i, frames=8, image=False) for i in range(4)]
    write_clips(clips, tmp_path / 'clips')
    return open_dataset(str(tmp_path / 'clips'))


def trained(name, data, watch, stop=None):
    from dataclasses import replace

    run = start_run('toy', dict(steps=CFG.steps), name)
    torch.manual_seed(0)
    cfg = replace(CFG, watch=watch)
    if stop:
        train(Toy(), data, cfg, run, stop_after=stop)
        torch.manual_seed(0)
    return run, train(Toy(), data, cfg, run)


def test_watched_is_the_same_and_resumes_to_the_bit(outputs, data):
    plain, alone = trained('plain', data, None)
    seen, watched = trained('seen', data, Watch(data, picture))
    again, resumed = trained('again', data, Watch(data, picture), stop=13)
    for other in (watched, resumed):
        assert torch.equal(alone.w, other.w)
    assert (seen.dir / 'log.csv').read_bytes() == (again.dir / 'log.csv').read_bytes()
    log, without = pd.DataFrame(seen.log_rows()), pd.DataFrame(plain.log_rows())
    assert 'val' not in without and np.array_equal(log[without.columns], without)
    assert log.step[log.val.notna()].tolist() == [4, 9, 14, 19]
    assert sorted(path.name for path in (seen.dir / 'samples').iterdir()) == [
        '0000005.jpg', '0000010.jpg', '0000015.jpg', '0000020.jpg']
    assert training_facts(seen)['steps_per_second'] > 0 and training_facts(plain) == {}


def test_tensorboard_reads_it(outputs, data):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    run, _ = trained('seen', data, Watch(data, picture))
    events = accumulator.EventAccumulator(str(run.dir / 'tensorboard'))
    events.Reload()
    logged = pd.DataFrame(run.log_rows())
    losses = [event.value for event in events.Scalars('loss')]
    np.testing.assert_allclose(losses, logged.loss, rtol=1e-6)
    assert len(events.Scalars('val')) == 4
    image = events.Images('samples')[-1]
    assert (image.height, image.width, image.step) == (16, 48, 20)


def test_configuration_as_yaml(outputs):
    yaml = pytest.importorskip('yaml')
    run = start_run('toy', dict(lr=1e-3, data='lab', shape={'draws': 4}), 'a')
    kept = yaml.safe_load((run.dir / 'config.yaml').read_text())
    assert kept == dict(notebook='toy', run='a', parameters=run.params)
