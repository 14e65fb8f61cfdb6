"""Real videos: the camera's motion, starts, and forecasts from moments of them;
the command says what it does not understand"""

import pytest

from forehand4d.cli import main
from forehand4d.core.paths import project_root
from forehand4d.video.videos import read_frames
from forehand4d.video.looks import detector_available
from forehand4d.video.scores import baselines, score_prediction, Prediction
from forehand4d.video.starts import Reading, open_video, tracked_future

VIDEO = project_root().parent / 'shared' / 'real' / 'video' / 'two_hands.mp4'
real = pytest.mark.skipif(
    not VIDEO.is_file(), reason='the video of ../shared/real is not on this machine'
)
tracked = pytest.mark.skipif(not detector_available(), reason='no hand detector is installed')


@real
def test_frames_are_found_without_decoding_those_before():
    "A frame that is sought is the frame that is counted"
    frames = read_frames(VIDEO)
    next(frames)
    counted = [f for _, f in zip(range(41), frames, strict=False)][40]
    sought = read_frames(VIDEO, 40)
    assert next(sought)[2] == 500
    assert (next(sought) == counted).all()


@real
@tracked
def test_a_tripod_is_seen_as_one(tmp_path, monkeypatch):
    """The person moves, the camera does not;
    every start has a future, and holding the hands is right at first"""
    monkeypatch.setenv('FOREHAND4D_OUTPUTS', str(tmp_path))
    video = open_video(VIDEO, Reading(max_frames=120))
    assert video.camera.resting > 0.8
    assert len(video.starts) == 7 and set(video.images) == set(video.starts)
    future = tracked_future(video, video.starts[3])
    rows = score_prediction(Prediction(baselines(future)['held']), future)
    error = rows.groupby('time').sizes.mean()
    assert error.iloc[0] < 0.01 < error.iloc[30]


@pytest.mark.parametrize(
    'more, message',
    [
        (['a.mp4'], 'say which moment of it, such as --at 2.5'),
        (['none.mp4', '--at', '1'], 'no video at'),
        (['a.jpg', '--no-past'], 'give them with --at SECONDS'),
        (['a.mp4', '--at', '1', '--at', '1'], 'would overwrite each other'),
    ],
)
def test_moments_that_are_none(more, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.mp4').touch()
    (tmp_path / 'a.jpg').touch()
    assert main(['forecast', *more]) == 2
    assert message in capsys.readouterr().err
