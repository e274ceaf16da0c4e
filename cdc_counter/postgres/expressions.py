"""What an expression of a declaration may be, judged on PostgreSQL's own parse of it.

Pure. An allow-list: an expression may use columns of its row, constants and immutable functions. Anything else, known
or from a future PostgreSQL, is refused.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cdc_counter.postgres.node_tree import NULL, Node

_ALLOWED: Final = frozenset(
    """
    VAR CONST FUNCEXPR NAMEDARGEXPR OPEXPR DISTINCTEXPR NULLIFEXPR SCALARARRAYOPEXPR BOOLEXPR FIELDSELECT RELABELTYPE
    COERCEVIAIO ARRAYCOERCEEXPR COLLATEEXPR COLLATE CASEEXPR CASE CASEWHEN WHEN CASETESTEXPR ARRAYEXPR ARRAY ROWEXPR ROW
    ROWCOMPAREEXPR ROWCOMPARE COALESCEEXPR COALESCE MINMAXEXPR MINMAX NULLTEST BOOLEANTEST COERCETODOMAIN
    COERCETODOMAINVALUE SUBSCRIPTINGREF STRING
    """.split()  # noqa: SIM905 - a list of quoted words would hide that two spellings are one construct
)
"""Node kinds; where two spellings stand together the shorter is that of PostgreSQL 15 and older."""

_REFUSED: Final = {
    "SUBLINK": "a subquery",
    "AGGREF": "an aggregate",
    "GROUPINGFUNC": "an aggregate",
    "WINDOWFUNC": "a window function",
    "SQLVALUEFUNCTION": "a value of the session or the clock, such as CURRENT_DATE or CURRENT_USER",
    "NEXTVALUEEXPR": "a sequence",
}

_RESULT_TYPE: Final = {
    "VAR": "vartype",
    "CONST": "consttype",
    "FUNCEXPR": "funcresulttype",
    "OPEXPR": "opresulttype",
    "NULLIFEXPR": "opresulttype",
    "RELABELTYPE": "resulttype",
    "COERCEVIAIO": "resulttype",
    "ARRAYCOERCEEXPR": "resulttype",
    "COERCETODOMAIN": "resulttype",
    "FIELDSELECT": "resulttype",
    "SUBSCRIPTINGREF": "refrestype",
    "CASEEXPR": "casetype",
    "CASE": "casetype",
    "COALESCEEXPR": "coalescetype",
    "COALESCE": "coalescetype",
    "MINMAXEXPR": "minmaxtype",
    "MINMAX": "minmaxtype",
    "ARRAYEXPR": "array_typeid",
    "ARRAY": "array_typeid",
    "CASETESTEXPR": "typeId",
    "COERCETODOMAINVALUE": "typeId",
}
_BOOLEAN_KINDS: Final = frozenset(
    ["BOOLEXPR", "NULLTEST", "BOOLEANTEST", "DISTINCTEXPR", "SCALARARRAYOPEXPR", "ROWCOMPAREEXPR", "ROWCOMPARE"]
)
_BOOLEAN_OID: Final = 16

_CLAUSES: Final = (
    "groupClause",
    "groupingSets",
    "havingQual",
    "windowClause",
    "distinctClause",
    "sortClause",
    "limitOffset",
    "limitCount",
    "setOperations",
    "cteList",
    "rowMarks",
)

_FIRST_OWN_OID: Final = 16_384
"""FirstNormalObjectId: what initdb made has a smaller one."""

_PLAIN_TYPES: Final = frozenset([16, 20, 21, 23, 25, 26, 1042, 1043, 1700, 2950])
"""bool, int8, int2, int4, text, oid, bpchar, varchar, numeric and uuid: written and read alike in every session."""

_STRUCTURED_TYPES: Final = frozenset([114, 3802, 1082, 1114, 1184])
"""json, jsonb, date, timestamp and timestamptz: as harmless where no conversion from or to text is asked for."""

_WITHOUT_VALUE: Final = frozenset(["CASEWHEN", "WHEN", "STRING", "ARRAYEXPR", "ARRAY"])

_CLOCK_WORD: Final = re.compile(r"\b(now|today|tomorrow|yesterday)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Uses:
    """What an expression is made of, as OIDs to look up and the numbers of the columns it reads."""

    functions: frozenset[int]
    operators: frozenset[int]
    written_types: frozenset[int]
    read_types: frozenset[int]
    columns: frozenset[int]


@dataclass(frozen=True, slots=True)
class FunctionFacts:
    """A function that an expression calls."""

    name: str
    is_immutable: bool
    returns_set: bool


def structure_refusal(query: Node, expected_columns: int) -> str | None:
    """Say how a probe's query is more than the one table and the expressions it was built from."""
    if any(not query.is_empty(clause) for clause in _CLAUSES):
        return "is more than an expression"
    nested = sum(1 for node in query.walk() if node.kind == "QUERY") > 1
    if nested and not _has(query, "SUBLINK"):
        return "is more than an expression"
    join_tree = query.child("jointree")
    tables = join_tree.children("fromlist") if join_tree else []
    if len(tables) != 1 or tables[0].kind != "RANGETBLREF" or len(query.children("targetList")) != expected_columns:
        return "is more than one expression"
    return None


