"""Recorded datasets become clip stores:
the same however they are made, whatever is damaged, and read back in mixtures"""

import json, os, pickle, subprocess, sys
from functools import partial
from pathlib import Path
import pytest, torch
from test_adapters import PNG, N, stand_in, write, write_dexycb, write_h2o  # noqa: F401 (the fixture plays MANO's part)
from forehand4d.geometry.cameras import project, transform
from forehand4d.cli import main
from forehand4d.core.files import read_json
from forehand4d.datasets import convert as store
from forehand4d.datasets.check_download import check_dataset
from forehand4d.data.clip_store import ClipStore, write_clips
from forehand4d.handworld.generate import make_clip
from forehand4d.data.batches import collate
from forehand4d.data.loaders import loader
from forehand4d.catalogue import open_dataset, profile_dataset
from forehand4d.runs.profiles import profile

SCENES = [
    ('subject1', 'h1/0'),
    ('subject1', 'h2/0'),
    ('subject2', 'k1/0'),
    ('subject3', 'o1/1'),
    ('subject4', 'h1/0'),
]  # three for training, one for each other split
small = partial(store.convert, 'h2o', image_size=64, frames=16, hand_id=None, workers=1)


@pytest.fixture(scope='module')
def download(tmp_path_factory):
    "Several short recordings in the layout of H2O"
    root = tmp_path_factory.mktemp('download') / 'h2o'
    from dataclasses import replace
    from forehand4d.geometry import hand_models as hands

    hands.know_hands(*(replace(hands.open_hand(s), hand_id='mano') for s in ('right', 'left')))
    for i, (subject, scene) in enumerate(SCENES):
        write_h2o(root, subject, scene, seed=10 + i)
    return root


@pytest.fixture
def damaged(tmp_path, download):
    "A copy that may be changed"
    import shutil

    return shutil.copytree(download, tmp_path / 'copy' / 'h2o')


def files(folder):
    return {
        p.relative_to(folder).as_posix(): (p.stat().st_mtime_ns, p.stat().st_size)
        for p in sorted(Path(folder).rglob('*'))
    }


def test_same_with_any_number_of_workers(tmp_path, download):
    before = files(download)
    one, two = (
        ClipStore(small(download, out=tmp_path / f'w{n}', workers=n, hand_id='open-hand'))
        for n in (1, 2)
    )
    assert one.manifest == two.manifest and len(one) == 3
    assert [p.name for p in sorted(one.folder.iterdir())] == [
        '.lock',
        'clips-00000.arrow',
        'manifest.json',
    ]  # no parts are left
    assert one.manifest['info'] | dict(sequences=0, options=0) == dict(
        version=1,
        reader=1,
        dataset='h2o',
        split='train',
        frames=16,
        stride=None,
        fps=30.0,
        image_size=64,
        quality=92,
        limit=0,
        ranges=None,
        options=0,
        skipped=[],
        sequences=0,
    )
    assert str(tmp_path) not in json.dumps(one.manifest) and str(download) not in json.dumps(
        one.manifest
    )
    assert files(download) == before
    c = one[0]
    assert (
        c.image.shape == (64, 64, 3)
        and c.motion is not None
        and c.labels == 'mano'
        and c.meta['size'] == [64, 64]
        and c.meta['source_size'] == [1280, 720]
    )
    px = project(transform(c.cam_from_view[:, None], c.joints3d), c.intrinsics[:, None, None])
    assert (px - c.keypoints2d)[c.valid2d].abs().max() < 1e-3 and c.valid2d.any()
    assert ((c.keypoints2d > -0.5) & (c.keypoints2d < 63.5))[c.valid2d].all()


def test_a_store_of_an_older_reader_is_noticed(tmp_path, download, monkeypatch):
    "Refused wherever it is opened, with the way to make it again"
    made = small(download, out=tmp_path / 'h2o' / 'train')
    assert len(open_dataset('h2o', tmp_path)) == len(open_dataset(str(made))) == 3
    monkeypatch.setattr('forehand4d.datasets.h2o.READER_VERSION', 2, raising=False)
    again = 'delete it and make it again, forehand4d data prepare -p dataset h2o .* -p split train'
    for opened in (
        lambda: small(download, out=made),
        lambda: store.is_prepared('h2o', 'train', made),
        lambda: open_dataset('h2o', tmp_path),
        lambda: open_dataset(str(made)),
    ):
        with pytest.raises(ValueError, match=f'by version 1 of the reader of h2o, .*{again}'):
            opened()
    now = small(download, out=tmp_path / 'new')
    assert read_json(now / 'manifest.json')['info']['reader'] == 2


