"""Files that ask for far more memory than they have bytes are refused before it is taken:
the limits are lowered, so that small files do"""

import io, json, pickle, re, struct, subprocess, sys, tarfile, tracemalloc, zipfile
from collections import OrderedDict
import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_cases import refused
from fuzz.targets import clip_store
from forehand4d.core.checks import read_arrays
from forehand4d.core.files import file_hash, read_json, read_json_lines, read_text, text_file
from forehand4d.core.paths import project_root
from forehand4d.core.pickles import read_pickle
from forehand4d.data.clip_store import ClipStore
from forehand4d.datasets import hot3d_files
from forehand4d.datasets.sequences import read_image, read_npy
from forehand4d.evaluation.records import load_records
from forehand4d.models.sharing import refuse_mano
from forehand4d.networks.pretrained import read_state
from forehand4d.runs.parameters import check_parameters
from forehand4d.training.weights import read_weights
from forehand4d.video.colmap import read_colmap
from forehand4d.video.images import load_image

LIMITS = dict(BYTES=1 << 20, JSON=1 << 17, PIXELS=10_000)


@pytest.fixture(autouse=True)
def low_limits(monkeypatch):
    for name, limit in LIMITS.items():
        monkeypatch.setenv(f'FOREHAND4D_MAX_{name}', str(limit))


def bounded(path, read, *args, says='FOREHAND4D_MAX'):
    "An error that names the file and the limit, and little memory until then"
    tracemalloc.start()
    try:
        refused(path.name, read, *args, says=says)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 << 20, f'{peak >> 20} MB'


def written(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize('value', ['[]', '{}', '"ab"', '999'])
def test_json_of_many_small_values(tmp_path, value):
    path = written(tmp_path / 'a.json', f'[{",".join([value] * 20_000)}]')
    bounded(path, read_json, path)
    path = written(tmp_path / 'a.jsonl', f'{value}\n' * 20_000)
    bounded(path, read_json_lines, path)


LONG = b' ' * (LIMITS['JSON'] + 1)
TEXTS = {
    'a.txt': (read_text,),
    'a.csv': (text_file,),
    'a.jsonl': (read_json_lines,),
    'toy.ipynb': (check_parameters, {}),
    'cameras.txt': (lambda path: read_colmap(path.parent),),
}


@pytest.mark.parametrize('name', TEXTS)
def test_long_texts(tmp_path, name):
    read, *args = TEXTS[name]
    path = written(tmp_path / name, LONG)
    written(tmp_path / 'images.txt', '')
    bounded(path, read, path, *args)


UNBOUNDED = (
    r'\.read_text\(|json\.loads?\(|np\.load\(|read_bytes\(|np\.fromfile'
    r'|np\.loadtxt\((?!text_file)|pd\.read_csv\((?!text_file|io\.StringIO)'
    r'|read_parquet\(|parquet\.read_table\(|ipc\.open_'
)
OWN = {  # reads what the program itself has written or ships
    'core/files.py',  # the readers with limits
    'core/checks.py',
    'data/tables.py',
    'geometry/hand_models.py',
    'handworld/fingers.py',
    'study/speed.py',
    'study/paper.py',
    'study/real_video.py',
    'drawing/page.py',
    'models/app.py',
    'datasets/check_download.py',
    'runs/launch.py',
    'training/watching.py',
    'training/features.py',
    'datasets/sequences.py',  # after a look at the header
}


def test_every_reader_has_a_limit():
    root = project_root() / 'forehand4d'
    found = {}
    for path in root.rglob('*.py'):
        name = path.relative_to(root).as_posix()
        if re.search(UNBOUNDED, path.read_text()) and name not in OWN:
            found[name] = re.findall(UNBOUNDED, path.read_text())
    assert not found, f'read them with core.files or core.checks: {found}'


# ---- pickles: a few bytes that build much

SET = b'cbuiltins\nfrozenset\n\x940'
ARRAY = (
    b'cnumpy.core.numeric\n_frombuffer\n\x940'
    b'cnumpy\ndtype\n(X\x02\x00\x00\x00f8K\x00K\x01tR\x940'
    b'X\x01\x00\x00\x00C\x940'
    b'M\x00\x04\x85\x940'
)
RAW = b'B' + struct.pack('<I', 8 << 10) + bytes(8 << 10) + b'\x940'
NUMBERS = b'(' + b''.join(b'M' + struct.pack('<H', i) for i in range(3000)) + b'l\x940'
PICKLES = dict(
    lists=b']' * 50_000,
    dictionaries=b'}' * 50_000,
    sets=b'\x8f' * 50_000,
    arrays=RAW + ARRAY + b'h\x01(h\x00h\x02h\x04h\x03tR' * 1000,
    frozensets=NUMBERS + SET + b'h\x01h\x00\x85R' * 1000,
    bytearrays=RAW + b'cbuiltins\nbytearray\n\x940' + b'h\x01h\x00\x85R' * 1000,
    tables=b'ccollections\nOrderedDict\n\x940' + b'h\x00)R' * 20_000,
    strangers=b'cchumpy.ch\nCh\n\x940' + b'h\x00)\x81' * 20_000,
)


@pytest.mark.parametrize('kind', PICKLES)
def test_pickles_that_build_much(tmp_path, kind):
    path = written(tmp_path / 'a.pkl', b'\x80\x04(' + PICKLES[kind] + b'l.')
    bounded(path, read_pickle, path)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, dict(descr='|O', fortran_order=False, shape=()))
    path = written(tmp_path / 'a.npy', head.getvalue() + b'\x80\x04(' + PICKLES[kind] + b'l.')
    bounded(path, read_npy, path)


