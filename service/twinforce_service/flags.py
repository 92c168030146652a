"""The flags of the service: their help, how they become settings, and the table in the docs."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from twinforce_service.settings import ENV_PREFIX, Settings

# First setting of each group of the help -> title of the group.
_GROUPS = {
    "config": "settings",
    "host": "addresses",
    "keys": "access",
    "model": "models",
    "device": "devices",
    "compile": "compilation",
    "max_batch_atoms": "limits",
    "max_connections": "connections",
    "otlp_endpoint": "traces",
    "log_level": "logs",
}
# Settings that may be repeated.
_NAMED = {"model": "NAME=SPEC", "environment": "NAME=PATH"}
_SHARES = {"trace_share"}
_METAVARS: dict[object, str] = {int: "N", float: "SECONDS", int | None: "N"}
_EPILOG = f"""\
Each flag can also be set by the environment variable {ENV_PREFIX}NAME, or in the file of --config.
`twinforce-server env --help` explains how to make environments for --environment,
`twinforce-server keys --help` how to make keys for --keys,
`twinforce-server download --help` how to download files of models for --model, and
`twinforce-server slurm --help` how to run the service as a job of SLURM.

example:
  twinforce-server --model my-model=path/to/model --device cuda --host 0.0.0.0 --keys keys.json
"""


def parse_settings(arguments: Sequence[str] | None = None) -> Settings:
    """Return the settings from flags and environment variables, or exit with an error message.

    Args:
        arguments: Command-line arguments; None means those of this process.
    """
    parser = argparse.ArgumentParser(
        prog="twinforce-server",
        usage="%(prog)s [options]",
        description="Serve machine-learned interatomic potentials over REST and gRPC.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, info in Settings.model_fields.items():
        if name in _GROUPS:
            group = parser.add_argument_group(_GROUPS[name])
        _add_flag(group, name, info)
    given = vars(parser.parse_args(arguments))
    try:
        settings = Settings(**given)
    except ValidationError as error:
        parser.error("; ".join(_described(problem) for problem in error.errors()))
    if not settings.specs():
        parser.error("there is nothing to serve: add --model or remove --no-water")
    return settings


def folder_of_environments() -> str:
    """Return the folder of environments that need no --environment."""
    given: dict[str, Any] = {}
    return Settings(**given).environment_folder


def file_of_keys() -> str:
    """Return the file of keys that the environment names; empty if it names none."""
    given: dict[str, Any] = {}
    return Settings(**given).keys


def settings_table() -> str:
    """Return the Markdown table of all settings in docs/settings.md."""
    rows = [
        f"| `{_flag(name, info)}` | `{ENV_PREFIX}{name.upper()}` | {_default(info)} "
        f"| {info.description} |"
        for name, info in Settings.model_fields.items()
    ]
    return "\n".join(
        ("| flag | variable | default | meaning |", "| --- | --- | --- | --- |", *rows)
    )


def settings_schema() -> dict[str, Any]:
    """Return the JSON schema of a file of settings."""
    schema = Settings.model_json_schema()
    properties = {name: dict(each) for name, each in schema["properties"].items()}
    del properties["config"]
    for each in properties.values():
        del each["title"]
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _add_flag(group: argparse._ArgumentGroup, name: str, info: FieldInfo) -> None:
    options: dict[str, Any] = {
        "dest": name,
        "default": argparse.SUPPRESS,
        "help": f"{info.description} Default: {_default(info).strip('`')}.".replace("%", "%%"),
    }
    if info.annotation is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif name in _NAMED:
        options |= {"action": "append", "metavar": _NAMED[name]}
    elif get_origin(info.annotation) is Literal:
        options["metavar"] = "|".join(get_args(info.annotation))
    else:
        last = name.split("_")[-1].upper()
        options["metavar"] = last if name in _SHARES else _METAVARS.get(info.annotation, last)
    group.add_argument(f"--{name.replace('_', '-')}", **options)


def _flag(name: str, info: FieldInfo) -> str:
    flag = f"--{name.replace('_', '-')}"
    return f"{flag}, --no-{flag[2:]}" if info.annotation is bool else flag


def _default(info: FieldInfo) -> str:
    if info.default in ({}, "", None):
        return "none"
    return f"`{str(info.default).lower() if info.annotation is bool else info.default}`"


def _described(problem: Any) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else "settings"
    what = problem["msg"]
    if problem["type"] == "value_error":
        return f"{name.replace('_', '-')}: {what.removeprefix('Value error, ')}"
    return f"{name.replace('_', '-')}: {what}, got {problem['input']!r}"


if __name__ == "__main__":
    sys.stdout.write(settings_table() + "\n")
