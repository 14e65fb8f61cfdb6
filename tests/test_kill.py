"Two cheap kills; twenty of every long step by `python tests/campaign/kill.py --kills 20`"

import time
import numpy as np
import pytest
from campaign.kill import differences, finish, kill, small_steps, start
from campaign.small import store, training


def rows(world):
    "Steps that a training has logged"
    log = world / 'training' / 'toy' / 'log.csv'
    return log.read_bytes().count(b'\n') if log.exists() else 0


def shards(world):
    return len(list((world / 'store').glob('clips-*.arrow')))


def at_a_moment(step, world, progress, when):
    "Kill a step when it has come so far"
    process = start(step, world)
    while process.poll() is None and progress(world) < when:
        time.sleep(0.005)
    assert process.poll() is None, 'nothing was killed'
    kill(process, True)


@pytest.mark.parametrize(
    'name, work, progress, most', [('training', training, rows, 50), ('store', store, shards, 100)]
)
def test_killed_and_started_again_is_the_same(name, work, progress, most, tmp_path, outputs):
    "A training, and a clip store, at a moment that the seed chooses"
    step, world = small_steps()[name], tmp_path / 'killed'
    at_a_moment(step, world, progress, int(np.random.default_rng(0).integers(2, most)))
    finish(step, world)
    work(outputs / name)
    assert differences(step, outputs, world) == []