def test_what_a_pickle_shares_stays_shared(tmp_path):
    value = [1, np.arange(3.0)]
    for _ in range(40):  # 2^40 lists, if each of them were made again
        value = [value, value]
    path = written(tmp_path / 'a.pkl', pickle.dumps(value))
    found = read_pickle(path)
    assert found[0] is found[1]
    table = dict(mask=np.full(100_000, ord(']'), np.uint8), order=OrderedDict(a={1}))
    assert read_pickle(written(path, pickle.dumps(table)))['mask'].sum() == 9_300_000


# ---- arrays


def header(shape, kind='<f8'):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, dict(descr=kind, fortran_order=False, shape=shape))
    return head.getvalue()


HEADERS = {
    'many numbers': (header((1 << 40,)), 'FOREHAND4D_MAX'),
    'long text': (header((), '<U200000000'), 'FOREHAND4D_MAX'),
    'less than none': (header((-1, 1 << 40)), 'shape'),
    'a long header': (b'\x93NUMPY\x02\x00' + struct.pack('<I', 0xFFFFFFF0), ''),
}


@pytest.mark.parametrize('kind', HEADERS)
def test_arrays_that_speak_of_much(tmp_path, kind):
    head, says = HEADERS[kind]
    data = head + bytes(100)
    path = written(tmp_path / 'a.npy', data)
    bounded(path, read_npy, path, says=says)
    with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as archive:
        archive.writestr('x.npy', data)
    bounded(tmp_path / 'a.npz', read_arrays, tmp_path / 'a.npz', 'table', says=says)


def test_archives_that_inflate(tmp_path):
    for name, members in (('one', {'x': 2 << 20}), ('many', {i: 1 << 16 for i in range(40)})):
        path = tmp_path / f'{name}.npz'
        with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
            for member, size in members.items():
                archive.writestr(f'{member}.npy', header((size,), '|u1') + bytes(size))
        bounded(path, read_arrays, path, 'table')


# ---- checkpoints


def checkpoint(path, table, numbers=bytes(16), how=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, 'w', how) as archive:
        for name, data in (('data.pkl', table), ('version', b'3\n'), ('data/0', numbers)):
            archive.writestr(f'a/{name}', data)
    return path


def tensor(size, stride):
    "A tensor of eight numbers of half precision, seen with these sizes"
    storage = (
        b'(X\x07\x00\x00\x00storagectorch\nHalfStorage\n'
        b'X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x08tQ'
    )
    view = b'J%b\x85K%b\x85' % (struct.pack('<i', size), bytes([stride]))
    return (
        b'ctorch._utils\n_rebuild_tensor_v2\n('
        + storage
        + (b'K\x00' + view + b'\x89ccollections\nOrderedDict\n)RtR')
    )


def test_checkpoints_that_inflate(tmp_path):
    path = tmp_path / 'a.ckpt'
    table = b'\x80\x02}X\x01\x00\x00\x00w' + tensor(8, 1) + b's.'
    assert read_state(checkpoint(path, table))['w'].tolist() == [0] * 8
    bounded(
        checkpoint(path, table, how=zipfile.ZIP_DEFLATED), read_state, path, says='compressed'
    )
    repeated = b'\x80\x02}X\x01\x00\x00\x00w' + tensor(1 << 30, 0) + b's.'
    bounded(checkpoint(path, repeated), read_state, path, says='save it again')
    small = b'\x80\x02}X\x01\x00\x00\x00w' + tensor(1 << 20, 0) + b's.'
    bounded(checkpoint(path, small), read_state, path, says='repeats fewer numbers')
    bounded(checkpoint(path, b'\x80\x02(' + b']' * 50_000 + b'l.'), read_state, path)
    call = b'\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x02\x85R.'
    bounded(checkpoint(path, call), read_state, path, says='bytearray')
    bounded(written(path, call), read_state, path, says='bytearray')