def test_goes_on_after_a_stop(tmp_path, download, monkeypatch):
    whole, out, done, convert = (
        small(download, out=tmp_path / 'whole'),
        tmp_path / 'stopped',
        [],
        store.convert_sequence,
    )

    def stops(job):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(job.name)
        return convert(job)

    monkeypatch.setattr(store, 'convert_sequence', stops)
    with pytest.raises(KeyboardInterrupt):
        small(download, out=out)
    assert (
        not (out / 'manifest.json').exists() and len(list(out.glob('parts-*/*/manifest.json'))) == 2
    )
    with pytest.raises(FileNotFoundError, match='not a clip store'):
        ClipStore(out)
    next(
        out.glob('parts-*/*/manifest.json')
    ).unlink()  # one of them was killed before its last byte
    again = []

    def notes(job):
        again.append(job.name)
        return convert(job)

    monkeypatch.setattr(store, 'convert_sequence', notes)
    small(download, out=out)
    assert len(again) == 2 and len(set(again) & set(done)) == 1
    assert read_json(out / 'manifest.json') == read_json(whole / 'manifest.json')
    again.clear()
    assert small(download, out=out) == out and not again
    with pytest.raises(ValueError, match='frames: 16 there, 20 here'):
        small(download, out=out, frames=20)


def test_damage_is_listed_and_left_out(tmp_path, damaged):
    f, g, out = (
        damaged / 'subject1_ego/h1/0/cam4',
        damaged / 'subject1_ego/h2/0/cam4',
        tmp_path / 'out',
    )
    write(f / 'hand_pose/000004.txt', '1 2 3')
    write(g / 'rgb/000000.png', PNG[:60])
    with pytest.raises(
        ValueError,
        match=(
            r'h2o: 2 items in 3 sequences cannot be read, and damaged=0.05; the first, '
            r'subject1/h1/0/cam4: ValueError: h2o: expected 128 numbers in subject1_ego'
        ),
    ):
        small(damaged, out=out)
    s = ClipStore(small(damaged, out=out, damaged=0.7))
    assert [c.sequence for c in map(s.__getitem__, range(len(s)))] == [
        'subject2/k1/0/cam4-0'
    ] and all(s[i].image.any() for i in range(len(s)))
    info = s.manifest['info']
    assert list(info['sequences'].values()) == [0, 0, 1] and [i for i, _ in info['skipped']] == [
        'subject1/h1/0/cam4',
        'subject1/h2/0/cam4-0',
    ]
    assert '000000.png: damaged image' in info['skipped'][1][1] and str(damaged) not in json.dumps(
        info
    )
    write(g / 'rgb/000000.png', PNG)  # repaired before the conversion is called again
    other = tmp_path / 'other'
    with pytest.raises(ValueError, match='1 items in 1 sequences'):
        small(damaged, out=other, limit=1)
    write(f / 'hand_pose/000004.txt', (f / 'hand_pose/000005.txt').read_text())
    assert read_json(small(damaged, out=other, limit=1) / 'manifest.json')['info']['skipped'] == []


def test_nothing_is_written_among_the_downloaded_files(tmp_path, download):
    before = files(download)
    (tmp_path / 'link').symlink_to(download)
    for out in (download / 'clips', download, tmp_path / 'link' / 'clips'):
        with pytest.raises(ValueError, match='nothing is written among the downloaded files'):
            small(download, out=out)
    with pytest.raises(ValueError, match='nothing is written'):
        small(tmp_path / 'link', out=download / 'clips')
    assert files(download) == before


def test_windows_of_the_authors(tmp_path, download):
    names = [f'{s}/{c}/cam4' for s, c in SCENES[:2]]
    write(
        tmp_path / 'train.pkl',
        pickle.dumps(
            dict(
                names=[names[0], names[0], names[1], 'subject9/h1/0/cam4'],
                ranges=[(0, 17), (2, 20), (1, 18), (0, 20)],
            )
        ),
    )
    s = ClipStore(
        small(
            download,
            out=tmp_path / 'out',
            frames=256,
            fps=None,
            ranges=tmp_path / 'train.pkl',
            damaged=0.5,
        )
    )
    assert [(s[i].sequence, len(s[i])) for i in range(3)] == [
        (f'{names[0]}-0', 18),
        (f'{names[0]}-2', 19),
        (f'{names[1]}-1', 18),
    ]
    assert [i for i, _ in s.manifest['info']['skipped']] == ['subject9/h1/0/cam4']


