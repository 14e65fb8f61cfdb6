"The part of the build that pyproject.toml cannot say: run notebooks ship inside the package"

import json
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
FOLDER = 'forehand4d/notebooks'


def run_notebooks() -> list:
    "The notebooks that `forehand4d run` may be asked for"
    paths = sorted((ROOT / 'nbs').glob('*.ipynb'))
    return [path for path in paths if not path.stem[0].isdigit() and path.stem != 'index']


def without_outputs(path: Path) -> str:  # of a notebook
    "A notebook as it is before it runs"
    notebook = json.loads(path.read_text(encoding='utf-8'))
    for cell in notebook['cells']:
        if cell['cell_type'] == 'code':
            cell.update(outputs=[], execution_count=None)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + '\n'


class BuildWithNotebooks(build_py):
    "Copies `nbs/*.ipynb` to `forehand4d/notebooks/`; an editable installation finds them in `nbs/`"

    def run(self):
        "Build the package, then add the notebooks"
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib) / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        for path in run_notebooks():
            (folder / path.name).write_text(without_outputs(path), encoding='utf-8')

    def get_outputs(self, include_bytecode: bool = True) -> list:  # the compiled files, too?
        "All that the build writes"
        added = [f'{self.build_lib}/{FOLDER}/{path.name}' for path in run_notebooks()]
        written = super().get_outputs(include_bytecode)
        return written if self.editable_mode else [*written, *added]


setup(cmdclass={'build_py': BuildWithNotebooks})
