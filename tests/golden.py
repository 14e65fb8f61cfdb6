"""Numbers of the whole suite that stay as they are, whatever moves or is rewritten.

Each entry is a function of no arguments that returns tensors, numbers, texts and tables, nested
as it likes. Everything is seeded, small, and runs on one thread of the CPU.
`python tests/golden.py --write` computes all of them anew and stores them;
`test_golden.py` compares.
"""

import dataclasses, functools, hashlib, json, os, platform, re, sys, tempfile, time
from contextlib import contextmanager
from pathlib import Path
import numpy as np
import pandas as pd
import torch

STORED = Path(__file__).resolve().parent / 'golden' / 'numbers.json'
ENTRIES = {}  # name → function that computes it
SHOWN = 4  # values of an array that are stored beside its hash
DIGITS = 24  # of a hash, in base 16


def entry(name, **arguments):
    "Register a function, with these arguments, under a name"

    def register(function):
        assert name not in ENTRIES, f'{name} is there twice'
        ENTRIES[name] = functools.partial(function, **arguments)
        return function

    return register


# ---- from values to what is stored


def flat(value, name=''):
    "Names and leaves of nested values"
    if value is None:
        return [(name, 'None')]
    if isinstance(value, (torch.Tensor, np.ndarray, str, bool, int, float, np.number)):
        return [(name, value)]
    if isinstance(value, Path):
        return [(name, value.name)]
    if dataclasses.is_dataclass(value):
        stored = [field.name for field in dataclasses.fields(value)]  # not what is cached beside
        return flat({field: getattr(value, field) for field in stored}, name)
    if isinstance(value, pd.DataFrame):
        return flat({str(k): column_of(value[k]) for k in value}, name)
    if isinstance(value, (list, tuple)):
        return flat_list(value, name)
    assert isinstance(value, dict), f'{name}: a {type(value).__name__} cannot be stored'
    parts = [flat(v, f'{name}.{k}' if name else str(k)) for k, v in value.items()]
    return sum(parts, [])


def flat_list(values, name):
    "Numbers become an array, everything else is named by its position"
    if values and all(isinstance(v, (bool, int, float, np.number)) for v in values):
        return [(name, np.array(values, dtype=np.float64))]
    return flat({str(i): v for i, v in enumerate(values)}, name)


def column_of(column):
    "A column of a table as an array or a text"
    if column.dtype.kind in 'fiub':
        return column.to_numpy()
    return '\n'.join(map(str, column))


def short(text):
    "A text, or the hash of a long one"
    if len(text) < 1000:
        return text
    return f'{len(text)} characters, {hashlib.sha256(text.encode()).hexdigest()}'


def describe(value):
    "What is stored of one leaf"
    if isinstance(value, str):
        return dict(text=short(value))
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, (bool, int, float)):
        value = np.float64(value)
    a = np.ascontiguousarray(value)
    if a.dtype.kind == 'f':
        a = np.where(np.isnan(a), a.dtype.type('nan'), a)  # one kind of NaN
    where = np.linspace(0, a.size - 1, min(SHOWN, a.size)).round().astype(int)
    wide = a.reshape(-1).astype(np.float64)
    known = wide[np.isfinite(wide)]
    digest = hashlib.sha256(a.tobytes()).hexdigest()[:DIGITS]
    out = dict(
        dtype=str(a.dtype),
        shape=list(np.shape(value)),
        sha256=digest,
        sum=float(f'{known.sum():.12g}'),
    )
    if a.dtype.kind != 'f':
        return out
    shown = [float(f'{v:.7g}') for v in wide[where]]
    return out | dict(finite=len(known), abs=float(f'{np.abs(known).sum():.12g}'), values=shown)


@contextmanager
def still():
    "One thread, known seeds, empty folders for runs and data"
    names = ('FOREHAND4D_OUTPUTS', 'FOREHAND4D_DATA', 'FOREHAND4D_MANO', 'IN_TEST')
    before = {k: os.environ.pop(k, None) for k in names}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.environ['FOREHAND4D_OUTPUTS'] = f'{folder}/outputs'
            yield Path(folder)
    finally:
        torch.set_num_threads(threads)
        for k, v in before.items():
            os.environ.pop(k, None)
            if v is not None:
                os.environ[k] = v


def compute(name):
    "What is stored of one entry"
    with still():
        return {k: describe(v) for k, v in flat(ENTRIES[name]())}


def folder_of_runs():
    "Empty folder of this entry"
    path = Path(os.environ['FOREHAND4D_OUTPUTS']).parent
    path.mkdir(parents=True, exist_ok=True)
    return path


# ---- inputs that several entries use


def draw(seed=0):
    "Source of randomness"
    return torch.Generator().manual_seed(seed)


def some_motion(*lead, seed=0, whole=False):
    "Two hands in random poses before the camera; some frames of them are not valid"
    from forehand4d.geometry.motion import rest_motion
    from forehand4d.geometry.rotations import aa_to_mat

    g = draw(seed)
    m = rest_motion(*lead)
    turn = aa_to_mat(0.4 * torch.randn(*lead, 2, 16, 3, generator=g))
    wrist = torch.tensor([[0.1, 0.05, 0.6], [-0.1, 0.05, 0.6]]) + 0.04 * torch.randn(
        *lead, 2, 3, generator=g
    )
    betas = torch.randn(*lead[:-1], 2, 10, generator=g)
    valid = torch.rand(*lead, 2, generator=g) > (-1 if whole else 0.2)
    return dataclasses.replace(m, rot=turn @ m.rot, wrist=wrist, betas=betas, valid=valid)


def some_cameras(*lead, seed=0):
    "Cameras near each other"
    from forehand4d.geometry.cameras import make_T
    from forehand4d.geometry.rotations import random_rotation

    g = draw(seed)
    R = random_rotation(*lead, generator=g, max_angle=0.2)
    return make_T(R, 0.05 * torch.randn(*lead, 3, generator=g))


