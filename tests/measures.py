"""How legible a module is: syntax nodes a line, statements, names, functions and their parameters

A module's source goes in, a number for each of `LIMITS` comes out.
"""
import ast
import io
import math
import statistics
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

PACKAGE = 'forehand4d'

LIMITS = { # the rules of the house style; a value above its limit is an offence
    'nodes_median': 10, # syntax nodes a code line, of a typical function
    'nodes_p90': 15, # the same for nine functions of ten
    'nodes_line': 40, # syntax nodes of the densest line
    'long_lines': 0, # more than 100 columns
    'one_line': 0, # bodies behind a colon, short guards excepted
    'parallel': 12, # `a, b = x, y` in 1000 code lines
    'named_lambdas': 0,
    'nested_if': 0, # conditional expressions inside another one
    'walrus': 0, # outside the head of `if` and `while`
    'letters_p90': 3, # names of one letter that a function binds, nine functions of ten
    'letters_max': 5, # the same in the worst function
    'private_used': 0, # private names of another module
    'over_60': 0, # functions of more than 60 lines
    'over_30': 10, # functions of more than 30 lines, in per cent
    'length': 20, # lines of a typical function
    'over_6': 0, # functions with more than 6 parameters
    'bare': 0, # parameters without a line and a comment of their own
    'patched': 0, # methods put on a class of another module
}
COLUMNS = 100 # of a line
GUARD = 80 # columns of a guard that holds its body
DENSE = 15 # syntax nodes on a line that wants rewriting
FEW_LINES = 200 # a shorter module counts as one of this length: two pairs are no offence
FEW_FUNCTIONS = 10 # a module with fewer counts as one with these: one long function is no offence