def node_refusal(query: Node) -> str | None:
    """Say which construct of a query's expressions can't be counted with; None when all can."""
    for node in _expression_nodes(query):
        if node.kind in _REFUSED:
            return f"uses {_REFUSED[node.kind]}"
        if node.kind not in _ALLOWED:
            return f"uses a construct that is not supported ({node.kind.lower()})"
        if node.kind == "VAR" and int(node.text("varattno")) == 0:
            return "uses the whole row; name the columns"
        if node.kind == "VAR" and int(node.text("varattno")) < 0:
            return "uses a system column, which changes without a trigger"
    for node in _expression_nodes(query):
        if node.kind == "COERCEVIAIO" and _type_of(node.child("arg")) is None:
            return "converts through text something that is not supported; write the conversion as a function"
    return None


def uses(query: Node) -> Uses:
    """Return what the expressions of a query call and read."""
    functions: set[int] = set()
    operators: set[int] = set()
    written: set[int] = set()
    read: set[int] = set()
    columns: set[int] = set()
    for node in _expression_nodes(query):
        functions.update(_oids(node, "funcid"), _oids(node, "opfuncid"))
        operators.update(_oids(node, "opno"), _oids(node, "opnos"))
        if node.kind == "COERCEVIAIO":
            read.update(_oids(node, "resulttype"))
            argument = _type_of(node.child("arg"))
            written.update([] if argument is None else [argument])
        if node.kind == "VAR":
            columns.add(int(node.text("varattno")))
    return Uses(*map(frozenset, (functions, operators, written, read, columns)))


def heed_settings(query: Node) -> bool:
    """Say whether a session's settings could change what the expressions of a query mean.

    What is called immutable may still heed them: a function of the user's own, a conversion from or to text such as
    that of a float, also inside a function (`xpath`, `$.time_tz()` of a jsonpath), and the text of a constant such as
    that of an array with NULL. So every value has to be of a type that none of these is known for.
    """
    used = uses(query)
    if any(oid >= _FIRST_OWN_OID for oid in (*used.functions, *used.operators)):
        return True
    converted = {*used.read_types, *used.written_types}
    for node in _expression_nodes(query):
        if node.kind == "CONST":
            converted.add(int(node.text("consttype")))
        # The elements of an array are looked at one by one.
        if node.kind not in _WITHOUT_VALUE and _type_of(node) not in _PLAIN_TYPES | _STRUCTURED_TYPES:
            return True
    return not converted <= _PLAIN_TYPES


def set_returning_depths(query: Node, functions: dict[int, FunctionFacts]) -> Iterator[tuple[str, bool]]:
    """Yield each target that returns a set: its name, and whether the function stands alone at the top."""
    for target in query.children("targetList"):
        expression = target.child("expr")
        if expression is None:
            continue
        sets = [node for node in expression.walk() if _returns_set(node, functions)]
        if sets:
            yield target.text("resname"), len(sets) == 1 and sets[0] is expression


def clock_literal(source: str, deparsed: str) -> str | None:
    """Return a word such as 'today' that PostgreSQL has already turned into a constant, or None.

    Such a literal is read once, when the counter is installed; what the user meant by it would never change again.
    """
    for match in _CLOCK_WORD.finditer(source):
        word = match[1].lower()
        if _count(word, source) > _count(word, deparsed):
            return word
    return None


def _count(word: str, text: str) -> int:
    return sum(1 for match in _CLOCK_WORD.finditer(text) if match[1].lower() == word)


def _returns_set(node: Node, functions: dict[int, FunctionFacts]) -> bool:
    called = [*_oids(node, "funcid"), *_oids(node, "opfuncid")]
    return any(functions[oid].returns_set for oid in called if oid in functions)


def _has(query: Node, kind: str) -> bool:
    return any(node.kind == kind for node in query.walk())


def _expression_nodes(query: Node) -> Iterator[Node]:
    for target in query.children("targetList"):
        expression = target.child("expr")
        if expression is not None:
            yield from expression.walk()
    join_tree = query.child("jointree")
    condition = join_tree.child("quals") if join_tree else None
    if condition is not None:
        yield from condition.walk()


def _oids(node: Node, field: str) -> list[int]:
    values = node.fields.get(field, ())
    if values and isinstance(values[0], tuple):  # a list of OIDs: (o 96 97)
        tokens = [item for item in values[0] if isinstance(item, str)]
    else:
        tokens = [node.text(field)]
    return [int(text) for text in tokens if text.isdigit() and int(text) != 0]


def _type_of(node: Node | None) -> int | None:
    if node is None:
        return None
    if node.kind in _BOOLEAN_KINDS:
        return _BOOLEAN_OID
    if node.kind in {"COLLATEEXPR", "COLLATE", "NAMEDARGEXPR"}:
        return _type_of(node.child("arg"))
    field = _RESULT_TYPE.get(node.kind)
    text = NULL if field is None else node.text(field)
    return int(text) if text.isdigit() else None
