"Licensed data stays: what the adapters of recorded datasets read is never exported"

import json, shutil
from dataclasses import replace

import pytest, torch, yaml
from test_adapters import stand_in, write_arctic, write_h2o  # noqa: F401

from forehand4d.datasets import arctic, h2o
from forehand4d.datasets.windows import windows
from forehand4d.models.forecasting import load_forecaster
from forehand4d.models.sharing import push_to_hub
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


class Hub:
    "Stands for `huggingface_hub.HfApi`, without a network"

    def __init__(self, folder):
        self.folder = folder

    def create_repo(self, repository, private, exist_ok):
        self.made = dict(repository=repository, private=private)
        return f'https://hub.example/{repository}'

    def upload_folder(self, repo_id, folder_path):
        assert repo_id == self.made['repository']
        shutil.copytree(folder_path, self.folder)


def test_a_model_is_pushed_with_its_card(tmp_path):
    "What is uploaded loads again and is the same, and its card says what it was made from"
    hub = Hub(tmp_path / 'there')
    licence = 'apache-2.0'
    address = push_to_hub('pretrained', 'somebody/hands', licence=licence, api=hub)
    assert address == 'https://hub.example/somebody/hands'
    assert hub.made == dict(repository='somebody/hands', private=True)
    assert {path.name for path in hub.folder.iterdir()} == {
        'README.md',
        'manifest.json',
        'model.safetensors',
    }
    shipped = load_forecaster()
    again = load_forecaster(hub.folder / 'model.safetensors')
    for name, value in shipped.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    _, head, text = (hub.folder / 'README.md').read_text().split('---\n', 2)
    told = yaml.safe_load(head)
    assert (told['license'], told['library_name']) == (licence, 'forehand4d')
    assert "load_forecaster('somebody/hands')" in text
    record = json.loads((hub.folder / 'manifest.json').read_text())
    assert record['splits'] and all(f'| {name} |' in text for name in record['splits'])


@pytest.mark.parametrize('name', ['hands', 'a/b/c', '../x/y', 'some body/hands'])
def test_a_name_that_is_no_repository_uploads_nothing(name, tmp_path):
    with pytest.raises(ValueError, match='expected a repository as user/model'):
        push_to_hub('pretrained', name, api=Hub(tmp_path / 'there'))