Function = ast.FunctionDef | ast.AsyncFunctionDef
Jump = ast.Return | ast.Raise | ast.Continue | ast.Break
LEAVES = (ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.boolop)
BLANK = {
    tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def is_seen(node: ast.AST) -> bool:
    "Does a reader see it? All nodes but contexts and operators"
    return not isinstance(node, LEAVES)


def percentile(values: list, share: float) -> float:
    "The smallest value that `share` of the values do not exceed; 0 of nothing"
    ordered = sorted(values)
    return ordered[math.ceil(share*len(ordered)) - 1] if ordered else 0


def median(values: list) -> float:
    "Median; 0 of nothing"
    return statistics.median(values) if values else 0


def is_private(name: str) -> bool:
    "Is it for its own module only?"
    return name.startswith('_') and not name.endswith('__') and name != '_'


def in_package(node: ast.ImportFrom) -> bool:
    "Does it import from a module of ours?"
    return node.level > 0 or (node.module or '').split('.')[0] == PACKAGE


@dataclass
class Module:
    "A module's syntax, its lines, and the lines that offend"
    text: str # source code
    offending: set[int] = field(default_factory=set) # numbers of lines that want rewriting

    @cached_property
    def index(self) -> set[int]:
        "Numbers of the lines that hold `__all__`, which nbdev writes"
        found = [n for n in ast.parse(self.text).body if is_index(n)]
        return {line for n in found for line in range(n.lineno, n.end_lineno + 1)}

    @cached_property
    def tree(self) -> ast.Module:
        "Syntax tree without `__all__`"
        tree = ast.parse(self.text)
        tree.body = [n for n in tree.body if n.lineno not in self.index]
        return tree

    @cached_property
    def nodes(self) -> list[ast.AST]:
        "All nodes of the tree"
        return list(ast.walk(self.tree))

    @cached_property
    def lines(self) -> list[str]:
        "Lines; line 1 is item 0"
        return self.text.splitlines()

    @cached_property
    def tokens(self) -> list[tokenize.TokenInfo]:
        "All tokens"
        return list(tokenize.generate_tokens(io.StringIO(self.text).readline))

    @cached_property
    def commented(self) -> set[int]:
        "Numbers of the lines with a comment"
        return {token.start[0] for token in self.tokens if token.type == tokenize.COMMENT}

    @cached_property
    def code(self) -> set[int]:
        "Numbers of the lines with code"
        spans = [(t.start[0], t.end[0]) for t in self.tokens if t.type not in BLANK]
        found = {line for first, last in spans for line in range(first, last + 1)}
        return found - self.index

    @cached_property
    def long(self) -> set[int]:
        "Numbers of the lines of more than 100 columns"
        wide = {n for n, line in enumerate(self.lines, 1) if len(line) > COLUMNS}
        return wide - self.index

    @cached_property
    def functions(self) -> list[Function]:
        "All functions and methods, local ones too"
        return self.all(Function)

    @cached_property
    def public(self) -> set[Function]:
        "Functions that others may call, methods not among them"
        return {n for n in self.tree.body if isinstance(n, Function) and not is_private(n.name)}

    @cached_property
    def imported(self) -> list[ast.ImportFrom]:
        "Every `from … import …`"
        return self.all(ast.ImportFrom)

    def all(self, *kinds: type) -> list[ast.AST]:
        "All nodes of some kinds"
        return [node for node in self.nodes if isinstance(node, kinds)]

    def offend(self, found: list[ast.AST]) -> int:
        "Number of nodes found; their lines want rewriting"
        self.offending.update(node.lineno for node in found)
        return len(found)


def is_index(node: ast.stmt) -> bool:
    "Is it `__all__ = […]`?"
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '__all__'


# ---- lines

def node_lines(module: Module) -> Counter:
    "Syntax nodes that begin on each line"
    placed = [node for node in module.nodes if hasattr(node, 'lineno')]
    return Counter(node.lineno for node in placed if is_seen(node))


def body(function: Function) -> list[ast.stmt]:
    "Statements of a function without its docstring"
    return function.body[1:] if ast.get_docstring(function) is not None else function.body


def density(
    module: Module, # that holds the function
    function: Function, # to be measured
) -> float: # syntax nodes a code line of its body
    "How much a reader must take in with each line"
    statements = body(function)
    if not statements:
        return 0
    span = range(statements[0].lineno, statements[-1].end_lineno + 1)
    seen = sum(is_seen(node) for s in statements for node in ast.walk(s))
    return seen/len(module.code.intersection(span))


def blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    "Bodies of a compound statement: what follows `if …:`, `else:`, `finally:` and the like"
    for name in ('body', 'orelse', 'finalbody'):
        block = getattr(node, name, None)
        if isinstance(block, list) and block:
            yield block


def stands_behind_colon(
    module: Module, # that holds the statement
    statement: ast.stmt, # first of a block
) -> bool:
    "Does it share the line of the colon that opens its block?"
    line = module.lines[statement.lineno - 1].encode()
    return bool(line[:statement.col_offset].strip()) and not line.lstrip().startswith(b'@')


def is_guard(
    module: Module, # that holds the statement
    node: ast.AST, # compound statement in one line
) -> bool:
    "`if x is None: return y` in at most 80 columns"
    leaves = isinstance(node, ast.If) and not node.orelse and len(node.body) == 1
    if not leaves or not isinstance(node.body[0], Jump):
        return False
    return node.lineno == node.end_lineno and len(module.lines[node.lineno - 1]) <= GUARD


def one_line_compounds(module: Module) -> list[ast.AST]:
    "First statements of bodies behind a colon, without guards and `...`"
    found = []
    for node in module.all(ast.stmt, ast.ExceptHandler, ast.match_case):
        firsts = [block[0] for block in blocks(node)]
        behind = [s for s in firsts if stands_behind_colon(module, s) and not is_stub(s)]
        if not is_guard(module, node):
            found += behind
    return found


def is_stub(statement: ast.stmt) -> bool:
    "Is it `...`?"
    return isinstance(statement, ast.Expr) and ast.unparse(statement) == '...'


def parallel_assignments(module: Module) -> list[ast.AST]:
    "`a, b = x, y`"
    def is_pair(node: ast.Assign) -> bool:
        return isinstance(node.value, ast.Tuple) and isinstance(node.targets[0], ast.Tuple)

    return [node for node in module.all(ast.Assign) if is_pair(node)]


def named_lambdas(module: Module) -> list[ast.AST]:
    "Lambdas that an assignment gives a name"
    values = [node.value for node in module.all(ast.Assign, ast.AnnAssign, ast.NamedExpr)]
    values += [v for value in values if isinstance(value, ast.Tuple) for v in value.elts]
    return [value for value in values if isinstance(value, ast.Lambda)]


def nested_conditionals(module: Module) -> list[ast.AST]:
    "Conditional expressions that stand inside another one"
    return list({
        inner
        for outer in module.all(ast.IfExp)
        for inner in ast.walk(outer)
        if isinstance(inner, ast.IfExp) and inner is not outer
    })


def walruses(module: Module) -> list[ast.AST]:
    "Assignments inside an expression, other than the head of `if` and `while`"
    heads = [node.test for node in module.all(ast.If, ast.While)]
    allowed = {node for head in heads for node in ast.walk(head)}
    return [node for node in module.all(ast.NamedExpr) if node not in allowed]


def measure_lines(module: Module) -> dict:
    "Rules 1 to 5: density and statements"
    dense = [density(module, function) for function in module.functions]
    per_line = node_lines(module)
    module.offending |= module.long | {n for n, count in per_line.items() if count > DENSE}
    pairs = module.offend(parallel_assignments(module))
    return {
        'nodes_median': median(dense),
        'nodes_p90': percentile(dense, 0.9),
        'nodes_line': max(per_line.values(), default=0),
        'long_lines': len(module.long),
        'one_line': module.offend(one_line_compounds(module)),
        'parallel': 1000*pairs/max(len(module.code), FEW_LINES),
        'named_lambdas': module.offend(named_lambdas(module)),
        'nested_if': module.offend(nested_conditionals(module)),
        'walrus': module.offend(walruses(module)),
    }


# ---- names

def letters(function: Function) -> int:
    "Number of one-letter names that a function binds: parameters, variables, loop variables"
    bound = {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
    return sum(len(name) == 1 and name != '_' for name in bound)


def foreign_private(module: Module) -> list[ast.AST]:
    "Private names of other modules of ours: imported, or read from something imported"
    ours = [node for node in module.imported if in_package(node)]
    found = [alias for node in ours for alias in node.names if is_private(alias.name)]
    known = {alias.asname or alias.name for node in ours for alias in node.names}
    for node in module.all(ast.Attribute):
        if is_private(node.attr) and isinstance(node.value, ast.Name) and node.value.id in known:
            found.append(node)
    return found


def measure_names(module: Module) -> dict:
    "Rules 7 and 8: letters, private names"
    counts = [letters(function) for function in module.functions]
    return {
        'letters_p90': percentile(counts, 0.9),
        'letters_max': max(counts, default=0),
        'private_used': module.offend(foreign_private(module)),
    }


# ---- units

def length(function: Function) -> int:
    "Lines from `def` to the end"
    return function.end_lineno - function.lineno + 1


def parameters(function: Function) -> list[ast.arg]:
    "What a caller gives"
    given = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    return [a for a in given if a.arg not in ('self', 'cls')]


def bare_parameters(
    module: Module, # that holds the function
    function: Function, # public: always; private, local or a method: from three parameters on
) -> list[ast.arg]: # parameters that share a line or have no comment
    "What has no line and comment of its own"
    given = parameters(function)
    if is_patched(function) or function not in module.public:
        given = given if len(given) > 2 else []
    shared = Counter(a.lineno for a in given)
    return [a for a in given if shared[a.lineno] > 1 or a.lineno not in module.commented]


def is_patched(function: Function) -> bool:
    "Does it become a method by fastcore's `@patch`?"
    return any('patch' in ast.unparse(d) for d in function.decorator_list)


def foreign_patches(module: Module) -> list[ast.AST]:
    "Methods that `@patch` puts on an imported class"
    imported = {alias.asname or alias.name for node in module.imported for alias in node.names}
    found = []
    for function in filter(is_patched, module.functions):
        receiver = function.args.args[:1] # self:Class or self:Class|Other
        names = {n.id for a in receiver for n in ast.walk(a) if isinstance(n, ast.Name)}
        if imported & names:
            found.append(function)
    return found


def measure_units(module: Module) -> dict:
    "Rules 10 to 12: functions, their parameters, whole classes"
    lengths = [length(function) for function in module.functions]
    bare = [a for function in module.functions for a in bare_parameters(module, function)]
    long = sum(n > 30 for n in lengths)
    return {
        'over_60': sum(n > 60 for n in lengths),
        'over_30': 100*long/max(len(lengths), FEW_FUNCTIONS),
        'length': median(lengths),
        'over_6': sum(len(parameters(function)) > 6 for function in module.functions),
        'bare': module.offend(bare),
        'patched': len(foreign_patches(module)),
    }


# ---- all of it

def measure(text: str) -> tuple[dict, int]:
    "Values by measure, and the number of lines that want rewriting, of a module's source"
    module = Module(text)
    found = measure_lines(module) | measure_names(module) | measure_units(module)
    return {name: round(value, 1) for name, value in found.items()}, len(module.offending)