def intrinsics(size=128):
    "Of a square image"
    from forehand4d.geometry.cameras import intrinsics_from_fov

    return intrinsics_from_fov(60.0, size, size)


@functools.cache
def clip_of(domain, index=0, frames=16, size=64, split='train'):
    "A clip of HandWorld"
    from forehand4d.handworld.generate import make_clip

    return make_clip(domain, split, index, frames=frames, image_size=size)


def dataset_of(*domains, each=3):
    "A small dataset, written and read"
    from forehand4d.data.clip_store import ClipStore, encode_clip, write_clips
    from forehand4d.data.loaders import ClipDataset

    stores = []
    for d in domains:
        rows = [encode_clip(clip_of(d, i)) for i in range(each)]
        stores.append(ClipStore(write_clips(rows, folder_of_runs() / 'data' / d, {})))
    return ClipDataset(stores)


def tiny():
    "Smallest profile"
    from forehand4d.runs.profiles import profile

    return profile('tiny')


# ---- geometry


@entry('geometry/rotations')
def rotations():
    from forehand4d.geometry.rotations import aa_to_mat, hat, mat_to_6d, mat_to_aa
    from forehand4d.geometry.rotations import random_rotation, sixd_to_mat, slerp

    g = draw()
    aa = torch.cat(
        [torch.randn(40, 3, generator=g), 1e-4 * torch.randn(8, 3, generator=g), torch.zeros(1, 3)]
    )
    aa.requires_grad_()
    R = aa_to_mat(aa)
    back = mat_to_aa(R)
    (gradient,) = torch.autograd.grad((back * torch.arange(1.0, 4)).sum(), aa)
    free = random_rotation(20, generator=g)
    near = random_rotation(20, generator=g, max_angle=0.5)
    return dict(
        hat=hat(aa),
        matrix=R,
        back=back,
        gradient=gradient,
        six=mat_to_6d(R),
        free=free,
        near=near,
        gram=sixd_to_mat(torch.randn(20, 6, generator=g)),
        slerp=slerp(free, near, torch.rand(20, generator=g)),
    )


@entry('geometry/cameras')
def cameras():
    from forehand4d.geometry.cameras import crop_intrinsics, fourier, invert, kpe_angles
    from forehand4d.geometry.cameras import look_at, plucker_rays
    from forehand4d.geometry.cameras import project, resize_intrinsics, transform, unproject

    g = draw()
    K, T = intrinsics(), some_cameras(6)
    points = torch.randn(6, 21, 3, generator=g) * 0.1 + torch.tensor([0, 0, 0.5])
    px = project(transform(T, points), K)
    there = look_at(torch.randn(6, 3, generator=g), torch.zeros(3), torch.tensor([0.0, -1, 0]))
    depth = points[..., 2]
    return dict(
        K=K,
        T=T,
        inverse=invert(T),
        moved=transform(T, points),
        pixels=px,
        behind=project(-points, K),
        back=unproject(px, K, depth),
        look=there,
        crop=crop_intrinsics(K, 3.0, -4.0),
        resize=resize_intrinsics(K, 0.5, 2.0),
        angles=kpe_angles(px, K),
        fourier=fourier(px / 100),
        rays=plucker_rays(px, K.expand(6, 3, 3), T),
    )


@entry('geometry/open_hand')
def open_hands():
    from forehand4d.geometry.hands import rest_wrist
    from forehand4d.geometry.hand_models import hand_pair, open_hand

    m = some_motion(4, 3)
    pair = hand_pair()
    hands = {side: open_hand(side) for side in ('right', 'left')}
    return hands | dict(
        joints=m.joints(),
        vertices=m.vertices(),
        mean=pair.mean_rot,
        wrist=rest_wrist(pair, m.betas),
    )


@entry('geometry/mano')
def mano():
    from forehand4d.geometry.hand_models import hand_pair
    from forehand4d.geometry.mano import JOINT_ORDERS, from_mano, from_mano21, to_mano
    from forehand4d.geometry.mano import to_mano21

    m, pair = some_motion(5), hand_pair()
    out = {}
    for kind in ('relative', 'absolute', 'pca'):
        numbers = to_mano(pair, m.rot, m.wrist, m.betas, kind)
        out[kind] = dict(
            numbers=numbers, back=from_mano(pair, *numbers, m.betas.expand(5, 2, 10), kind)
        )
    J = m.joints()
    for name in JOINT_ORDERS:
        there = to_mano21(torch.arange(2.0 * JOINT_ORDERS[name][0]).view(-1, 2), name)
        out[name] = dict(order=there)
    return out | dict(
        assembly=from_mano21(J, 'assemblyhands42'), openpose=from_mano21(J, 'openpose21')
    )


@entry('geometry/motion')
def motion():
    from forehand4d.geometry.motion_vector import LEGACY_STATS, MotionStats, anchor_of
    from forehand4d.geometry.motion_vector import decode198, decode_from, decode_legacy198
    from forehand4d.geometry.motion_vector import encode198, encode_from, fit_stats

    m = some_motion(3, 8)
    stats = fit_stats(m.wrist, m.valid)
    x = encode198(m, stats)
    noisy = x + 0.1 * torch.randn(x.shape, generator=draw(1))
    anchor = anchor_of(m, torch.tensor([[True, True], [True, False], [False, False]]))
    near = encode_from(m, stats, anchor)
    start = MotionStats()
    return dict(
        stats=[*stats.mean, *stats.std],
        legacy_stats=[*LEGACY_STATS.mean, *LEGACY_STATS.std],
        channels=x,
        decoded=decode198(noisy, stats, m.betas, m.valid),
        anchor=anchor,
        relative=near,
        from_anchor=decode_from(near + 0.1 * noisy, stats, anchor),
        legacy=decode_legacy198(noisy, m.betas),
        applied=start.apply(m.wrist),
        undone=start.undo(m.wrist),
        moved=m.to_frame(some_cameras(3, 8)),
        cut=m.slice(2, 5),
        padded=m.pad(11),
    )


