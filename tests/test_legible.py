"""Code stays legible: what does not meet the limits yet may only become better

tests/legible.json counts, by module and by file, what exceeds a limit today.
Whatever is not counted there meets all limits.
"""

import json

import legible
import pytest
from measures import BOUND, LIMITS, Module, excess, measure

REFRESH = 'better than tests/legible.json says: run `python tests/legible.py --write` and commit'


def recorded(part: str) -> dict[str, dict]:  # 'modules' or 'ruff'
    "What may exceed a limit for now, by file"
    return json.loads(legible.RECORD.read_text())[part]


def worse(
    now: dict[str, dict],  # what exceeds its limit, by file
    then: dict[str, dict],  # what may
) -> list[str]:  # one sentence each
    "Where the code became less legible"
    found = []
    for name, values in now.items():
        for what, value in values.items():
            allowed = then.get(name, {}).get(what, LIMITS.get(what, 0))
            if value > allowed:
                found.append(f'{name}: {what} is {value}, at most {allowed} expected')
    return found


def outdated(
    now: dict[str, dict],  # what exceeds its limit, by file
    then: dict[str, dict],  # what may
) -> list[str]:  # one sentence each
    "What is recorded, but meets its limit by now"
    found = []
    for name, values in then.items():
        better = values.keys() - now.get(name, {}).keys()
        found += [f'{name}: {what}' for what in sorted(better)]
    return found


@pytest.fixture(scope='module')
def offences() -> dict[str, dict]:
    "What exceeds its limit now, by module"
    return legible.offences()


@pytest.fixture(scope='module')
def findings() -> dict[str, dict]:
    "What ruff finds now, by file"
    if not legible.has_ruff():
        pytest.skip('ruff is not installed: it is among the dev dependencies of pyproject.toml')
    return legible.findings()


def test_modules_are_not_worse(offences):
    problems = worse(offences, recorded('modules'))
    assert not problems, '\n'.join(problems)


def test_record_of_modules_is_current(offences):
    problems = outdated(offences, recorded('modules'))
    assert not problems, '\n'.join([REFRESH, *problems])


def test_ruff_finds_nothing_new(findings):
    problems = worse(findings, recorded('ruff'))
    assert not problems, '\n'.join(problems)


def test_record_of_ruff_is_current(findings):
    problems = outdated(findings, recorded('ruff'))
    assert not problems, '\n'.join([REFRESH, *problems])


# ---- the measures themselves

PLAIN = '''
def total(
    values:list, # numbers
    weights:list, # one for each
)->float: # their weighted sum
    "Sum of products"
    if not values: return 0.
    pairs = zip(values, weights, strict=True)
    return sum(value*weight for value, weight in pairs)
'''

OFFENDERS = {
    'one_line': 'for i in range(3): print(i)',
    'named_lambdas': 'double = lambda x: 2*x',
    'nested_if': 'y = 1 if a else 2 if b else 3',
    'walrus': 'y = [(n := 10), n**2]',
    'private_used': 'from .core import _hidden',
    'long_lines': f'# {"long " * 20}',
    'parallel': '\n'.join(['a, b = 1, 2'] * 3),
    'letters_max': 'def f():\n    a = b = c = d = e = g = 1',
    'over_6': 'def _f(*, a, b, c, d, e, f, g):\n    ...',
    'bare': 'def public(a, b): # two on a line\n    ...',
    'patched': 'from .core import Run\n@patch\ndef close(self:Run):\n    ...',
    'over_60': 'def f():\n' + '    pass\n' * 60,
    'over_30': 'def f():\n' + '    pass\n' * 31 + 'def g():\n' + '    pass\n' * 31,
    'length': 'def f():\n' + '    pass\n' * 20,
    'nodes_line': f'y = [{"1, " * 40}]',
    'nodes_median': 'def f():\n    return [' + '1, ' * 10 + ']',
    'nodes_p90': 'def f():\n    return [' + '1, ' * 15 + ']',
    'letters_p90': 'def f():\n    a = b = c = d = 1',
}


def test_plain_code_meets_all_limits():
    assert excess(measure(PLAIN)[0]) == {}


@pytest.mark.parametrize('name', ['legible.py', 'measures.py'])
def test_measure_meets_its_own_limits(name):
    text = (legible.ROOT / 'tests' / name).read_text()
    assert excess(measure(text)[0]) == {}


@pytest.mark.parametrize('what', LIMITS)
def test_offender_is_seen(what):
    assert what in excess(measure(OFFENDERS[what])[0])


def test_short_guards_and_stubs_are_no_offence():
    text = 'def f(x):\n    if x is None: return 0\n    while (x := step(x)):\n        pass\n'
    assert not {'one_line', 'walrus'} & set(excess(measure(text)[0]))


@pytest.mark.parametrize('name', BOUND)
def test_bound_signature_is_there_and_long(name):
    bound = [f for text in legible.modules().values() for f in Module(text).bound]
    owner, _, method = name.partition('.')
    assert [function.name for function in bound].count(method) == 1
    assert len(BOUND[name]) > 6, f'{owner} needs no exception'


def test_a_bound_signature_must_not_grow():
    name = next(iter(BOUND))
    owner, _, method = name.partition('.')

    def text(names):
        lines = ''.join(f'        {one}, # of it\n' for one in names)
        return f'class {owner}:\n    def {method}(self,\n{lines}    ):\n        ...\n'

    assert 'over_6' not in excess(measure(text(BOUND[name]))[0])
    assert 'over_6' in excess(measure(text([*BOUND[name], 'more']))[0])


def test_ratchet():
    then = {'a.py': {'bare': 3}}
    assert worse({'a.py': {'bare': 3}}, then) == []
    assert worse({'a.py': {'bare': 4}}, then) and worse({'b.py': {'bare': 1}}, then)
    assert worse({'a.py': {'bare': 3, 'walrus': 1}}, then)
    assert outdated({'a.py': {'bare': 2}}, then) == []
    assert outdated({'a.py': {'walrus': 1}}, then) and outdated({}, then)
