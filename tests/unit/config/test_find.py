from pathlib import Path

import pytest

from cdc_counter.config import find_config
from cdc_counter.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("option.toml", "variable.toml", "cdc-counter.toml"):
        (tmp_path / name).touch()
    return tmp_path


def test_option_wins_over_environment_and_working_directory(folder: Path) -> None:
    assert find_config(Path("option.toml"), {"CDC_COUNTER_CONFIG": "variable.toml"}).name == "option.toml"


def test_environment_wins_over_working_directory(folder: Path) -> None:
    assert find_config(None, {"CDC_COUNTER_CONFIG": "variable.toml"}).name == "variable.toml"


def test_working_directory_is_the_last_resort(folder: Path) -> None:
    assert find_config(None, {"CDC_COUNTER_CONFIG": ""}).name == "cdc-counter.toml"


def test_missing_file_is_not_replaced_by_a_lesser_choice(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"'gone.toml', named by \$CDC_COUNTER_CONFIG, does not exist"):
        find_config(None, {"CDC_COUNTER_CONFIG": "gone.toml"})
    with pytest.raises(ConfigError, match=r"'gone.toml', named by --config, does not exist"):
        find_config(Path("gone.toml"), {})


def test_missing_default_says_which_file_to_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"'cdc-counter.toml' in the working directory does not exist") as caught:
        find_config(None, {})
    source = caught.value.hint.split("cp ")[1].split(" ")[0]
    assert Path(source).is_file()


def test_folder_is_not_taken_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a file"):
        find_config(tmp_path, {})
