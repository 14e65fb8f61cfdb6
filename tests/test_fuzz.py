"""A hundred mutated files through the public readers;
thousands by `python tests/fuzz/drive.py --cases 5000`"""

import os, warnings
import pytest
from fuzz.drive import BAD, case
from fuzz.others import EVERY


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='every case needs a process of its own')
@pytest.mark.parametrize('target', range(len(EVERY)), ids=[t.name for t in EVERY])
def test_every_case_ends_well(target):
    "A value that is possible, or one clear error that names the file"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)  # of forks
        ends = [case(seed * len(EVERY) + target) for seed in range(2)]
    assert not [e for e in ends if e[2] in BAD]


def test_good_files_are_taken(tmp_path):
    for t in EVERY:
        if t.name == 'official':
            continue  # the authors' files are too large to be made here
        (tmp_path / t.name).mkdir()
        assert t.wrong(t.read(t.make(tmp_path / t.name))) == '', t.name
