"Two cheap kills; twenty of every long step by `python tests/campaign/kill.py --kills 20`"
import numpy as np
import pytest
from campaign.kill import differences, finish, killed, small_steps, undisturbed


@pytest.mark.parametrize('name', ['training', 'store'])
def test_killed_and_started_again_is_the_same(name, tmp_path):
    "A training, and a clip store, at a moment that the seed chooses"
    step = small_steps()[name]
    whole, world = tmp_path/'whole', tmp_path/'killed'
    whole.mkdir()
    seconds = undisturbed(step, whole)
    moment = np.random.default_rng(0).uniform(.5, .9)*seconds
    assert killed(step, world, float(moment), True), 'nothing was killed'
    finish(step, world)
    assert differences(step, whole, world) == []
