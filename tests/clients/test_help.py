"""Tests that the help of the command line is complete and correct and fits 80 columns."""

import re
import shlex

import pytest

from twinforce.cli import build_parser, run

# Commands that ask a service, and all of them.
ASKING = ["status", "models", "predict", "relax", "md", "bench", "assess", "distill", "mcp"]
COMMANDS = [*ASKING, "server", "completion"]
GROUPS = {
    "status": ["output", "service"],
    "models": ["models", "output", "service"],
    "predict": ["system", "prediction", "output", "service"],
    "relax": ["system", "relaxation", "output", "service"],
    "bench": ["system", "measurement", "output", "service"],
    "md": ["system", "forces", "steps", "ensemble", "output", "service"],
    "assess": ["system", "scope", "conditions", "output", "service"],
    "distill": ["system", "teacher", "student", "sampling", "output", "service"],
    "mcp": ["limits of one call", "service"],
}
# Options that a command cannot do without.
REQUIRED = {"distill": {"--teacher": "mace:small", "--out": "folder"}}


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("TWINFORCE_URL", raising=False)


@pytest.fixture
def help_of(capsys):
    def render(*command):
        with pytest.raises(SystemExit) as ended:
            run([*command, "--help"])
        assert ended.value.code == 0
        return capsys.readouterr().out

    return render


def options_in(text):
    """Return the text of each option, by its long flag."""
    body = text.partition("example:")[0]
    entries = re.split(r"\n  (?=\S)", body)[1:]
    return {
        re.search(r"--[\w-]+", entry).group(): " ".join(entry.split("\n\n")[0].split())
        for entry in entries
        if entry.startswith("-")
    }


def example_in(text):
    lines = text.partition("example:\n")[2].partition("\n\n")[0].replace("\\\n", " ")
    program, *arguments = shlex.split(lines)
    assert program == "twinforce"
    return arguments


def test_every_command_is_listed_and_tested(help_of):
    listed = help_of().partition("commands:")[2].partition("example:")[0]
    assert re.findall(r"^    (\w+)(?:  |$)", listed, flags=re.MULTILINE) == COMMANDS


@pytest.mark.parametrize("command", [[], *([name] for name in ASKING)])
def test_the_help_fits_80_columns_and_ends_with_an_example_that_parses(help_of, command):
    text = help_of(*command)
    assert max(map(len, text.splitlines())) <= 80
    arguments = example_in(text)
    assert arguments[: len(command)] == command
    assert callable(build_parser().parse_args(arguments).command)


@pytest.mark.parametrize("command", ASKING)
def test_options_are_grouped(help_of, command):
    titles = re.findall(r"^(\w[\w ]*):$", help_of(command), flags=re.MULTILINE)
    assert titles == ["options", *GROUPS[command], "example"]


@pytest.mark.parametrize("command", ASKING)
def test_every_option_has_help_and_gives_its_default_once(help_of, command):
    text = help_of(command)
    options = options_in(text)
    required = REQUIRED.get(command, {})
    given = [word for option in required.items() for word in option]
    parsed = vars(build_parser().parse_args([*example_in(text)[:2], *given]))
    assert {"--url", "--timeout"} <= options.keys()
    for flag, entry in options.items():
        assert len(entry.split()) > 3, entry
        assert entry.count("(default") <= 1, entry
        assert "None" not in entry, entry
        assert "False" not in entry, entry
        value = parsed.get(flag.removeprefix("--").replace("-", "_"))
        if value not in (None, False, "") and flag not in ("--index", *required):
            assert "(default: " in entry, entry


def test_the_address_of_the_service_is_explained(help_of, monkeypatch):
    expected = (
        "--url URL address of the service, grpc:// or http:// "
        "(default: grpc://127.0.0.1:8001, or TWINFORCE_URL)"
    )
    assert options_in(help_of("models"))["--url"] == expected
    monkeypatch.setenv("TWINFORCE_URL", "http://host:8000")
    assert options_in(help_of("models"))["--url"] == expected
    assert build_parser().parse_args(["models"]).url == "http://host:8000"
