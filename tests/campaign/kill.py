"Kill every long step at random moments, start it again, and compare with an undisturbed run"

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
import numpy as np
import psutil  # comes with ipykernel

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = Path(__file__).resolve().with_name('small.py')
OF_TIME = re.compile('second|minute|time|duration|started|finished|speed')
BUSY = 'being written by another process'
UNCOMPARED = ('.lock', 'run.ipynb')  # the executed copy holds times
PATIENCE = 1200  # seconds of one start


@dataclass(frozen=True)
class Step:
    "A command and what it makes"

    name: str
    command: tuple  # arguments of Python
    made: tuple  # folders of the results, relative to the run records


def step_of_study(name, key, *more):
    "A step of the study at the smallest size"
    from forehand4d.study.plan import study

    found = next(s for s in study('tiny') if s.key == key)
    words = found.command.split()[1:]
    return Step(name, ('-m', 'forehand4d', *words), (f'{found.notebook}/{found.name}', *more))


def demo_step():
    "The main chain of the demo; it makes what the other steps need, too"
    wanted = ('prepare_data/data', 'evaluate_forecast/main')
    command = ('-m', 'forehand4d', 'demo', '--profile', 'tiny', '--only', *wanted)
    notebooks = (
        'prepare_data',
        'train_lifting',
        'impute_labels',
        'train_forecast',
        'evaluate_lifting',
        'evaluate_forecast',
    )
    return Step('demo', command, ('data', *notebooks))


def long_steps():
    "Name → step"
    steps = (
        step_of_study('prepare', 'prepare_data/data', 'data'),
        step_of_study('train_lifting', 'train_lifting/lift'),
        step_of_study('impute_labels', 'impute_labels/labels'),
        step_of_study('train_forecast', 'train_forecast/f3d'),
        step_of_study('evaluate_forecast', 'evaluate_forecast/main'),
        demo_step(),
    )
    return {s.name: s for s in steps}


def small_steps():
    "Steps without a notebook: seconds in place of minutes"
    return {n: Step(n, (str(SMALL), n), (n,)) for n in ('training', 'store')}


# ---- starting and killing


def environment(world):
    "Of a process whose run records lie in a folder"
    paths = [str(ROOT), os.environ.get('PYTHONPATH', '')]
    env = {k: v for k, v in os.environ.items() if k != 'FOREHAND4D_DATA'}
    return env | dict(
        FOREHAND4D_OUTPUTS=str(world),
        OMP_NUM_THREADS='1',
        PYTHONPATH=os.pathsep.join(filter(None, paths)),
    )


def start(step, world):
    "The process of a step; what it says lies beside its world"
    said = world.with_suffix('.txt').open('a')
    with said:
        return psutil.Popen(
            [sys.executable, *step.command],
            cwd=ROOT,
            env=environment(world),
            stdout=said,
            stderr=said,
            stdin=subprocess.DEVNULL,
        )


def kill(process, all_of_it):
    "SIGKILL to a process, and to all that it started unless only the first is to die"
    others = []
    with suppress(psutil.NoSuchProcess):  # it may end at any moment
        others = process.children(recursive=True) if all_of_it else []
    for p in [process, *others]:
        with suppress(psutil.NoSuchProcess):
            p.kill()
    process.wait()


def killed(step, world, seconds, all_of_it):
    "Start a step and kill it after some seconds: was there still something to kill?"
    process = start(step, world)
    try:
        process.wait(seconds)
        return False
    except psutil.TimeoutExpired:
        kill(process, all_of_it)
        return True


def finish(step, world):
    "Start a step until it ends; raises if it ends badly"
    deadline = time.time() + PATIENCE
    while time.time() < deadline:
        process = start(step, world)
        try:
            code = process.wait(max(1, deadline - time.time()))
        except psutil.TimeoutExpired:
            kill(process, True)
            break
        if code == 0:
            return
        last = world.with_suffix('.txt').read_text(errors='replace')[-1500:]
        if BUSY not in last.splitlines()[-1]:
            raise RuntimeError(f'{step.name} ended with {code}: {last}')
        time.sleep(1)  # what a killed launcher started lives on for a moment
    raise RuntimeError(f'{step.name} did not end within {PATIENCE} s')


# ---- comparing


def without_times(value):
    "Json without what differs from run to run: times, and hashes of records that hold times"
    if isinstance(value, list):
        return [without_times(v) for v in value]
    if not isinstance(value, dict):
        return value
    if {'path', 'sha256'} <= {*value}:
        value = {k: v for k, v in value.items() if k != 'sha256'}
    return {k: without_times(v) for k, v in value.items() if not OF_TIME.search(k)}


