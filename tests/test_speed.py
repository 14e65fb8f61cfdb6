"Fast paths and plain paths agree; the benchmark runs. Nothing here looks at a clock."

import contextlib, copy, shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
import pandas as pd
import pytest
import torch
from forehand4d.networks.transformer import compile_layers, layers_of
from forehand4d.networks.backbones import normalise_image
from forehand4d.cli import main
from forehand4d.data.clip_store import write_clips
from forehand4d.handworld.generate import make_clip
from forehand4d.data.batches import batch_motion, collate
from forehand4d.data.clips import track_of
from forehand4d.catalogue import open_dataset
from forehand4d.networks.process import STEPS, ancestral_step
from forehand4d.models.forecaster import build_forecaster
from forehand4d.fitting.objective import RefineConfig, correct, no_corrections, objective, observe
from forehand4d.fitting.refinement import refine_batch
from forehand4d.models.lifter import build_lifter
from forehand4d.models.forecast_sampling import CENTRED, about_sketch, told_of_frames
from forehand4d.models.sketch import start_of
from forehand4d.evaluation.alignment import METRICS
from forehand4d.evaluation.metrics import motion_metrics
from forehand4d.geometry.motion import rest_motion
from forehand4d.geometry.motion_vector import decode_from
from forehand4d.fitting.placing import place_hands
from forehand4d.runs.profiles import profile
from forehand4d.geometry.rotations import aa_to_mat, random_rotation
from forehand4d.runs.record import find_run, list_runs, start_run
from forehand4d.networks.sampling import SAMPLERS
from forehand4d.study.speed import mesh_points
from forehand4d.training.loop import TrainConfig, train


@pytest.mark.parametrize('protocol', ['official', 'strict'])
def test_large_batches_are_split_without_a_trace(protocol):
    g = torch.Generator().manual_seed(0)
    B, S, T = 5, 2, 256  # more than is done at once
    gt = torch.randn(B, T, 2, 21, 3, generator=g) * 0.05
    pred = gt[:, None] + 0.02 * torch.randn(B, S, T, 2, 21, 3, generator=g)
    valid, lengths = torch.rand(B, T, 2, 21, generator=g) > 0.2, torch.tensor([256, 256, 100, 7, 0])
    whole = motion_metrics(pred, gt, valid, lengths, protocol, pa=True)
    for i in range(B):
        for s in range(S):
            one = motion_metrics(pred[i, s], gt[i], valid[i], lengths[i], protocol, pa=True)
            for k in METRICS + ('PA',):
                torch.testing.assert_close(
                    whole[k][i, s], one[k], rtol=0, atol=1e-12, equal_nan=True
                )


def test_joints_by_way_of_the_mesh():
    g = torch.Generator().manual_seed(1)
    m = rest_motion(2, 4)
    m = replace(
        m,
        rot=random_rotation(*m.rot.shape[:-2], generator=g),
        wrist=torch.randn(m.wrist.shape, generator=g),
        betas=torch.randn(m.betas.shape, generator=g),
    ).map(lambda x: x.double() if x.is_floating_point() else x)
    hand = m.hand()
    joints, vertices = mesh_points(m.map(lambda x: x.float() if x.is_floating_point() else x))
    torch.testing.assert_close(
        joints.double(),
        hand.to(torch.float64).joints(m.rot, m.wrist, m.betas[..., None, :, :]),
        rtol=0,
        atol=2e-6,
    )
    torch.testing.assert_close(
        vertices.double(),
        hand.to(torch.float64).vertices(m.rot, m.wrist, m.betas[..., None, :, :]),
        rtol=0,
        atol=2e-6,
    )


@pytest.fixture(scope='module')
def seen():
    "Three clips with 2D keypoints, the first with 3D ones too, and hands that are a little off"
    clips = [make_clip('lab-pour', 'test', i, 12, 64, image=False) for i in range(3)]
    b, g = collate(clips, 12), torch.Generator().manual_seed(0)
    o, m = observe(b), batch_motion(b, 'open-hand')
    o.valid3d[1:] = False
    return replace(
        m,
        rot=random_rotation(*m.rot.shape[:-2], generator=g, max_angle=0.2) @ m.rot,
        wrist=m.wrist + 0.02 * torch.randn(m.wrist.shape, generator=g),
    ), o


