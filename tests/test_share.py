"Licensed data stays: what the adapters of recorded datasets read is never exported"

from dataclasses import replace

import pytest
from test_adapters import stand_in, write_arctic, write_h2o  # noqa: F401

from forehand4d.datasets import arctic, h2o
from forehand4d.datasets.windows import windows
from forehand4d.handworld.export import export_handworld, refuse_licensed

ADAPTERS = [(arctic, write_arctic, 'data/arctic/data'), (h2o, write_h2o, 'data/h2o')]


@pytest.mark.parametrize('adapter, write, folder', ADAPTERS, ids=['arctic', 'h2o'])
def test_recorded_data_is_never_exported(adapter, write, folder, tmp_path):
    "Whatever a recorded dataset gives is refused before anything is written, also under our name"
    write(tmp_path / folder)
    clip = windows(adapter.sequences(tmp_path)[0], image=False)[0]
    with pytest.raises(ValueError, match='licences of recorded datasets'):
        export_handworld({'test': [clip]}, tmp_path / 'out')
    with pytest.raises(ValueError, match="hand model 'mano'"):
        export_handworld({'test': [replace(clip, dataset='lab-pour')]}, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_every_adapter_is_refused():
    "No recorded dataset bears the name of a domain of HandWorld"
    from types import SimpleNamespace

    from forehand4d.data.names import DATASETS

    assert len(DATASETS) >= 8
    for name in DATASETS:
        with pytest.raises(ValueError, match=f"is of '{name}'"):
            refuse_licensed([SimpleNamespace(dataset=name, motion=None)])
