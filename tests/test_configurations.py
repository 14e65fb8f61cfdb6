"""Configurations `paper` and `released`: a step equals its re-assembly from PyTorch's parts, they
train, go on to the bit, forecast and get rows; the page of differences says what the code does"""

import math
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from forehand4d.catalogue import open_dataset
from forehand4d.data.batches import collate
from forehand4d.data.clip_store import write_clips
from forehand4d.data.loaders import loader
from forehand4d.evaluation.comparison import file_results, score_all
from forehand4d.evaluation.scoring import stack_targets
from forehand4d.fitting.refinement import RefineConfig
from forehand4d.geometry.hand_models import hand_pair
from forehand4d.geometry.hands import rest_wrist
from forehand4d.handworld.generate import make_clip
from forehand4d.models.forecast_loss import LEAST, TINT, ZOOM, ZOOM_LIMITS
from forehand4d.models.forecast_model import ForecasterConfig
from forehand4d.models.forecast_sampling import SampleSettings
from forehand4d.models.forecaster import VIT_H
from forehand4d.models.forecasting import load_forecaster
from forehand4d.models.futures import FutureSettings
from forehand4d.models.lifter import LifterConfig
from forehand4d.models.lifting import load_lifter
from forehand4d.released.checkpoints import import_official, load_official
from forehand4d.released.learning import build_learner, draw_step
from forehand4d.runs.configurations import CONFIGURATIONS, OURS, configuration, differences_page
from forehand4d.runs.profiles import profile
from forehand4d.runs.record import start_run
from forehand4d.study.forecast_evaluation import find_forecasters, forecast_all
from forehand4d.study.forecast_evaluation import forecast_budgets, forecast_samples, forecast_test
from forehand4d.study.forecast_evaluation import predictions_of, put_on_hands, scored_frames
from forehand4d.study.forecast_evaluation import variety_of
from forehand4d.study.lifting_evaluation import LiftSettings, find_lifters, lift_clips
from forehand4d.study.lifting_evaluation import lifting_budgets
from forehand4d.study.paper import TABLE1, TABLE3, TABLE4, TABLE5
from forehand4d.study.sources import collect
from forehand4d.study.tables import build_table
from forehand4d.training.augment import DetectorNoise
from forehand4d.training.loop import TrainConfig, train
from forehand4d.training.weights import save_weights

ROOT = Path(__file__).resolve().parent.parent
OFFICIAL = ROOT.parent / "shared" / "fixtures" / "official"
KINDS = ("forecasting", "lifting", "regressor", "hybrid")
T, WIDTH = 16, 64
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips") / "clips"
    clips = [make_clip("lab-pour", "train", i, frames=T - i, image_size=64) for i in range(4)]
    write_clips(clips, folder)
    return open_dataset(str(folder))


@pytest.fixture(scope="module")
def batch(data):
    return collate([data[i] for i in range(3)], T, 224)


# ---- a step, once more


def weights_of(model):
    "Leaves of a graph of their own"
    state = {k: v.detach().clone() for k, v in model.state_dict().items()}
    return {k: v.requires_grad_() if v.is_floating_point() else v for k, v in state.items()}


def mlp(state, x, name):
    for i in (0, 2, 4):
        x = F.linear(x, state[f"{name}.{i}.weight"], state[f"{name}.{i}.bias"])
        x = F.relu(x) if i < 4 else x
    return x


def table(n):
    "Sines on even channels, cosines on odd ones"
    rate = torch.exp(torch.arange(0, WIDTH, 2) * (-math.log(10000.0) / WIDTH))
    angle = torch.arange(n)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


def encoder(state, x, name, layers, heads, mask):
    "Post-norm layers of `nn.TransformerEncoderLayer`, filled by name"
    for i in range(layers):
        start = f"{name}.encoder.layers.{i}."
        own = {k[len(start) :]: v for k, v in state.items() if k.startswith(start)}
        ff = len(own["linear1.bias"])
        layer = nn.TransformerEncoderLayer(
            WIDTH, heads, ff, 0.0, activation="gelu", batch_first=True
        )
        x = torch.func.functional_call(layer, own, (x,), dict(src_key_padding_mask=mask))
    return x


