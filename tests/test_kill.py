"Two cheap kills; twenty of every long step by `python tests/campaign/kill.py --kills 20`"

import os
import signal
import subprocess
import sys
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


WORKING = """
from concurrent.futures import ProcessPoolExecutor
import multiprocessing, os, time
from forehand4d.core.workers import begin_worker
context = multiprocessing.get_context('spawn')
with ProcessPoolExecutor(2, context, begin_worker) as pool:
    print(*{pool.submit(os.getpid).result() for _ in range(20)}, flush=True)
    time.sleep(600)"""


def is_alive(pid):
    "Does a process go on? One that nobody has asked after has ended, too"
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.exists('/proc'), reason='asks Linux for processes')
@pytest.mark.parametrize('how', [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_process_that_started_them(how):
    command = [sys.executable, '-c', WORKING]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert workers and all(map(is_alive, workers))
    process.send_signal(how)
    process.wait()
    for _ in range(200):
        if not any(map(is_alive, workers)):
            break
        time.sleep(0.05)
    assert not any(map(is_alive, workers))
