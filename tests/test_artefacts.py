"""A table notebook reads records only, says what is missing, and keeps results of changed code out of the paper."""
import json
from dataclasses import replace

import pandas as pd
import torch

from forehand4d.evaluation import Targets, score
from forehand4d.launch import run_notebook
from forehand4d.motion import rest_motion
from forehand4d.records import Budget, save_records
from forehand4d.report import collect
from forehand4d.runs import start_run

METHODS = ('train-mean', 'nearest', 'static-oracle', 'lifting', 'lifting-refined')


def record(name, dirty):
    "A toy evaluation on record"
    g = torch.Generator().manual_seed(0)
    way = torch.randn(4, 1, 2, 3, generator=g) * .1 * torch.linspace(0, 1, 12)[:, None, None]
    gt = replace(rest_motion(4, 12), wrist=torch.tensor([[.1, .05, .6], [-.1, .05, .6]]) + way).joints()
    data = ('lab-pour', 'lab-grasp', 'wild-joints', 'zero-everyday')
    targets = Targets(gt, torch.ones(gt.shape[:-1], dtype=torch.bool), torch.full((4,), 12), torch.full((4,), 30.), data, tuple('abcd'))
    scored = [score(gt + .1 / (i + 1) * torch.randn(4, 1, 2, 1, 3, generator=g), targets, m) for i, m in enumerate(METHODS)]
    run = start_run('evaluate_lifting', dict(profile='cpu'), name)
    budgets = {m: Budget(parameters=1000, steps=10, train_seconds=3.) for m in METHODS[-2:]}
    for f in save_records(run.dir, *(pd.concat(x, ignore_index=True) for x in zip(*scored)), budgets): run.add_artifact(f)
    run.manifest['dirty'] = dirty
    run.finish({})


def test_table_from_records(outputs, monkeypatch):
    monkeypatch.delenv('IN_TEST', raising=False)
    run = run_notebook('table1_lifting', name='demo')
    assert not run.done and not (outputs/'paper').exists()
    assert 'forehand4d run evaluate_lifting' in (run.dir/'run.ipynb').read_text()

    record('changed', dirty=True)
    run = run_notebook('table1_lifting', name='demo') # unfinished runs are run again
    assert run.done and list(run.manifest['inputs']) == ['changed'] and run.manifest['artifacts']
    text = (run.dir/'table1_lifting.md').read_text()
    assert 'HandWorld (synthetic) [dirty]' in text and '*paper (real)*' in text and 'not run' not in text
    assert 'Source: outputs/evaluate_lifting/changed' in text and '1,000 parameters, 10 steps, 3 s of training' in text
    assert not (outputs/'paper').exists(), 'results of changed code are no results of the paper'

    record('clean', dirty=False)
    source = collect('evaluate_lifting').of('lifting')
    assert source.run.name == 'clean' and source.flags == ()
    run = run_notebook('table1_lifting', name='paper')
    saved = json.loads((outputs/'paper/table1_lifting-cpu.json').read_text())
    assert [s['run'] for s in saved['sources']] == ['outputs/evaluate_lifting/clean'] and saved['sources'][0]['sha256']
    assert {p.suffix for p in (outputs/'paper').iterdir()} == {'.md', '.tex', '.csv', '.json'}