def denoise(state, xt, t, tokens, real, cfg):
    "The layout of the release: time, conditions, motion"
    time = table(1000)[t]
    for i in (0, 2):
        time = F.linear(time, state[f"net.time.{i}.weight"], state[f"net.time.{i}.bias"])
        time = F.silu(time) if i == 0 else time
    noisy = F.linear(xt, state["net.inp.weight"], state["net.inp.bias"])
    x = torch.cat([time[:, None], tokens, noisy], 1)
    mask = None
    if cfg.padding:
        first = torch.ones(len(xt), 1 + tokens.shape[1], dtype=torch.bool)
        if cfg.kind == "lifting":
            first[:, 1:] = torch.cat([real] * len(cfg.groups), 1)
        mask = ~torch.cat([first, real], 1)
    x = encoder(state, x + table(x.shape[1]), "net", cfg.layers, cfg.heads, mask)
    return F.linear(x, state["net.out.weight"], state["net.out.bias"])[:, -xt.shape[1] :]


def regress(state, tokens, real, cfg, name):
    "The regressor: queries, then image tokens; read at the end as released, or at the queries"
    n = real.shape[1]
    queries = table(n).expand(len(tokens), n, WIDTH)
    mask = None
    if cfg.padding and name == "net":
        mask = ~torch.cat([real, torch.ones(tokens.shape[:2], dtype=torch.bool)], 1)
    x = encoder(state, torch.cat([queries, tokens], 1), name, cfg.layers, cfg.heads, mask)
    x = x[:, :n] if cfg.answer == "queries" else x[:, -n:]
    return F.linear(x, state[f"{name}.out.weight"], state[f"{name}.out.bias"])


def gram_schmidt(x):
    "6D rows to matrices"
    a, b = x[..., :3], x[..., 3:]
    a = F.normalize(a, dim=-1)
    b = F.normalize(b - (a * b).sum(-1, keepdim=True) * a, dim=-1)
    return torch.stack([a, b, torch.linalg.cross(a, b)], -2)


def exp_map(v):
    "Axis-angle to matrices"
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return torch.matrix_exp(torch.stack(rows, -1).unflatten(-1, (3, 3)))


