"""Tables, figures, claims and the list of what is missing read records only,
and keep results of changed code out of the paper."""

import json, re, shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from forehand4d.core.files import read_json
from forehand4d.evaluation.scoring import Targets, score
from forehand4d.runs.launch import run_notebook
from forehand4d.geometry.motion import rest_motion
from forehand4d.study.paper import TABLES
from forehand4d.evaluation.records import Budget, save_records
from forehand4d.study.sources import collect
from forehand4d.runs.record import start_run
from forehand4d.study.plan import demo, state, study, with_needs
from forehand4d.study.tables import build_table, save_table

ROOT = Path(__file__).resolve().parent.parent
FITS = [
    m + k
    for m in ('lifting-fit', 'fit-search-only', 'fit-lifter-only', 'fit-paper')
    for k in ('', '-hard')
]
NOISE = {
    'train-mean': 0.09,
    'nearest': 0.07,
    'static-oracle': 0.05,
    **dict.fromkeys(FITS, 0.03),
    'lifting': 0.04,
    'lifting-refined': 0.02,
}


def record(
    name,
    dirty=False,
    notebook='evaluate_lifting',
    noise=NOISE,
    clips=4,
    seed=0,
    samples=1,
    **params,
):
    "A toy evaluation on record"
    g = torch.Generator().manual_seed(0)
    way = torch.randn(clips, 1, 2, 3, generator=g) * 0.1 * torch.linspace(0, 1, 12)[:, None, None]
    gt = replace(
        rest_motion(clips, 12), wrist=torch.tensor([[0.1, 0.05, 0.6], [-0.1, 0.05, 0.6]]) + way
    ).joints()
    data = (('lab-pour', 'lab-grasp', 'wild-joints', 'zero-everyday') * clips)[:clips]
    targets = Targets(
        gt,
        torch.ones(gt.shape[:-1], dtype=torch.bool),
        torch.full((clips,), 12),
        torch.full((clips,), 30.0),
        data,
        tuple(map(str, range(clips))),
    )
    g = torch.Generator().manual_seed(seed + 1)
    scored = [
        score(
            gt[:, None] + size * torch.randn(clips, samples, 12, 2, 21, 3, generator=g), targets, m
        )
        for m, size in noise.items()
    ]
    run = start_run(notebook, dict(profile='cpu', seed=seed) | params, name)
    budgets = {m: Budget(parameters=1000, steps=10, train_seconds=3.0) for m in list(noise)[-2:]}
    for f in save_records(
        run.dir, *(pd.concat(x, ignore_index=True) for x in zip(*scored, strict=True)), budgets
    ):
        run.add_artifact(f)
    run.manifest['dirty'] = dirty
    run.finish({})
    return run


def test_table_from_records(outputs, monkeypatch):
    monkeypatch.delenv('IN_TEST', raising=False)
    run = run_notebook('table1_lifting', name='demo')
    assert not run.done and not (outputs / 'paper').exists()
    assert (
        'forehand4d paper --profile cpu --only evaluate_lifting/lift'
        in (run.dir / 'run.ipynb').read_text()
    )

    record('changed', dirty=True)
    run = run_notebook('table1_lifting', name='demo')  # unfinished runs are run again
    assert run.done and run.manifest['artifacts']
    assert list(run.manifest['inputs']) == ['evaluate_lifting/changed']
    text = (run.dir / 'table1_lifting.md').read_text()
    assert 'HandWorld (synthetic) [dirty]' in text and '*paper (real)*' in text
    assert re.findall('--only (\\S+)`', text) == ['evaluate_lifting_baselines/baselines'] * 3
    assert (
        'Source: outputs/evaluate_lifting/changed' in text
        and '1,000 parameters, 10 steps, 3 s of training' in text
    )
    assert not (outputs / 'paper').exists(), 'results of changed code are no results of the paper'

    record('clean')
    (source,) = collect('evaluate_lifting').of('lifting')
    assert source.run.name == 'clean' and source.flags == ()
    run = run_notebook('table1_lifting', name='paper')
    saved = json.loads((outputs / 'paper/table1_lifting-cpu.json').read_text())
    assert [s['run'] for s in saved['sources']] == ['outputs/evaluate_lifting/clean'] and saved[
        'sources'
    ][0]['sha256']
    assert {p.suffix for p in (outputs / 'paper').iterdir()} == {'.md', '.tex', '.csv', '.json'}


