"""Steps of gpu.py, each in a process of its own: gpu_work.py STEP FOLDER SECONDS

A step writes FOLDER/STEP.json as it goes and ends with a line that says what it found.
"""

import copy
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from gpu import MADE, read, write

NEEDED = (  # what the steps import
    'torch',
    'numpy',
    'pandas',
    'diffusers',
    'transformers',
    'accelerate',
    'datasets',
    'safetensors',
    'fastcore',
    'papermill',
    'ipykernel',
    'matplotlib',
    'tyro',
    'pytest',
    'trimesh',
)
PROBE = 8  # clips a core, to see how quickly they are made
PLANNED = 0.75  # share of the time that clips are planned to take
WARM = 6  # of so many steps that are timed, the first does not count
NOTEBOOK = 10  # seconds that a notebook takes to start, beside what is measured here


# ---- check


def processor_facts():
    "Of the machine, without torch"
    free = shutil.disk_usage(tempfile.gettempdir()).free
    return dict(
        python=platform.python_version(),
        cores=os.cpu_count(),
        disk_free_gb=round(free / 1e9),
        compiler=shutil.which('cc') or shutil.which('gcc') or '',
        device='cpu',
        device_name='a processor',
    )


def gpu_facts():
    "What torch says of the GPU"
    import torch

    found = dict(torch=torch.__version__, cuda=torch.version.cuda)
    if not torch.cuda.is_available():
        return found
    free, whole = torch.cuda.mem_get_info()
    (torch.ones(8, 8, device='cuda') @ torch.ones(8, 8, device='cuda')).sum().item()
    return found | dict(
        device='cuda',
        device_name=torch.cuda.get_device_name(),
        capability='.'.join(map(str, torch.cuda.get_device_capability())),
        memory_gb=round(whole / 1e9),
        memory_free_gb=round(free / 1e9),
        bf16=torch.cuda.is_bf16_supported(),
    )


def missing_of(facts):
    "What is not there, and what to do about it"
    lines = []
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        lines.append(f'packages {", ".join(absent)}: make install, or pip install them')
    if 'torch' in facts and not facts['cuda']:
        lines.append('a torch with CUDA: this is the build for processors; pip install torch')
    elif facts['device'] == 'cpu' and 'torch' in facts:
        lines.append('a GPU that torch can use: see nvidia-smi and the version of the driver')
    if facts['device'] == 'cuda' and not facts['compiler']:
        lines.append('a C compiler: torch.compile needs one (on Debian: apt install gcc)')
    return lines


def check(folder, seconds):
    "Is there all that is needed?"
    facts = processor_facts()
    if importlib.util.find_spec('torch'):
        facts |= gpu_facts()
    facts['missing'] = missing_of(facts)
    write(folder / 'check.json', facts)
    print(f'{facts["device_name"]}; missing: {"; ".join(facts["missing"]) or "nothing"}')
    return any(line.startswith('packages') for line in facts['missing'])


# ---- clips


def clip_rate(folder, domain, sizes):
    "Clips a second, on all cores"
    from forehand4d.handworld.generate import generate

    few = PROBE * os.cpu_count()
    shape = dict(frames=sizes.frames, image_size=sizes.image_size)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        began = time.monotonic()
        generate(domain, 'train', few, f'{scratch}/clips', os.cpu_count(), **shape)
        return few / (time.monotonic() - began)


def clips(folder, seconds):
    "HandWorld for the training, as many clips as can be made in the time"
    from forehand4d.catalogue import profile_dataset
    from forehand4d.data.names import parse_mixture
    from forehand4d.runs.profiles import profile

    began = time.monotonic()
    sizes = profile('cpu')
    wish = read_wish(folder)
    domains = [name for name, _ in parse_mixture(wish['datasets'])]
    count = wish.get('clips')
    if not count:  # else a training goes on, with the clips that it had
        rate = clip_rate(folder, domains[0], sizes)
        left = PLANNED * (seconds - (time.monotonic() - began))
        count = max(4, min(wish['most_clips'], int(rate * left / len(domains))))
    made = []
    for domain in domains:
        profile_dataset(domain, 'train', sizes, n=count)
        made.append(domain)
        rate = count * len(made) / (time.monotonic() - began)
        chosen = dict(datasets='+'.join(made), clips=count)
        write(folder / 'clips.json', dict(for_training=chosen, clips_per_second=round(rate, 1)))
    print(f'{count} clips of each of {", ".join(made)}, {rate:.0f} a second')
    return 0


def read_wish(folder):
    "Domains and number of clips: those of a training to be continued, else what gpu.py wishes"
    chosen = read(folder, 'training')
    kept = {name: chosen[name] for name in ('datasets', 'clips') if name in chosen}
    return read(folder, 'wish') | kept