# ---- HandWorld


def clip_parts(clip):
    "Everything that a clip holds"
    return {
        f.name: getattr(clip, f.name) for f in dataclasses.fields(clip) if f.name != 'meta'
    } | dict(length=clip.length)


def handworld_clip(domain):
    return clip_parts(clip_of(domain, size=48, split='test'))


for _name in (
    'lab-articulated',
    'lab-pour',
    'lab-handover',
    'lab-grasp',
    'lab-headset',
    'wild-joints',
    'wild-keypoints',
    'zero-everyday',
    'free-first',
    'free-third',
    'wild-leaving',
):
    entry(f'handworld/{_name}', domain=_name)(handworld_clip)


@entry('handworld/domains')
def handworld_domains():
    "The list above is complete"
    from forehand4d.handworld.domains import DOMAINS

    return dict(names='\n'.join(DOMAINS), settings='\n'.join(map(str, DOMAINS.values())))


@entry('handworld/cache')
def handworld_cache():
    "Names of folders, which say whether data are made anew, and what is read back"
    from forehand4d.data.clip_store import ClipStore
    from forehand4d.handworld.generate import draw_again, generate

    out = {}
    for d in ('lab-grasp', 'free-third'):
        folder = generate(d, 'val', 1, workers=1, frames=6, image_size=24)
        clip = ClipStore(folder)[0]
        out[d] = dict(folder=folder.name, clip=clip_parts(clip), later=draw_again(clip, [3]))
    return out


# ---- metrics and scores


def predictions():
    "Samples, truth, validity and lengths of three clips"
    g = draw()
    gt = (
        torch.randn(3, 1, 2, 21, 3, generator=g) * 0.1
        + torch.randn(3, 12, 2, 1, 3, generator=g) * 0.05
    )
    gt = gt + 0.02 * torch.randn(3, 12, 2, 21, 3, generator=g) + torch.tensor([0, 0, 0.6])
    pred = (
        gt[:, None]
        + 0.03 * torch.randn(3, 4, 12, 2, 21, 3, generator=g)
        + 0.05 * torch.randn(3, 4, 1, 1, 1, 3, generator=g)
    )
    valid = torch.rand(3, 12, 2, 21, generator=g) > 0.15
    valid[1, :, 1] = False
    valid[2, 5:8] = False
    return pred, gt, valid, torch.tensor([12, 9, 12])


def metrics(protocol):
    from forehand4d.evaluation.metrics import best_sample, clip_means, motion_metrics

    pred, gt, valid, lengths = predictions()
    frames = motion_metrics(pred, gt, valid, lengths, protocol, pa=True)
    whole = motion_metrics(pred[:, 0], gt, torch.ones_like(valid), protocol=protocol)
    means = clip_means(frames)
    return dict(frames=frames, whole=whole, means=means, best=best_sample(means))


for _name in ('official', 'strict'):
    entry(f'metrics/{_name}', protocol=_name)(metrics)


@entry('metrics/variety')
def variety():
    from forehand4d.evaluation.variety import diversity, motion_channels, multimodality
    from forehand4d.evaluation.variety import speed_statistics, variety_summary

    g = draw()
    x = torch.randn(8, 7, 10, 198, generator=g)
    hands = torch.rand(8, 10, 2, generator=g) > 0.2
    mask = motion_channels(hands)
    pred, _, valid, _ = predictions()
    both = {
        f'{p}_{s}': multimodality(x, mask, p, s)
        for p in ('strict', 'official')
        for s in (False, True)
    }
    sets = {m: diversity(x[:, 0], mask, 5, masking=m) for m in ('intersection', 'own')}
    return (
        both
        | sets
        | dict(
            summary=variety_summary(x, x[:, 1], mask),
            mask=mask,
            speed=speed_statistics(pred[:, 0], valid),
        )
    )


@entry('metrics/scores')
def scores():
    from forehand4d.evaluation.scoring import Targets, aggregate, headline, headline_table
    from forehand4d.evaluation.scoring import score

    pred, gt, valid, lengths = predictions()
    pred, gt, valid, lengths = (
        torch.cat([x, x.flip(1) if x.dim() > 1 else x]) for x in (pred, gt, valid, lengths)
    )
    data = ('lab-pour', 'lab-grasp', 'wild-joints', 'zero-everyday', 'lab-pour', 'wild-joints')
    targets = Targets(gt, valid, lengths, torch.full((6,), 30.0), data, tuple(map(str, range(6))))
    records, curves = score(pred, targets, 'forecast-3d')
    summary = aggregate(records)
    table = headline_table(summary)
    return dict(
        records=records,
        curves=curves,
        summary=summary,
        headline=headline(summary),
        table=table.to_csv(),
    )


@entry('metrics/floors')
def floors():
    from forehand4d.evaluation.scoring import stack_targets
    from forehand4d.baselines.floors import image_features, mean_motion, nearest_motion
    from forehand4d.baselines.floors import static_oracle

    train = [clip_of('lab-pour', i) for i in range(3)]
    test = [clip_of('wild-joints', i) for i in range(2)]
    return dict(
        mean=mean_motion(train, 16),
        still=static_oracle(stack_targets(test)),
        features=image_features(test[0], 16),
        nearest=nearest_motion(train, test, 16),
        by_image=nearest_motion(train, test, 16, image_features),
    )


# ---- parts of the networks


