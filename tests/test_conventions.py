"How notebooks and modules are written: what a reader may rely on in all of them"

import ast, configparser, io, json, re, shutil, subprocess, sys, tokenize, tomllib
from functools import cache
from pathlib import Path
import measures, pytest, yaml

ROOT = Path(__file__).resolve().parent.parent
NUMBERED = sorted(
    (ROOT / 'nbs' / 'library').rglob('[0-9]*.ipynb'), key=lambda path: (path.parent.name, path.stem)
)
RUNS = [path for path in sorted((ROOT / 'nbs').glob('*.ipynb')) if path.stem != 'index']
MODULES = sorted(
    p for p in (ROOT / 'forehand4d').rglob('*.py') if p.name not in ('__init__.py', '_modidx.py')
)
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())


def settings():
    c = configparser.ConfigParser()
    c.read(ROOT / 'settings.ini')
    return c['DEFAULT']


def tracked():
    done = subprocess.run(
        ['git', '-C', str(ROOT), 'ls-files', '-z'], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip('not a git work tree')
    return [ROOT / n for n in done.stdout.split('\0') if n and (ROOT / n).is_file()]


@cache
def cells(path):
    return json.loads(path.read_text())['cells']


def source(cell):
    return ''.join(cell['source'])


def code(path):
    return [source(c) for c in cells(path) if c['cell_type'] == 'code']


def exported(path):
    return [s for s in code(path) if re.match(r'#\|\s*export', s)]


def lines(text):
    return [x for x in text.splitlines() if x.strip() and not x.startswith('#|')]


def module(path):
    """`default_exp` of a numbered notebook;
    None for a derivation, which shows how something was made and exports nothing"""
    return next(
        (m[1] for s in code(path) if (m := re.match(r'#\|\s*default_exp (\S+)\s*$', s))), None
    )


def imported(text):
    "Modules of ours that a piece of Python imports"
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('forehand4d.'):
            found.add(node.module[len('forehand4d.') :])
        if isinstance(node, ast.ImportFrom) and node.module == 'forehand4d':
            found |= {a.name for a in node.names}
        if isinstance(node, ast.Import):
            found |= {
                a.name[len('forehand4d.') :] for a in node.names if a.name.startswith('forehand4d.')
            }
    return found


def names(paths):
    return [p.stem for p in paths]


each_numbered = pytest.mark.parametrize(
    'path', NUMBERED, ids=[f'{p.parent.name}/{p.stem}' for p in NUMBERED]
)
each_run = pytest.mark.parametrize('path', RUNS, ids=names(RUNS))


def test_modules_have_notebooks():
    exporting = [p for p in NUMBERED if module(p)]
    ours = {module(p).replace('.', '/') + '.py' for p in exporting}
    assert len(ours) == len(exporting), 'two notebooks export the same module'
    assert {p.relative_to(ROOT / 'forehand4d').as_posix() for p in MODULES} == ours


def wing(path):
    "Floor and folder of a numbered notebook"
    return int(path.parent.name[0]), path.parent.name


@each_numbered
def test_has_its_place(path):
    "A folder is a wing, a notebook starts with its digit, a module lies in the package of the wing"
    floor, folder = wing(path)
    assert path.stem.startswith(str(floor)), f'{path.stem} stands on floor {floor}'
    name = module(path)
    if name and '.' in name:
        assert name.split('.')[0] == folder.partition('_')[2]


@each_numbered
def test_imports_point_down(path):
    """A module uses its own wing, above it in reading order, and wings of lower floors:
    no arrow up, no circle"""
    homes = {module(p): p for p in NUMBERED if module(p)}
    for text in exported(path) if module(path) else code(path):
        for other in imported(text):
            assert other in homes, (
                f'{path.stem} imports forehand4d.{other}, which no notebook exports'
            )
            below = wing(homes[other])[0] < wing(path)[0]
            before = wing(homes[other]) == wing(path) and homes[other].stem < path.stem
            assert below or before, f'{path.stem} imports from {homes[other].stem}'


def test_module_names_in_strings():
    "A string with the name of a module is an import, too"
    homes = {f'forehand4d.{module(p)}': p for p in NUMBERED if module(p)}
    for path in NUMBERED:
        if not module(path):
            continue
        for node in ast.walk(
            ast.parse((ROOT / 'forehand4d' / (module(path).replace('.', '/') + '.py')).read_text())
        ):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and node.value in homes
            ):
                assert wing(homes[node.value]) <= wing(path), f'{path.stem} names {node.value}'


