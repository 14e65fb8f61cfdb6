"""How legible a module is: syntax nodes a line, statements, names, functions and their parameters

A module's source goes in, a number for each of `LIMITS` comes out.
"""

import ast
import io
import math
import statistics
import tokenize
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

PACKAGE = 'forehand4d'

LIMITS = {  # the rules of the house style; a value above its limit is an offence
    'nodes_median': 10,  # syntax nodes a code line, of a typical function
    'nodes_p90': 15,  # the same for nine functions of ten
    'nodes_line': 40,  # syntax nodes of the densest line
    'long_lines': 0,  # more than 100 columns
    'one_line': 0,  # bodies behind a colon, short guards excepted
    'parallel': 12,  # `a, b = x, y` in 1000 code lines
    'named_lambdas': 0,
    'nested_if': 0,  # conditional expressions inside another one
    'walrus': 0,  # outside the head of `if` and `while`
    'letters_p90': 3,  # names of one letter that a function binds, nine functions of ten
    'letters_max': 5,  # the same in the worst function
    'private_used': 0,  # private names of another module
    'over_60': 0,  # functions of more than 60 lines
    'over_30': 10,  # functions of more than 30 lines, in per cent
    'length': 20,  # lines of a typical function
    'over_6': 0,  # functions with more than 6 parameters, `BOUND` excepted
    'bare': 0,  # parameters without a line and a comment of their own
    'patched': 0,  # methods put on a class of another module
}
BOUND = {  # signatures that callers outside rely on: they stay as they are, whatever their length
    'LoadedForecaster.__call__': [  # what `load_forecaster` returns is called with these
        'image',
        'intrinsics',
        'samples',
        'steps',
        'seed',
        'hands',
        'past',
    ],
}
COLUMNS = 100  # of a line
GUARD = 80  # columns of a guard that holds its body
DENSE = 15  # syntax nodes on a line that wants rewriting
FEW_LINES = 200  # a shorter module counts as one of this length: two pairs are no offence
FEW_FUNCTIONS = 10  # a module with fewer counts as one with these: one long function is no offence

Function = ast.FunctionDef | ast.AsyncFunctionDef
Jump = ast.Return | ast.Raise | ast.Continue | ast.Break
UNSEEN = (ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.boolop)
BLANK = {
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.COMMENT,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def walk(root: ast.AST) -> list[ast.AST]:  # root of a tree → its nodes
    "The nodes that a reader sees: all but contexts and operators"
    found = [root]
    for node in found:  # which grows meanwhile
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, UNSEEN):
                found.append(child)
    return found


def lines_of(node: ast.AST) -> range:  # statement → numbers of its lines
    "Where a statement stands"
    return range(node.lineno, node.end_lineno + 1)


def percentile(
    values: list,  # numbers
    share: float,  # between 0 and 1
) -> float:  # one of the values; 0 if there are none
    "The smallest value that `share` of the values do not exceed"
    if not values:
        return 0
    place = math.ceil(share * len(values)) - 1
    return sorted(values)[place]


def median(values: list) -> float:  # numbers → 0 if there are none
    "The value in the middle"
    return statistics.median(values) if values else 0


def is_private(name: str) -> bool:  # of a function, class or variable
    "Is it for its own module only?"
    return name.startswith('_') and not name.endswith('__') and name != '_'


def is_index(statement: ast.stmt) -> bool:  # of a module
    "Is it `__all__ = […]`?"
    if not isinstance(statement, ast.Assign):
        return False
    return ast.unparse(statement.targets) == '__all__'


@dataclass
class Module:
    "A module's syntax, its lines, and the lines that offend"

    text: str  # source code
    offending: set[int] = field(default_factory=set)  # numbers of lines that want rewriting

    def __post_init__(self):
        "Parse; `__all__`, which nbdev writes, is left out"
        self.tree = ast.parse(self.text)
        index = [node for node in self.tree.body if is_index(node)]
        self.index = {line for node in index for line in lines_of(node)}
        self.tree.body = [node for node in self.tree.body if node not in index]
        self.nodes = walk(self.tree)
        self.lines = self.text.splitlines()  # line 1 is item 0
        reader = io.StringIO(self.text).readline
        self.tokens = list(tokenize.generate_tokens(reader))

    @cached_property
    def commented(self) -> set[int]:
        "Numbers of the lines with a comment"
        comments = [token for token in self.tokens if token.type == tokenize.COMMENT]
        return {token.start[0] for token in comments}

    @cached_property
    def code(self) -> set[int]:
        "Numbers of the lines with code"
        found = set()
        for token in self.tokens:
            if token.type not in BLANK:
                found.update(range(token.start[0], token.end[0] + 1))
        return found - self.index

    @cached_property
    def long(self) -> set[int]:
        "Numbers of the lines of more than 100 columns"
        numbered = enumerate(self.lines, start=1)
        return {number for number, line in numbered if len(line) > COLUMNS} - self.index

    @cached_property
    def functions(self) -> list[Function]:
        "All functions and methods, local ones too"
        return self.all(Function)

    @cached_property
    def bound(self) -> list[Function]:
        "Methods whose signature is one of `BOUND`"
        found = []
        for owner in self.all(ast.ClassDef):
            for node in owner.body:
                names = BOUND.get(f'{owner.name}.{getattr(node, "name", "")}')
                if names and [parameter.arg for parameter in parameters(node)] == names:
                    found.append(node)
        return found

    @cached_property
    def public(self) -> list[Function]:
        "Functions that others may call; methods are not among them"
        functions = [node for node in self.tree.body if isinstance(node, Function)]
        return [function for function in functions if not is_private(function.name)]

    @cached_property
    def imported(self) -> set[str]:
        "Names that come by `from … import …`"
        aliases = [alias for node in self.all(ast.ImportFrom) for alias in node.names]
        return {alias.asname or alias.name for alias in aliases}

    def all(self, *kinds: type) -> list[ast.AST]:
        "All nodes of some kinds"
        return [node for node in self.nodes if isinstance(node, kinds)]

    def offend(self, found: list[ast.AST]) -> int:
        "Number of nodes found; their lines want rewriting"
        self.offending.update(node.lineno for node in found)
        return len(found)


