from pathlib import Path

import pytest

from twinforce_service.flags import parse_settings, settings_schema, settings_table
from twinforce_service.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in Settings.model_fields:
        monkeypatch.delenv(f"{ENV_PREFIX}{name.upper()}", raising=False)


def test_the_table_in_the_documentation_is_current():
    documented = (ROOT / "docs" / "settings.md").read_text()
    assert settings_table() in documented, "run python -m twinforce_service.flags"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_described(name, capsys):
    description = Settings.model_fields[name].description
    assert description.endswith(".")
    with pytest.raises(SystemExit, match="0"):
        parse_settings(["--help"])
    text = capsys.readouterr().out
    assert f"--{name.replace('_', '-')}" in text
    assert description.split()[0] in text


def test_the_help_groups_the_flags_and_its_example_parses(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse_settings(["--help"])
    text = capsys.readouterr().out
    headings = [line for line in text.splitlines() if line.endswith(":") and line[0] != " "]
    assert headings == [
        "options:",
        "settings:",
        "addresses:",
        "access:",
        "models:",
        "devices:",
        "compilation:",
        "limits:",
        "connections:",
        "traces:",
        "logs:",
        "example:",
    ]
    command, *arguments = text.partition("example:\n")[2].split()
    assert command == "twinforce-server"
    assert parse_settings(arguments).specs()["my-model"] == "path/to/model"


def test_without_arguments_the_bundled_model_is_served_to_this_machine():
    settings = parse_settings([])
    assert (settings.host, settings.rest_port, settings.grpc_port) == ("127.0.0.1", 8000, 8001)
    assert settings.specs() == {"water": "water"}


def test_models_are_added_by_name():
    settings = parse_settings(["--model", "a=toy:harmonic", "--model", "b=/models/b=1"])
    assert settings.specs() == {"water": "water", "a": "toy:harmonic", "b": "/models/b=1"}
    assert parse_settings(["--no-water", "--model", "a=x"]).specs() == {"a": "x"}
    assert parse_settings(["--model", "water=/my/water"]).specs() == {"water": "/my/water"}


def test_models_are_added_by_environment(monkeypatch):
    monkeypatch.setenv("TWINFORCE_MODEL", "a=toy:harmonic, b=/models/b")
    monkeypatch.setenv("TWINFORCE_WATER", "false")
    assert parse_settings([]).specs() == {"a": "toy:harmonic", "b": "/models/b"}


def test_a_flag_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("TWINFORCE_REST_PORT", "1234")
    monkeypatch.setenv("TWINFORCE_LOG_FORMAT", "json")
    settings = parse_settings(["--rest-port", "4321"])
    assert (settings.rest_port, settings.log_format) == (4321, "json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rest-port", "many"], "rest-port: "),
        (["--grpc-port", "70000"], "grpc-port: "),
        (["--model", "spec"], "model: expected NAME=SPEC, got 'spec'"),
        (["--model", "a/b=spec"], "model: expected NAME=SPEC, got 'a/b=spec'"),
        (["--model", "a="], "model: expected NAME=SPEC, got 'a='"),
        (["--model", "a=x", "--model", "a=y"], "model: the name 'a' is given twice"),
        (["--device", "gpu"], "device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
        (["--dtype", "float16"], "dtype: "),
        (["--no-water"], "nothing to serve"),
        (["--max-waiting", "0"], "max-waiting: "),
        (
            ["--drain-timeout", "nan"],
            "drain-timeout: Input should be greater than or equal to 0, got 'nan'",
        ),
        (["--keep-alive", "-1"], "keep-alive: Input should be greater than 0, got '-1'"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    ],
)
def test_an_invalid_flag_is_reported_on_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_settings(arguments)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("twinforce-server: error: ")
    assert message in last