def test_weights_with_an_odd_header(tmp_path):
    path = tmp_path / 'model.safetensors'
    save_file({'w': torch.zeros(1)}, path, {'config': f'[{"[]," * 20_000}[]]'})
    bounded(path, read_weights, path, 'lifter')
    for data in (struct.pack('<Q', 99_000_000) + b'{}', b'', b'\x00' * 8):
        bounded(written(path, data), read_weights, path, 'lifter', says='')
        bounded(path, refuse_mano, path, says='')


# ---- pictures, archives, tables, stores


def png(side):
    data = io.BytesIO()
    Image.new('RGB', (side, side)).save(data, 'png')
    return data.getvalue()


def test_pictures(tmp_path):
    path = written(tmp_path / 'photo.png', png(200))
    bounded(path, load_image, path)
    bounded(path, read_image, [path], (200, 200), 0)
    path = written(tmp_path / 'photo.jpg', b'\xff\xd8\xff\xe0')
    with path.open('r+b') as file:
        file.truncate(8 << 30)  # takes no room on the disk
    bounded(path, read_image, [path], (64, 64), 0)
    bounded(path, read_image, [(path, 0, 6 << 30)], (64, 64), 0)
    short = written(tmp_path / 'clip.tar', bytes(2000))
    bounded(short, read_image, [(short, 512, 6 << 30)], (64, 64), 0, says='damaged image')


def test_archives_of_hot3d(tmp_path):
    path = tmp_path / 'clip.tar'
    with tarfile.open(path, 'w') as archive:
        member = tarfile.TarInfo('__hand_shapes.json__')
        member.size = len(LONG)
        archive.addfile(member, io.BytesIO(LONG))
    source = hot3d_files.Source(path, 'x', True, 'mano')
    bounded(path, hot3d_files.read_clip, source)
    with path.open('r+b') as file:
        file.truncate(8 << 30)
    bounded(path, hot3d_files.read_clip, source)


def test_tables_of_evaluations(tmp_path):
    pd.DataFrame(dict(a=np.zeros(200_000))).to_parquet(tmp_path / 'records.parquet')
    written(tmp_path / 'methods.json', '{}')
    bounded(tmp_path / 'records.parquet', load_records, tmp_path)
    written(tmp_path / 'records.parquet', b'PAR1 not quite PAR1')
    bounded(tmp_path / 'records.parquet', load_records, tmp_path, says='not a readable')


def rewritten(folder, change, **how):
    "A store whose first shard holds other rows, with hash and size on record"
    store = clip_store(folder)
    shard = store / 'clips-00000.arrow'
    with pa.OSFile(str(shard)) as file:
        stored = pa.ipc.open_file(file).read_all()
    table = change(stored)
    options = pa.ipc.IpcWriteOptions(**how)
    with pa.ipc.new_file(str(shard), table.schema, options=options) as writer:
        writer.write_table(table)
    manifest = json.loads((store / 'manifest.json').read_text())
    manifest['shards'][0] |= dict(bytes=shard.stat().st_size, sha256=file_hash(shard))
    written(store / 'manifest.json', json.dumps(manifest))
    return store


def with_column(name, values):
    "A change of a table: other values, whatever their type"
    return lambda table: table.set_column(table.schema.get_field_index(name), name, [values])


@pytest.mark.parametrize(
    'column, value', [('image', png(200)), ('meta', f'[{"[]," * 20_000}[]]')]
)
def test_stores(tmp_path, column, value):
    def change(table):
        rows = table.to_pylist()
        rows[0][column] = value
        return pa.Table.from_pylist(rows, table.schema)

    store = rewritten(tmp_path, change)
    bounded(store, lambda: ClipStore(store)[0])


GROWTH = """
import resource, sys
from forehand4d.data.clip_store import ClipStore
from forehand4d.evaluation.records import load_records
def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = most()
try:
    {}
except ValueError as error:
    print(error)
print((most() - before) >> 10)"""
ALLOWED, INFLATED = 80, 400  # MB