@entry('networks/losses')
def losses():
    from forehand4d.training.losses import LossWeights, masked_mean, motion_loss
    from forehand4d.geometry.motion_vector import MotionStats, anchor_of, encode198, encode_from

    truth, stats, g = some_motion(3, 8), MotionStats(), draw(3)
    cam, weight, abar = (
        some_cameras(3, 8),
        torch.tensor([1.0, 0.5, 0.0]),
        torch.tensor([0.9, 0.5, 0.1]),
    )
    known = torch.tensor([[True, True], [True, False], [False, False]])
    anchor = anchor_of(truth, known)
    track = 0.2 * torch.randn(3, 8, 2, 21, 2, generator=g), torch.rand(3, 8, 2, 21, generator=g)
    w = LossWeights(image=1.0)
    out = dict(masked=masked_mean(cam, torch.tensor([True, False, True])))
    for name, more in dict(
        plain={},
        trust=dict(weight=weight),
        camera=dict(w=w, cam=cam),
        sparse=dict(stride=4, w=w, cam=cam),
        track=dict(w=w, cam=cam, track=track),
        anchor=dict(anchor=anchor),
    ).items():
        target = encode_from(truth, stats, anchor) if 'anchor' in more else encode198(truth, stats)
        x = (target + 0.1 * torch.randn(target.shape, generator=draw(4))).requires_grad_()
        total, terms = motion_loss(x, target, truth, stats, abar, **more)
        (gradient,) = torch.autograd.grad(total, x)
        out[name] = dict(total=total, terms=terms, gradient=gradient)
    return out


@entry('networks/conditions')
def conditions():
    from forehand4d.networks.conditioning import hands2d_features
    from forehand4d.released.conditions import legacy_conditions, legacy_crop_matrix
    from forehand4d.released.conditions import legacy_image
    from forehand4d.networks.conditioning import lifting_conditions, ray_features

    g = draw()
    px, K, cam = (
        128 * torch.rand(2, 6, 2, 21, 2, generator=g),
        intrinsics().expand(2, 6, 3, 3),
        some_cameras(2, 6),
    )
    seen = torch.rand(2, 6, 2, 21, generator=g) > 0.2
    joints = some_motion(2, 6).joints()
    image = torch.randint(0, 256, (90, 120, 3), dtype=torch.uint8, generator=g)
    kinds = ('kps', 'extrinsics', 'plucker', 'kpe', 'released')
    return dict(
        lifting=lifting_conditions(px, seen, K, cam, kinds),
        rays=ray_features(K[:, 0], px[0, 0, 0]),
        hands=hands2d_features(px[:, 0], seen[:, 0], K[:, 0]),
        legacy=legacy_conditions(px, seen, K, cam),
        oracle=legacy_conditions(px, seen, K, cam, joints),
        crop=legacy_crop_matrix((120, 90)),
        image=legacy_image(image),
    )


@entry('networks/denoiser')
def denoiser():
    from forehand4d.networks.denoiser import Denoiser, DenoiserConfig, sinusoid

    told = dict(conditions=(('a', 5), ('b', 7)), context=(('c', 9),))
    x, t = torch.randn(2, 8, 198, generator=draw()), torch.tensor([3, 871])
    values = {
        k: torch.randn(2, n, c, generator=draw(i))
        for i, (k, n, c) in enumerate((('a', 8, 5), ('b', 8, 7), ('c', 3, 9)))
    }
    real = torch.arange(8)[None] < torch.tensor([[8], [5]])
    out = dict(
        sine=sinusoid(torch.arange(20), 16), woven=sinusoid(torch.arange(20), 16, interleaved=True)
    )
    for layout in ('fused', 'concatenated'):
        torch.manual_seed(1)
        net = Denoiser(DenoiserConfig(8, 4, 32, 2, 2, 0.1, **told, layout=layout)).eval()
        frames, prefix = net.embed_frames(values), net.embed_context(values)
        with torch.no_grad():
            out[layout] = dict(
                whole=net(x, t, frames, prefix),
                padded=net(x, t, frames, prefix, real),
                alone=net(x, t),
            )
        out[layout]['weights'] = weights_of(net)
    return out


@entry('networks/backbones')
def backbones():
    from forehand4d.networks.backbones import build_backbone, normalise_image

    image = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=draw())
    x = normalise_image(image)
    only = torch.tensor([[0, 3, 5], [1, 2, 15]])
    out = dict(image=x)
    for name in ('small', 'vitpose-32x1x4'):
        torch.manual_seed(1)
        net = build_backbone(name, 64, 32, 2, 2).eval()
        with torch.no_grad():
            out[name] = dict(
                whole=net(x), some=net(x, only), centres=net.centres(64), grid=list(net.grid(64))
            )
    return out


def toy(x, t):
    "A network that is none"
    return torch.sin(3 * x) * 0.5 + (t[:, None, None] / 1000) * x.roll(1, -1)


@entry('networks/samplers')
def samplers():
    from forehand4d.networks.sampling import SAMPLERS, sample

    out = {name: sample(toy, (2, 4, 6), 8, name, seed=5) for name in SAMPLERS}
    return out | dict(
        cool=sample(toy, (2, 4, 6), 8, seed=5, temperature=0.5),
        all_steps=sample(toy, (1, 2, 3), 1000, 'ddpm', seed=5),
    )


@entry('networks/diffusion')
def diffusion():
    from forehand4d.networks.process import alphas_bar, ancestral_step, cosine_betas
    from forehand4d.networks.process import log_variance, posterior, q_sample

    x, noise = torch.randn(2, 4, 5, 6, generator=draw())
    t = torch.tensor([0, 10, 500, 999])
    return dict(
        betas=cosine_betas(),
        bar=alphas_bar(),
        noisy=q_sample(x, t, noise),
        posterior=posterior(x, noise, t),
        variance=log_variance(t),
        step=ancestral_step(x, noise, t, noise.flip(0)),
    )


