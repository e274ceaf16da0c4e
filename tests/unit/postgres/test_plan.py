"""From declared and installed to steps, without a database."""

from dataclasses import replace

import pytest

from cdc_counter.core.definition import CounterDefinition
from cdc_counter.errors import RefusedError
from cdc_counter.postgres.capture import (
    Event,
    NumberedCounter,
    capture_functions,
    function_name,
    trigger_name,
    trigger_statements,
)
from cdc_counter.postgres.installed import Installed, InstalledCounter, InstalledFunction, InstalledTrigger
from cdc_counter.postgres.key_types import ColumnType, KeyColumn, KeyKind, canonical_key, key_refusal
from cdc_counter.postgres.own_objects import schema_hash
from cdc_counter.postgres.plan import make_plan, removal_plan
from cdc_counter.postgres.probe import ROWS, ProbedCounter
from cdc_counter.postgres.relations import Member, Relation
from cdc_counter.postgres.rendering import dollar_quoted
from cdc_counter.postgres.settings import function_settings, pinned_settings

TABLE = Relation(100, "public", "t", (Member(100, "public", "t", False),))
NOTHING = Installed(False, False, None, False, False, {}, {}, (), (), (), 1)


def probed(name: str = "c", relation: Relation = TABLE) -> ProbedCounter:
    return ProbedCounter(
        definition=CounterDefinition(name, relation.name, by=("k",)),
        relation=relation,
        rows_query=f"SELECT k AS b1 FROM {ROWS} t",
        scope=(),
        by=(KeyColumn("b1", KeyKind.TEXT),),
        sum_type=None,
        scale=0,
    )


def installed_with(*counters: ProbedCounter) -> Installed:
    """Make up a database in which these counters of one table are installed, with ids from 1."""
    relation = counters[0].relation
    numbered = [NumberedCounter(i, counter) for i, counter in enumerate(counters, 1)]
    plan = make_plan("s", "p", counters, replace(NOTHING, next_id=1))
    views = {}
    for counter in counters:
        comment = f'COMMENT ON VIEW "s"."{counter.definition.name}" IS '
        text = next(line for step in plan.steps for line in step.statements if line.startswith(comment))
        views[counter.definition.name] = text.removeprefix(comment).strip("'").removeprefix("cdc-counter ")
    return Installed(
        schema_exists=True,
        schema_is_foreign=False,
        schema_hash=schema_hash("s"),
        publication_exists=True,
        publication_is_ours=True,
        functions={f.name: InstalledFunction(f.hash) for f in capture_functions(relation, numbered, "s")},
        views=views,
        guards=(),
        triggers=tuple(
            InstalledTrigger(m.oid, m.schema, m.name, trigger_name("s", event), "A", function_name(relation, event))
            for m in relation.members
            for event in Event
        ),
        counters=tuple(
            InstalledCounter(
                id=n.id,
                name=n.probed.definition.name,
                relation=relation.oid,
                scale=0,
                scoped=False,
                fingerprint=n.probed.definition.fingerprint,
                meaning=n.probed.meaning,
                definition=n.probed.definition,
                members={member.oid: member.quoted for member in relation.members},
            )
            for n in numbered
        ),
        next_id=len(counters) + 1,
    )


def titles(counters: list[ProbedCounter], installed: Installed) -> list[str]:
    return [step.title for step in make_plan("s", "p", counters, installed).steps]


def test_first_plan_makes_own_objects_before_any_table() -> None:
    assert titles([probed()], NOTHING) == [
        "create schema s with the outbox",
        "create publication p",
        "capture public.t for c",
    ]


def test_plan_is_empty_when_everything_is_in_place() -> None:
    assert make_plan("s", "p", [probed("a"), probed("b")], installed_with(probed("a"), probed("b"))).is_empty


@pytest.mark.parametrize("enabled", ["O", "D", "R"])
def test_trigger_that_is_not_enabled_always_starts_its_counters_anew(enabled: str) -> None:
    installed = installed_with(probed())
    first = replace(installed.triggers[0], enabled=enabled)
    plan = make_plan("s", "p", [probed()], replace(installed, triggers=(first, *installed.triggers[1:])))
    assert any("retired_at" in statement and "id = 1" in statement for statement in plan.steps[0].statements)
    assert any(statement.startswith("INSERT") and "VALUES (2," in statement for statement in plan.steps[0].statements)


def test_function_of_an_older_version_is_replaced_without_a_new_start() -> None:
    installed = installed_with(probed())
    old = dict.fromkeys(installed.functions, InstalledFunction("0" * 16))
    plan = make_plan("s", "p", [probed()], replace(installed, functions=old))
    assert len(plan.steps) == 1
    assert not any("retired_at" in s or s.startswith("INSERT") for s in plan.steps[0].statements)