def log_map(R):
    "Matrices to axis-angle, below pi"
    axis = torch.stack(
        [R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]], -1
    )
    sine = axis.norm(dim=-1) / 2
    cosine = (R.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    angle = torch.atan2(sine, cosine)
    return axis * (angle / (2 * sine.clamp(min=1e-12)))[..., None]


def rest_origin(betas):
    "Wrists of resting hands with a shape, (B, 1, 2, 3)"
    return rest_wrist(hand_pair("open-hand"), betas)[:, None]


def channels(motion, cam, cfg):
    "The motion vector of a configuration, from rotations and wrists"
    rot, place = motion.rot, motion.wrist
    if cfg.vector == "legacy198":
        hand = hand_pair("open-hand")
        fingers = exp_map(log_map(rot[..., 1:, :, :]) - hand.mean_aa)
        rot = torch.cat([rot[..., :1, :, :], fingers], -3)
        origin = rest_origin(motion.betas)
        place = place - torch.einsum("btji,bthj->bthi", cam[..., :3, :3], origin.expand_as(place))
    six = rot[..., :2, :].flatten(-4)
    place = (place - torch.tensor(cfg.mean)) / torch.tensor(cfg.std)
    return torch.cat([six, place.flatten(-2)], -1)


def on_hand(x, motion, cfg):
    "Joints and vertices of predicted channels"
    hand = hand_pair("open-hand")
    R = gram_schmidt(x[..., :192].unflatten(-1, (2, 16, 6)))
    place = x[..., 192:].unflatten(-1, (2, 3)) * torch.tensor(cfg.std) + torch.tensor(cfg.mean)
    absolute = R
    if cfg.vector == "legacy198":
        fingers = exp_map(log_map(R[..., 1:, :, :]) + hand.mean_aa)
        absolute = torch.cat([R[..., :1, :, :], fingers], -3)
        place = place + rest_origin(motion.betas)
    betas = motion.betas[:, None]
    return R, hand.joints(absolute, place, betas), hand.vertices(absolute, place, betas)


def mean_of(x, mask):
    "Masked mean of each hand, added up"
    total = 0
    for h in (0, 1):
        m = mask[:, :, h].float()
        m = m.view(*m.shape, *[1] * (x.dim() - 1 - m.dim())).expand_as(x[:, :, h])
        total = total + (x[:, :, h] * m).sum() / (m.sum() + 1e-8)
    return total


def geometric(x, target, motion, joints, masks, cfg, metres):
    "cam_t, kp3d, v3d and rotation matrices"
    R, points, surface = on_hand(x, motion, cfg)
    want = gram_schmidt(target[..., :192].unflatten(-1, (2, 16, 6)))
    _, _, true = on_hand(target, motion, cfg)
    off = (x - target)[..., 192:].unflatten(-1, (2, 3)) * torch.tensor(cfg.std)
    rooted = (points - points[..., :1, :]) - (joints - joints[..., :1, :])
    skin = (surface - surface[..., :1, :]) - (true - true[..., :1, :])
    return points, (
        metres * mean_of(off**2, masks.hand)
        + mean_of(rooted**2, masks.joint)
        + mean_of(skin**2, masks.hand & masks.joint[..., 20])
        + mean_of((R - want) ** 2, masks.hand)
    )


def in_image(points, truth, squared=False, clips=None):
    "Keypoints in the crop of each frame"
    seen = torch.einsum("btij,bthnj->bthni", truth.cam[..., :3, :3], points)
    seen = seen + truth.cam[:, :, None, None, :3, 3]
    flat = torch.einsum("btij,bthnj->bthni", truth.K, seen)
    px = 2 * flat[..., :2] / (flat[..., 2:] + 1e-3) / 224 - 1
    apart = (px - truth.pixels).abs()
    each = apart**2 if squared else torch.where(apart < 1, apart**2 / 2, apart - 0.5)
    mask = truth.seen if clips is None else truth.seen & clips[:, None, None, None]
    return mean_of(each, mask)


def noise_of(answer, noise, there):
    "Squared error of the noise, over hands that are there"
    parts = ((answer - noise) ** 2).split([96, 96, 3, 3], -1)
    by_hand = [torch.cat([parts[h], parts[2 + h]], -1) for h in (0, 1)]
    count = there.float()
    summed = sum((by_hand[h] * count[:, :, h, None]).sum() for h in (0, 1))
    return summed / (99 * count.sum())


def channels_of(answer, target, there, known):
    "Groups of channels, each averaged over a clip, then over clips"
    total = 0
    for h in (0, 1):
        for start, n in ((96 * h, 6), (96 * h + 6, 90), (192 + 3 * h, 3)):
            s = ((answer - target) ** 2)[..., start : start + n] * there
            each = s.sum((1, 2)) / (n * there.sum((1, 2)) + 1e-8) * known[:, h]
            total = total + each.mean()
    return total


def truth_of(batch, lifts):
    "Timesteps, masks, hands that are known: from the batch itself"

    def shift(v):
        return v if lifts else torch.cat([v[:, 1:], v[:, -1:]], 1)

    real = shift(batch.real).clone()
    real[:, -1] &= lifts
    valid, first = shift(batch.valid3d), batch.valid3d[:, :1]
    known = batch.hand_valid[:, 0]
    masks = SimpleNamespace(
        joint=valid & first & real[..., None, None],
        hand=(valid.sum(-1) >= 3) & real[..., None] & known[:, None],
    )
    return real, masks, known, shift


def again(model, batch, example, draws, state, vit):
    "The loss of a step from plain pieces"
    cfg, how, truth = model.cfg, model.how, example.truth
    # 1. conditions
    if cfg.kind == "lifting":
        parts = [mlp(state, example.told[g].flatten(2), f"cond.{g}") for g in cfg.groups]
        tokens = torch.cat(parts, 1)
    else:
        tokens = mlp(state, vit(example.told["image"]), "cond.image")
    # 2. what is true, from the batch itself
    lifts = cfg.kind == "lifting"
    real, masks, known, shift = truth_of(batch, lifts)
    motion = truth.motion
    if not lifts:
        assert torch.equal(motion.wrist, shift(batch.wrist))
    joints = truth.joints if lifts else shift(batch.joints3d)
    target = channels(motion, truth.cam, cfg)
    # 3. noise and answer
    angle = (torch.arange(1001).double() / 1000 + 0.008) / 1.008 * math.pi / 2
    bar = angle.cos() ** 2
    abar = torch.cumprod(1 - (1 - bar[1:] / bar[:-1]).clamp(max=0.999), 0)[draws.steps]
    abar = abar.float()[:, None, None]
    xt = abar.sqrt() * target + (1 - abar).sqrt() * draws.noise
    shown = tokens * draws.keep[..., None]
    if cfg.kind == "regressor":
        answer = regress(state, shown, real, cfg, "net")
    else:
        answer = denoise(state, xt, draws.steps, shown, real, cfg)
    # 4. terms
    if cfg.target == "noise":
        total = noise_of(answer, draws.noise, real[..., None] & known[:, None] & motion.valid)
    else:
        total = 0
        if cfg.kind != "regressor":
            total = channels_of(answer, target, real[:, :, None].float(), known)
        points, terms = geometric(answer, target, motion, joints, masks, cfg, 0.01)
        total = total + terms
        if model.stage == 2 and cfg.kind in ("forecasting", "regressor"):
            total = total + in_image(points, truth)
    if cfg.kind == "hybrid":
        head = regress(state, tokens * draws.keep2[..., None], real, cfg, "head")
        points, terms = geometric(head, target, motion, joints, masks, cfg, 0.001)
        total = total + in_image(points, truth, True, ~known.any(1))
        total = total + terms * (how.name == "released")
    return total * (2 if how.name == "released" else 1)


def imported(kind, folder):
    "The authors' fixture as the start of a training"
    what = "lifting" if kind == "lifting" else "forecast"
    if not OFFICIAL.is_dir():
        pytest.skip("the reference numbers of the released code are not here")
    model = load_official(OFFICIAL / f"{what}_official.ckpt", frames=T).with_hand("open-hand")
    assert model.cfg.width == WIDTH
    save_weights(model, folder / "model.safetensors")
    return folder / "model.safetensors", model.cfg


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ("paper", "released"))
@pytest.mark.parametrize("source", ("random", "fixture"))
def test_step(name, kind, source, data, batch, tmp_path):
    "Loss, gradients and moved weights of one step"
    how, rest, path = configuration(name), {}, None
    if source == "fixture":
        if (name, kind) not in (("released", "forecasting"), ("released", "lifting")):
            pytest.skip("the fixtures hold what the authors trained: forecasting and lifting")
        path, cfg = imported(kind, tmp_path)
        rest = dict(ff=cfg.ff, vit=cfg.vit)
    model = build_learner(how, kind, profile("tiny"), data, path, stage=2, **rest).eval()
    example = model.example(batch, torch.Generator().manual_seed(3))
    if source == "random":  # away from turns by pi, whose logarithm nobody computes to 1e-5
        outs = [model.net.out] + ([model.head.out] if kind == "hybrid" else [])
        for out in outs:
            out.bias.data.copy_(example.truth.channels.mean((0, 1)))
    tokens = model.tokens(example.told)
    draws = draw_step(model, example.truth, tokens.shape[1], 0.1, torch.Generator().manual_seed(4))
    if kind == "hybrid":  # clips without labels teach the head
        unknown = example.truth.known.clone()
        unknown[0] = False
        example = SimpleNamespace(
            told=example.told, truth=SimpleNamespace(**vars(example.truth) | dict(known=unknown))
        )
        batch = batch.map(torch.clone)
        batch.hand_valid[0, 0] = False
        example.truth.hand = example.truth.hand & unknown[:, None]
    loss, terms = model.compare(tokens, example.truth, draws)
    loss.backward()
    state = weights_of(model)
    vit = None
    if kind != "lifting":

        def vit(image):
            own = {k[4:]: v for k, v in state.items() if k.startswith("vit.")}
            return torch.func.functional_call(model.vit, own, (image,))

    want = again(model, batch, example, draws, state, vit)
    want.backward()
    have, other = loss.item(), want.item()
    assert abs(have - other) <= 1e-5 * max(1, abs(other)), (have, other, terms)
    scale = max(float(v.grad.abs().max()) for v in state.values() if v.grad is not None)
    for key, p in model.named_parameters():
        have = torch.zeros_like(p) if p.grad is None else p.grad
        other = state[key].grad
        other = torch.zeros_like(p) if other is None else other
        off = float((have - other).abs().max())
        assert off <= 1e-5 * max(1, scale), (key, off, scale)


