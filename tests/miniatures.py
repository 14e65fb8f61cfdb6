"""Eight datasets in their official layouts, small, made up, with images and videos,
and the description of the data that makes a study of them: python tests/miniatures.py FOLDER"""

import json, pickle, shutil, sys
from pathlib import Path
import test_adapters, test_adapters_everyday, test_adapters_joints, test_hot3d
from test_adapters import jpg, write
from test_open_hand import FLIP, mano_layout
from forehand4d.geometry.hand_models import forget_hands, know_hands, load_hand

DESCRIPTION = """\
# Eight miniature trees: made-up motions in the layouts of the datasets
mano = "mano"
standin = true

{entries}"""
ROLES = {
    'lab': ('arctic', 'h2o', 'h2o3d', 'dexycb', 'hot3d'),
    'wild': ('assemblyhands', 'holoassist'),
    'test.lab': ('arctic', 'h2o', 'dexycb', 'hot3d'),
    'test.wild': ('assemblyhands',),
    'test.zero': ('egoexo4d',),
}  # splits are left to the defaults


def describe(path, roles=ROLES):
    "Write a description of trees that lie beside it"
    entries = [
        f'[[{role}]]\nname = "{name}"\nroot = "{name}"\n'
        for role, names in roles.items()
        for name in names
    ]
    path.write_text(DESCRIPTION.format(entries='\n'.join(entries)))
    return path


def write_mano(folder):
    "The open hand as MANO's files, the left one with the stock shape directions"
    stock = mano_layout('left')
    stock |= dict(shapedirs=stock['shapedirs'] * FLIP)
    for side, arrays in (('RIGHT', mano_layout('right')), ('LEFT', stock)):
        write(folder / f'MANO_{side}.pkl', pickle.dumps(arrays, 2))
    return [load_hand(folder / f'MANO_{s.upper()}.pkl', s, 'mano') for s in ('right', 'left')]


def joined(paths, work):
    "What two pieces of work write into the same JSON files, together"
    texts = []
    for job in work:
        job()
        texts.append([json.loads(path.read_text()) for path in paths])
    for path, one, two in zip(paths, *texts, strict=True):
        path.write_text(json.dumps(one | two))


def write_arctic(root):
    files = [root / 'meta/misc.json', root / 'splits_json/protocol_p2.json']
    joined(
        files,
        [
            lambda: test_adapters.write_arctic(root, 's01/box_grab_01', 'train'),
            lambda: test_adapters.write_arctic(root, 's05/box_use_01', 'val'),
        ],
    )


def write_h2o(root):
    for subject, scene, seed in (('subject1', 'h1/0', 2), ('subject4', 'o1/0', 3)):
        test_adapters.write_h2o(root, subject, scene, seed)


def write_dexycb(root):
    "Of s3: sequences 0 and 1 train, 35 is for tests"
    for index, hand, seed in ((0, 0, 5), (1, 1, 6), (35, 0, 7)):
        test_adapters.write_dexycb(root, index, hand, seed)


def write_hot3d(root):
    "A clip of a participant who trains and one of a participant who is held out"
    made = root / 'train_aria/clip-001849.tar'
    owners = {'10': 'P0001', '11': 'P0002'}
    for (clip, _), seed in zip(owners.items(), (2, 3), strict=True):
        test_hot3d.write_clip(root, seed=seed)
        shutil.move(made, made.with_name(f'clip-{int(clip):06d}.tar'))
    named = {clip: dict(sequence_id=f'{owner}_x') for clip, owner in owners.items()}
    write(root / 'clip_definitions.json', json.dumps(named))


def write_assemblyhands(root):
    for split in ('train', 'val'):
        *_, files = test_adapters_joints.write_assemblyhands(root, split)
        for image in files['ego_data']['images']:
            path = root / f'images/ego_images_rectified/{split}/{image["file_name"]}'
            if not path.exists():
                write(path, jpg(636, 480))


def write_holoassist(root):
    m, cam, *_ = test_adapters_joints.write_holoassist(root / 'video_pitch_shifted')
    seen = test_adapters_joints.hands_in_frames(m, cam)
    test_adapters_joints.write_authors(root, test_adapters_joints.VIDEO, seen)
    write(root / 'train-v1_2.txt', test_adapters_joints.VIDEO + '\n')


def write_egoexo4d(root):
    "Every third frame is labelled, as people do not label every one"
    test_adapters_everyday.write_egoexo4d(root, step=3)


WRITERS = dict(
    arctic=write_arctic,
    h2o=write_h2o,
    h2o3d=test_adapters.write_h2o3d,
    dexycb=write_dexycb,
    hot3d=write_hot3d,
    assemblyhands=write_assemblyhands,
    holoassist=write_holoassist,
    egoexo4d=write_egoexo4d,
)


def write_all(folder):
    "All trees, MANO's stand-in and the description"
    folder.mkdir(parents=True, exist_ok=True)
    know_hands(*write_mano(folder / 'mano'))
    try:
        for name, writer in WRITERS.items():
            writer(folder / name)
    finally:
        forget_hands('mano')
    return describe(folder / 'mini.toml')


if __name__ == '__main__':
    print(write_all(Path(sys.argv[1])))