def test_meaning_that_changed_under_the_same_words_starts_anew() -> None:
    other = replace(probed(), rows_query=f"SELECT k::text AS b1 FROM {ROWS} t")
    plan = make_plan("s", "p", [other], installed_with(probed()))
    assert any(statement.startswith("INSERT") for statement in plan.steps[0].statements)


def test_transaction_that_takes_an_id_away_says_so_in_the_stream() -> None:
    other = replace(probed(), rows_query=f"SELECT k::text AS b1 FROM {ROWS} t")
    for counters in ([other], []):
        plan = make_plan("s", "p", counters, installed_with(probed()))
        (step,) = [step for step in plan.steps if any("retired_at" in s for s in step.statements)]
        (said,) = [s for s in step.statements if "CDC01" in s]
        assert 'INSERT INTO "s"."outbox"' in said
        assert '[[1,"CDC01","' in said


def test_counter_that_is_no_longer_declared_is_retired_before_its_triggers_go() -> None:
    assert titles([], installed_with(probed())) == [
        "retire counters that are no longer declared",
        'stop capturing "public"."t"',
        "drop capture functions that nothing uses",
    ]


def test_every_step_touches_at_most_one_table() -> None:
    tables = [Relation(oid, "public", f"t{oid}", (Member(oid, "public", f"t{oid}", False),)) for oid in range(5)]
    plan = make_plan("s", "p", [probed(f"c{table.oid}", table) for table in tables], NOTHING)
    for step in plan.steps:
        locks = [statement for statement in step.statements if "\nLOCK TABLE" in statement and '"s".' not in statement]
        assert len(locks) == (1 if step.relation else 0)
        assert step.sql(250)[1] == "SET LOCAL lock_timeout = '250ms';"


def test_objects_of_somebody_else_are_refused() -> None:
    with pytest.raises(RefusedError, match="schema"):
        make_plan("s", "p", [], replace(NOTHING, schema_exists=True, schema_is_foreign=True))
    with pytest.raises(RefusedError, match="schema"):
        removal_plan("s", "p", replace(NOTHING, schema_exists=True, schema_is_foreign=True))
    with pytest.raises(RefusedError, match="publication"):
        make_plan("s", "p", [], replace(NOTHING, publication_exists=True))


@pytest.mark.parametrize(
    ("schema", "publication", "titles"),
    [
        (False, False, []),
        (True, False, ["drop schema s"]),
        (False, True, ["drop publication p"]),
        (True, True, ["drop publication p", "drop schema s"]),
    ],
)
def test_what_is_gone_is_not_removed_again(schema: bool, publication: bool, titles: list[str]) -> None:
    """So that a removal which is killed after each of its steps comes to an end."""
    installed = replace(NOTHING, schema_exists=schema, publication_exists=publication, publication_is_ours=True)
    assert [step.title for step in removal_plan("s", "p", installed).steps] == titles


def test_function_names_fit_and_differ_for_tables_that_look_alike() -> None:
    names = set()
    for table in ("a" * 63, "a" * 62 + "b", "ä" * 31, "A B", "a_b"):
        relation = Relation(1, "public", table, ())
        name = function_name(relation, Event.TRUNCATE)
        assert len(name.encode()) <= 63
        names.add(name)
    assert len(names) == 5


def test_no_install_statement_takes_an_access_exclusive_lock_on_a_table() -> None:
    """DROP TRIGGER would: it locks readers out."""
    statements = trigger_statements(TABLE.members[0], TABLE, "s")
    assert not any("DROP" in statement for statement in statements)
    assert len(statements) == 8


def test_capture_function_pins_every_setting() -> None:
    numbered = [NumberedCounter(1, probed())]
    for function in capture_functions(TABLE, numbered, "s"):
        assert "SECURITY DEFINER" in function.statements[0]
        assert all(f"SET {name} = " in function.statements[0] for name in pinned_settings())
        assert function.statements[1].startswith("REVOKE ALL")
    assert function_settings().count("SET ") == len(pinned_settings()) + 2


def test_dollar_quote_does_not_end_inside_its_text() -> None:
    assert dollar_quoted("a $x$ b", "x") == "$x1$\na $x$ b\n$x1$"


def test_no_key_is_the_constant_dash() -> None:
    assert canonical_key(()) == "'-'::text"


@pytest.mark.parametrize(
    ("column", "why"),
    [
        (ColumnType("float8", True, False, True, None), "-0 and 0"),
        (ColumnType("json", True, False, True, None), "not known to be its equality"),
        (ColumnType("int4", False, False, True, None), "not known to be its equality"),
        (ColumnType("text", True, False, False, None), "different texts equal"),
    ],
)
def test_type_whose_text_is_not_its_equality_is_refused_as_a_key(column: ColumnType, why: str) -> None:
    refusal = key_refusal(column)
    assert refusal is not None
    assert why in refusal[0]
