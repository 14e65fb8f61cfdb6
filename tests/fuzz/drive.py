"""Run seeded cases, each in a process of its own with limits of time and memory,
and count how they end"""

import argparse, os, pickle, resource, signal, sys, tempfile, time
from collections import Counter
from pathlib import Path
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from fuzz import mutate as m
from fuzz.others import EVERY

SECONDS, WAITING = 20, 90  # of a case: of the processor, and of everything
BYTES = 2 << 30  # of its memory beyond the start
BAD = ('traceback', 'nameless', 'impossible', 'hang', 'crash', 'memory')


def mutated(target, folder, g):
    "A good file of a target, made wrong"
    path = target.make(folder)
    if g.uniform() < 0.06:
        m.replace_file(path, g)
        return path, 'replaced'
    ways = m.BYTES + target.extra
    way = ways[int(g.integers(len(ways)))]
    path.write_bytes(way(path.read_bytes(), g))
    return path, way.__name__


def judge(target, path):
    "How reading ends: (outcome, a few words)"
    try:
        value = target.read(path)
    except (ValueError, OSError, ImportError) as e:
        text = str(e)
        if type(e).__name__ in (
            'UnicodeDecodeError',
            'JSONDecodeError',
            'BadZipFile',
            'UnidentifiedImageError',
        ):
            return 'traceback', repr(e)[:200]
        named = any(p in text for p in (path.name, path.parent.name, path.stem))
        clear = (
            named
            and len(text.splitlines()) == 1
            and 'lambda' not in text
            and 'weights_only' not in text
        )
        return ('clear' if clear else 'nameless'), text[:300]
    except MemoryError as e:
        return 'memory', repr(e)[:200]
    except Exception as e:
        return 'traceback', repr(e)[:200]
    wrong = target.wrong(value)
    return ('impossible', wrong) if wrong else ('accepted', '')


def child(target, path, pipe):
    "In the forked process: limits, silence, verdict"
    null = os.open(os.devnull, os.O_WRONLY)
    for f in (1, 2):
        os.dup2(null, f)
    used = (
        int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
        if os.path.exists('/proc/self/statm')
        else 0
    )
    if used:
        resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of the processor, which others use, too
    signal.alarm(WAITING)
    os.write(pipe, pickle.dumps(judge(target, path)))
    os._exit(0)


def case(seed, targets=EVERY):
    "One case: (target, mutation, outcome, a few words)"
    g = np.random.default_rng(seed)
    target = targets[seed % len(targets)]
    with tempfile.TemporaryDirectory() as folder:
        path, how = mutated(target, Path(folder), g)
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                child(target, path, writing)
            finally:
                os._exit(9)
        os.close(writing)
        with os.fdopen(reading, 'rb') as f:
            said = f.read()
        _, status = os.waitpid(pid, 0)
    if said:
        return (target.name, how, *pickle.loads(said))
    late = (signal.SIGALRM, signal.SIGPROF)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in late:
        return target.name, how, 'hang', f'over {SECONDS} s of work or {WAITING} s'
    return target.name, how, 'crash', f'status {status}'


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--cases', type=int, default=100)
    p.add_argument('--seed', type=int, default=0, help='of the first case')
    p.add_argument('--only', default='', help='one target')
    p.add_argument('--show', nargs='*', default=list(BAD), help='outcomes that are listed')
    args = p.parse_args()
    targets = [t for t in EVERY if args.only in ('', t.name)]
    began, count = time.time(), Counter()
    for seed in range(args.seed, args.seed + args.cases):
        name, how, outcome, words = case(seed, targets)
        count[outcome] += 1
        if outcome in args.show:
            print(f'{seed:6} {name:12} {how:9} {outcome:10} {words}', flush=True)
    print(
        f'{args.cases} cases in {time.time() - began:.0f} s:',
        ', '.join(f'{k} {count[k]}' for k in ('clear', 'accepted', *BAD)),
    )
    return int(any(count[k] for k in BAD))


if __name__ == '__main__':
    sys.exit(main())
