"Ways in which a file can be wrong: bytes, arrays, json; every one seeded"

import io, json, os, shutil, zipfile
from pathlib import Path
import numpy as np

LFS = b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n'
ODD = (
    None,
    True,
    -1,
    0,
    10**12,
    1e308,
    float('nan'),
    float('inf'),
    '',
    'x',
    [],
    {},
    [1, 2],
    {'a': 1},
    '../../x',
    -0.5,
)


# ---- any file


def cut(data, g):
    return data[: int(g.integers(0, max(1, len(data))))]


def flip(data, g):
    "A few bits"
    data = bytearray(data)
    for i in g.integers(0, len(data), int(g.integers(1, 6))):
        data[i] ^= 1 << int(g.integers(8))
    return bytes(data)


def zeros(data, g):
    "A stretch that was never written"
    a, n = int(g.integers(0, len(data))), int(g.integers(1, 1 + len(data) // 3))
    return (data[:a] + bytes(n) + data[a + n :])[: len(data)]


def drop(data, g):
    "Eight bytes are missing"
    a = int(g.integers(0, len(data)))
    return data[:a] + data[a + 8 :]


def noise(data, g):
    a = int(g.integers(0, len(data)))
    return data[:a] + g.bytes(int(g.integers(1, 40))) + data[a:]


def other(data, g):
    "Something else under the name"
    return (
        b'',
        b'a letter',
        LFS,
        b'\x89PNG\r\n\x1a\n',
        b'PK\x03\x04',
        b'[' * 50_000,
        b'{}',
        b'null',
        b'\x80\x05]\x94.',
        b'ffconcat version 1.0\nfile other.mp4\n',
    )[int(g.integers(10))]


BYTES = (cut, flip, zeros, drop, noise, other)


def replace_file(path, g):
    "A pipe, a folder or a dangling link in place of the file"
    path.unlink()
    kind = int(g.integers(3))
    if kind == 0:
        os.mkfifo(path)
    if kind == 1:
        path.mkdir()
    if kind == 2:
        path.symlink_to(path.with_name('nowhere'))


# ---- arrays


def _odd_array(a, g):
    "One array made wrong"
    kind, a = int(g.integers(10)), np.array(a)
    if kind == 0:
        return a[..., None]
    if kind == 1:
        return a[:-1] if a.ndim else a[None]
    if kind == 2:
        return a.astype(str)
    if kind == 3:
        return np.zeros((0, *a.shape[1:]))
    if a.dtype.kind not in 'fiub':
        return np.array(3.0)
    return _odd_numbers(a, kind, g)


def _odd_numbers(a, kind, g):
    "One array of numbers made wrong, in one of the ways from 4 on"
    if kind == 4:
        return a.astype(float) * np.nan
    if kind == 5:
        return a.astype(float) * 1e30
    if kind == 6:
        return -a.astype(float) - 1
    if kind == 7:
        return a.astype(complex)
    if kind == 8:
        return np.where(g.uniform(size=a.shape) < 0.2, np.inf, a.astype(float))
    return np.swapaxes(a, 0, -1) if a.ndim > 1 else a.astype(float) + 0.5


def _promise(data, name):
    "An array whose header promises terabytes"
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, dict(descr='<f8', fortran_order=False, shape=(10**12,))
    )
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, 'w') as new:
        for n in old.namelist():
            new.writestr(n, head.getvalue() if n == f'{name}.npy' else old.read(n))
    return out.getvalue()


def arrays(data, g):
    "An array of an .npz is wrong, missing or a bomb"
    with np.load(io.BytesIO(data)) as z:
        a = dict(z)
    name = sorted(a)[int(g.integers(len(a)))]
    how = int(g.integers(6))
    if how == 0:
        del a[name]
    elif how == 1:
        return _promise(data, name)
    else:
        a[name] = _odd_array(a[name], g)
    out = io.BytesIO()
    np.savez(out, **a)
    return out.getvalue()


# ---- json


def _places(d, path=()):
    "Every place in nested json"
    yield path
    items = ()
    if isinstance(d, dict):
        items = d.items()
    elif isinstance(d, list):
        items = enumerate(d[:3])
    for k, v in items:
        yield from _places(v, (*path, k))


def odd_json(d, g):
    "One value of nested json replaced or removed"
    places = [p for p in _places(d) if p]
    if not places:
        return None
    *way, last = places[int(g.integers(len(places)))]
    at = d
    for k in way:
        at = at[k]
    if g.uniform() < 0.25 and isinstance(at, dict):
        del at[last]
    else:
        at[last] = ODD[int(g.integers(len(ODD)))]
    return d


def values(data, g):
    return json.dumps(odd_json(json.loads(data), g)).encode()


def config(data, g):
    "The configuration in a safetensors file"
    n = int.from_bytes(data[:8], 'little')
    head = json.loads(data[8 : 8 + n])
    cfg = odd_json(json.loads(head['__metadata__']['config']), g)
    head['__metadata__']['config'] = json.dumps(cfg)
    text = json.dumps(head).encode()
    text += b' ' * (-len(text) % 8)
    return len(text).to_bytes(8, 'little') + text + data[8 + n :]


def weights(data, g):
    "Numbers of a safetensors file"
    n = 8 + int.from_bytes(data[:8], 'little')
    body = bytearray(data[n:])
    for i in g.integers(0, len(body) // 4, 3):
        body[4 * i : 4 * i + 4] = np.float32((np.nan, np.inf, 1e38)[int(g.integers(3))]).tobytes()
    return data[:n] + bytes(body)


def lines(data, g):
    "A line of a text is lost, doubled or garbled"
    rows = data.decode().split('\n')
    i = int(g.integers(len(rows)))
    words = rows[i].split(' ')
    words[int(g.integers(len(words)))] = str(ODD[int(g.integers(len(ODD)))])
    rows[i : i + 1] = ([], [rows[i]] * 2, [' '.join(words)])[int(g.integers(3))]
    return '\n'.join(rows).encode()


def copy_tree(source: Path, target: Path):
    return (
        Path(shutil.copytree(source, target))
        if source.is_dir()
        else Path(shutil.copy(source, target))
    )
