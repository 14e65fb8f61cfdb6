#!/usr/bin/env python3
"""Execute notebooks and store their outputs, or check that the stored outputs are what comes out.

    python tools/execute.py                          # store the outputs of numbered notebooks
    python tools/execute.py nbs/library/2_geometry   # of a wing
    python tools/execute.py --runs nbs/claims.ipynb  # a run notebook, shrunk as in the tests
    python tools/execute.py --check                  # run all, as nbdev_test does, and compare
    python tools/execute.py --check --but claims     # all of them but nbs/claims.ipynb

Cells flagged slow, gpu, data or `eval: false` are not run and keep what they have. A cell with
the line `#| unstable` (it shows times or the machine) is run and stored, but not compared.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import outputs as rules  # noqa: E402

ROOT = rules.ROOT
FLAGS = {'slow', 'gpu', 'data'}  # tst_flags of settings.ini
HEAVY = [  # imported once
    'torch',
    'pandas',
    'matplotlib.pyplot',
    'IPython',
    'execnb.shell',
    'nbdev.process',
    'nbdev.clean',
]
FIGURES = """
import matplotlib
from matplotlib_inline.config import InlineBackend
matplotlib.rcParams.update({'figure.dpi': 100, 'savefig.dpi': 'figure'})
backend = InlineBackend.instance(parent=get_ipython())
backend.print_figure_kwargs = {'bbox_inches': 'tight', 'metadata': {'Software': None}}
del backend
"""


@dataclass
class Report:
    "What became of one notebook"

    path: Path  # the notebook
    seconds: float = 0.0  # it took
    outputs: int = 0  # it holds now
    size: int = 0  # bytes of the file
    error: str = ''  # traceback of the cell that failed
    different: tuple = ()  # (id of the cell, what differs) of outputs that are stale

    def line(self) -> str:
        "One line for the terminal"
        inside = self.path.is_relative_to(ROOT)
        name = self.path.relative_to(ROOT) if inside else self.path
        state = 'FAILED ' if self.error else 'STALE ' if self.different else ''
        size = f'{self.outputs} outputs, {self.size / 1000:.0f} kB'
        return f'{state}{name}: {self.seconds:.1f} s, {size}'


def read(path: Path) -> dict:
    "A notebook as it is stored"
    return json.loads(path.read_text(encoding='utf-8'))


def is_skipped(cell) -> bool:  # a cell as nbdev has it, with its directives
    "Is this cell not run by nbdev_test?"
    directives = getattr(cell, 'directives_', None) or {}
    is_off = directives.get('eval:', [''])[0].lower() == 'false'
    return cell.cell_type != 'code' or is_off or bool(FLAGS & directives.keys())


def parsed(path: Path):
    "The notebook with the directives of its cells; None for one whose title says `skip_exec: true`"
    from nbdev.frontmatter import FrontmatterProc
    from nbdev.process import NBProcessor

    notebook = NBProcessor(path, procs=FrontmatterProc, process=True).nb
    skip = str(getattr(notebook, 'frontmatter_', {}).get('skip_exec', False)).lower() == 'true'
    return None if skip else notebook


def run_cells(
    path: Path,  # a notebook
    folders: dict,  # path → what stands for it in outputs
) -> dict:  # id of a cell that was run → its tidy outputs; cells that are not run are missing
    "Run a notebook as nbdev_test does"
    from execnb.nbio import nb2dict
    from execnb.shell import CaptureShell

    notebook = parsed(path)
    if notebook is None:
        return {}
    found = {}
    shell = CaptureShell(path, mpl_format='png')
    shell.run(FIGURES)
    for cell in notebook.cells:
        if is_skipped(cell):
            continue
        cell.outputs = []
        shell.cell(cell)
        if shell.exc:
            raise RuntimeError(shell.prettytb(fname=path)) from None
        found[cell.id] = rules.tidy_outputs(nb2dict(cell.outputs), folders)
    return found


def store(
    path: Path,  # a notebook
    found: dict,  # id of a cell → its tidy outputs
):
    "Write outputs into a notebook, in the form that nbdev_clean leaves as it is"
    from execnb.nbio import nb2str
    from nbdev.clean import clean_nb

    notebook = read(path)
    for cell in notebook['cells']:
        if cell['id'] in found:
            cell['outputs'] = found[cell['id']]
    clean_nb(notebook, allowed_cell_metadata_keys=['tags'])
    beside = path.with_name(f'.{path.name}.tmp')
    beside.write_text(nb2str(notebook), encoding='utf-8')
    beside.replace(path)


def is_unstable(cell: dict) -> bool:  # a cell as it is stored
    "Does the author say that this output shows times or the machine?"
    lines = rules.join(cell['source']).splitlines()
    return any(line.replace(' ', '') == '#|unstable' for line in lines)


def stale(
    path: Path,  # a notebook
    found: dict,  # id of a cell → its tidy outputs now
) -> tuple:  # of (id of a cell, what differs)
    "Stored outputs that are not what comes out; nothing where a notebook stores none"
    cells = [cell for cell in read(path)['cells'] if cell['cell_type'] == 'code']
    if not any(cell['outputs'] for cell in cells) or not rules.is_numbered(path):
        return ()
    compared = [cell for cell in cells if cell['id'] in found and not is_unstable(cell)]
    differences = {
        cell['id']: rules.compare_outputs(cell['outputs'], found[cell['id']]) for cell in compared
    }
    return tuple(pair for pair in differences.items() if pair[1])


def work(
    path: Path,  # a notebook
    check: bool,  # compare and leave the file as it is
    data: str,  # folder of prepared data that all notebooks share
    records: str = '',  # folder of run records; without it a temporary one for each notebook
) -> Report:
    "Execute one notebook in a process of its own"
    started = time.time()
    os.environ.update(IN_TEST='1', FOREHAND4D_DATA=data)
    os.environ.pop('FOREHAND4D_OUTPUTS', None)  # under IN_TEST a temporary folder takes its place
    if records:
        os.environ['FOREHAND4D_OUTPUTS'] = records
    sys.path.insert(0, str(ROOT))
    os.chdir(path.parent)
    report = Report(path)
    try:
        folders = {data: 'outputs/data'} | ({records: 'outputs'} if records else {})
        found = run_cells(path, folders)
    except RuntimeError as error:
        report.error = str(error)
    else:
        if check:
            report.different = stale(path, found)
        else:
            store(path, found)
    cells = read(path)['cells']
    report.outputs = sum(len(cell.get('outputs', [])) for cell in cells)
    report.size = path.stat().st_size
    report.seconds = time.time() - started
    return report


def deliver(
    pipe,  # end of a pipe that takes the report
    *arguments,  # of `work`
):
    "What runs in the process of a notebook"
    own = sys.modules['__mp_main__']
    report = work(*arguments)
    sys.modules['__mp_main__'] = own  # a notebook that imports `multiprocess` replaces it
    pipe.send(report)


def apart(
    context,  # of multiprocessing
    path: Path,  # a notebook
    *arguments,  # the other arguments of `work`
) -> Report:
    "Execute one notebook in a process that ends with it"
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=deliver, args=(sender, path, *arguments))
    process.start()
    sender.close()
    try:
        report = receiver.recv()
    except EOFError:
        process.join()
        report = Report(path, error=f'its process ended with exit code {process.exitcode}')
    process.join()
    return report


def execute(
    paths: list,  # notebooks
    check: bool,  # compare and leave the files as they are
    workers: int,  # processes
    records: str = '',  # folder of run records; without it a temporary one for each notebook
) -> list:  # of Report
    "Execute notebooks, each in a fresh process forked from one that has imported what is heavy"
    context = get_context('forkserver')
    context.set_forkserver_preload(HEAVY)
    reports = []
    with tempfile.TemporaryDirectory(prefix='forehand4d-test-') as folder:
        data = os.environ.get('FOREHAND4D_DATA') or f'{folder}/data'
        with ThreadPoolExecutor(workers) as pool:
            jobs = [pool.submit(apart, context, path, check, data, records) for path in paths]
            for job in as_completed(jobs):
                reports.append(job.result())
                print(reports[-1].line(), flush=True)
    return reports


def chosen(arguments: argparse.Namespace) -> list:
    "The notebooks that the command line names; without names the numbered ones, or all for a check"
    paths = []
    for name in arguments.notebooks:
        given = Path(name).resolve()
        if not given.exists():
            sys.exit(f'{name}: expected a notebook or a folder of notebooks')
        paths += rules.notebooks(given) if given.is_dir() else [given]
    if not paths:
        paths = rules.notebooks()
        if not arguments.check:
            paths = [path for path in paths if rules.is_numbered(path) or arguments.runs]
    unknown = set(arguments.but) - {path.stem for path in paths}
    if unknown:
        sys.exit(f'--but: expected names of notebooks, got {", ".join(sorted(unknown))}')
    paths = [path for path in paths if path.stem not in arguments.but]
    refused = [path.name for path in paths if not rules.is_numbered(path)]
    if refused and not (arguments.check or arguments.runs):
        sys.exit(f'{", ".join(refused)}: notebooks that run something are executed with --runs')
    return paths


def command_line() -> argparse.Namespace:
    "What was asked for"
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    add = parser.add_argument
    add('notebooks', nargs='*', help='notebooks or folders of notebooks')
    add('--check', action='store_true', help='compare with what is stored, change nothing')
    add('--runs', action='store_true', help='execute run notebooks too, shrunk')
    add('--outputs', default='', help='folder of run records that tables and figures read')
    add('--but', nargs='+', default=[], metavar='NAME', help='notebooks that are left out')
    add('--workers', type=int, default=2, help='notebooks executed at a time')
    return parser.parse_args()


def main():
    "Execute, then list what failed or is stale"
    arguments = command_line()
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    started = time.time()
    records = str(Path(arguments.outputs).resolve()) if arguments.outputs else ''
    reports = execute(chosen(arguments), arguments.check, arguments.workers, records)
    bad = [report for report in reports if report.error or report.different]
    for report in bad:
        print(f'\n{report.path.name}', report.error, sep='\n', file=sys.stderr)
        for cell, difference in report.different:
            print(f'  cell {cell}: {difference}', file=sys.stderr)
    if any(report.different for report in bad):
        print('\nIf the change is meant: python tools/execute.py NOTEBOOK', file=sys.stderr)
    print(f'{len(reports) - len(bad)} of {len(reports)} notebooks in {time.time() - started:.0f} s')
    sys.exit(bool(bad))


if __name__ == '__main__':
    main()