def test_same_records_same_tables(outputs, tmp_path):
    record('cpu-lift')
    for n in ('one', 'two'):
        for spec in TABLES[:2]:
            save_table(build_table(spec, collect(spec.notebook, 'cpu')), tmp_path / n)
    files = sorted(p.name for p in (tmp_path / 'one').iterdir())
    assert len(files) == 8
    for f in files:
        assert (tmp_path / 'one' / f).read_bytes() == (tmp_path / 'two' / f).read_bytes(), f


def test_seeds_are_pooled(outputs):
    "Mean over clips of the mean over seeds; the interval is over clips, and floors have no seeds"
    spec = next(t for t in TABLES if t.name == 'table3_forecasting')
    for s in range(3):
        again = f'-s{s}' if s else ''
        record(
            f'cpu-main{again}',
            notebook='evaluate_forecast',
            noise={'forecast-3d': 0.1} | ({} if s else {'nearest': 0.2}),
            clips=8,
            seed=s,
            samples=5,
            models={'forecast-3d': f'cpu-f3d{again}'},
            floors=not s,
        )
    sources = collect('evaluate_forecast', 'cpu')
    assert [s.run.name for s in sources.of('forecast-3d')] == [
        'cpu-main',
        'cpu-main-s1',
        'cpu-main-s2',
    ] and len(sources.of('nearest')) == 1
    table = build_table(spec, sources)
    r = pd.concat([s.data.records for s in sources.found]).query(
        'method == "forecast-3d" and protocol == "strict" and dataset.str.startswith("lab")'
    )
    per_clip = {
        'best': r[r.best].groupby(['dataset', 'clip']).M.mean(),
        'single': r.groupby(['dataset', 'clip']).M.mean(),
    }
    for line in [x for x in table.lines if x.label.startswith('ForeHand4D, 3D (ours)')]:
        assert line.cells[0][0] == pytest.approx(100 * per_clip[line.selection].mean(), rel=1e-5)
    some = table.summary.query('method == "forecast-3d" and metric == "M" and group == "in-domain"')
    assert set(some.clips) == {4} and set(some.selection) == {'best', 'single'}
    assert (
        'mean over 3 seeds (Nearest training image: 1)' in table.notes[0]
        and len(table.sources) == 3
    )
    one = build_table(spec, replace(sources, found=sources.found[:1]))
    assert 'one seed' in one.notes[0]


def test_claims_page(outputs, monkeypatch):
    "Four verdicts from made-up records, through the notebook"
    monkeypatch.delenv('IN_TEST', raising=False)
    record(
        'cpu-lift',
        noise={
            'lifting': 0.06,
            'lifting-inputs': 0.06,
            'lifting-refined': 0.01,
            'lifting-kpe': 0.05999,
            'lifting-kps': 0.001,
            'lifting-plucker': 0.06,
        },
        clips=60,
    )
    run = run_notebook('claims', name='x')
    verdicts = {
        k.split(' (')[0]: v['best of k samples']
        for k, v in read_json(run.dir / 'claims.json')['verdicts'].items()
    }
    assert verdicts['Refinement helps'] == 'reproduced'
    assert verdicts['Extrinsics and KPE help'] == verdicts['Plücker rays help'] == 'not reproduced'
    assert verdicts['All inputs together beat Plücker rays alone'] == 'undecided'
    assert verdicts['Lifting beats HaWoR'] == 'not run'
    text = (run.dir / 'claims.md').read_text()
    assert (
        '--only evaluate_lifting_baselines/baselines' in text
        and 'Source: outputs/evaluate_lifting/cpu-lift' in text
    )
    tests = pd.DataFrame(read_json(run.dir / 'claims.json')['tests']['best']).query(
        'claim.str.startswith("Refinement")'
    )
    r = (
        collect('evaluate_lifting')
        .found[0]
        .data.records.query('protocol == "strict" and dataset == "wild-joints"')
        .pivot(index='clip', columns='method', values='M')
    )
    assert tests.query('metric == "M"').difference.item() == pytest.approx(
        (r['lifting'] - r['lifting-refined']).mean(), rel=1e-4
    )
    assert tests.n.unique().tolist() == [15]


def of_seed(number, ours, theirs):
    "One training of two methods, on record"
    again = f'-s{number}' if number else ''
    noise = {'forecast-3d': ours, 'regressor-3d': theirs}
    models = {method: f'cpu-{method}{again}' for method in noise}
    named = dict(notebook='evaluate_forecast', models=models, clips=60)
    return record(f'cpu-main{again}', noise=noise, seed=number, **named)