@entry('networks/samples')
def samples():
    from forehand4d.models.samples import point_forecast, sample_weights, smooth_in_time

    x = torch.randn(2, 5, 8, 198, generator=draw()).cumsum(2)
    return dict(
        smooth=smooth_in_time(x, 2.0),
        point=point_forecast(x),
        mean=point_forecast(x, 0.0),
        weights=sample_weights(x),
    )


@entry('networks/legacy')
def legacy():
    from forehand4d.released.networks import GROUPS, LegacyConfig, LegacyModel

    size = dict(width=32, layers=2, ff=48)
    x, t = torch.randn(2, 16, 198, generator=draw()), torch.tensor([5, 700])
    image = torch.randn(2, 3, 224, 224, generator=draw(1))
    told = {k: torch.randn(2, 16, n, generator=draw(2)) for k, n in GROUPS.items()}
    out = {}
    for kind in ('lifting', 'forecasting', 'regressor', 'hybrid'):
        torch.manual_seed(1)
        lifts = kind == 'lifting'
        cfg = LegacyConfig(
            kind, **size, groups=tuple(GROUPS) if lifts else (), vit=() if lifts else (32, 1, 4, 64)
        )
        net = LegacyModel(cfg).eval()
        out[kind] = dict(
            weights=weights_of(net),
            clean=net.predict_x0(x, t, **told if lifts else dict(image=image)),
        )
    return out


RELEASED = {
    'net.inp.': 'model.model.input_process.poseEmbedding.',
    'net.time.': 'model.model.embed_timestep.time_embed.',
    'net.encoder.': 'model.model.seqTransEncoder.',
    'net.out.': 'model.model.output_process.poseFinal.',
    'cond.j2d.': 'model.kps_conditioner.net.',
    'cond.cam.': 'model.cam_conditioner.net.',
    'cond.plucker.': 'model.plucker_conditioner.net.',
    'cond.kpe.': 'model.kpe_conditioner.net.',
}


@entry('networks/official')
def official():
    "A toy checkpoint by the names of the release, converted, read and asked"
    from forehand4d.released.networks import GROUPS, LegacyConfig, LegacyModel
    from forehand4d.released.checkpoints import import_official, load_official

    torch.manual_seed(1)
    net = LegacyModel(LegacyConfig('lifting', 32, 2, 48, frames=16, groups=tuple(GROUPS))).eval()
    state = {}
    for k, v in net.state_dict().items():
        ours = next(a for a in RELEASED if k.startswith(a))
        state[RELEASED[ours] + k[len(ours) :]] = v.clone()
    path = folder_of_runs() / 'a.ckpt'
    torch.save({'state_dict': state}, path)
    report = import_official(path, folder_of_runs() / 'converted', frames=16)
    read = load_official(folder_of_runs() / 'converted')
    g, told = draw(3), {k: torch.randn(1, 16, n, generator=draw(2)) for k, n in GROUPS.items()}
    clean = read.predict_x0(torch.randn(1, 16, 198, generator=g), torch.tensor([400]), **told)
    facts = {k: report[k] for k in ('network', 'tensors', 'parameters', 'dropped')}
    return dict(report=facts, clean=clean, weights=weights_of(read))


# ---- what training makes of clips


@entry('training/batches')
def batches():
    "Collated clips, and every kind of noise that is put on them"
    from forehand4d.training.augment import augment_lifting, mirror_motion
    from forehand4d.data.batches import batch_motion, batch_past, batch_tracks, collate
    from forehand4d.models.forecast_loss import augment_image
    from forehand4d.networks.process import noise_steps
    from forehand4d.models.present import past_features, present_features, simulate_present
    from forehand4d.geometry.motion_vector import MotionStats

    b = collate([clip_of('lab-pour', i) for i in range(3)], 16, 64)
    m, flip = batch_motion(b), torch.tensor([False, True, True])
    image, K, mirrored = augment_image(b.image, b.image_K, draw(1))
    past = batch_past(b, flip)
    present = simulate_present(m, m.valid[:, 0], past, draw(3))
    return dict(
        batch=b.tensors(),
        image=image,
        K=K,
        mirrored=mirrored,
        lifting=augment_lifting(m, b.intrinsics, draw(2)),
        past=past,
        tracks=batch_tracks(b, flip),
        mirror=mirror_motion(m),
        steps=noise_steps(20, 3, 1000, draw(4)),
        present=present,
        told=present_features(present, MotionStats()),
        before=past_features(present),
    )


def weights_of(model):
    "All numbers of a network, one after the other"
    return torch.cat([v.detach().flatten().double() for v in model.state_dict().values()])


def train_steps(model, data, steps=12, size=64):
    "Loss at each step of a short training, the last terms and the weights after it"
    from forehand4d.data.batches import collate

    torch.manual_seed(0)
    g, losses = draw(), []
    free = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(free, lr=1e-3)
    start = weights_of(model)
    model.train()
    for step in range(steps):
        some = [data[(4 * step + i) % len(data)] for i in range(4)]
        loss, terms = model.loss(collate(some, 16, size), g)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    model.eval()
    return dict(start=start, losses=losses, terms=terms, weights=weights_of(model))


def train_forecaster(method='diffusion', **how):
    from forehand4d.data.batches import collate
    from forehand4d.models.forecaster import build_forecaster
    from forehand4d.models.forecast_sampling import SampleSettings

    domains = ('lab-pour', 'lab-grasp') + (('wild-keypoints',) if 'supervision' in how else ())
    data = dataset_of(*domains)
    model = build_forecaster(tiny(), data, method, weights='none', **how)
    out = train_steps(model, data)
    b = collate([data[0], data[3]], 16, 64)
    out['forecast'] = model.forecast(
        b.image, b.image_K, samples=2, **vars(SampleSettings(steps=3))
    )
    return out | dict(stats=[*model.stats.mean, *model.stats.std])