def same_batches(a, b):
    pairs = [(x.tensors(), y.tensors()) for x, y in zip(a, b, strict=True)]
    return all(
        x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in pairs
    )


def test_mixtures_by_name(tmp_path, download, outputs):
    with pytest.raises(
        FileNotFoundError,
        match=(
            'h2o: no prepared clips in .*h2o/train; this makes them: forehand4d '
            'data prepare -p dataset h2o -p root DOWNLOAD -p split train'
        ),
    ):
        open_dataset('h2o')
    with pytest.raises(ValueError, match="no dataset 'h20'.*did you mean 'h2o'"):
        open_dataset('h20')
    for split in ('train', 'val', 'test'):
        assert small(download, split) == (outputs / 'data' / 'h2o' / split).resolve()
    write_dexycb(tmp_path / 'dexycb', 0, 1, seed=5)
    store.convert('dexycb', tmp_path / 'dexycb', image_size=64, frames=16, hand_id=None, workers=1)
    d = open_dataset('h2o*2+dexycb')
    assert (len(open_dataset('h2o')), len(d), d.hand_id, d[3].sequence, d[6].dataset) == (
        3,
        8,
        None,
        d[0].sequence,
        'dexycb',
    )
    assert (
        open_dataset('h2o', split='val')[0].sequence.startswith('subject3/o1')
        and len(open_dataset('h2o', outputs / 'data')) == 3
    )
    with pytest.raises(ValueError, match="not split 'test' of h2o"):
        open_dataset('h2o', outputs / 'data' / 'h2o' / 'train', 'test')
    write_clips(
        [make_clip('lab-pour', 'train', i, frames=16, image_size=64) for i in range(3)],
        tmp_path / 'lab',
    )
    mixed = profile_dataset(f'h2o*2+{tmp_path}/lab', 'train', profile('tiny'))
    assert (len(mixed), mixed.hand_id, mixed.weights) == (9, 'open-hand', [2, 1])
    get = partial(loader, mixed, 4, frames=16, image_size=64, seed=3)
    plain = list(get(0, 5))
    assert same_batches(plain, get(0, 5, workers=2)) and same_batches(plain, get(0, 5, cache=False))
    assert same_batches(plain[3:], get(3, 5, cache=False)) and same_batches(
        plain[3:], get(3, 5, workers=1)
    )  # resumed in the middle of an epoch
    ranks = [list(get(0, 5, shard=(r, 2), cache=False)) for r in (0, 1)]
    for step, halves in zip(plain, zip(*ranks, strict=True), strict=True):
        assert torch.equal(torch.cat([h.wrist for h in halves]), step.wrist)
    order = [i for k in range(9) for i in store_order(len(mixed), 4, k)]
    assert all(sorted(order[e : e + 9]) == list(range(9)) for e in (0, 9, 18, 27))


def store_order(n, batch, step):
    from forehand4d.data.loaders import step_indices

    return step_indices(n, batch, step, 3)


def test_views_are_the_clips(tmp_path):
    "What is mapped equals what is copied, in every length, and the file stays as it is"
    clips = [
        make_clip(d, 'train', i, frames=f, image_size=64)
        for i, (d, f) in enumerate((('lab-pour', 16), ('wild-joints', 9), ('lab-grasp', 24)))
    ]
    s = ClipStore(write_clips(clips, tmp_path / 's'))
    before = (tmp_path / 's' / 'clips-00000.arrow').read_bytes()
    views, copies = [s.view(i) for i in range(3)], [s[i] for i in range(3)]
    for a in (8, 16, 30):
        assert same_batches([collate(views, a, 64)], [collate(copies, a, 64)])
    for c, v, orig in zip(copies, views, clips, strict=True):
        assert torch.equal(v.joints3d, orig.joints3d) and torch.equal(v.valid2d, orig.valid2d)
        if orig.motion:
            assert (
                torch.equal(c.motion.rot[..., :2, :], orig.motion.rot[..., :2, :])
                and (c.motion.rot - orig.motion.rot).abs().max() < 1e-6
            )
    copies[0].joints3d.zero_()
    views[0].joints3d.zero_()
    assert (tmp_path / 's' / 'clips-00000.arrow').read_bytes() == before and torch.equal(
        ClipStore(tmp_path / 's')[0].joints3d, clips[0].joints3d
    )