def of_record(path, value):
    "What of a run's manifest must be the same: not when it was made, nor from which manifests"
    if 'notebook' not in value:
        return value  # of a clip store: all of it
    kept = {k: value[k] for k in ('parameters', 'seed', 'status', 'splits', 'metrics')}
    kept['artifacts'] = sorted(value['artifacts'])  # the files themselves are compared
    kept['inputs'] = {k: v['path'] for k, v in value['inputs'].items()}
    return kept


def content(path):
    "What of a file must be the same"
    if path.suffix == '.pt':  # holds the name that it was written under
        import torch
        from forehand4d.core.files import stable_hash

        return stable_hash(torch.load(path, weights_only=True))
    if path.suffix != '.json':
        return path.read_bytes()
    value = json.loads(path.read_text())
    if path.name == 'manifest.json':
        value = of_record(path, value)
    return without_times(value)


def results(step, world):
    "Files of a step's results, by their paths"
    found = (p for folder in step.made for p in sorted((world / folder).rglob('*')))
    return {
        p.relative_to(world).as_posix(): p
        for p in found
        if p.is_file() and p.name not in UNCOMPARED
    }


def differences(step, whole, world):
    "Paths that are missing, more, or not the same"
    one, other = results(step, whole), results(step, world)
    odd = [f'{p} is missing' for p in one if p not in other]
    odd += [f'{p} is left over' for p in other if p not in one]
    both = [p for p in one if p in other]
    return odd + [f'{p} differs' for p in both if content(one[p]) != content(other[p])]


# ---- a campaign


def fresh(step, whole, world):
    "A world in which a step has not been run, and everything else has"
    lacks = {(whole / folder).resolve() for folder in step.made}

    def left_out(folder, names):
        return [n for n in names if (Path(folder) / n).resolve() in lacks]

    shutil.copytree(whole, world, ignore=left_out)
    return world


def trial(step, whole, world, seconds, g):
    "One run with one to three kills: (kills, moments, differences)"
    fresh(step, whole, world)
    moments = g.uniform(0.2, 1.0, int(g.integers(1, 4))) * seconds
    hits = [killed(step, world, float(t), bool(g.uniform() < 0.6)) for t in moments]
    try:
        finish(step, world)
    except RuntimeError as e:
        return sum(hits), moments, [str(e)]
    return sum(hits), moments, differences(step, whole, world)


def undisturbed(step, whole):
    "Seconds that a step takes in a world of its own, which is kept"
    began = time.time()
    finish(step, whole)
    return time.time() - began


def seconds_of(step, whole, folder):
    "Seconds of a step alone, everything that it needs being there; what it makes again is the same"
    world = fresh(step, whole, folder / f'{step.name}-again')
    took = undisturbed(step, world)
    again = differences(step, whole, world)
    shutil.rmtree(world)
    return took, again


def campaign(steps, worlds, times, kills, seed):
    "Trials of all steps in turn until there were so many kills; yields a row for each"
    whole, folder = worlds
    g, n, i = np.random.default_rng(seed), 0, 0
    names = list(steps)
    while n < kills:
        step = steps[names[i % len(names)]]
        if step.name not in times:
            times[step.name], again = seconds_of(step, whole, folder)
            yield step.name, 0, (), again
        hits, moments, odd = trial(step, whole, folder / f'{step.name}-{i}', times[step.name], g)
        yield step.name, hits, moments, odd
        n += hits
        i += 1


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--kills', type=int, default=20)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--only', nargs='*', default=[], help='names of steps')
    p.add_argument('--small', action='store_true', help='the steps without a notebook')
    p.add_argument('--folder', help='where the runs lie; a temporary folder without it')
    args = p.parse_args()
    steps = small_steps() if args.small else long_steps()
    unknown = [name for name in args.only if name not in steps]
    if unknown:
        p.error(f'--only: unknown steps {", ".join(unknown)}; there are {", ".join(steps)}')
    folder = Path(args.folder or tempfile.mkdtemp(prefix='forehand4d-kill-'))
    whole = folder / 'whole'
    whole.mkdir(parents=True, exist_ok=True)
    first = list(steps.values()) if args.small else [steps['demo']]  # makes all that is needed
    times = {step.name: undisturbed(step, whole) for step in first}
    for name, took in times.items():
        print(f'undisturbed {name}: {took:.0f} s', flush=True)
    wanted = {k: v for k, v in steps.items() if not args.only or k in args.only}
    total, wrong = 0, 0
    print(f'{"step":18} {"kills":>5}  {"seconds":16} result')
    for name, hits, moments, odd in campaign(wanted, (whole, folder), times, args.kills, args.seed):
        when = ' '.join(f'{t:.1f}' for t in moments) or 'undisturbed'
        print(f'{name:18} {hits:5}  {when:16} {"; ".join(odd) or "the same"}', flush=True)
        total, wrong = total + hits, wrong + bool(odd)
    print(f'{total} kills, {wrong} runs with other results')
    return int(wrong > 0)


if __name__ == '__main__':
    sys.exit(main())
