"""PostgreSQL's text form of a stored query: read as its own reader does, never beyond its end."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_counter.errors import ProtocolError
from cdc_counter.postgres.expressions import Uses, node_refusal, structure_refusal, uses
from cdc_counter.postgres.node_tree import parse_node_tree

SAMPLE = (
    "({QUERY :commandType 1 :hasAggs false :utilityStmt <> :cteList <> :rtable ({RTE :alias "
    '{ALIAS :aliasname :odd\\ name :colnames <>} :eref {ALIAS :aliasname t :colnames ("id" "a\\(b\\}" "")} '
    ":relid 16384 :selectedCols (b 8)}) "
    ":jointree {FROMEXPR :fromlist ({RANGETBLREF :rtindex 1}) :quals {OPEXPR :opno 96 "
    ":opfuncid 65 :opresulttype 16 :args ({VAR :varno 1 :varattno 1 :vartype 23} "
    "{CONST :consttype 23 :constvalue 4 [ 1 0 0 0 0 0 0 0 ]})}} :targetList "
    "({TARGETENTRY :expr {COERCEVIAIO :arg {FUNCEXPR :funcid 870 :funcresulttype 25 :args ({VAR :varno 1 :varattno 3 "
    ":vartype 25})} :resulttype 1082} :resno 1 :resname b1}) :groupClause <> :sortClause <>})"
)


def test_sample_is_read_with_its_escapes_lists_and_datums() -> None:
    query = parse_node_tree(SAMPLE)
    assert query.kind == "QUERY"
    table = query.children("rtable")[0]
    alias = table.child("alias")
    assert alias is not None
    assert alias.text("aliasname") == ":odd\\ name"
    assert [node.kind for node in query.children("targetList")] == ["TARGETENTRY"]
    found = uses(query)
    assert found == Uses(*map(frozenset, ({870, 65}, {96}, {25}, {1082}, {1, 3})))
    assert node_refusal(query) is None
    assert structure_refusal(query, 1) is None
    assert structure_refusal(query, 2) == "is more than one expression"


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("{FUNCEXPR", "{AGGREF", "an aggregate"),
        ("{FUNCEXPR", "{SUBLINK", "a subquery"),
        ("{FUNCEXPR", "{NOVELTYEXPR", "not supported (noveltyexpr)"),
        (":varattno 3", ":varattno 0", "the whole row"),
        (":varattno 3", ":varattno -1", "a system column"),
        ("{FUNCEXPR", "{ROWEXPR", "converts through text"),
    ],
)
def test_construct_outside_the_allowed_ones_is_refused(before: str, after: str, reason: str) -> None:
    assert reason in (node_refusal(parse_node_tree(SAMPLE.replace(before, after))) or "nothing")


@pytest.mark.parametrize(
    "clause", ["groupClause", "sortClause", "cteList", "limitCount", "setOperations", "havingQual"]
)
def test_clause_that_no_expression_has_is_refused(clause: str) -> None:
    text = SAMPLE.replace("({QUERY ", f"({{QUERY :{clause} ({{NODE :a 1}}) ").replace(f":{clause} <>", "")
    assert structure_refusal(parse_node_tree(text), 1) == "is more than an expression"


def test_every_prefix_is_an_error() -> None:
    for end in range(len(SAMPLE)):
        with pytest.raises(ProtocolError):
            parse_node_tree(SAMPLE[:end])


@given(st.text(alphabet='(){}:<> \\"ab1', max_size=60))
def test_random_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ProtocolError):
        parse_node_tree(text)
