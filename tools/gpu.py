"""A machine with a GPU for ten minutes: clips, speed, tests and a training, with a limit on each

Needs nothing but Python, so that it can say what else is missing. The work is in gpu_work.py.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / 'tools' / 'gpu_work.py'
RUN = 'gpu'  # name of the training's record
MADE = Path('outputs') / 'train_forecast' / RUN  # where that record lies
FASTER = 0.8  # share of the time for training that its steps are planned to take
MARK = '\npytestmark = pytest.mark.gpu'  # in files whose tests need a GPU
LARGE = ('.safetensors', '.pt', '.lock')  # stays on the machine; weights come back by themselves


class StoppedError(Exception):
    "Somebody ends the whole script"


@dataclass(frozen=True)
class Sizes:
    "How much is done"

    seconds: int  # the whole, without another wish
    batch: int  # clips in a training step
    most_clips: int  # of each domain
    datasets: str  # domains, joined by +
    watch: int  # validation clips of each domain
    paced: int  # steps that are timed before the training is planned
    few_cores: bool = False  # clips are decoded in the training's own process


ON_GPU = Sizes(600, 128, 20_000, 'lab+free', 4, 24)
ON_CPU = Sizes(110, 4, 16, 'lab-pour', 0, 4, True)

# shares of the whole; what a step leaves goes to those after it, the training takes all the rest
# (a sixth at least, where all others are cut off)
SHARES = {'check': 0.1, 'clips': 0.22, 'bench': 0.2, 'tests': 0.11, 'pace': 0.1}
KEPT = 0.1  # share of the whole that is kept for weights and packing
KEPT_LEAST = 12  # seconds


@dataclass
class Result:
    "What became of a step"

    name: str
    status: str  # done, failed, out of time, skipped or stopped
    seconds: float
    says: str  # last line that it printed


# ---- what the steps tell each other


def write(path, values):
    "A JSON file, all or nothing"
    part = path.with_suffix('.part')
    part.write_text(json.dumps(values, indent=1))
    part.replace(path)


def read(folder, name):
    "What FOLDER/NAME.json says; empty where it is not there"
    path = folder / f'{name}.json'
    return json.loads(path.read_text()) if path.exists() else {}


# ---- one step


def parents():
    "Process → its parent, of all processes of a Linux machine"
    found = {}
    for path in Path('/proc').glob('[0-9]*/stat'):
        with suppress(OSError):
            after_name = path.read_text().rpartition(')')[2].split()
            found[int(path.parent.name)] = int(after_name[1])
    return found


def descendants(root):
    "Processes below one; a notebook's kernel has left the process group"
    parent_of = parents()
    below = [root]
    for process in below:
        below += [child for child, parent in parent_of.items() if parent == process]
    return below[1:]


def end(process):
    "End a step and all that it started; checkpoints are written all or nothing"
    below = descendants(process.pid)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for one in below:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    process.wait()


def last_line(path):
    "What a log ends with, in at most 300 characters"
    lines = path.read_text(errors='replace').replace('\r', '\n').split('\n')
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:300] if said else ''


def run_step(name, command, limit, log, env):
    "Run a command for at most so many seconds"
    began = time.monotonic()
    with log.open('w') as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=file, stderr=file, start_new_session=True
        )
        try:
            code = process.wait(timeout=max(limit, 0.1))
            status = 'failed' if code else 'done'
        except subprocess.TimeoutExpired:
            status = 'out of time'
        finally:  # also when the script is stopped
            end(process)
    return Result(name, status, round(time.monotonic() - began, 1), last_line(log))


# ---- all steps


@dataclass
class Session:
    "A run of the script"

    out: Path  # few small files, to be taken home
    work: Path  # records, clips, logs and checkpoints
    seconds: float  # the whole
    sizes: Sizes
    began: float = field(default_factory=time.monotonic)
    results: list = field(default_factory=list)

    @property
    def kept(self):
        "Seconds for weights and packing"
        return max(KEPT_LEAST, KEPT * self.seconds)

    @property
    def left(self):
        "Seconds until the end"
        return self.began + self.seconds - time.monotonic()

    def environment(self):
        "Of a step"
        old = os.environ.get('PYTHONPATH')
        return os.environ | dict(
            PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), old])),
            PYTHONUNBUFFERED='1',
            FOREHAND4D_OUTPUTS=str(self.work / 'outputs'),
            FOREHAND4D_DATA=str(self.work / 'data'),
        )

    def read(self, name):
        "What a step found; empty where it found nothing"
        return read(self.work, name)

    def limit(self, name):
        "Seconds that a step may take"
        usual = SHARES.get(name, 1) * self.seconds
        return min(usual, self.left - self.kept)

    def step(self, name, command, limit=None):
        "Run a step; whatever happens to it, the next one follows"
        limit = self.limit(name) if limit is None else limit
        if limit < 1:
            result = Result(name, 'skipped', 0.0, 'no time was left')
        else:
            print(f'{name}: at most {limit:.0f} s', flush=True)
            log = self.work / 'logs' / f'{name}.txt'
            result = run_step(name, command, limit, log, self.environment())
        self.note(result)

    def note(self, result):
        "Keep a result, and write the summary: one is there whenever the script ends"
        self.results.append(result)
        print(f'{result.name}: {result.status}, {result.seconds:.0f} s: {result.says}', flush=True)
        write_summary(self)

    def worker(self, name, limit=None):
        "A step of gpu_work.py"
        seconds = self.limit(name) if limit is None else limit
        command = [sys.executable, str(WORK), name, str(self.work), f'{0.9 * seconds:.0f}']
        self.step(name, command, limit)


def plan_training(session, init):
    "Parameters of train_forecast, but for its steps; those of a training to be continued"
    sizes = session.sizes
    write(session.work / 'wish.json', asdict(sizes))
    if session.read('training'):
        return
    workers = 0 if sizes.few_cores else max(1, (os.cpu_count() or 2) - 2)
    # a lower rate than from scratch: the weights have been trained
    chosen = dict(profile='cpu', init=init, batch=sizes.batch, lr=3e-4, workers=workers)
    write(session.work / 'training.json', chosen | {'watch': sizes.watch})


def train(session):
    "The longest training that fits; an unfinished one is continued as it was planned"
    chosen = session.read('training')
    pace = session.read('pace')
    if 'steps' not in chosen:
        if not pace or not session.read('clips'):
            session.note(Result('train', 'skipped', 0.0, 'no clips, or no pace: see their logs'))
            return
        time_for_steps = FASTER * (session.limit('train') - pace['start_seconds'])
        steps = max(1, int(time_for_steps / pace['step_seconds']))
        chosen |= {'steps': steps, **session.read('clips')['for_training']}
        write(session.work / 'training.json', chosen)
    command = [sys.executable, '-m', 'forehand4d', 'run', 'train_forecast', '--name', RUN]
    for name, value in chosen.items():
        command += ['-p', name, str(value)]
    session.step('train', command)


def run_tests(session):
    "Tests that are marked gpu"
    marked = [
        str(path) for path in (ROOT / 'tests').glob('test_*.py') if MARK in path.read_text()
    ]
    if not marked:
        session.note(Result('tests', 'skipped', 0.0, 'no test is marked gpu'))
        return
    usual = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-m', 'gpu']
    session.step('tests', [*usual, *sorted(marked)])


def all_steps(session, init):
    "The steps in their order"
    plan_training(session, init)
    session.worker('clips')
    session.worker('bench')
    run_tests(session)
    if 'steps' not in session.read('training'):
        session.worker('pace')
    train(session)
    session.worker('weights', max(1, session.left - 3))


# ---- what is taken home


def write_summary(session):
    "summary.json for programs, summary.txt for people"
    checked = session.read('check')
    facts = {name: session.read(name) for name in ('clips', 'bench', 'pace', 'training')}
    seconds = round(time.monotonic() - session.began, 1)
    steps = [asdict(result) for result in session.results]
    whole = dict(budget=session.seconds, seconds=seconds, machine=checked, steps=steps, **facts)
    write(session.out / 'summary.json', whole)
    on = checked.get('device_name', 'an unknown device')
    lines = [f'{seconds:.0f} of {session.seconds:.0f} s on {on}', '']
    for result in session.results:
        lines.append(f'{result.name:8} {result.status:12} {result.seconds:6.1f} s  {result.says}')
    lines += ['', *(f'missing: {line}' for line in checked.get('missing', []))]
    rows = facts['bench'].get('rows', [])
    lines += [f'{row["what"]}: {row["ours"]:.3g} (goal {row["goal"]:g})' for row in rows]
    (session.out / 'summary.txt').write_text('\n'.join(lines).strip() + '\n')


def pack(session):
    "Weights, and one archive of records and logs"
    made = session.work / 'forecaster.safetensors'
    if made.exists():
        shutil.copy2(made, session.out / made.name)
    with tarfile.open(session.out / 'records.tar.gz', 'w:gz', compresslevel=3) as archive:
        for path in sorted(session.work.rglob('*')):
            inside = path.relative_to(session.work)
            if path.is_file() and inside.parts[0] != 'data' and path.suffix not in LARGE:
                archive.add(path, str(inside))


def stop(*_):
    "A signal to end"
    raise StoppedError


def arguments():
    "What was asked for"
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given = os.environ.get('OUT')
    ask.add_argument('--out', type=Path, default=given, help='folder to take home; default: $OUT')
    ask.add_argument('--work', type=Path, help='folder of everything; with it, a run continues')
    ask.add_argument('--seconds', type=float, help='the whole; 600 with a GPU, 110 without')
    ask.add_argument('--init', default='pretrained', help='weights to start from')
    asked = ask.parse_args()
    asked.out = (asked.out or ROOT / 'outputs' / 'gpu').resolve()
    asked.work = (asked.work or asked.out.with_name(f'{asked.out.name}-work')).resolve()
    return asked


def fresh(session):
    "Forget what earlier steps said of another session, but not the training to be continued"
    for name in ('check', 'clips', 'bench', 'pace'):
        if name != 'clips' or 'steps' not in session.read('training'):
            (session.work / f'{name}.json').unlink(missing_ok=True)
    (session.work / 'forecaster.safetensors').unlink(missing_ok=True)


def main():
    "All of it, never longer than the budget"
    asked = arguments()
    sizes = ON_GPU if shutil.which('nvidia-smi') else ON_CPU
    session = Session(asked.out, asked.work, asked.seconds or sizes.seconds, sizes)
    session.out.mkdir(parents=True, exist_ok=True)
    (session.work / 'logs').mkdir(parents=True, exist_ok=True)
    fresh(session)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        session.worker('check')
        if session.read('check').get('device') != 'cuda':
            session.sizes = ON_CPU
        all_steps(session, asked.init)
    except StoppedError:
        session.note(Result('stopped', 'stopped', 0.0, 'by a signal'))
    pack(session)
    print((session.out / 'summary.txt').read_text(), end='')
    return any(result.status != 'done' for result in session.results)


if __name__ == '__main__':
    sys.exit(main())
