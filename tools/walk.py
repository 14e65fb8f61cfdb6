#!/usr/bin/env python3
"""Walk through the README as a newcomer does, and write docs/walk.md.

python tools/walk.py photo.jpg video.mp4

Clones the commit that is checked out into an empty folder, copies each command of the README
there, and notes how long it takes, what it costs and how its output begins. Needs Python and git.
"""

import argparse, os, platform, re, resource, shutil
import signal, subprocess, sys, tempfile, time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = {  # begin of a command → why it is not part of a walk
    'make demo': 'is the whole pipeline; a test runs it at the smallest size',
    'make test': 'is what CI runs',
    'make lab': 'stays open',
    'make book': 'makes the site of these pages',
    'forehand4d train': 'trains for long; a test trains for seconds',
}
PAGES = {'forehand4d app': 'http://127.0.0.1:7860'}  # begin of a command that stays → its address
WITHIN = 3600  # seconds
SHOWN = 4  # lines of output
WIDE = 110  # columns of them


@dataclass
class Step:
    "A command and what became of it"

    command: str
    wall: float = 0.0  # seconds
    cpu: float = 0.0  # seconds of all its processes
    code: int = 0  # exit
    load: float = 0.0  # of the machine when it began
    output: str = ''


def quick_start(text):
    "Commands and Python of the README's first section, comments removed"
    section = text.partition('## Quick start')[2].partition('\n## ')[0]
    blocks = re.findall(r'```(\w*)\n(.*?)```', section, flags=re.S)
    lines = [line for kind, block in blocks if not kind for line in block.splitlines()]
    commands = [re.split(r'\s{2,}#', line)[0].strip() for line in lines]
    snippets = [block.strip() for kind, block in blocks if kind == 'python']
    return commands, snippets


def own_video(text):
    "Commands of the row that begins with a video, under `Your own data`"
    row = re.search(r'^\| a video \|(.*)\|$', text, flags=re.M)[1]
    return re.findall(r'`(forehand4d [^`]+)`', row)


def left_out(command):
    "Why a command is no part of the walk; nothing where it is"
    return next((why for begin, why in LEFT_OUT.items() if command.startswith(begin)), None)


def spent():
    "CPU seconds of all processes that have ended"
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def answers(address):
    "Does a page answer?"
    try:
        return urlopen(address, timeout=2).status == 200
    except OSError:
        return False


def wait_for_page(process, address):
    "Wait until a page answers, then stop what serves it"
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < WITHIN:
        if answers(address):
            os.killpg(process.pid, signal.SIGTERM)  # SIGINT is ignored behind `&`
            return True
        time.sleep(0.2)
    return False


def walk(command, folder):
    "Run a command in the clone, with its environment where there is one"
    step = Step(command, load=os.getloadavg()[0])
    activate = 'source .venv/bin/activate && ' if (folder / '.venv').exists() else ''
    address = next((page for begin, page in PAGES.items() if command.startswith(begin)), None)
    before, began = spent(), time.monotonic()
    log = folder.parent / 'log'
    with log.open('w') as out:
        process = subprocess.Popen(
            ['bash', '-c', activate + command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        answered = address and wait_for_page(process, address)
        until_it_answered = time.monotonic() - began
        code = process.wait(WITHIN)
    step.code = 0 if answered else code
    step.wall = until_it_answered if answered else time.monotonic() - began
    step.cpu = spent() - before
    step.output = first_lines(log.read_text(errors='replace'), folder)
    return step


def first_lines(text, folder):
    "How an output begins: no progress bars, no paths of this machine"
    text = re.sub(r'\x1b\[[0-9;]*[A-Za-z]', '', text).replace(str(folder), '.')
    text = text.replace(str(Path.home()), '~')
    lines = [line.rpartition('\r')[2].rstrip()[:WIDE] for line in text.splitlines()]
    kept = [line for line in lines if line and '%|' not in line]
    return '\n'.join(kept[:SHOWN] + ['…'] * (len(kept) > SHOWN))


def cores():
    "How many of the machine's cores the walk may use"
    there = os.cpu_count()
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else there
    return f'{there} cores' if allowed == there else f'{allowed} of {there} cores'


def page(steps, skipped, commit):
    "The page of the book"
    lines = [
        '# A newcomer\'s walk',
        '',
        '> Each command of the README, copied into an empty folder, with a stopwatch',
        '',
        'Written by `python tools/walk.py photo.jpg video.mp4` '
        f'on {date.today()}, commit `{commit}`, on {cores()} '
        f'({platform.machine()}, {platform.system()}), Python {platform.python_version()}.',
        'The load is that of the whole machine when a command began. Where it is larger than',
        'the number of cores, other work ran beside the walk: wall time then says how busy the',
        'machine was, CPU time what the command costs.',
        '',
        '| command | wall, s | CPU, s | load | exit |',
        '|---|--:|--:|--:|--:|',
    ]
    for step in steps:
        name = step.command.splitlines()[0] + ' …' * ('\n' in step.command)
        numbers = f'{step.wall:.1f} | {step.cpu:.1f} | {step.load:.1f} | {step.code}'
        lines.append(f'| `{name}` | {numbers} |')
    lines += ['', 'Not walked:', '']
    lines += [f'- `{command}` {why}' for command, why in skipped]
    lines += ['', '## What one sees', '']
    for step in steps:
        typed = [f'$ {line}' for line in step.command.splitlines()]
        lines += ['```', *typed, step.output, '```', '']
    return '\n'.join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('photo', type=Path, help='a photograph with hands')
    parser.add_argument('video', type=Path, help='a video with hands, longer than 13 seconds')
    asked = parser.parse_args()
    text = (ROOT / 'README.md').read_text()
    commands, snippets = quick_start(text)
    scripts = [f"python - <<'EOF'\n{snippet}\nEOF" for snippet in snippets]
    wanted = ['forehand4d forecast nothing.jpg', *scripts, *own_video(text)]
    steps, skipped = [], []
    with tempfile.TemporaryDirectory() as empty:
        folder = Path(empty) / 'forehand4d'
        clean = {name for name in os.environ if name.startswith(('FOREHAND4D', 'PYTHONPATH'))}
        for name in clean:
            del os.environ[name]
        subprocess.run(['git', 'clone', '--quiet', ROOT, folder], check=True)
        ask = ['git', 'rev-parse', '--short', 'HEAD']
        commit = subprocess.check_output(ask, cwd=folder, text=True).strip()
        shutil.copyfile(asked.photo, folder / 'photo.jpg')
        shutil.copyfile(asked.video, folder / 'video.mp4')
        for command in [*commands, *wanted]:
            if why := left_out(command):
                skipped.append((command, why))
                continue
            steps.append(walk(command, folder))
            print(f'{steps[-1].wall:7.1f} s  {command.splitlines()[0]}', flush=True)
            (ROOT / 'docs' / 'walk.md').write_text(page(steps, skipped, commit))
    (ROOT / 'docs' / 'walk.md').write_text(page(steps, skipped, commit))
    sys.exit(any(step.code for step in steps if 'nothing.jpg' not in step.command))


if __name__ == '__main__':
    main()