def _energy(J, m, o, p, cfg):
    R, t = o.cam[..., :3, :3], o.cam[..., :3, 3]
    c = torch.einsum('btij,bthkj->bthki', R, J) + t[:, :, None, None]
    w = o.valid2d * (c[..., 2] > 0.05)
    r = ((c[..., :2] / c[..., 2:].clamp(min=0.05) - o.rays) ** 2).sum(-1) / cfg.sigma2d**2
    E = (4 * torch.log1p(r / 4) * w).sum() / w.sum()
    if o.valid3d.any():
        E = (
            E
            + (((J - o.joints3d) ** 2).sum(-1) * o.valid3d).sum() / o.valid3d.sum() / cfg.sigma3d**2
        )
    both = (m.valid[:, 2:] & m.valid[:, :-2])[..., None].expand(-1, -1, -1, 21)
    bend = J[:, 2:] - 2 * J[:, 1:-1] + J[:, :-2]
    return (
        E
        + ((bend**2).sum(-1) * both).sum() / both.sum() / cfg.smooth**2
        + (p.fingers**2).sum(-1).mean() / cfg.prior**2
    )


def test_refinement_is_that_of_torch(seen):
    """Each clip of a batch ends where autograd and `torch.optim.Adam` take it alone,
    with its own gradient norm"""
    m, o = seen
    n, cfg = 25, RefineConfig(25, tolerance=-1.0)
    out, info = refine_batch(m, o, cfg)
    for i in range(len(m.wrist)):
        one, see = (
            place_hands(
                m.map(lambda x, i=i: x[i : i + 1]),
                *(getattr(o.take(slice(i, i + 1)), k) for k in ('rays', 'valid2d', 'cam')),
            ),
            o.take(slice(i, i + 1)),
        )
        p = no_corrections(one)
        free = [getattr(p, k).requires_grad_() for k in ('turn', 'fingers', 'shift')]
        adam, best = torch.optim.Adam(free, lr=cfg.lr), (torch.inf, None)
        for step in range(1, n + 2):
            J = replace(
                one,
                rot=aa_to_mat(torch.cat([p.turn, p.fingers], -2)) @ one.rot,
                wrist=one.wrist + p.shift,
            ).joints()
            E = _energy(J, one, see, p, cfg)
            if step == 1:
                assert E.item() == pytest.approx(info.before[i].item(), rel=1e-4)
            if E < best[0]:  # noqa: SIM300, E is an energy
                best = (E.item(), J.detach())
            adam.zero_grad()
            E.backward()
            torch.nn.utils.clip_grad_norm_(free, cfg.max_norm)
            adam.param_groups[0]['lr'] = cfg.lr * (0.1 + 0.9 * (1 - step / n))
            adam.step()
        assert info.after[i].item() == pytest.approx(best[0], rel=2e-3)
        assert (out.joints()[i] - best[1][0]).norm(dim=-1).max() < 3e-4
        assert best[0] < 0.5 * info.before[i]


def test_gradient_of_corrections(seen):
    "The short backward pass equals that through the matrices, in one evaluation"
    m, o = seen
    g = torch.Generator().manual_seed(3)
    p, names = no_corrections(m), ('turn', 'fingers', 'shift')
    p = replace(p, **{k: 0.1 * torch.randn(getattr(p, k).shape, generator=g) for k in names})
    free = [getattr(p, k).requires_grad_() for k in names]
    short = torch.autograd.grad(objective(correct(m, p), o, p, RefineConfig()).sum(), free)
    J = replace(
        m, rot=aa_to_mat(torch.cat([p.turn, p.fingers], -2)) @ m.rot, wrist=m.wrist + p.shift
    ).joints()

    def part(i):
        return (
            J[i : i + 1],
            m.map(lambda x: x[i : i + 1]),
            o.take(slice(i, i + 1)),
            p.map(lambda v: v[i : i + 1]),
            RefineConfig(),
        )

    long = torch.autograd.grad(sum(_energy(*part(i)) for i in range(len(J))), free)
    for a, b in zip(short, long, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4 * b.abs().max().item())


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    m = build_forecaster(profile('tiny')).eval()
    for p in m.net.out.parameters():
        torch.nn.init.normal_(
            p, std=0.3
        )  # an untrained network must not answer the same to everything
    return m