@pytest.mark.parametrize(
    "name",
    [
        "drain_timeout",
        "grpc_idle_timeout",
        "grpc_keep_alive",
        "header_timeout",
        "keep_alive",
        "max_hold",
    ],
)
def test_an_infinite_time_is_the_longest_that_timers_take(name):
    longest = getattr(Settings(**{name: float("inf")}), name)
    assert 20 * 86400 < longest < 2**31 / 1000
    assert getattr(Settings(**{name: "1e300"}), name) == longest


def test_an_invalid_environment_variable_is_reported_on_one_line(monkeypatch, capsys):
    monkeypatch.setenv("TWINFORCE_DRAIN_TIMEOUT", "soon")
    with pytest.raises(SystemExit, match="2"):
        parse_settings([])
    assert "drain-timeout: " in capsys.readouterr().err


@pytest.fixture
def config(tmp_path):
    def write(text):
        path = tmp_path / "settings.toml"
        path.write_text(text)
        return path

    return write


def test_settings_come_from_a_file(config):
    path = config(
        """
        rest_port = 9000
        water = false
        drain_timeout = 5
        host = "127.0.0.2"  # a comment

        [model]
        lj = "toy:lennard-jones"
        "with-hyphen" = "toy:harmonic"
        """
    )
    settings = parse_settings(["--config", str(path)])
    assert (settings.rest_port, settings.host, settings.drain_timeout) == (9000, "127.0.0.2", 5.0)
    assert settings.specs() == {"lj": "toy:lennard-jones", "with-hyphen": "toy:harmonic"}


def test_flags_and_variables_take_precedence_over_the_file(config, monkeypatch):
    path = config('rest_port = 9000\ngrpc_port = 9001\nlog_level = "debug"\n')
    monkeypatch.setenv("TWINFORCE_CONFIG", str(path))
    monkeypatch.setenv("TWINFORCE_GRPC_PORT", "9101")
    settings = parse_settings(["--rest-port", "9200"])
    assert (settings.rest_port, settings.grpc_port, settings.log_level) == (9200, 9101, "debug")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rest_ports = 1", "settings.toml, such as 'rest_port', got 'rest_ports'"),
        ("config = 'other.toml'", "settings: expected names of settings in "),
        ("rest_port = ", "settings: expected a file in TOML, got "),
        ("rest_port = 'many'", "rest-port: "),
        ("model = ['spec']", "model: expected NAME=SPEC, got 'spec'"),
        ("[model]\nlj = 3", "model: "),
        ("[model]\n'a/b' = 'toy:harmonic'", "model: expected a name of letters"),
    ],
)
def test_an_invalid_file_of_settings_is_reported_on_one_line(text, message, config, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_settings(["--config", str(config(text))])
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("twinforce-server: error: ")
    assert message in last


def test_a_missing_file_of_settings_is_reported(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_settings(["--config", str(tmp_path / "none.toml")])
    assert "none.toml: No such file or directory" in capsys.readouterr().err


def test_the_schema_of_the_file_has_all_settings_but_its_own_name():
    schema = settings_schema()
    assert schema["properties"].keys() == Settings.model_fields.keys() - {"config"}
    assert schema["additionalProperties"] is False
    for name, each in schema["properties"].items():
        assert each["description"] == Settings.model_fields[name].description
        assert each["default"] == Settings.model_fields[name].default


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--otlp-endpoint", "collector:4317"], "otlp-endpoint: expected a URL that begins with"),
        (["--otlp-endpoint", "http://"], "otlp-endpoint: expected a URL that begins with"),
        (["--otlp-protocol", "json"], "otlp-protocol: "),
        (["--trace-share", "1.5"], "trace-share: "),
        (["--trace-share", "nan"], "trace-share: "),
    ],
)
def test_wrong_settings_of_traces_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_settings(arguments)
    assert message in capsys.readouterr().err


def test_traces_need_their_packages(monkeypatch, capsys):
    monkeypatch.setattr("twinforce_service.settings.find_spec", lambda _: None)
    with pytest.raises(SystemExit, match="2"):
        parse_settings(["--otlp-endpoint", "http://collector:4317"])
    assert "expected the packages of twinforce[tracing]" in capsys.readouterr().err