@pytest.mark.parametrize("name", ("paper", "released"))
def test_optimiser(name, data, tmp_path):
    "Adam with a constant rate, clipped at 150, no average: the loop's step and a plain one"
    how = configuration(name)
    cfg = TrainConfig(1, 2, T, lr=how.recipe.lr, recipe=how.recipe.of_stage(1))
    run = start_run("lesson", {}, name, root=tmp_path)
    first = build_learner(how, "lifting", profile("tiny"), data)
    plain = build_learner(how, "lifting", profile("tiny"), data)
    trained = train(first, data, cfg, run)
    optimiser = torch.optim.Adam(plain.parameters(), 1e-5)
    [one] = loader(data, 2, start=0, stop=1, frames=T, seed=0)
    torch.manual_seed(0)
    loss, _ = plain.train().loss(one, torch.Generator().manual_seed(0))
    loss.backward()
    nn.utils.clip_grad_norm_(plain.parameters(), 150.0)
    optimiser.step()
    for (key, a), b in zip(trained.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-6, msg=key)


# ---- whole trainings


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


@pytest.mark.parametrize("kind", ("forecasting", "lifting"))
@pytest.mark.parametrize("name", ("paper", "released"))
def test_trains_resumes_and_is_loaded(name, kind, data, tmp_path):
    "Twenty steps, killed after thirteen, go on to the bit; the weights forecast or lift"
    how = configuration(name)
    size = 0 if kind == "lifting" else 224
    cfg = TrainConfig(20, 2, T, size, lr=1e-4, recipe=how.recipe, save_every=5)
    shape = {} if kind == "lifting" else dict(vit=(16, 1, 4, 64))

    def fresh():
        return build_learner(how, kind, profile("tiny"), data, layers=1, **shape)

    whole, killed = (start_run("lesson", {"n": n}, n, root=tmp_path) for n in ("whole", "killed"))
    one = train(fresh(), data, cfg, whole)
    train(fresh(), data, cfg, killed, stop_after=13)
    two = train(fresh(), data, cfg, killed)
    assert same_weights(one.state_dict(), two.state_dict())
    losses = [row["loss"] for row in whole.log_rows()]
    assert np.isfinite(losses).all() and len(losses) == 20
    clip = data[0]
    if kind == "forecasting":
        found = load_forecaster(whole.dir, "cpu")(clip.image, samples=2, steps=3, hands=None)
        assert found.joints.shape == (2, T, 2, 21, 3) and found.joints.isfinite().all()
        return
    track = clip.keypoints2d, clip.valid2d, clip.intrinsics, clip.cam_from_view
    motion = load_lifter(whole.dir, "cpu")(*track, steps=3)
    assert motion.wrist.shape == (T, 2, 3) and motion.wrist.isfinite().all()


