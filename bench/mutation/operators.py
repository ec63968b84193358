"""The faults that mutation testing makes: each is one place of a source file, changed as a slip of the hand would.

Nothing is changed that no test is meant to see: docstrings, annotations, the words of errors, `assert`s for the type checker.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS = {
    ast.Eq: "!=", ast.NotEq: "==", ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
ARITHMETIC = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "*", ast.Pow: "*",
    ast.BitAnd: "|", ast.BitOr: "&",
}  # fmt: skip
SYMBOLS = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
    ast.BitAnd: "&", ast.BitOr: "|",
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "logical_and": "logical_or", "argmax": "argmin"}
"""Functions and methods that are easily taken for each other."""

NO_ORDER = ("min", "max", "logaddexp")
"""Functions whose arguments may come in any order."""


@dataclass(frozen=True)
class Mutant:
    """One changed place.

    Attributes:
        kind: which operator made it.
        line: 1-based line of the place.
        first, last: lines of the statement around it, for a compound statement those of its head.
        start, stop: byte offsets of what is replaced.
        text: what stands there instead.
    """

    kind: str
    line: int
    first: int
    last: int
    start: int
    stop: int
    text: str

    def applied(self, source: str) -> str:
        """The source with the fault in it."""
        whole = source.encode()
        return (whole[: self.start] + self.text.encode() + whole[self.stop :]).decode()


def mutants(source: str) -> list[Mutant]:
    """All mutants of a source file that Python can compile, in the order of their places."""
    found = sorted(set(_Finder(source).found), key=lambda one: (one.start, one.stop, one.text))
    return [one for one in found if one.applied(source) != source and _compiles(one.applied(source))]


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


class _Finder:
    def __init__(self, source: str) -> None:
        self.source = source
        self.bytes = source.encode()
        self.starts = [0]
        for line in self.bytes.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.found: list[Mutant] = []
        self.statement: tuple[int, int] = (1, 1)
        self._statements(ast.parse(source).body)

    def _span(self, node: ast.AST) -> tuple[int, int]:
        return (
            self.starts[node.lineno - 1] + node.col_offset,  # type: ignore[attr-defined]
            self.starts[node.end_lineno - 1] + node.end_col_offset,  # type: ignore[attr-defined]
        )

    def _text(self, node: ast.AST) -> str:
        start, stop = self._span(node)
        return self.bytes[start:stop].decode()

    def _add(self, kind: str, node: ast.AST, text: str, span: tuple[int, int] | None = None) -> None:
        start, stop = span or self._span(node)
        line = self.bytes[:start].count(b"\n") + 1
        self.found.append(Mutant(kind, line, *self.statement, start, stop, text))

    def _statements(self, body: list[ast.stmt]) -> None:
        for number, one in enumerate(body):
            if number == 0 and isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant):
                continue  # a docstring
            self._statement(one)

    def _statement(self, one: ast.stmt) -> None:
        blocks = [
            block for name in ("body", "orelse", "finalbody") if isinstance(block := getattr(one, name, None), list)
        ]
        blocks += [handler.body for handler in getattr(one, "handlers", [])]
        inside = [line.lineno for block in blocks for line in block]
        self.statement = (one.lineno, max(one.lineno, min(inside) - 1) if inside else one.end_lineno or one.lineno)
        match one:
            case ast.Import() | ast.ImportFrom() | ast.Assert():
                return
            case ast.Expr(value=ast.Constant()):
                return  # the words after a constant
            case ast.Raise():
                self._add("statement", one, "pass")
                return
            case ast.Return(value=value) if value is not None:
                if not (isinstance(value, ast.Constant) and value.value is None):
                    self._add("return", value, "None")
                self._expression(value)
            case ast.Expr(value=value):
                self._add("statement", one, "pass")
                self._expression(value)
            case ast.AugAssign(op=op, value=value):
                self._operator("arithmetic", one.target, op, value, ARITHMETIC, after="=")
                self._add("statement", one, "pass")
                self._expression(value)
            case ast.Assign(value=value):
                self._expression(value)
            case ast.AnnAssign(value=value):
                if value is not None:
                    self._expression(value)
            case ast.If(test=test) | ast.While(test=test):
                self._add("condition", test, f"(not ({self._text(test)}))")
                self._expression(test)
            case ast.For(iter=given):
                self._expression(given)
            case ast.With(items=items):
                for item in items:
                    self._expression(item.context_expr)
            case ast.FunctionDef(args=args):
                for default in (*args.defaults, *args.kw_defaults):
                    if default is not None:
                        self._expression(default)
            case ast.Break():
                self._add("statement", one, "pass")
            case ast.Continue():
                self._add("statement", one, "pass")
            case _:
                pass
        for block in blocks:
            self._statements(block)

    def _expression(self, node: ast.expr) -> None:
        match node:
            case ast.Constant(value=bool() as value):
                self._add("constant", node, str(not value))
            case ast.Constant(value=int() as value):
                self._add("constant", node, str(value + 1))
            case ast.Constant(value=float() as value):
                self._add("constant", node, repr(value * 2 if value else 1.0))
            case ast.Constant(value=str()):
                self._add("constant", node, '"another"')
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                for op, before, after in zip(ops, [left, *comparators], comparators, strict=False):
                    between = (self._span(before)[1], self._span(after)[0])
                    gap = self.bytes[between[0] : between[1]].decode()
                    if gap.count("(") == gap.count(")") == 0:
                        self._add("comparison", node, f" {COMPARISONS[type(op)]} ", between)
            case ast.BinOp(left=left, op=op, right=right):
                self._operator("arithmetic", left, op, right, ARITHMETIC)
            case ast.BoolOp(op=op, values=values):
                word, other = ("and", "or") if isinstance(op, ast.And) else ("or", "and")
                for before, after in itertools.pairwise(values):
                    self._between("boolean", before, after, word, other)
            case ast.UnaryOp(operand=operand) if not isinstance(operand, ast.Constant):
                self._add("unary", node, self._text(operand))
            case ast.IfExp(test=test):
                self._add("condition", test, f"(not ({self._text(test)}))")
            case ast.Call(func=func, args=args):
                name = func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""
                if name in NAMES:
                    stop = self._span(func)[1]
                    self._add("name", node, NAMES[name], (stop - len(name), stop))
                plain = [one for one in args if not isinstance(one, ast.Starred)]
                some = len(plain) == len(args) >= 2 and name not in NO_ORDER
                if some and self._text(args[0]) != self._text(args[1]):
                    start, stop = self._span(args[0])[0], self._span(args[1])[1]
                    between = self.bytes[self._span(args[0])[1] : self._span(args[1])[0]].decode()
                    self._add("order", node, self._text(args[1]) + between + self._text(args[0]), (start, stop))
            case ast.JoinedStr() | ast.Lambda(body=ast.JoinedStr()):
                return  # words
            case _:
                pass
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self._expression(child)
            elif isinstance(child, ast.keyword):
                self._expression(child.value)
            elif isinstance(child, ast.comprehension):
                for part in (child.iter, *child.ifs):
                    self._expression(part)
                for test in child.ifs:
                    self._add("condition", test, f"(not ({self._text(test)}))")

    def _operator(
        self, kind: str, left: ast.expr, op: ast.operator, right: ast.expr, others: dict[type, str], after: str = ""
    ) -> None:
        if type(op) in others:
            self._between(kind, left, right, SYMBOLS[type(op)] + after, others[type(op)] + after)

    def _between(self, kind: str, left: ast.expr, right: ast.expr, word: str, other: str) -> None:
        """Replaces `word` between two expressions, beside which there may be brackets and line ends."""
        start, stop = self._span(left)[1], self._span(right)[0]
        gap = self.bytes[start:stop].decode()
        if gap.count(word) == 1:
            at = start + len(gap[: gap.index(word)].encode())
            self._add(kind, left, other, (at, at + len(word)))


def places(source: str) -> Iterator[str]:
    """Every mutant in words, to be looked at."""
    for one in mutants(source):
        yield f"{one.line}: {one.kind}: {source.splitlines()[one.line - 1].strip()} -> {one.text}"