def apart(path, code):
    "What a process says that reads a file; memory that is not Python's counts, too"
    command = [sys.executable, '-c', GROWTH.format(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *said, growth = done.stdout.splitlines()
    assert int(growth) < ALLOWED, done.stdout
    assert len(said) == 1 and path.name in said[0], done.stdout
    return said[0]


@pytest.mark.parametrize('how', ['zstd', 'lz4'])
def test_compressed_columns_of_a_store(tmp_path, how):
    half = bytes(INFLATED << 19)
    store = rewritten(tmp_path, with_column('image', [half, half]), compression=how)
    shard = store / 'clips-00000.arrow'
    assert shard.stat().st_size < 4 << 20
    said = apart(shard, f'ClipStore({str(store)!r})[0]')
    assert 'FOREHAND4D_MAX_BYTES' in said and str(INFLATED << 20)[:3] in said
    small = rewritten(tmp_path / 'small', lambda table: table, compression=how)
    assert ClipStore(small)[0].sequence == 'a'  # few bytes may be compressed


def damaged_text():
    "Offsets of the names of sequences that lie far behind the file"
    names = pa.py_buffer(struct.pack('<3i', 0, 1 << 30, 2))
    letters = pa.py_buffer(b'ab')
    return pa.StringArray.from_buffers(2, names, letters)


ODD_COLUMNS = {
    'another type': ('fps', pa.array([30, 30], pa.int64())),
    'lists of nothing': (
        'meta',
        pa.FixedSizeListArray.from_arrays(pa.nulls(2 << 20), 1 << 20),
    ),
    'a dictionary': ('meta', pa.array(['{}', '{}']).dictionary_encode()),
    'wrong offsets': ('sequence', damaged_text()),
}


@pytest.mark.parametrize('kind', ODD_COLUMNS)
def test_columns_that_are_none_of_a_store(tmp_path, kind):
    store = rewritten(tmp_path, with_column(*ODD_COLUMNS[kind]))
    refused('clips-00000.arrow', lambda: ClipStore(store)[0], says='damaged')


def test_texts_of_evaluations(tmp_path):
    path = tmp_path / 'records.parquet'
    written(tmp_path / 'methods.json', '{}')
    text = pa.array(['x' * 10_000])
    shared = pa.DictionaryArray.from_arrays([0] * (INFLATED * 100), text)
    parquet.write_table(pa.table(dict(method=shared)), path)
    assert path.stat().st_size < 4000
    said = apart(path, f'load_records({str(tmp_path)!r})')
    assert f'{INFLATED}000000 bytes' in said and 'FOREHAND4D_MAX_BYTES' in said


@pytest.mark.parametrize('how', [dict(compression='zstd'), dict(compression='gzip')])
def test_tables_that_inflate(tmp_path, how):
    table = pa.table(dict(method=pa.array([bytes(150 << 20).decode()])))
    parquet.write_table(table, tmp_path / 'records.parquet', write_statistics=False, **how)
    written(tmp_path / 'methods.json', '{}')
    said = apart(tmp_path / 'records.parquet', f'load_records({str(tmp_path)!r})')
    assert 'FOREHAND4D_MAX_BYTES' in said


def test_texts_that_repeat_their_beginning(tmp_path):
    table = pa.table(dict(method=['x' * 10_000] * 40_000))
    path = tmp_path / 'records.parquet'
    encoding = dict(use_dictionary=False, column_encoding='DELTA_BYTE_ARRAY')
    parquet.write_table(table, path, compression='snappy', **encoding)
    written(tmp_path / 'methods.json', '{}')
    assert path.stat().st_size < 4 << 20
    said = apart(path, f'load_records({str(tmp_path)!r})')
    assert "compression='snappy'" in said or 'FOREHAND4D_MAX_BYTES' in said


def test_a_footer_that_lies_about_encodings(tmp_path):
    "Two hundred megabytes in two kilobytes, which say that they are written as usual"
    path = tmp_path / 'records.parquet'
    texts = pa.table(dict(method=['x' * length for length in range(20_000)]))
    encoding = dict(use_dictionary=False, column_encoding='DELTA_BYTE_ARRAY')
    parquet.write_table(texts, path, compression='snappy', write_statistics=False, **encoding)
    content = path.read_bytes()
    assert len(content) < 2000
    true, false = b'\x19\x25\x06\x0e', b'\x19\x25\x06\x10'  # RLE with DELTA_BYTE_ARRAY, or with
    pages, _, rest = content.rpartition(true)  # RLE_DICTIONARY, in Thrift's compact protocol
    path.write_bytes(pages + false + rest)
    says = parquet.read_metadata(path).row_group(0).column(0).encodings
    assert set(says) == {'RLE', 'RLE_DICTIONARY'}
    written(tmp_path / 'methods.json', '{}')
    said = apart(path, f'load_records({str(tmp_path)!r})')
    assert 'not a readable table' in said or 'FOREHAND4D_MAX_BYTES' in said