def test_first_notebook_of_a_wing_says_what_it_is_for():
    first = {}
    for path in NUMBERED:
        first.setdefault(path.parent, path)
    for path in first.values():
        text = '\n'.join(source(c) for c in cells(path)[:4])
        assert re.search(r'\*\*The (wing|module) `', text) and 'Public names' in text, path


def test_links_are_up_to_date():
    done = subprocess.run(
        [sys.executable, ROOT / 'tools' / 'links.py', '--check'], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@each_numbered
def test_numbered_notebook(path):
    first, second = source(cells(path)[0]), next(c for c in cells(path) if c['cell_type'] == 'code')
    assert re.match(r'# \S+.*\n\n> \S', first), (
        'expected a title and one line saying what the module is for'
    )
    if module(path):
        assert re.fullmatch(r'#\|\s*default_exp \S+\s*', source(second)), (
            'expected default_exp alone in the first code cell'
        )
    else:
        assert not exported(path), 'cells are exported, but there is no default_exp'
    assert len(cells(path)) <= 120
    names = [cell['id'] for cell in cells(path)]
    assert len(set(names)) == len(names), 'two cells have one id'
    for text in exported(path):
        assert len(lines(text)) <= 60, f'a cell of {len(lines(text))} lines:\n{text[:200]}'
    assert not re.search(r'TODO|FIXME|XXX', '\n'.join(map(source, cells(path))))


@pytest.mark.parametrize(
    'path', MODULES, ids=[p.relative_to(ROOT / 'forehand4d').as_posix() for p in MODULES]
)
def test_module(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400, f'{len(text.splitlines())} lines'
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < 60, (
                f'{node.name} has {node.end_lineno - node.lineno + 1} lines'
            )
        is_command = path.stem.startswith('cli')
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not is_command:
            assert node.func.id != 'print', 'print in a module'
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, 'bare except'
    assert max(map(len, text.splitlines())) <= 200


@pytest.mark.parametrize(
    'path', MODULES, ids=[p.relative_to(ROOT / 'forehand4d').as_posix() for p in MODULES]
)
def test_names_are_defined(path):
    """A lesson cell's import does not reach the module:
    every global name that a function uses exists there"""
    import builtins, dis, importlib, types

    name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    known = set(vars(importlib.import_module(name))) | set(dir(builtins))

    def walk(code):
        yield from (i.argval for i in dis.get_instructions(code) if i.opname == 'LOAD_GLOBAL')
        for c in code.co_consts:
            if isinstance(c, types.CodeType):
                yield from walk(c)

    assert set(walk(compile(path.read_text(), name, 'exec'))) <= known


def public(tree):
    "Public functions and classes with the lines of their parameters"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_'):
            yield node


@pytest.mark.parametrize(
    'path', MODULES, ids=[p.relative_to(ROOT / 'forehand4d').as_posix() for p in MODULES]
)
def test_docments(path):
    """Every parameter of a public function stands on its own line with a comment;
    every public symbol has a docstring"""
    text = path.read_text()
    comments = {
        t.start[0]
        for t in tokenize.generate_tokens(io.StringIO(text).readline)
        if t.type == tokenize.COMMENT
    }
    missing = []
    for node in public(ast.parse(text)):
        if not ast.get_docstring(node):
            missing.append(f'{node.name}: docstring')
        if (
            not isinstance(node, ast.FunctionDef)
            or any('patch' in ast.unparse(d) for d in node.decorator_list)
            and len(node.args.args) == 1
        ):
            continue
        args = [
            a
            for a in node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            if a.arg not in ('self', 'cls')
        ]
        missing += [f'{node.name}({a.arg}): comment' for a in args if a.lineno not in comments]
    assert not missing, missing


@each_run
def test_run_notebook(path):
    tagged = [c for c in cells(path) if 'parameters' in c['metadata'].get('tags', [])]
    assert len(tagged) == 1, 'expected one cell tagged parameters'
    for node, line in zip(
        (body := ast.parse(source(tagged[0])).body), lines(source(tagged[0])), strict=False
    ):
        assert isinstance(node, ast.AnnAssign) and node.value is not None, (
            f'expected NAME: TYPE = LITERAL, got {line}'
        )
        ast.literal_eval(node.value)
        assert re.search(r'#\s*\S', line), f'expected a comment: {line}'
    assert 'name' in [n.target.id for n in body], 'expected a parameter name for the run folder'
    assert len(code(path)) <= 20 and sum(len(lines(s)) for s in code(path)) <= 120
    for text in code(path):
        assert not re.match(r'#\|\s*(export|default_exp)', text), 'run notebooks export nothing'
        tree = ast.parse(re.sub(r'^\s*[%!].*$', 'pass', text, flags=re.M))
        assert not any(isinstance(n, ast.ClassDef) for n in ast.walk(tree)), (
            'run notebooks define no classes'
        )
    assert re.match(r'# \S.*\n\n> \S', source(cells(path)[0]))


@each_run
def test_parameters_are_seen(path):
    "papermill and the launcher find the parameters"
    from forehand4d.runs.parameters import cast, check_parameters
    from forehand4d.runs.parameters import notebook_parameters, parameter_type

    known = notebook_parameters(path)
    cell = next(c for c in cells(path) if 'parameters' in c['metadata'].get('tags', []))
    assert [*known] == [n.target.id for n in ast.parse(source(cell)).body], (
        "papermill overlooks a parameter whose comment holds '='"
    )
    assert check_parameters(path, {}) == {k: p['default'] for k, p in known.items()}
    for k, p in known.items():
        kind = parameter_type(path, p['type'])
        assert kind is not object, f'{k}: {p["type"]} is not imported'
        assert cast(k, kind, p['default']) == p['default']


@each_run
def test_parameters_are_checked(path):
    "The cell behind the parameters checks them, whoever set them"
    at = next(i for i, c in enumerate(cells(path)) if 'parameters' in c['metadata'].get('tags', []))
    assert source(cells(path)[at + 1]) == f"check_cell('{path.stem}', globals())"


def outside():
    "What uses the package from outside: name → source"
    paths = [*sorted((ROOT / 'tests').rglob('*.py')), *sorted((ROOT / 'tools').glob('*.py'))]
    found = {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}
    for path in RUNS:
        text = '\n'.join(code(path))
        found[path.name] = re.sub(r'^\s*[%!].*$', 'pass', text, flags=re.M)
    return found


def replaced_names(module):
    "Names that `monkeypatch.setattr` and the like replace"
    for node in module.all(ast.Call):
        if ast.unparse(node.func).split('.')[-1] in ('setattr', 'getattr', 'delattr'):
            texts = [a.value for a in node.args if isinstance(a, ast.Constant)]
            yield from (text.split('.')[-1] for text in texts if isinstance(text, str))


@pytest.mark.parametrize('name,text', outside().items(), ids=list(outside()))
def test_private_names_are_not_reached_from_outside(name, text):
    "Tests, tools and run notebooks use what a module offers to all"
    module = measures.Module(text)
    found = [ast.unparse(node) for node in measures.foreign_private(module)]
    found += [replaced for replaced in replaced_names(module) if measures.is_private(replaced)]
    assert not found, f'{name} reaches private names: {", ".join(found)}; give them public ones'


@pytest.mark.parametrize(
    'text',
    (
        'from forehand4d.core.files import _here',
        'from forehand4d.geometry import hands\nhands._KNOWN',
        'import forehand4d\nforehand4d._HOMES',
        'from forehand4d.datasets import convert\nmonkeypatch.setattr(convert, "_convert", 0)',
    ),
)
def test_reaching_a_private_name_is_seen(text):
    with pytest.raises(AssertionError, match='reaches private names'):
        test_private_names_are_not_reached_from_outside('test_x.py', text)


def test_nothing_is_unpickled():
    "A checkpoint or a data file must not be able to run code"
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            call = ast.unparse(node.func)
            where = f'{path.relative_to(ROOT)}:{node.lineno}'
            assert call not in (
                'pickle.load',
                'pickle.loads',
                'joblib.load',
                'eval',
                'exec',
                'os.system',
            ), where
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if call == 'torch.load':
                assert given.get('weights_only') == 'True', where
            if call == 'np.load':
                assert given.get('allow_pickle', 'False') == 'False', where


def test_no_machine_paths():
    machine = re.compile(
        r'(^|[^A-Za-z0-9_.~])/('
        + '|'.join(('work', 'root', 'home', 'Users', 'tmp', 'mnt'))
        + r')/[A-Za-z]'
    )
    found = []
    for path in tracked():
        if (
            path.suffix
            in ('.npz', '.png', '.jpg', '.gif', '.mp4', '.safetensors', '.pt', '.pdf', '.glb')
            or path == Path(__file__).resolve()
        ):
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        text = re.sub(r'"image/\w+": ?"[^"]*"', '', text)  # encoded pictures
        found += [
            f'{path.relative_to(ROOT)}:{i}: {line.strip()[:120]}'
            for i, line in enumerate(text.splitlines(), 1)
            if machine.search(line)
        ]
    assert not found, '\n'.join(found)


def test_files_are_small():
    weights = [p for p in tracked() if 'pretrained' in p.parts]
    assets = [p for p in tracked() if 'assets' in p.parts]
    assert sum(p.stat().st_size for p in {*assets, *weights}) < 20e6
    assert [p for p in tracked() if p.stat().st_size > 5 << 20 and p not in weights] == []


# ---- statements that stand in more than one file


def test_settings():
    s, p = settings(), PROJECT['project']
    for key in ('lib_name', 'version', 'description'):
        assert s[key] == p[dict(lib_name='name').get(key, key)]
    assert f'>={s["min_python"]}' == p['requires-python']
    import forehand4d

    assert forehand4d.__version__ == s['version']
    assert s['allowed_cell_metadata_keys'] == 'tags' and s['tst_flags'] == 'slow gpu data'
    assert (
        s['black_formatting'] == 'False'
        and s['readme_nb'] == 'index.ipynb'
        and s['update_pyproject'] == 'False'
    )
    assert 'requirements' not in s, 'versions are stated in pyproject.toml alone'


def stated():
    p = PROJECT['project']
    every = (
        p['dependencies']
        + [d for e in p['optional-dependencies'].values() for d in e]
        + PROJECT['tool']['forehand4d']['no-deps']
    )
    return {re.match(r'[\w.-]+', d)[0] for d in every}


def locked():
    "Exact versions of what is installed"
    lock = (ROOT / 'locks' / 'suite.txt').read_text()
    return dict(re.findall(r'^([\w.-]+)==([\w.]+)', lock, flags=re.M))


def test_versions_agree():
    versions = locked()
    alias = dict(pytorch='torch')
    for item in yaml.safe_load((ROOT / 'environment.yml').read_text())['dependencies']:
        name, _, version = item.partition('=') if isinstance(item, str) else ('', '', '')
        if alias.get(name, name) in versions and version:
            assert versions[alias.get(name, name)] == version, item
    for path in (ROOT / 'Makefile', ROOT / '.ci' / 'run', ROOT / 'tools' / 'install.py'):
        assert not re.search(
            r'\b(' + '|'.join(map(re.escape, versions)) + r')==\d', path.read_text()
        ), f'{path.name} states versions of its own'


def test_imports_are_stated():
    "What a module imports is among the dependencies, and what is stated there is used"
    alias = dict(
        PIL='pillow',
        cv2='opencv-python-headless',
        google='protobuf',
        imageio_ffmpeg='imageio-ffmpeg',
        IPython='ipykernel',
        jupyter_client='papermill',
        nbclient='papermill',
        nbformat='papermill',
        rerun='rerun-sdk',
        yaml='pyyaml',
    )
    optional = {'pytorch3d', 'projectaria_tools'}
    used = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            found = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
            used |= {n.split('.')[0] for n in found}
    used = {
        alias.get(n, n) for n in used if n not in sys.stdlib_module_names and n != 'forehand4d'
    } - optional
    assert used <= set(stated()), f'not stated: {used - set(stated())}'


# ---- what is generated is up to date


def clone(folder):
    "A copy of the files under version control, as they are now, that is a repository itself"
    for path in tracked():
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    git = ['git', '-C', str(folder), '-c', 'user.name=test', '-c', 'user.email=test@example.org']
    for args in (['init', '-q'], ['add', '-A', '-f'], ['commit', '-qm', 'copy']):
        subprocess.run(git + args, check=True)
    return folder


def changed(folder):
    return subprocess.run(
        ['git', '-C', str(folder), 'status', '--porcelain'], capture_output=True, text=True
    ).stdout


def run(folder, *command):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_export_and_clean_change_nothing(tmp_path):
    folder, tools = clone(tmp_path / 'copy'), Path(sys.executable).parent
    run(folder, tools / 'nbdev_export')
    assert changed(folder) == '', 'nbdev_export changes files: export and commit'
    run(folder, tools / 'nbdev_clean')
    assert changed(folder) == '', 'nbdev_clean changes files: clean and commit'
    for path in RUNS:  # papermill's tag survives
        assert any(
            'parameters' in c['metadata'].get('tags', [])
            for c in json.loads((folder / 'nbs' / path.name).read_text())['cells']
        )


def test_readme_is_up_to_date():
    done = subprocess.run(
        [sys.executable, ROOT / 'tools' / 'readme.py', '--check'], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_readme_names_what_exists():
    text = (ROOT / 'README.md').read_text()
    for target in re.findall(r'^make (\w+)', text, flags=re.M):
        assert re.search(rf'^{target}:', (ROOT / 'Makefile').read_text(), flags=re.M), target
    for link in re.findall(r'\]\((?!http|#)([^)]+)\)', text):
        assert (ROOT / link).exists(), link
