"""Which values columns are given."""

from cdc_counter.soak.schema import Check, Column, Part, Table
from cdc_counter.soak.values import values_of


def column(name: str, element: str, base: str = "", **facts: object) -> Column:
    given: dict[str, object] = {
        "is_array": False,
        "not_null": True,
        "has_default": False,
        "identity": "",
        "generated": False,
        **facts,
    }
    return Column(name, base or element, base or element, element, **given)  # type: ignore[arg-type]


def table(*columns: Column, checks: tuple[Check, ...] = (), parts: tuple[Part, ...] = ()) -> Table:
    return Table("public.t", bool(parts), columns, checks=checks, parts=parts)


def test_check_limits_texts_to_its_literals() -> None:
    status = column("status", "text")
    check = Check("CHECK ((status = ANY (ARRAY['open'::text, 'it''s'::text])))", ("status",))
    assert values_of(status, table(status, checks=(check,)), ()) == ("open", "it's")


def test_counters_literals_are_among_the_texts() -> None:
    status = column("status", "text")
    assert "waiting" in values_of(status, table(status), ["status = 'waiting'"])
    assert "waiting" not in values_of(status, table(status), ["other_status = 'waiting'"])


def test_numbers_on_both_sides_of_a_limit_are_written() -> None:
    size = column("size", "int4")
    assert {"99", "100", "101"} <= set(values_of(size, table(size), ["size > 100"]))


def test_numeric_values_fit_its_digits() -> None:
    price = column("price", "numeric", "numeric(3,2)")
    assert all(abs(float(value or 0)) < 10 for value in values_of(price, table(price), ["price > 900"]))


def test_texts_fit_their_length() -> None:
    code = column("code", "varchar", "character varying(3)")
    assert all(len(value or "") <= 3 for value in values_of(code, table(code), ["code = 'too long'"]))


def test_null_is_written_where_it_is_allowed() -> None:
    size = column("size", "int4", not_null=False)
    assert None in values_of(size, table(size), ())


def test_enumerated_type_gives_its_labels() -> None:
    urgency = column("urgency", "urgency", labels=("low", "high"))
    assert values_of(urgency, table(urgency), ()) == ("low", "high")


def test_arrays_are_empty_single_repeated_and_with_null() -> None:
    tags = column("tags", "text", "text[]", is_array=True)
    values = values_of(tags, table(tags), ["'t' = ANY (tags)"])
    assert "{}" in values
    assert any("NULL" in (value or "") for value in values)


def test_partition_bounds_limit_values() -> None:
    region, day = column("region", "text"), column("day", "int4")
    parts = (
        Part("public.eu", False, "FOR VALUES IN ('eu', NULL)", ("region",)),
        Part("public.eu_early", True, "FOR VALUES FROM (0) TO (50)", ("day",)),
        Part("public.eu_late", True, "FOR VALUES FROM (50) TO (MAXVALUE)", ("day",)),
    )
    whole = table(region, day, parts=parts)
    assert values_of(region, whole, ()) == ("eu",)
    assert values_of(day, whole, ()) == ("0", "25", "49", "50", "100", "149")


def test_unknown_type_that_must_have_a_value_has_none() -> None:
    shape = column("shape", "polygon")
    assert values_of(shape, table(shape), ()) == ()