for _name, _how in dict(
    diffusion={},
    static=dict(method='static'),
    regressor=dict(method='regressor'),
    regressor_2d=dict(method='regressor', supervision='2d'),
    aux_regression=dict(supervision='2d', aux='regression'),
    aux_diffusion=dict(supervision='2d', aux='diffusion'),
    untold=dict(tell_present=False, tell_found=False),
    glimpse=dict(look=0.5, drop_path=0.3, draws=1, noise_levels=50),
    frozen=dict(frozen=True),
).items():
    entry(f'training/forecaster-{_name}', **_how)(train_forecaster)


def train_lifter(kinds='kps+extrinsics+plucker+kpe', layout='fused'):
    from forehand4d.models.lifter import build_lifter

    data = dataset_of('lab-pour', 'lab-grasp')
    model = build_lifter(tiny(), data, tuple(kinds.split('+')), layout=layout)
    return train_steps(model, data, size=0) | dict(stats=[*model.stats.mean, *model.stats.std])


entry('training/lifter')(train_lifter)
entry('training/lifter-concatenated', layout='concatenated')(train_lifter)
entry('training/lifter-released', kinds='kps+released')(train_lifter)


@entry('training/latentact')
def train_latentact():
    from forehand4d.data.batches import batch_motion, collate
    from forehand4d.models.forecast_sampling import SampleSettings
    from forehand4d.baselines.latentact import build_latentact

    data = dataset_of('lab-pour', 'lab-grasp')
    b = collate([data[0], data[3]], 16, 64)
    book = build_latentact(tiny(), data)
    out = dict(codebook=train_steps(book, data, size=0))
    out['memory'] = book.reconstruct(batch_motion(b, data.hand_id))
    model = build_latentact(tiny(), data, book)
    out['predictor'] = train_steps(model, data)
    return out | dict(
        usage=book.quantiser.perplexity(),
        forecast=model.forecast(b.image, samples=2, seed=SampleSettings().seed),
    )


@entry('training/perframe')
def train_perframe():
    from forehand4d.baselines.perframe import PerFrame, predict_frames

    model = PerFrame.build(tiny())
    clip = clip_of('lab-pour')
    out = train_steps(model, dataset_of('lab-pour', 'lab-grasp'), steps=8)
    with torch.no_grad():
        return out | dict(hands=predict_frames(model, clip, [0], clip.image[None]))


@entry('training/infiller')
def train_infiller():
    from forehand4d.data.batches import batch_motion, collate
    from forehand4d.baselines.hawor import Infiller

    data = dataset_of('lab-pour', 'lab-grasp')
    model = Infiller.build(tiny(), data)
    out = train_steps(model, data, size=0)
    m = batch_motion(collate([data[0], data[3]], 16))
    known = torch.rand(m.valid.shape, generator=draw(2)) > 0.4
    return out | dict(
        filled=model.infill(m, known & m.valid), stats=[*model.stats.mean, *model.stats.std]
    )


@entry('training/loop')
def training_loop():
    "The loop that the notebooks use, with averages, schedule and record"
    from forehand4d.models.lifter import build_lifter
    from forehand4d.runs.record import start_run
    from forehand4d.training.loop import TrainConfig, train

    data = dataset_of('lab-pour', 'lab-grasp')
    run = start_run('train_lifting', {}, 'golden')
    cfg = TrainConfig(6, 4, 16, lr=1e-3, save_every=3)
    average = train(build_lifter(tiny(), data), data, cfg, run)
    log = pd.DataFrame(run.log_rows())
    return dict(loss=log.loss.to_numpy(), weights=weights_of(average.cpu()))


# ---- networks that ship


@entry('shipped/weights')
def shipped_weights():
    from forehand4d.models.forecasting import load_forecaster
    from forehand4d.models.lifting import load_lifter

    nets = dict(forecaster=load_forecaster(device='cpu'), lifter=load_lifter(device='cpu'))
    return {
        k: dict(weights=weights_of(v.model), config=json.dumps(v.model.config(), sort_keys=True))
        for k, v in nets.items()
    }


def shipped_forecast(told=''):
    from forehand4d.video.detection import HandDetections
    from forehand4d.video.tracks import Tracks
    from forehand4d.models.forecasting import load_forecaster

    clip = clip_of('lab-pour', frames=8, size=128, split='test')
    hands = HandDetections(clip.keypoints2d[0], torch.ones(2), clip.valid2d[0]) if told else None
    px, valid = (
        torch.cat([getattr(clip.past, k), getattr(clip, k)[:1]]) for k in ('keypoints2d', 'valid2d')
    )
    past = Tracks(px, valid, valid.any(-1).float(), 30.0, (128, 128)) if told == 'past' else None
    out = load_forecaster(device='cpu')(
        clip.image, clip.intrinsics[0], samples=2, steps=3, seed=1, hands=hands, past=past
    )
    return dict(
        motion=out.motion, joints=out.joints, likely=out.likely, weights=out.weights, seen=out.seen
    )


entry('shipped/forecast-image')(shipped_forecast)
entry('shipped/forecast-hands', told='hands')(shipped_forecast)
entry('shipped/forecast-past', told='past')(shipped_forecast)


@entry('shipped/futures')
def shipped_futures():
    "Forecasts of an evaluation, told in each of its ways"
    from forehand4d.models.forecasting import load_forecaster
    from forehand4d.models.futures import TOLD, FutureSettings, forecast_clips
    from forehand4d.geometry.motion_vector import MotionStats

    clips = [clip_of(d, frames=16, size=128, split='test') for d in ('lab-pour', 'free-third')]
    model, out = load_forecaster(device='cpu').model, {}
    for told in TOLD:
        how = FutureSettings(frames=16, samples=2, told=told, how=dict(steps=2))
        found = forecast_clips(model, clips, MotionStats(), how)
        out[told] = dict(joints=found.joints, channels=found.channels, likely=found.likely)
    return out


