"A pipe, a folder or a dangling link in place of every file that is read: refused at once, by name"

import os
import signal
from contextlib import contextmanager
import pytest
from fuzz.drive import BAD, judge
from fuzz.targets import TARGETS, Target, cameras_binary, cameras_colmap, no_film, with_cameras


class Hang(BaseException):
    "Not an `Exception`: no reader may take it for damage"


@contextmanager
def at_once(seconds):
    "Raise `Hang` after some seconds"

    def stop(*_):
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def dangling(path):
    path.symlink_to(path.with_name('nowhere'))


def of_colmap(folder):
    return cameras_colmap(folder).with_name('cameras.txt')


def of_binary(folder):
    return cameras_binary(folder).with_name('cameras.bin')


KINDS = dict(pipe=os.mkfifo, folder=os.mkdir, link=dangling)
ALL = [
    *TARGETS,
    Target('colmap-cameras', of_colmap, with_cameras, no_film),
    Target('colmap-binary-cameras', of_binary, with_cameras, no_film),
]


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('target', ALL, ids=[t.name for t in ALL])
def test_something_else_in_place_of_a_file(target, kind, tmp_path):
    path = target.make(tmp_path)
    path.unlink()
    KINDS[kind](path)
    with at_once(10):
        outcome, words = judge(target, path)
    assert outcome not in BAD, words
