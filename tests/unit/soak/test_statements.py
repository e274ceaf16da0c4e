"""What writers do, chosen for tables never seen before."""

from random import Random

from cdc_counter.core.definition import CounterDefinition
from cdc_counter.soak.rows import Rows, literal
from cdc_counter.soak.run import writable
from cdc_counter.soak.schema import Column, ForeignKey, Part, Table, parents_first
from cdc_counter.soak.statements import RARE, WEIGHTS, choose, partition
from cdc_counter.soak.transactions import Ending, choose_long, choose_transaction


def column(name: str, element: str = "int4", *, not_null: bool = False, identity: str = "", **facts: bool) -> Column:
    return Column(name, element, element, element, False, not_null, facts.get("default", False), identity, False)


PARENT = Table('"public"."parents"', False, (column("id", not_null=True), column("name", "text")), (("id",),))
CHILD = Table(
    '"public"."children"',
    True,
    (column("id", "int8", identity="a"), column("number", not_null=True), column("parent_id"), column("kind", "text")),
    (("number",),),
    (ForeignKey(("parent_id",), '"public"."parents"', ("id",)),),
    parts=(Part('"public"."children_a"', True, "FOR VALUES IN ('a')", ("kind",)),),
)
COUNTER = CounterDefinition(name="by_kind", table="children", where=None, scope=(), by=("kind",), sum_of=None)


def chosen(seed: int, count: int = 400) -> list[str]:
    tables, _ = writable((PARENT, CHILD), [COUNTER])
    random = Random(seed)
    return [
        statement.sql
        for _ in range(count)
        for statement in choose_transaction(tables, random, rare=0.1, prepared=True).statements
    ]


def test_same_seed_makes_the_same_statements() -> None:
    assert chosen(7) == chosen(7)
    assert chosen(7) != chosen(8)


def test_every_kind_of_statement_comes() -> None:
    tables, _ = writable((PARENT, CHILD), [COUNTER])
    random = Random(1)
    kinds = {choose(tables, random).kind for _ in range(2000)}
    assert kinds == {choice.__name__ for choice in WEIGHTS} | {"copy"}


def test_every_ending_and_isolation_level_comes() -> None:
    tables, _ = writable((PARENT, CHILD), [COUNTER])
    random = Random(2)
    made = [choose_transaction(tables, random, rare=0.05, prepared=True) for _ in range(2000)]
    assert {transaction.ending for transaction in made} == set(Ending)
    assert {t.isolation for t in made} == {"READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"}
    assert {choice.__name__ for choice in RARE} <= {transaction.kind for transaction in made}
    assert any("savepoint" in transaction.kind for transaction in made)


def test_nothing_is_prepared_where_the_server_does_not_allow_it() -> None:
    tables, _ = writable((PARENT, CHILD), [COUNTER])
    random = Random(3)
    made = [choose_transaction(tables, random, rare=0.0, prepared=False) for _ in range(500)]
    assert not any(transaction.ending.prepared for transaction in made)


def test_long_transaction_writes_and_stays_open() -> None:
    tables, _ = writable((PARENT, CHILD), [COUNTER])
    random = Random(4)
    for _ in range(100):
        transaction = choose_long(tables, random)
        assert transaction.statements
        assert 5 <= transaction.pause <= 60


def test_foreign_key_is_taken_from_the_parent() -> None:
    assert any('FROM "public"."parents" AS p' in sql for sql in chosen(1) if sql.startswith("INSERT"))


def test_generated_identity_is_never_given() -> None:
    assert not any('"children" ("id"' in sql for sql in chosen(1) if "INTO" in sql)


def test_partition_is_written_by_its_own_name() -> None:
    assert any('"children_a"' in sql for sql in chosen(1))


def test_table_with_a_column_that_nothing_fits_is_left_out_and_named() -> None:
    strange = Table('"public"."strange"', False, (column("shape", "polygon", not_null=True),))
    tables, left_out = writable((PARENT, strange), [])
    assert [rows.table for rows in tables] == [PARENT]
    assert left_out == ['"public"."strange"']


def test_counted_table_is_chosen_more_often() -> None:
    tables, _ = writable((PARENT, CHILD), [COUNTER])
    assert [rows.table.name for rows in tables].count(CHILD.name) == 2


def test_counted_columns_are_told_from_others() -> None:
    rows = Rows.of(CHILD, ["kind"])
    assert rows is not None
    assert rows.counted == {"kind"}
    assert '"kind"' in rows.changes(Random(1), counted=True)


def test_parents_come_before_children() -> None:
    assert parents_first([CHILD, PARENT]) == (PARENT, CHILD)


def test_tables_that_refer_to_each_other_are_all_kept() -> None:
    one = Table("one", False, (), foreign_keys=(ForeignKey(("a",), "two", ("b",)),))
    two = Table("two", False, (), foreign_keys=(ForeignKey(("b",), "one", ("a",)),))
    assert set(parents_first([one, two])) == {one, two}


def test_literal_means_the_same_whatever_the_session_says() -> None:
    assert literal("it's", "text") == "'it''s'::text"
    assert literal("a\\b", "text").strip() == "E'a\\\\b'::text"
    assert literal(None, "int4") == "NULL::int4"


def test_partition_of_its_own_comes_and_goes_with_its_rows_counted() -> None:
    tables, _ = writable((CHILD,), [COUNTER])
    made = {partition(tables[0], Random(seed)) or "" for seed in range(40)}
    assert any("PARTITION OF" in sql for sql in made)
    assert any("ATTACH PARTITION" in sql for sql in made)
    for sql in made:
        if "DROP TABLE" in sql:
            assert sql.index("DELETE FROM") < sql.index("DROP TABLE")


def test_table_without_a_list_of_texts_gets_no_partition() -> None:
    tables, _ = writable((PARENT,), [])
    assert partition(tables[0], Random(1)) is None