# ---- what the page says is so


def test_ours_is_what_our_code_does():
    "Settings of `ours` are the defaults of our own networks, losses and samplers"
    ours = ForecasterConfig.__dataclass_fields__
    assert OURS.dropout == (ours["dropout"].default, LifterConfig(16, 1, 64, 1, 1).dropout)
    assert OURS.drop_token == ours["drop_token"].default == LifterConfig(16, 1, 64, 1, 1).drop_token
    assert OURS.drop_group == LifterConfig(16, 1, 64, 1, 1).drop_group
    assert OURS.conditions == LifterConfig(16, 1, 64, 1, 1).kinds
    assert OURS.layout == LifterConfig(16, 1, 64, 1, 1).layout
    how = SampleSettings()
    assert (OURS.sampler, OURS.temperature) == (how.sampler, how.temperature)
    assert OURS.smooth == how.smooth
    assert OURS.jitter == DetectorNoise().jitter
    assert TrainConfig(1, 1, 1).recipe == OURS.recipe
    assert (OURS.zoom, OURS.zooms) == (ZOOM, ZOOM_LIMITS)
    assert OURS.colour == pytest.approx((LEAST, LEAST + TINT))
    assert (OURS.look, OURS.drop_path) == (VIT_H["look"], VIT_H["drop_path"])


