# SPDX-License-Identifier: Apache-2.0
"""Settings: defaults, the file over them, the environment over both; mistakes are told with their place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from klp import settings
from klp.errors import ExitCode, SettingsError
from klp.settings import Settings

Write = Callable[[str], Path]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write the user's file; nothing of the user who runs the tests is seen."""
    for name in [each for each in os.environ if each.startswith("KLP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def write(text: str) -> Path:
        file = tmp_path / "klp" / "config.toml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return file

    return write


def refusal() -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        settings.load()
    assert caught.value.exit_code is ExitCode.USAGE
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.usefixtures("config")
def test_defaults_without_a_file() -> None:
    assert settings.load() == Settings()
    assert settings.load().kernel == "6.12"
    assert settings.load().accelerator == "auto"
    assert not settings.load().mitigations


def test_every_setting_has_a_help_line() -> None:
    assert set(settings.HELP) == set(Settings.__struct_fields__)
    assert all(line and "\n" not in line for line in settings.HELP.values())
    assert settings.HELP["cpus"] == "virtual CPUs of a guest"


def test_the_file_is_over_the_defaults(config: Write) -> None:
    config('kernel = "6.1"\nmemory_mib = 2048\nmitigations = true\n')
    assert settings.load() == Settings(kernel="6.1", memory_mib=2048, mitigations=True)


def test_the_environment_is_over_the_file(config: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    config('kernel = "6.1"\ncpus = 3\n')
    monkeypatch.setenv("KLP_KERNEL", "7.2")
    monkeypatch.setenv("KLP_MEMORY_MIB", "512")
    monkeypatch.setenv("KLP_DEADLINE_S", "1.5")
    monkeypatch.setenv("KLP_MITIGATIONS", "true")
    assert settings.load() == Settings(
        kernel="7.2", cpus=3, memory_mib=512, deadline_s=1.5, mitigations=True
    )


def test_an_unknown_key_is_told_with_file_and_line(config: Write) -> None:
    file = config('# mine\nkernel = "6.1"\ncolour = "6.1"\n')
    assert refusal().message == f"{file}:3: unknown setting colour"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('cpus = "two"', "cpus: Expected `int`, got `str`"),
        ("cpus = 0", "cpus: Expected `int` >= 1"),
        ("memory_mib = 1", "memory_mib: Expected `int` >= 256"),
        ("deadline_s = 0", "deadline_s: Expected `float` > 0.0"),
        ("callback_limit_s = 0", "callback_limit_s: Expected `float` > 0.0"),
        ('accelerator = "fast"', "accelerator: Invalid enum value 'fast'"),
        ('mitigations = "no"', "mitigations: Expected `bool`, got `str`"),
        ("compare_alpha = 1.0", "compare_alpha: Expected `float` < 1.0"),
        ("compare_effect = -0.1", "compare_effect: Expected `float` >= 0.0"),
        ("compare_repetitions = 1", "compare_repetitions: Expected `int` >= 2"),
        ("compare_passes = 0", "compare_passes: Expected `int` >= 1"),
        ("compare_longer_ms = -1.0", "compare_longer_ms: Expected `float` >= 0.0"),
        ("compare_longer_by = 0.5", "compare_longer_by: Expected `float` >= 1.0"),
        (
            'compare_ignore = "a("',
            "compare_ignore: no regular expression: missing ), unterminated subpattern at position 1",
        ),
    ],
)
def test_a_bad_value_is_told_with_file_and_line(config: Write, line: str, says: str) -> None:
    file = config(f"\n{line}\n")
    assert refusal().message == f"{file}:2: {says}"


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("KLP_CPUS", "two", "Expected `int`, got `str`"),
        ("KLP_CPUS", "1000", "Expected `int` <= 64"),
        ("KLP_ACCELERATOR", "fast", "Invalid enum value 'fast'"),
        ("KLP_MITIGATIONS", "maybe", "Expected `bool`, got `str`"),
        ("KLP_COMPARE_ALPHA", "2", "Expected `float` < 1.0"),
        (
            "KLP_COMPARE_IGNORE",
            "*",
            "compare_ignore: no regular expression: nothing to repeat at position 0",
        ),
    ],
)
@pytest.mark.usefixtures("config")
def test_a_bad_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)
    error = refusal()
    assert error.message == f"{variable}={value}: {says}"
    assert error.hint == settings.HELP[variable.removeprefix("KLP_").lower()]


def test_klp_config_names_another_file(
    config: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config('kernel = "6.1"\n')
    other = tmp_path / "other.toml"
    other.write_text('kernel = "7.2"\n')
    monkeypatch.setenv("KLP_CONFIG", str(other))
    assert settings.load().kernel == "7.2"


@pytest.mark.usefixtures("config")
def test_klp_config_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "missing.toml"
    monkeypatch.setenv("KLP_CONFIG", str(missing))
    error = refusal()
    assert error.message == f"KLP_CONFIG={missing}: no such file"
    assert error.hint


@pytest.mark.usefixtures("config")
def test_an_empty_klp_config_is_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLP_CONFIG", "")
    assert settings.load() == Settings()


def test_a_misspelt_variable_is_an_unknown_setting(monkeypatch):
    monkeypatch.setenv("KLP_KERNL", "7.2")
    with pytest.raises(SettingsError, match="KLP_KERNL: unknown setting") as caught:
        settings.load()
    assert "KLP_KERNEL" in caught.value.hint