# ---- lines


def node_lines(module: Module) -> Counter:  # number of a line → nodes
    "Syntax nodes that begin on each line"
    return Counter(node.lineno for node in module.nodes if hasattr(node, 'lineno'))


def density(
    module: Module,  # that holds the function
    function: Function,  # to be measured
) -> float:  # syntax nodes a code line of its body
    "How much a reader must take in with each line; the docstring does not count"
    documented = ast.get_docstring(function) is not None
    body = function.body[1:] if documented else function.body
    if not body:
        return 0
    lines = range(body[0].lineno, body[-1].end_lineno + 1)
    seen = sum(len(walk(statement)) for statement in body)
    return seen / len(module.code.intersection(lines))


def block_starts(node: ast.AST) -> list[ast.stmt]:  # compound statement → statements
    "What comes first after `if …:`, `else:`, `finally:` and the like"
    blocks = [getattr(node, name, None) for name in ('body', 'orelse', 'finalbody')]
    return [block[0] for block in blocks if isinstance(block, list) and block]


def stands_behind_colon(
    module: Module,  # that holds the statement
    statement: ast.stmt,  # first of a block
) -> bool:  # False too for a definition with a decorator
    "Does it share the line of the colon that opens its block?"
    line = module.lines[statement.lineno - 1].encode()
    before = line[: statement.col_offset].strip()
    return before.endswith(b':')


def is_guard(
    module: Module,  # that holds the statement
    node: ast.AST,  # compound statement in one line
) -> bool:  # False for what is longer than 80 columns
    "Is it short and like `if x is None: return y`?"
    if not isinstance(node, ast.If) or node.orelse:
        return False
    one_line = node.lineno == node.end_lineno
    short = len(module.lines[node.lineno - 1]) <= GUARD
    return one_line and short and isinstance(node.body[0], Jump)


def is_stub(statement: ast.stmt) -> bool:  # body of a function
    "Is it `...`?"
    return isinstance(statement, ast.Expr) and ast.unparse(statement) == '...'


def one_line_compounds(module: Module) -> list[ast.AST]:  # first statements of their bodies
    "Bodies behind a colon, without guards and `...`"
    compounds = module.all(ast.stmt, ast.ExceptHandler, ast.match_case)
    found = []
    for node in compounds:
        behind = [s for s in block_starts(node) if stands_behind_colon(module, s)]
        if behind and not is_guard(module, node):
            found += [statement for statement in behind if not is_stub(statement)]
    return found


def is_pair(node: ast.Assign) -> bool:  # assignment
    "Is it like `a, b = x, y`?"
    return isinstance(node.value, ast.Tuple) and isinstance(node.targets[0], ast.Tuple)


def named_lambdas(module: Module) -> list[ast.AST]:  # lambdas
    "Lambdas that an assignment gives a name"
    found = []
    for node in module.all(ast.Assign, ast.AnnAssign, ast.NamedExpr):
        values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        found += [value for value in values if isinstance(value, ast.Lambda)]
    return found


def nested_conditionals(module: Module) -> list[ast.AST]:  # conditional expressions
    "Conditional expressions that stand inside another one"
    found = set()
    for outer in module.all(ast.IfExp):
        inside = walk(outer)[1:]
        found.update(node for node in inside if isinstance(node, ast.IfExp))
    return list(found)


def walruses(module: Module) -> list[ast.AST]:  # named expressions
    "Assignments inside an expression, other than the head of `if` and `while`"
    heads = [node.test for node in module.all(ast.If, ast.While)]
    allowed = {node for head in heads for node in walk(head)}
    return [node for node in module.all(ast.NamedExpr) if node not in allowed]