def test_claims_have_seeds_as_a_level(outputs):
    "What one training shows for sure, three that differ among themselves do not"
    from forehand4d.study.claims import judge
    from forehand4d.study.statements import FORECASTING_CLAIMS

    asked = [replace(FORECASTING_CLAIMS[0], metrics=('M',), groups=('wild',))]
    of_seed(0, 0.05, 0.09)
    alone = judge(collect('evaluate_forecast', 'cpu'), asked=asked)
    assert alone.verdict.item() == 'reproduced' and alone.seeds.item() == '1'
    of_seed(1, 0.09, 0.05)
    of_seed(2, 0.06, 0.07)
    several = judge(collect('evaluate_forecast', 'cpu'), asked=asked)
    assert several.verdict.item() == 'undecided' and several.seeds.item() == '3'
    assert several.n.item() == alone.n.item() == 15
    assert several.low.item() < 0 < several.high.item()


def test_holm_is_within_a_claim(outputs):
    "Other claims change nothing"
    from forehand4d.study.claims import judge
    from forehand4d.study.statements import LIFTING_CLAIMS

    noise = {'lifting': 0.05, 'lifting-refined': 0.047, 'hamer': 0.055, 'easymocap': 0.052}
    record('cpu-lift', noise=noise, clips=60)
    sources = collect('evaluate_lifting', 'cpu')
    asked = [claim for claim in LIFTING_CLAIMS if set(claim.methods) <= set(noise)]
    together = judge(sources, asked=asked).set_index('claim').p
    assert len(asked) == 5
    for claim in asked:
        alone = judge(sources, asked=[claim]).set_index('claim').p
        assert alone.tolist() == together[claim.claim].tolist()


@pytest.mark.parametrize('profile', ['tiny', 'gpu'])
def test_study_is_a_graph_in_order(profile):
    steps = study(profile)
    at = {s.key: i for i, s in enumerate(steps)}
    assert len(at) == len(steps)
    for s in steps:
        for need in s.needs:
            assert at[need] < at[s.key], f'{s.key} comes before {need}, which it needs'
        for value in s.params.values():
            assert '@' not in str(value)
    shown = demo(profile)
    keys = [s.key for s in shown]
    assert with_needs(shown, keys) == set(keys), 'the demo needs what is no part of it'
    for t in TABLES:
        assert {r.step for r in t.rows if r.step} <= set(at)  # imported weights have none


def test_study_asks_for_what_notebooks_take():
    from forehand4d.runs.parameters import check_parameters

    for s in study('tiny', 2):
        if (ROOT / 'nbs' / f'{s.notebook}.ipynb').exists():
            check_parameters(s.notebook, s.params)


def finished(step, made):
    "A run of the study as if it had been done, with its inputs"
    import nbformat
    from forehand4d.runs.parameters import check_parameters, find_notebook

    run = start_run(step.notebook, dict(profile='tiny', seed=step.params.get('seed', 0)), step.name)
    for n in set(step.needs) & set(made):
        run.add_input(n, made[n])
    run.finish({})
    nb = nbformat.read(find_notebook(step.notebook), 4)
    nb.metadata['papermill'] = dict(
        parameters=check_parameters(step.notebook, step.params | dict(name=step.name))
    )
    nbformat.write(nb, run.dir / 'run.ipynb')
    return run


def test_reproduce_names_what_is_missing(outputs, monkeypatch):
    monkeypatch.delenv('IN_TEST', raising=False)
    steps = [
        s for s in study('tiny') if s.label and (ROOT / 'nbs' / f'{s.notebook}.ipynb').exists()
    ]
    made = {}
    for s in steps:
        made[s.key] = finished(s, made)
    run = run_notebook('reproduce', dict(profile='tiny'), name='all')
    absent = {f'{s.notebook}/{s.name}' for s in study('tiny') if s.label} - {
        f'{s.notebook}/{s.name}' for s in steps
    }
    assert set(run.metrics['missing']) == absent

    gone = next(s for s in steps if s.key == 'train_forecast/f3d')
    shutil.rmtree(made[gone.key].dir)
    run = run_notebook('reproduce', dict(profile='tiny'), name='one')
    assert set(run.metrics['missing']) == absent | {'train_forecast/tiny-f3d'}
    assert gone.command in run.metrics['commands']
    assert gone.command == (
        'forehand4d run train_forecast -p profile tiny '
        '-p stage 1 -p init tiny-static --name tiny-f3d'
    )

    again = start_run(
        'train_forecast', dict(profile='tiny', seed=0, anew=True), 'tiny-f3d'
    )  # what was made from the old one is out of date, and nothing else
    again.finish({})
    shutil.copy(made['train_forecast/static'].dir / 'run.ipynb', again.dir / 'run.ipynb')
    stale = {s.key for s in steps if state(s) == 'out of date' and s.key != gone.key}
    assert stale == {s.key for s in steps if gone.key in s.needs}