# ---- check-data


def swap(numbers):
    return ' '.join(numbers.split()[64:] + numbers.split()[:64])


def to_mm(numbers):
    v = [float(x) for x in numbers.split()]
    return ' '.join(str(x if i % 64 == 0 else 1000 * x) for i, x in enumerate(v))


@pytest.mark.parametrize(
    'spoil,found',
    (
        (swap, 'subject1/h1/0/cam4: sides is 0, expected 0.7 to 1'),
        (to_mm, 'subject1/h1/0/cam4: hand_mm is 1'),
        (lambda numbers: 'none', 'subject1/h1/0/cam4: cannot be read: h2o: expected 128 numbers'),
    ),
    ids=('side', 'unit', 'unreadable'),
)
def test_check_data(damaged, outputs, capsys, spoil, found):
    before = files(damaged)
    assert main(['check-data', 'h2o', str(damaged), '--joints']) == 0
    assert (
        '3 sequences, nothing is off; labels on images: outputs/check-data/h2o-train'
        in capsys.readouterr().out
    )
    assert sorted(p.name for p in (outputs / 'check-data' / 'h2o-train').iterdir()) == [
        'subject1_h1_0_cam4.jpg',
        'subject1_h2_0_cam4.jpg',
        'subject2_k1_0_cam4.jpg',
    ]
    assert files(damaged) == before
    for p in (damaged / 'subject1_ego/h1/0/cam4/hand_pose').iterdir():
        p.write_text(spoil(p.read_text()))
    assert main(['check-data', 'h2o', str(damaged), '--joints']) == 1
    text = capsys.readouterr().out
    assert found in text and 'subject1/h2' not in text[text.index(found) :]
    assert main(['check-data', 'h2o', str(damaged), '--joints', '--split', 'val']) == 0
    assert (
        main(['check-data', 'h2o', str(damaged / 'nowhere')]) == 2
        and main(['check-data', 'h20', str(damaged)]) == 2
    )


def test_splits_are_disjoint(damaged, monkeypatch):
    from forehand4d.datasets import h2o

    monkeypatch.setitem(h2o.SPLITS, 'val', ('subject2/*',))
    assert check_dataset('h2o', damaged, hand_id=None)[1] == [
        '1 sequences of train are in val, too, such as subject2/k1/0/cam4'
    ]


# ---- the notebook


def test_prepare_data(download, outputs):
    "What a person runs: a store, a report, a record; then the name is enough"
    from forehand4d.runs.launch import run_notebook

    run = run_notebook(
        'prepare_data',
        dict(dataset='h2o', root=str(download), frames=16, image_size=64, hand_id='', workers=1),
        name='mini',
    )
    assert (
        run.done
        and run.metrics['clips'] == 3
        and run.metrics['left out'] == 0
        and run.metrics['frames per second'] == 30
    )
    assert (
        run.metrics['estimate: clips'] == pytest.approx(3 * 55742 / 48)
        and run.metrics['bytes a clip'] > 16 * 1000
    )
    assert {
        'figures/contact_sheet.png',
        'figures/histograms.png',
        'figures/clip.gif',
        'store.json',
    } <= set(run.manifest['artifacts'])
    assert read_json(run.dir / 'store.json') == read_json(
        outputs / 'data' / 'h2o' / 'train' / 'manifest.json'
    )
    assert len(open_dataset('h2o')) == 3 and str(download) not in json.dumps(run.manifest)


def test_a_script_needs_no_guard(tmp_path):
    "Processes that generate clips do not run the script that asked for them once more"
    (tmp_path / 'script.py').write_text(
        "from forehand4d.catalogue import open_dataset\n"
        "print(len(open_dataset('lab-pour', 'test', "
        "n=9, frames=8, image_size=32, workers=2)))\n"
    )
    p = subprocess.run(
        [sys.executable, tmp_path / 'script.py'],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            'FOREHAND4D_DATA': str(tmp_path),
            'PYTHONPATH': str(Path(__file__).parent.parent),
        },
    )
    assert (p.returncode, p.stdout) == (0, '9\n'), p.stderr
