"""Turns what validation found into lines to act on: where, which value, what it must be, the near miss.

Secrets are masked before anything is put together; nothing here decides what is valid.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cdc_counter.config.redaction import MASK, redacted

_SECRET_KEYS: Final = frozenset({"auth", "secret", "sentinel_password"})
_LONGEST_VALUE: Final = 120

# Pydantic's sentences are about Python; these are about the file. Others are shown as they are.
_CONSTRAINTS: Final[Mapping[str, str]] = {
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "dict_type": "must be a table of keys",
    "model_type": "must be a section of its own, such as [{key}]",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "missing": "is missing",
    "string_type": "must be text in quotes",
    "tuple_type": "must be a list",
    "value_error": "{error}",
}

_SHAPES: Final[Mapping[tuple[int | str, ...], str]] = {("counter",): "must be written [[counter]], in double brackets"}


def complaints(error: ValidationError, data: Mapping[str, Any], model: type[BaseModel]) -> list[str]:
    """Return one line per problem found in `data`, in the order of the file's sections."""
    return [_line(details, data, model) for details in error.errors(include_url=False)]


def shown_value(key: str, value: object) -> str:
    """Return `value` as it would be written in the file, without secrets and of bounded length."""
    if key in _SECRET_KEYS:
        return MASK
    text = redacted(value) if isinstance(value, str) else value
    shown = json.dumps(text, ensure_ascii=False, default=str)
    return shown if len(shown) <= _LONGEST_VALUE else f"{shown[:_LONGEST_VALUE]}..."


def place(location: Sequence[int | str], data: Mapping[str, Any]) -> str:
    """Return a location as people count: `stream.max_batch_keys`, `counter[2] 'open_by_tag': measure`."""
    text = ""
    for depth, step in enumerate(location):
        if isinstance(step, int):
            text += f"[{step + 1}]"
            if tuple(location[:depth]) == ("counter",):
                text += _counter_name(data, step)
        elif text.endswith(" "):
            text += step
        else:
            text += f".{step}" if text else step
    return text.removesuffix(": ")


def _counter_name(data: Mapping[str, Any], index: int) -> str:
    entry = data["counter"][index]
    name = entry.get("name") if isinstance(entry, dict) else None
    return f" {name!r}: " if isinstance(name, str) else ": "


def _line(details: ErrorDetails, data: Mapping[str, Any], model: type[BaseModel]) -> str:
    location = details["loc"]
    key = str(location[-1])
    where = place(location, data)
    match details["type"]:
        case "extra_forbidden":
            return _unknown(location, data, model)
        case "missing":
            return f"{where}: is missing"
        case kind:
            constraint = _SHAPES.get(location) or _CONSTRAINTS.get(kind)
            if constraint is None:
                sentence = details["msg"][:1].lower() + details["msg"][1:]
            else:
                limits = {name: _plain(limit) for name, limit in details.get("ctx", {}).items()}
                sentence = constraint.format(**{**limits, "key": key})
            if isinstance(details["input"], dict):  # a whole section, which may hold a secret
                return f"{where}: {sentence}"
            return f"{where} = {shown_value(key, details['input'])}: {sentence}"


def _plain(limit: object) -> object:
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _unknown(location: Sequence[int | str], data: Mapping[str, Any], model: type[BaseModel]) -> str:
    key = str(location[-1])
    known = _keys_at(location[:-1], model)
    value: Any = data
    for step in location:
        value = value[step]
    is_section = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value))
    what = f"unknown section [{key}]" if len(location) == 1 and is_section else f"unknown key {key!r}"
    where = f"{place(location[:-1], data)}: " if len(location) > 1 else ""
    near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.6)
    advice = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
    return f"{where}{what}; {advice}"


def _keys_at(location: Sequence[int | str], model: type[BaseModel]) -> list[str]:
    """Return the keys that may stand at `location`, walking the models the location leads through."""
    for step in location:
        if isinstance(step, str):
            model = _model_of(model, step) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_of(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    for name, field in model.model_fields.items():
        if key in {name, field.alias}:
            return _first_model(field.annotation)
    return None


def _first_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    arguments: tuple[Any, ...] = getattr(annotation, "__args__", ())
    return next((found for argument in arguments if (found := _first_model(argument))), None)