def picture(model, n=1):
    S = model.cfg.image_size
    image = torch.randint(
        0, 255, (n, S, S, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return image, torch.tensor([[S, 0, S / 2], [0, S, S / 2], [0, 0, 1.0]]).expand(n, 3, 3)


def test_samples_at_once_are_samples_one_by_one(model, monkeypatch):
    """Five samples of an image that is encoded once:
    the same as five forecasts, each of which encodes it, from the same noise (about the path,
    since ways are dealt out to samples in turn)"""
    monkeypatch.setattr(model, 'cfg', replace(model.cfg, ways=0))
    image, K = picture(model)
    encoded = []
    hook = model.backbone.register_forward_hook(lambda *_: encoded.append(1))
    whole = model.forecast(image, K, samples=5, steps=4, seed=3)
    assert len(encoded) == 1
    noise = torch.randn((CENTRED, model.span, 198), generator=torch.Generator().manual_seed(3))
    for i in range(5):
        order = [i, *(k for k in range(CENTRED) if k != i)]  # their mean stays
        with monkeypatch.context() as changed:
            changed.setattr(torch, 'randn', lambda *_, order=order, **__: noise[order])
            one = model.forecast(image, K, samples=1, steps=4, seed=3)
        torch.testing.assert_close(one.joints()[:, 0], whole.joints()[:, i], rtol=0, atol=1e-5)
    hook.remove()
    assert len(encoded) == 6
    assert (whole.joints()[:, 1:] - whole.joints()[:, :1]).abs().amax(
        (-1, -2, -3, -4)
    ).min() > 1e-3  # they differ


def test_a_thousand_steps_are_the_released_ones(model):
    """`ddpm` in 1000 steps is the ancestral chain, step by step,
    with the conditions embedded at each of them; then futures are moved about the sketch"""
    image, K = picture(model)
    out = model.forecast(
        image,
        K,
        samples=1,
        steps=STEPS,
        sampler='ddpm',
        seed=5,
        temperature=1.0,
        smooth=0.0,
        rays=False,
    )
    g, none = torch.Generator().manual_seed(5), torch.zeros(1, dtype=torch.bool)
    shape = (CENTRED, model.span, 198)

    def every(value):
        return value.expand(CENTRED, *value.shape[1:])

    with torch.no_grad():
        tokens = model.backbone(normalise_image(image))
        x = torch.randn(shape, generator=g)
        for t in reversed(range(STEPS)):
            prefix = model.prefix(
                None if t % 250 else normalise_image(image),
                K,
                none,
                None,
                {'found': torch.ones(1, 2, dtype=torch.bool)},
                tokens=tokens if t % 250 else None,
            )[0]
            now = torch.full((CENTRED,), t)
            told = every(told_of_frames(model, prefix))
            x = ancestral_step(
                model.net(x, now, told, every(prefix)), x, now, torch.randn(shape, generator=g)
            )
        x = about_sketch(model, prefix, x[None], 1.0)[:, 0]
        first, _ = model.sketch_from(prefix)
        expected = decode_from(x, model.stats, start_of(first, model.stats), hand_id='open-hand')
    torch.testing.assert_close(out.joints()[:, 0], expected.joints(), rtol=0, atol=1e-4)


@pytest.fixture
def elsewhere(monkeypatch):
    """A batch and a generator on torch's device without memory, which stands in for a GPU:
    what mixes it with the processor's tensors fails. What only reads a number is let through"""
    P, truth, there = profile('tiny'), torch.Tensor.__bool__, SimpleNamespace(device='meta')
    b = collate(
        [make_clip('lab-pour', 'train', i, P.frames, P.image_size) for i in range(2)],
        P.frames,
        P.image_size,
    )
    monkeypatch.setattr(torch.Tensor, '__bool__', lambda x: x.is_meta or truth(x))

    def without_stand_in(draw):
        "`draw`, which does not hear of the generator that stands in for one"

        def drawn(*a, generator=None, **k):
            kept = k if generator is there else dict(k, generator=generator)
            return draw(*a, **kept)

        return drawn

    for f in ('rand', 'randn', 'randint'):
        monkeypatch.setattr(torch, f, without_stand_in(getattr(torch, f)))
    monkeypatch.setattr(torch, 'autocast', lambda *a, **k: contextlib.nullcontext())
    return P, replace(b.to('meta'), hand_model=None), there


@pytest.mark.parametrize(
    'how',
    [
        {},
        dict(backbone='vitpose-32x3x2', look=0.5, drop_path=0.5),
        dict(backbone='dinov2-32x1x2'),
        dict(method='regressor'),
        dict(method='static'),
        dict(supervision='2d', aux='regression'),
        dict(supervision='2d', aux='diffusion'),
    ],
    ids=str,
)
def test_forecasts_stay_on_their_device(how, elsewhere):
    P, b, generator = elsewhere
    m = build_forecaster(P, **how).to('meta')
    m.train().loss(b, generator)[0].backward()
    assert all(p.grad is None or p.grad.is_meta for p in m.parameters())
    hands = (
        torch.zeros(2, 2, 21, 2, device='meta'),
        torch.ones(2, 2, 21, dtype=torch.bool, device='meta'),
    )
    for sampler in SAMPLERS:
        for more in ({}, dict(hands=hands), dict(guidance=1.5) if m.cfg.drop_image else {}):
            assert (
                m.eval()
                .forecast(b.image, b.image_K, samples=2, steps=3, sampler=sampler, **more)
                .joints()
                .is_meta
            )


@pytest.mark.parametrize('layout', ['fused', 'concatenated'])
def test_lifting_stays_on_its_device(layout, elsewhere):
    P, b, generator = elsewhere
    m = build_lifter(P, layout=layout).to('meta')
    m.train().loss(b, generator)[0].backward()
    assert (
        m.eval()
        .lift(
            *track_of(b),
            real=b.real,
            steps=3,
        )
        .joints()
        .is_meta
    )


def test_half_precision_is_near(model):
    "As on a GPU: layers in bfloat16, the rest in single precision"
    g = torch.Generator().manual_seed(0)
    x, prefix = (
        torch.randn(3, model.span, 198, generator=g),
        torch.randn(3, 16, model.cfg.width, generator=g),
    )

    def call():
        return model.net(x, torch.tensor([10, 500, 990]), prefix=prefix)

    with torch.no_grad():
        exact = call()
        with torch.backends.mkldnn.flags(enabled=False), torch.autocast('cpu', torch.bfloat16):
            near = call()
    assert near.dtype == torch.bfloat16 and 0 < (near - exact).norm() < 0.02 * exact.norm()


needs_compiler = pytest.mark.skipif(
    not torch.cuda.is_available() and not shutil.which('g++'),
    reason='torch.compile needs g++ on a processor',
)


@needs_compiler
def test_compiled_layers_forecast_the_same(model):
    image, K = picture(model)
    before = model.forecast(image, K, samples=2, steps=3, seed=1).joints()
    quick = compile_layers(copy.deepcopy(model))
    assert layers_of(quick) and all(x._compiled_call_impl for x in layers_of(quick))
    torch.testing.assert_close(
        quick.forecast(image, K, samples=2, steps=3, seed=1).joints(), before, rtol=0, atol=1e-5
    )
    assert set(quick.state_dict()) == set(model.state_dict())


@pytest.mark.parametrize(
    'how',
    [
        dict(checkpoint=True),
        pytest.param(dict(compile=True), marks=needs_compiler),
        dict(checkpoint=True, accumulate=2),
    ],
    ids=['checkpoint', 'compile', 'checkpoint in pieces'],
)
def test_training_that_saves_memory_or_time_is_the_same(how, tmp_path):
    """With everything random that there is:
    hidden tokens, skipped layers, dropout (of which compiled layers draw other masks)"""
    P, logs = profile('tiny'), []
    write_clips(
        [make_clip('lab-pour', 'train', i, P.frames, P.image_size) for i in range(4)],
        tmp_path / 'clips',
    )
    for name, more in (
        ('plain', {k: v for k, v in how.items() if k == 'accumulate'}),
        ('other', how),
    ):
        data, run = (
            open_dataset(str(tmp_path / 'clips')),
            start_run('same', {'which': name}, root=tmp_path),
        )
        model = build_forecaster(
            P, data, look=0.5, drop_path=0.5, dropout=0.1 * ('compile' not in how)
        )
        train(model, data, TrainConfig(3, 4, P.frames, P.image_size, **more), run)
        for layer in layers_of(model):
            assert (bool(layer._compiled_call_impl), isinstance(layer.forward, partial)) == (
                bool(more.get('compile')),
                bool(more.get('checkpoint')),
            )
        logs.append(torch.tensor([[row['loss'], row['norm']] for row in run.log_rows()]))
    losses, norms = ([log[:, k] for log in logs] for k in (0, 1))
    torch.testing.assert_close(*losses, rtol=1e-4, atol=0)
    # Adam divides by the size of gradients, so roundings grow: the third norm is not compared
    torch.testing.assert_close(*(norm[:2] for norm in norms), rtol=1e-4, atol=0)
    assert logs[0].std(0).min() > 0 and len(list_runs('same', tmp_path)) == 2


ROWS = (
    'forecast: 5 samples, one image',
    'lifting: one clip',
    'training step: lifting',
    'training step: forecasting',
    'refinement: one iteration',
    'refinement: 20 iterations',
    'metrics',
)


def test_the_benchmark_leaves_a_record(outputs):
    assert main(['bench', '-p', 'size', 'tiny', '-p', 'ddpm', '10', '--name', 'x']) == 0
    assert main(['bench', '-p', 'ddmp', '10']) == 2
    geometry, samplers, run = (
        find_run(f'benchmark_{k}', 'x') for k in ('geometry', 'samplers', 'speed')
    )
    assert run.manifest['inputs']['geometry']['path'].endswith(geometry.name)
    table = pd.read_csv(run.dir / 'speed.csv').set_index('what')
    assert set(ROWS) < set(table.index) and len(table) == len(ROWS) + 2
    assert (
        (table.loc[list(ROWS), ['reference', 'ours', 'ratio', 'reference_GB', 'ours_GB']] > 0)
        .all()
        .all()
    )
    if not torch.cuda.is_available():
        assert set(table.note[table.index.str.startswith('GPU')]) == {'not measured: no GPU'}
    assert (
        'extrapolated from' in table.note['forecast: 5 samples, one image']
        and table.goal['lifting: one clip'] == 300
        and table.goal['metrics'] == 100
    )
    sweep = pd.read_csv(samplers.dir / 'samplers.csv')
    assert (
        sweep['M best ratio'][0] == 1
        and sweep.label.str.startswith('default').sum() == 2
        and (sweep.seconds > 0).all()
    )
    assert sweep['M best ±'][0] == 0 and (sweep['M single ±'][1:] > 0).all()
    assert (
        {'figures/pareto.png', 'samplers.csv'} <= set(samplers.manifest['artifacts'])
        and 'figures/growth.png' in geometry.manifest['artifacts']
        and geometry.metrics['grows with clips of metrics']
    )