def tracks_of(clip):
    "What the lifting model is told of a clip"
    return clip.keypoints2d, clip.valid2d, clip.intrinsics, clip.cam_from_view


@entry('shipped/lift')
def shipped_lift():
    from forehand4d.models.lifting import load_lifter

    clip = clip_of('wild-joints', frames=32, split='test')
    lifter = load_lifter(device='cpu')
    long = [torch.cat([x, x.flip(0), x]) for x in tracks_of(clip)]
    return dict(
        one=lifter(*tracks_of(clip), steps=4),
        two=lifter(*tracks_of(clip), samples=2, steps=2, seed=3),
        long=lifter(*long, steps=2),
    )


@entry('shipped/fit')
def shipped_fit():
    from forehand4d.fitting.procedure import procedure
    from forehand4d.models.lifting import load_lifter

    clip = clip_of('wild-keypoints', frames=16, split='test')
    lifter = load_lifter(device='cpu')
    out = {}
    for name in ('best', 'paper'):
        m, info = lifter.fit(*tracks_of(clip), how=procedure(name, iterations=12))
        out[name] = dict(
            motion=m,
            before=info['before'],
            after=info['after'],
            energy=list(info['energy']),
            noise=info['noise'],
        )
    return out


@entry('shipped/refine')
def shipped_refine():
    from forehand4d.fitting.refinement import refine

    out = {}
    for domain in ('lab-pour', 'wild-keypoints'):
        clip = clip_of(domain, split='test')
        m, info = refine(some_motion(16, whole=True), clip, iterations=12)
        out[domain] = dict(
            motion=m, report={k: list(v) if isinstance(v, tuple) else v for k, v in info.items()}
        )
    return out


@entry('shipped/impute')
def shipped_impute():
    from forehand4d.fitting.procedure import procedure
    from forehand4d.models.imputation import impute
    from forehand4d.models.lifting import load_lifter

    data = dataset_of('wild-keypoints', 'wild-joints', each=2)
    found = impute(
        data,
        load_lifter(device='cpu'),
        procedure('lifter', iterations=8),
        steps=2,
        limit=float('inf'),
    )
    return [dict(motion=c.motion, labels=c.labels, name=c.sequence) for c in found]


# ---- tables, claims, study


@functools.cache
def recorded():
    "A folder with a toy evaluation of every method that a table names, made once"
    folder = tempfile.TemporaryDirectory()
    os.environ['FOREHAND4D_OUTPUTS'] = f'{folder.name}/outputs'
    fill_records()
    return folder


def use_records():
    "Read that folder in this entry"
    os.environ['FOREHAND4D_OUTPUTS'] = f'{recorded().name}/outputs'


def fill_records():
    "Write the evaluations"
    from test_artefacts import record
    from forehand4d.core.files import write_json
    from forehand4d.study.paper import TABLES

    methods = {}
    for spec in TABLES:
        for row in spec.rows:
            methods.setdefault(row.step.split('/')[0] or spec.notebook.split('+')[0], []).append(
                row.method
            )
    for notebook, names in methods.items():
        noise = {m: 0.01 + 0.007 * i for i, m in enumerate(dict.fromkeys(names))}
        run = record(
            'cpu-golden',
            notebook=notebook,
            noise=noise,
            clips=12,
            samples=3 if notebook == 'evaluate_forecast' else 1,
        )
        groups = ('in-domain', 'wild', 'zero-shot', 'lab-pour')
        vary = {
            m: {
                g: dict(diversity=9 + i, diversity_std=0.3, multimodality=4 + i / 2) for g in groups
            }
            for i, m in enumerate([*noise, 'truth'])
        }
        write_json(run.dir / 'variety.json', vary)


def without_traces(text):
    "Text without dates and commits"
    text = re.sub(r'\d{4}-\d\d-\d\d[T ][\d:.+Z]*', 'DATE', text)
    return re.sub(r'\((?:[0-9a-f]{8}|no commit)((?:, \w+)*)\)', r'(COMMIT\1)', text)


def table(index):
    from forehand4d.study.paper import TABLES
    from forehand4d.study.sources import collect
    from forehand4d.study.tables import build_table, save_table

    saved, spec = folder_of_runs() / 'saved', TABLES[index]
    use_records()
    save_table(build_table(spec, collect(spec.notebook, 'cpu')), saved)
    files = sorted(saved.iterdir())
    texts = {
        f.suffix[1:]: without_traces(f.read_text()) for f in files if f.suffix in ('.md', '.tex')
    }
    digest = hashlib.sha256(texts.pop('tex').encode()).hexdigest()
    return texts | dict(tex=digest)


for _index in range(5):
    entry(f'tables/{_index + 1}', index=_index)(table)


@entry('tables/claims')
def claims():
    from forehand4d.study.claims import judge, verdicts
    from forehand4d.study.sources import collect

    use_records()
    sources, out = (
        collect('evaluate_forecast+evaluate_lifting+evaluate_lifting_baselines', 'cpu'),
        {},
    )
    for selection in ('best', 'single'):
        tests = judge(sources, 'strict', selection)
        kept = tests[
            ['claim', 'kind', 'metric', 'group', 'n', 'difference', 'low', 'high', 'p', 'verdict']
        ]
        csv = hashlib.sha256(kept.to_csv(index=False, float_format='%.4g').encode()).hexdigest()
        out[selection] = dict(
            verdicts=verdicts(tests).to_csv(),
            csv=csv,
            difference=tests.difference.to_numpy(float),
            p=tests.p.to_numpy(float),
        )
    return out