def test_page_is_up_to_date():
    page = ROOT / "docs" / "configurations.md"
    assert page.read_text() == differences_page(), "run: python tools/differences.py"
    assert all(f"| {name} |" in page.read_text().replace("`", "") for name in ("ours", "paper"))
    assert "docs/configurations.md" in (ROOT / "README.md").read_text()
    assert set(CONFIGURATIONS) == {"ours", "paper", "released"}


# ---- rows


def evaluate_forecasts(weights, data, run):
    "What evaluate_forecast does, on a few clips"
    found = find_forecasters(weights, "tiny")
    models = {method: load_forecaster(one.path, "cpu").model for method, one in found.items()}
    assert put_on_hands(models, data.hand_id) and scored_frames(models, profile("tiny")) == T
    test = forecast_test(data, T)
    settings = FutureSettings(T, 2, how=dict(steps=2))
    results = forecast_all(models, "", test, settings)
    errors = score_all(predictions_of(results), test.targets)
    budgets = forecast_budgets(results, models, found, "", 2, settings)
    kept = forecast_samples(results, test)
    file_results(run, errors, budgets, kept, variety_of(results, test))


def evaluate_lifters(weights, data, run):
    "What evaluate_lifting does, on a few clips"
    found = find_lifters(weights, "tiny")
    models = {method: load_lifter(one.path, "cpu").model for method, one in found.items()}
    assert put_on_hands(models, data.hand_id)
    clips = [data[i] for i in range(len(data))]
    how = LiftSettings(T, 2, refine=RefineConfig(2))
    results = {}
    for method, model in models.items():
        results |= lift_clips(method, model, clips, [], how, refine=True)
    predictions = {row: lifted.joints for row, lifted in results.items()}
    errors = score_all(predictions, stack_targets(clips, T))
    file_results(run, errors, lifting_budgets(results, models, found, how), [])


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="the official fixtures are not here")
@pytest.mark.parametrize("what", ("forecast", "lifting"))
def test_official_weights_get_rows(what, data, tmp_path):
    "Imported weights are scored like any run, and the tables show them"
    import_official(OFFICIAL / f"{what}_official.ckpt", tmp_path / "official", frames=32)
    weights = str(tmp_path / "official" / "model.safetensors")
    run = start_run(f"evaluate_{what}", dict(profile="tiny", samples=2), root=tmp_path / "out")
    evaluate = evaluate_forecasts if what == "forecast" else evaluate_lifters
    evaluate(weights, data, run)
    run.finish({})
    sources = collect(f"evaluate_{what}", "tiny", tmp_path / "out")
    for spec in (TABLE1,) if what == "lifting" else (TABLE3, TABLE4, TABLE5):
        table = build_table(spec, sources)
        rows = [line for line in table.lines if "authors" in line.label]
        assert rows and all(any(line.cells) for line in rows), spec.name