# ---- speed


def bench_way(how, sample, rate):
    "Rows of one way, with a fresh network"
    from forehand4d.models.forecaster import build_forecaster
    from forehand4d.study.network_speed import OnGPU, gpu_way

    on_gpu = sample.device.type == 'cuda'
    model = build_forecaster(sample.profile, weights='none').eval().to(sample.device)
    if on_gpu:
        return gpu_way(OnGPU(model, sample, 64), how, rate)
    rows = gpu_way(OnGPU(model, sample, 2), how, rate, repeats=1)
    for row in rows:
        what = row['what'].replace('GPU', 'tiny, on a processor')
        row['what'] = what.replace('batch 64', 'batch 2')
    return rows


def bench(folder, seconds):
    "The benchmark's rows of a GPU, one way after the other; the plain way alone on a processor"
    import torch
    from forehand4d.study.network_speed import GPU_WAYS
    from forehand4d.study.speed import matmul_rate
    from forehand4d.study.speed_rows import bench_clips, bench_device

    device = bench_device()
    on_gpu = device == 'cuda'
    half = torch.bfloat16 if on_gpu else torch.float32
    rate = matmul_rate(device, half, 8192 if on_gpu else 256)
    sample = bench_clips('full' if on_gpu else 'tiny', 4, device)
    rows, failed = [], []
    for how in GPU_WAYS if on_gpu else GPU_WAYS[:1]:
        try:
            rows += bench_way(how, sample, rate)
        except Exception as error:  # the next way may work
            failed.append(f'{how or "plain"}: {type(error).__name__}: {error}'[:300])
        found = dict(device=device, matmul_tflops=rate / 1e12, failed=failed, rows=rows)
        write(folder / 'bench.json', found)
    for row in rows:
        print(f'{row["what"]}: {row["ours"]:.3g}, goal {row["goal"]:g}, {row["note"]}')
    print(f'{len(rows)} rows; failed: {"; ".join(failed) or "none"}')
    return bool(failed)


# ---- training


def planned(folder):
    "Plan, clips and network of the training"
    from forehand4d.models.forecast_run import ForecastParams, forecast_run
    from forehand4d.models.forecast_run import planned_model, training_clips

    made = read(folder, 'clips')
    if not made:
        sys.exit('no clips were made: see logs/clips.txt')
    chosen = made['for_training'] | read(folder, 'training')
    chosen.pop('watch')
    plan = forecast_run(ForecastParams(**chosen))
    data = training_clips(plan)
    return plan, data, planned_model(plan, data)


class Clock:
    "Takes the place of a record: keeps the moment of each step"

    def __init__(self, folder):
        self.dir = self.ckpt_dir = folder
        self.moments = []

    def rewind(self, step):
        "Nothing is on record"

    def log(self, **row):
        "A step is done"
        self.moments.append(time.monotonic())

    def step_seconds(self):
        "Of a step, once the first ones are over"
        timed = self.moments[1 + len(self.moments) // WARM :]
        return (timed[-1] - timed[0]) / (len(timed) - 1)


def pace(folder, seconds):
    "Seconds of a step, and until the first one"
    from forehand4d.training.loop import train

    began = time.monotonic()
    plan, data, model = planned(folder)
    scratch = Path(tempfile.mkdtemp(dir=folder))
    clock = Clock(scratch)
    train(model, data, replace(plan.training, steps=read(folder, 'wish')['paced']), clock)
    shutil.rmtree(scratch)
    each = clock.step_seconds()
    start = clock.moments[0] - began + NOTEBOOK
    write(folder / 'pace.json', dict(step_seconds=each, start_seconds=start))
    print(f'{each:.3f} s a step of {plan.training.batch} clips, {start:.0f} s until the first')
    return 0


def weights(folder, seconds):
    "The averaged weights of the last checkpoint, with 8 bits a number"
    from forehand4d.training.weights import read_state, save_weights

    state = folder / MADE / 'ckpt' / 'state.pt'
    if not state.exists():
        print(f'no weights: the training wrote no checkpoint ({state})')
        return 1
    plan, _, model = planned(folder)
    average = copy.deepcopy(model)
    step = read_state(state, model, average)['step']
    path = folder / 'forecaster.safetensors'
    save_weights(average, path, small=True)
    size = path.stat().st_size / 1e6
    print(f'weights after step {step} of {plan.training.steps}, {size:.1f} MB')
    return 0


STEPS = dict(check=check, clips=clips, bench=bench, pace=pace, weights=weights)

if __name__ == '__main__':
    name, folder, seconds = sys.argv[1:]
    sys.exit(int(STEPS[name](Path(folder), float(seconds))))