@entry('tables/study')
def study_commands():
    from forehand4d.study.plan import study

    steps = {p: study(p) for p in ('tiny', 'cpu', 'gpu', 'paper')}
    lines = {
        p: [f'{s.command}; needs {" ".join(s.needs)}' for s in each] for p, each in steps.items()
    }
    return {
        p: dict(count=len(each), digest=hashlib.sha256('\n'.join(each).encode()).hexdigest())
        for p, each in lines.items()
    }


# ---- adapters of recorded datasets


@contextmanager
def stand_ins():
    "The open hand plays the part of MANO, with its left hand as published and corrected"
    from forehand4d.geometry.hand_models import forget_hands, know_hands, open_hand

    right, left = open_hand('right'), open_hand('left')
    sign = torch.tensor([-1.0, 1, 1])[:, None]
    fixed = dataclasses.replace(
        left, shapedirs=left.shapedirs * sign, J_shapedirs=left.J_shapedirs * sign
    )
    know_hands(*(dataclasses.replace(h, hand_id='mano') for h in (right, left)))
    know_hands(*(dataclasses.replace(h, hand_id='mano-left-fixed') for h in (right, fixed)))
    try:
        yield
    finally:
        forget_hands('mano', 'mano-left-fixed')


def adapted(name, write, split='train', frames=20, image=True, **options):
    "First clips of a miniature of a dataset"
    from forehand4d.datasets.windows import windows
    from forehand4d.datasets.checks import check_sequence
    from forehand4d.datasets.convert import find_sequences

    root = folder_of_runs() / 'download'
    root.mkdir()
    with stand_ins():
        write(root)
        found = find_sequences(name, root, split, **options)
        seq = found[0]
        clips = [clip_parts(c) for c in windows(seq, frames, image=image)[:2]]
        measures = {k: float(v) for k, v in check_sequence(seq).items() if k != 'off'}
    return dict(names='\n'.join(found.names), clips=clips, check=measures)


@entry('adapters/arctic')
def arctic():
    from test_adapters import write_arctic

    return adapted('arctic', write_arctic)


@entry('adapters/h2o')
def h2o():
    from test_adapters import write_h2o

    return adapted('h2o', write_h2o)


@entry('adapters/h2o3d')
def h2o3d():
    from test_adapters import write_h2o3d

    return adapted('h2o3d', write_h2o3d)


@entry('adapters/dexycb')
def dexycb():
    from test_adapters import write_dexycb

    return adapted('dexycb', functools.partial(write_dexycb, index=0, hand=1, seed=5))


@entry('adapters/hot3d')
def hot3d():
    from test_hot3d import write_recording

    return adapted('hot3d', write_recording, hand_id='mano', image=False)


@entry('adapters/assemblyhands')
def assemblyhands():
    from test_adapters_joints import write_assemblyhands

    return adapted('assemblyhands', write_assemblyhands, image=False)


@entry('adapters/holoassist')
def holoassist():
    from test_adapters_joints import write_holoassist

    return adapted('holoassist', write_holoassist, None, image=False, keypoints='headset')


@entry('adapters/egoexo4d')
def egoexo4d():
    from test_adapters_everyday import write_egoexo4d

    return adapted('egoexo4d', write_egoexo4d, 'val')


@entry('adapters/epic')
def epic():
    from test_adapters_everyday import UNIT, write_epic

    return adapted('epic', write_epic, scale={'P01_01': UNIT})


@entry('adapters/store')
def store():
    "A dataset written as clips and read back"
    from test_adapters import write_h2o
    from forehand4d.data.clip_store import ClipStore
    from forehand4d.datasets.convert import convert

    root = folder_of_runs() / 'download'
    root.mkdir()
    with stand_ins():
        write_h2o(root)
        read = ClipStore(
            convert(
                'h2o', root, out=folder_of_runs() / 'store', frames=18, image_size=48, workers=1
            )
        )
        return [clip_parts(read[i]) for i in range(len(read))]


# ---- the stored file


def generation():
    "Family, model and stepping of the processor: of one instruction set there are several"
    try:
        facts = Path('/proc/cpuinfo').read_text().split('\n\n')[0].splitlines()
    except OSError:
        return platform.machine()
    named = dict(map(str.strip, fact.split(':', 1)) for fact in facts if ':' in fact)
    known = [named.get(name, '') for name in ('cpu family', 'model', 'stepping')]
    return '-'.join(known)


def machine():
    "What the numbers were computed with"
    return dict(
        torch=torch.__version__,
        numpy=np.__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        processor=f'{torch.backends.cpu.get_cpu_capability()} {generation()}',
        threads=1,
    )


def stored():
    "Numbers on record"
    return json.loads(STORED.read_text())


def write(names):
    "Compute entries and store them; others stay"
    numbers = stored()['entries'] if names and STORED.is_file() else {}
    for name in names or ENTRIES:
        start = time.time()
        numbers[name] = compute(name)
        print(f'{name}: {len(numbers[name])} values, {time.time() - start:.1f} s', flush=True)
    STORED.parent.mkdir(exist_ok=True)
    STORED.write_text(as_text(numbers))


def as_text(numbers):
    "JSON with a line for each value, so that a change can be read"
    parts = []
    for name, values in sorted(numbers.items()):
        lines = [
            f'   {json.dumps(k)}: {json.dumps(v, separators=(",", ":"))}' for k, v in values.items()
        ]
        parts.append(f'  {json.dumps(name)}: {{\n' + ',\n'.join(lines) + '\n  }')
    return (
        f'{{"written_on": {json.dumps(machine())},\n "entries": {{\n'
        + ',\n'.join(parts)
        + '\n }\n}\n'
    )


if __name__ == '__main__':
    if sys.argv[1:2] != ['--write']:
        sys.exit(f'usage: python {sys.argv[0]} --write [ENTRY ...]')
    write(sys.argv[2:])