def measure_lines(module: Module) -> dict:  # value by measure
    "Density and statements"
    dense = [density(module, function) for function in module.functions]
    per_line = node_lines(module)
    module.offending |= module.long
    module.offending |= {line for line, count in per_line.items() if count > DENSE}
    pairs = [node for node in module.all(ast.Assign) if is_pair(node)]
    code_lines = max(len(module.code), FEW_LINES)
    return {
        'nodes_median': median(dense),
        'nodes_p90': percentile(dense, 0.9),
        'nodes_line': max(per_line.values(), default=0),
        'long_lines': len(module.long),
        'one_line': module.offend(one_line_compounds(module)),
        'parallel': 1000 * module.offend(pairs) / code_lines,
        'named_lambdas': module.offend(named_lambdas(module)),
        'nested_if': module.offend(nested_conditionals(module)),
        'walrus': module.offend(walruses(module)),
    }


# ---- names


def letters(function: Function) -> int:  # a number of different names
    "One-letter names that a function binds: parameters, variables, loop variables"
    bound = set()
    for node in walk(function):
        if isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
    return sum(len(name) == 1 and name != '_' for name in bound)


def is_ours(node: ast.ImportFrom) -> bool:  # `from … import …`
    "Does it import from a module of this package?"
    return node.level > 0 or (node.module or '').split('.')[0] == PACKAGE


def foreign_private(module: Module) -> list[ast.AST]:  # imports and attributes
    "Private names of other modules: imported, or read from something imported"
    ours = [node for node in module.all(ast.ImportFrom) if is_ours(node)]
    aliases = [alias for node in ours for alias in node.names]
    found = [alias for alias in aliases if is_private(alias.name)]
    whole = [alias for node in module.all(ast.Import) for alias in node.names]
    aliases += [alias for alias in whole if alias.name.split('.')[0] == PACKAGE]
    known = {alias.asname or alias.name for alias in aliases}
    for node in module.all(ast.Attribute):
        if is_private(node.attr) and ast.unparse(node.value) in known:
            found.append(node)
    return found


def measure_names(module: Module) -> dict:  # value by measure
    "Letters and private names"
    counts = [letters(function) for function in module.functions]
    return {
        'letters_p90': percentile(counts, 0.9),
        'letters_max': max(counts, default=0),
        'private_used': module.offend(foreign_private(module)),
    }


# ---- units


def parameters(function: Function) -> list[ast.arg]:  # without self and cls
    "What a caller gives"
    given = function.args
    every = given.posonlyargs + given.args + given.kwonlyargs
    return [parameter for parameter in every if parameter.arg not in ('self', 'cls')]


def is_patched(function: Function) -> bool:  # function of a module
    "Does fastcore's `@patch` make it a method?"
    return any('patch' in ast.unparse(d) for d in function.decorator_list)


def bare_parameters(
    module: Module,  # that holds the function
    function: Function,  # public: always; private, local or a method: from three parameters on
) -> list[ast.arg]:  # parameters that share a line or have no comment
    "What has no line and comment of its own"
    given = parameters(function)
    documented = function in module.public and not is_patched(function)
    if not documented and len(given) < 3:
        return []
    on_line = Counter(p.lineno for p in given)
    return [p for p in given if on_line[p.lineno] > 1 or p.lineno not in module.commented]


def foreign_patches(module: Module) -> list[ast.AST]:  # functions
    "Methods that `@patch` puts on an imported class"
    found = []
    for function in filter(is_patched, module.functions):
        receiver = function.args.args[:1]  # self:Class or self:Class|Other
        nodes = [node for argument in receiver for node in walk(argument)]
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        if names & module.imported:
            found.append(function)
    return found


def measure_units(module: Module) -> dict:  # value by measure
    "Functions, their parameters, whole classes"
    functions = module.functions
    lengths = [len(lines_of(function)) for function in functions]
    free = [function for function in functions if function not in module.bound]
    counts = [len(parameters(function)) for function in free]
    bare = [p for function in functions for p in bare_parameters(module, function)]
    over_30 = sum(length > 30 for length in lengths)
    return {
        'over_60': sum(length > 60 for length in lengths),
        'over_30': 100 * over_30 / max(len(lengths), FEW_FUNCTIONS),
        'length': median(lengths),
        'over_6': sum(count > 6 for count in counts),
        'bare': module.offend(bare),
        'patched': len(foreign_patches(module)),
    }


# ---- all of it


def measure(text: str) -> tuple[dict, int]:  # source → value by measure, lines that want rewriting
    "Everything that `LIMITS` names"
    module = Module(text)
    found = measure_lines(module) | measure_names(module) | measure_units(module)
    values = {name: round(value, 1) for name, value in found.items()}
    return values, len(module.offending)


def excess(values: dict) -> dict:  # value by measure
    "Those values that exceed their limit"
    return {name: value for name, value in values.items() if value > LIMITS[name]}
