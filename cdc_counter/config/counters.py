"""Reads `[[counter]]` into counter definitions: one expression or a list, and a measure in words.

Whether the expressions fit the table is not known here.
"""

import re
from collections.abc import Iterable
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator

from cdc_counter.config.settings import Section
from cdc_counter.core.definition import CounterDefinition, check_name, parse_measure
from cdc_counter.errors import DefinitionError

_IDENTIFIER: Final = r'(?:[^\W\d][\w$]*|"(?:[^"\x00]|"")+")'
_TABLE: Final = re.compile(rf"{_IDENTIFIER}(?:\.{_IDENTIFIER})?\Z")


def _name(value: str) -> str:
    try:
        return check_name(value)
    except DefinitionError as error:
        raise ValueError(str(error)) from error


def _table(value: str) -> str:
    if _TABLE.match(value) is None:
        raise ValueError('must be a table\'s name, such as orders, shop.orders or shop."Order"')
    return value


def _expression(value: str) -> str:
    if not value.strip() or "\x00" in value:
        raise ValueError("must be an SQL expression over the table's columns")
    return value.strip()


def _expressions(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise ValueError("must be one SQL expression or a list of them")


def _measure(value: str) -> str:
    try:
        parse_measure(value)
    except DefinitionError as error:
        raise ValueError(str(error)) from error
    return value


Expression = Annotated[str, AfterValidator(_expression)]
Expressions = Annotated[tuple[Expression, ...], BeforeValidator(_expressions)]


class CounterEntry(Section):
    """One `[[counter]]` as written."""

    name: Annotated[str, AfterValidator(_name)]
    table: Annotated[str, AfterValidator(_table)]
    where: Expression | None = None
    scope: Expressions = ()
    by: Expressions = ()
    measure: Annotated[str, AfterValidator(_measure)] = "count"

    @property
    def definition(self) -> CounterDefinition:
        """The same as the value that everything else works with."""
        return CounterDefinition(
            name=self.name,
            table=self.table,
            where=self.where,
            scope=self.scope,
            by=self.by,
            sum_of=parse_measure(self.measure),
        )


def repeated(names: Iterable[object]) -> list[int]:
    """Return the indexes, from 0, of names that stood before; anything that is not text is left alone."""
    seen: set[str] = set()
    indexes = []
    for index, name in enumerate(names):
        if isinstance(name, str):
            if name in seen:
                indexes.append(index)
            seen.add(name)
    return indexes
