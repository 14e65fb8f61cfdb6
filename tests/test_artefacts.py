"""Tables and figures read records only, say what is missing, and are filed with their sources."""
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from forehand4d.evaluation import Targets, score
from forehand4d.launch import run_notebook
from forehand4d.motion import rest_motion
from forehand4d.records import Budget, SampleClip, save_records
from forehand4d.report import collect
from forehand4d.runs import start_run

METHODS = dict(evaluate_lifting=('train-mean', 'nearest', 'static-oracle', 'lifting', 'lifting-refined'),
               evaluate_forecast=('train-mean', 'nearest', 'static-oracle', 'static', 'forecast-3d', 'forecast-imputed'))


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    for k in ('IN_TEST', 'FOREHAND4D_DATA'): monkeypatch.delenv(k, raising=False)
    monkeypatch.setenv('FOREHAND4D_OUTPUTS', str(tmp_path/'outputs'))
    return tmp_path/'outputs'


def record(notebook, name='demo', dirty=False, **params):
    "A toy evaluation on record"
    g = torch.Generator().manual_seed(0)
    data = ('lab-pour', 'lab-grasp', 'wild-joints', 'zero-everyday')
    way = torch.randn(4, 1, 2, 3, generator=g) * .1 * torch.linspace(0, 1, 12)[:, None, None]
    gt = replace(rest_motion(4, 12), wrist=torch.tensor([[.1, .05, .6], [-.1, .05, .6]]) + way).joints()
    targets = Targets(gt, torch.ones(gt.shape[:-1], dtype=torch.bool), torch.full((4,), 12), torch.full((4,), 30.), data, tuple('abcd'))
    scored, samples, budgets = [], [], {}
    for i, m in enumerate(METHODS[notebook]):
        S = 3 if m.startswith('forecast') else 1
        pred = gt[:, None] + .1 / (i + 1) * torch.randn(4, S, 1, 2, 1, 3, generator=g)
        scored.append(score(pred, targets, m))
        budgets[m] = Budget(parameters=1000, steps=10, train_seconds=3., samples=S)
        if S > 1: samples.append(SampleClip(m, data[0], 'a', 30., np.full((90, 120, 3), 180, np.uint8),
                                            torch.tensor([[100., 0, 59.5], [0, 100., 44.5], [0, 0, 1]]), gt[0], targets.valid[0], pred[0]))
    run = start_run(notebook, dict(profile='cpu', **params), name)
    records, curves = (pd.concat(x, ignore_index=True) for x in zip(*scored))
    for f in save_records(run.dir, records, curves, budgets, samples): run.add_artifact(f)
    run.manifest['dirty'] = dirty
    run.finish({})
    return run


def test_tables_and_figures_from_records(outputs):
    record('evaluate_lifting')
    record('evaluate_forecast')
    for notebook in ('table1_lifting', 'table3_forecasting', 'figure6_samples', 'figure8_error_over_time'):
        run = run_notebook(notebook, name='demo')
        assert run.done and run.manifest['artifacts'] and list(run.manifest['inputs']) == ['demo'], notebook
        saved = json.loads((outputs/'paper'/f'{notebook}-cpu.json').read_text())
        assert saved['sources'][0]['run'].endswith('/demo') and saved['sources'][0]['sha256']
        for suffix in ('md', 'tex', 'csv') if notebook.startswith('table') else ('pdf', 'png'):
            assert (outputs/'paper'/f'{notebook}-cpu.{suffix}').stat().st_size > 500
    text = (outputs/'paper/table3_forecasting-cpu.md').read_text()
    assert 'HandWorld (synthetic)' in text and '*paper (real)*' in text and 'not run' not in text
    assert 'Source: outputs/evaluate_forecast/demo' in text and 'best of 3' in text and '1,000 parameters' in text


def test_missing_and_unclean_runs(outputs):
    run = run_notebook('table1_lifting', name='early')
    assert not run.done and not (outputs/'paper').exists()
    assert 'forehand4d run evaluate_lifting' in (run.dir/'run.ipynb').read_text()
    record('evaluate_lifting', dirty=True)
    assert not collect('evaluate_lifting').used and 'left out (dirty)' in collect('evaluate_lifting').refused[0]
    labelled = collect('evaluate_lifting', unclean=True).used
    assert labelled[0].flags == ('dirty',) and 'dirty' in labelled[0].line
