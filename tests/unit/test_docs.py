"""The documentation against the code: what exists is documented, what is shown works."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from cdc_counter.cli import main
from cdc_counter.config import AuthSettings, load_config
from cdc_counter.config.counters import CounterEntry
from cdc_counter.config.find import CONFIG_VARIABLE
from cdc_counter.config.load import OVERRIDES, ConfigFile
from cdc_counter.core.reading import CounterState
from cdc_counter.errors import ExitCode
from cdc_counter.metrics import Metrics

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
GUARANTEES = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def commands() -> Iterator[tuple[str, click.Parameter]]:
    for parameter in main.params:
        yield "cdc-counter", parameter
    for name, command in main.commands.items():
        for parameter in command.params:
            yield name, parameter


def config_keys() -> Iterator[str]:
    for section, field in ConfigFile.model_fields.items():
        model = CounterEntry if section == "counter" else field.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        for key, inner in model.model_fields.items():
            if key == "auth":
                yield from (f"gateway.auth.{name}" for name in AuthSettings.model_fields)
            else:
                yield f"{section}.{inner.alias or key}"


def metric_names() -> Iterator[str]:
    for family in Metrics().registry.collect():
        yield f"{family.name}_total" if family.type == "counter" else family.name


def rows(section: str) -> list[list[str]]:
    """Return the cells of the tables under a heading of docs/operations.md."""
    text = OPERATIONS.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    assert text, f"no section {section!r}"
    # A bar inside a cell is escaped.
    lines = [line.strip()[1:-1] for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines[2:]]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("command", main.commands)
def test_command_is_documented(command: str) -> None:
    assert any(f"`{command}" in row[0] for row in rows("Commands"))


@pytest.mark.parametrize(("command", "parameter"), list(commands()), ids=lambda value: getattr(value, "name", value))
def test_option_is_documented(command: str, parameter: click.Parameter) -> None:
    names = parameter.opts if isinstance(parameter, click.Option) else [parameter.make_metavar(click.Context(main))]
    text = OPERATIONS.partition("\n## Commands\n")[2].partition("\n## ")[0]
    assert any(re.search(rf"{re.escape(name)}(?![a-z-])", text) for name in names), (command, names)


def test_no_option_is_documented_that_does_not_exist() -> None:
    text = OPERATIONS.partition("\n## Commands\n")[2].partition("\n## ")[0]
    existing = {name for _, parameter in commands() for name in parameter.opts} | {"--help"}
    assert set(re.findall(r"--[a-z][a-z-]+", text)) <= existing


def test_config_keys_and_their_documentation_are_the_same() -> None:
    documented = [key for row in rows("Options") for key in re.findall(r"`([a-z_.]+)`", row[0])]
    assert sorted(documented) == sorted(config_keys())


def test_exit_codes_and_their_documentation_are_the_same() -> None:
    assert [int(row[0]) for row in rows("Exit codes")] == [*(code.value for code in ExitCode), 130]


def test_metrics_and_their_documentation_are_the_same() -> None:
    documented = [row[0].strip("`") for row in rows("Metrics")]
    assert documented == list(metric_names())


def test_metric_is_documented_with_its_type() -> None:
    types = {f"{f.name}_total" if f.type == "counter" else f.name: f.type for f in Metrics().registry.collect()}
    assert {row[0].strip("`"): row[1] for row in rows("Metrics")} == types


def test_environment_variables_and_their_documentation_are_the_same() -> None:
    documented = {row[0].strip("`"): row[1].strip("`") for row in rows("Environment")}
    expected = {variable: ".".join(place) for variable, place in OVERRIDES.items()}
    assert {name: key for name, key in documented.items() if name != CONFIG_VARIABLE} == expected
    assert CONFIG_VARIABLE in documented


@pytest.mark.parametrize("state", CounterState)
def test_state_is_in_the_glossary(state: CounterState) -> None:
    assert f"`{state}`" in (ROOT / "docs/glossary.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), flags=re.MULTILINE)
            anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_of_the_configuration_are_valid(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(page.read_text(encoding="utf-8"), "toml")):
        path = tmp_path / f"{number}.toml"
        path.write_text(block, encoding="utf-8")
        assert load_config(path, {}).counters


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_json_examples_are_json(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8"), "json"):
        json.loads(block)


def test_readme_has_guarantee_condition_and_first_command_on_its_first_screen() -> None:
    first_screen = README.splitlines()[:30]
    text = "\n".join(first_screen)
    for part in ("The guarantee", "condition", "make demo", "make test"):
        assert part in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_shown_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    shown = re.findall(r"(?:^    |`)cdc-counter ([a-z]+)([^`\n]*)", text, flags=re.MULTILINE)
    for name, rest in shown:
        assert name in main.commands, f"cdc-counter {name}"
        known = {option for parameter in main.commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z][a-z-]+", rest)) <= known, f"cdc-counter {name}{rest}"


def test_fault_table_names_tests_that_exist() -> None:
    table = GUARANTEES.partition("\n## Faults\n")[2].splitlines()
    rows = [line for line in table if line.startswith("|") and not line.startswith(("| what", "|--"))]
    assert rows
    for row in rows:
        named = re.findall(r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)", row.rsplit("|", 2)[1])
        assert named, f"no test named: {row}"
        for name, file in named:
            assert re.search(rf"def {name}\(", (ROOT / file).read_text(encoding="utf-8")), f"{file} has no {name}"
