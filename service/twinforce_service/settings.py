"""The settings of the service, from flags, environment variables and defaults."""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from twinforce_proto.headers import BUNDLED_MODEL, is_model_name
from twinforce_service.environments.environment import MAIN

ENV_PREFIX = "TWINFORCE_"

# First setting of each group of the help -> title of the group.
_GROUPS = {
    "host": "addresses",
    "model": "models",
    "device": "devices",
    "compile": "compilation",
    "max_batch_atoms": "limits",
    "max_connections": "connections",
    "log_level": "logs",
}
# Longer times mean no limit; timers of operating systems and of gRPC take little more.
_LONGEST_S = 2_000_000.0
# Settings that may be repeated.
_NAMED = {"model": "NAME=SPEC", "environment": "NAME=PATH"}
_METAVARS: dict[object, str] = {int: "N", float: "SECONDS"}
_EPILOG = f"""\
Each flag can also be set by the environment variable {ENV_PREFIX}NAME.
`twinforce-server env --help` explains how to make environments for --environment.

example:
  twinforce-server --model my-model=path/to/model --device cuda --host 0.0.0.0
"""


class Settings(BaseSettings):
    """The settings of `twinforce-server`."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    host: str = Field(
        "127.0.0.1",
        description="Address or name to listen on, the same for REST with its metrics and gRPC: "
        "0.0.0.0 means all IPv4 addresses, :: all addresses of both families, and a name all "
        "addresses that it stands for.",
    )
    rest_port: int = Field(
        8000, ge=0, le=65535, description="Port of the REST API; 0 picks a free port."
    )
    grpc_port: int = Field(
        8001, ge=0, le=65535, description="Port of the gRPC API; 0 picks a free port."
    )
    model: Annotated[dict[str, str], NoDecode] = Field(
        default={},
        description="Model to serve, as NAME=SPEC, where SPEC is a directory, a .ckpt or .pt file, "
        "FAMILY:FILE or FAMILY:PUBLISHED-NAME, such as orb:orb-v2, toy:NAME, "
        "ase:MODULE:FACTORY, or two specs as "
        "conservative:A+direct:B. Repeat the flag to serve several models; in the environment "
        "variable, separate them by commas. A spec that ends with #env=NAME is loaded in the "
        "environment of that name.",
    )
    environment: Annotated[dict[str, str], NoDecode] = Field(
        default={},
        description="Environment of Python for engines, as NAME=PATH, where PATH is an interpreter "
        "or the folder of a virtual environment. Repeat the flag for several ones; in the "
        "environment variable, separate them by commas.",
    )
    environment_folder: str = Field(
        "~/.local/share/twinforce/environments",
        min_length=1,
        description="Directory of environments that need no --environment, such as those that "
        "`twinforce-server env create` makes.",
    )
    trust_pickles: bool = Field(
        False,
        description="Load files of models even if reading them could run code that they contain. "
        "Without it, such a file is loaded only if its spec names its hash, #sha256=.",
    )
    trust_packages: str = Field(
        "",
        description="Packages, separated by commas, of ASE calculators that a spec may name, as "
        "ase:PACKAGE.MODULE:FACTORY. Those of ASE itself need no trust.",
    )
    water: bool = Field(True, description="Serve the bundled model `water`.")
    device: str = Field(
        "auto",
        description="Device to run models on: auto, cpu, cuda or cuda:N. Separate several devices "
        "by commas; each gets an engine.",
    )
    engine: Literal["process", "thread"] = Field(
        "process",
        description="Run each engine in a separate process, which is restarted if it exits, or in "
        "a thread of the server.",
    )
    dtype: Literal["auto", "float32", "float64"] = Field(
        "auto", description="Data type to compute in; auto uses that of each model."
    )
    n_threads: int = Field(
        0, ge=0, description="CPU threads per evaluation; 0 uses half of the cores."
    )
    matmul_precision: Literal["highest", "high"] = Field(
        "highest",
        description="Precision of float32 matrix products on a GPU. `high` allows TF32, which is "
        "faster but keeps only three digits; tight optimizations and phonons need `highest`.",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Compile native models, which makes them about three times as fast, and cache "
        "the result. The first compilation takes minutes: `auto` evaluates uncompiled models "
        "meanwhile, `on` waits for it and fails to start without it.",
    )
    compile_cache: str = Field(
        "~/.cache/twinforce",
        min_length=1,
        description="Directory of compiled models. It holds machine code, so only its owner may "
        "have write access.",
    )
    max_batch_atoms: int = Field(
        20_000, ge=1, description="Maximum atoms per batch; fewer on CUDA if memory is short."
    )
    max_batch_pairs: int = Field(
        2_000_000,
        ge=1,
        description="Maximum neighbor pairs per batch; fewer on CUDA if memory is short.",
    )
    max_atoms_per_system: int = Field(
        20_000, ge=1, description="Maximum atoms per system; larger systems are refused."
    )
    max_pairs_per_system: int = Field(
        2_000_000,
        ge=1,
        description="Maximum neighbor pairs per system; systems with more are refused.",
    )
    max_jacobian_atoms: int = Field(
        1000,
        ge=1,
        description="Maximum atoms per system for nonconservativity; larger systems are refused. "
        "The Jacobian takes 144 bytes of memory per pair of atoms; one is held at a time.",
    )
    jacobian_rows: int = Field(
        12,
        ge=1,
        description="Rows of a Jacobian per batch, each of which takes a backward pass; other "
        "requests wait for one batch at most.",
    )
    max_propagations: int = Field(
        256,
        ge=1,
        description="Maximum systems that the server moves at once; further requests get 429.",
    )
    max_propagation_steps: int = Field(
        1_000_000, ge=1, description="Maximum inner steps per call to propagate or relax."
    )
    max_waiting: int = Field(
        4096, ge=1, description="Maximum systems in the queue; further requests get 429."
    )
    max_waiting_atoms: int = Field(
        2_000_000, ge=1, description="Maximum atoms in the queue; further requests get 429."
    )
    max_hold: float = Field(
        0.05,
        ge=0,
        description="Maximum seconds that a free device waits for walkers about to return, if one "
        "batch with them is cheaper than two; 0 turns waiting off.",
    )
    max_body_bytes: int = Field(
        16 * 2**20,
        ge=1024,
        description="Maximum bytes of the body of a REST request or of a gRPC message; gRPC calls "
        "whose replies would be larger are refused before they are computed.",
    )
    max_systems_per_call: int = Field(
        4096, ge=1, description="Maximum systems in one call; calls with more are refused."
    )
    max_atoms_per_call: int = Field(
        200_000,
        ge=1,
        description="Maximum atoms of all systems in one call; calls with more are refused.",
    )
    max_connections: int = Field(
        4096,
        ge=1,
        description="Maximum open connections of REST, and as many of gRPC. Over REST, a further "
        "one takes the place of the one that has waited longest for a request.",
    )
    max_connections_per_address: int = Field(
        1024,
        ge=1,
        description="Maximum open REST connections from one address; further ones get 429.",
    )
    max_streams_per_connection: int = Field(
        4096,
        ge=1,
        le=2**31 - 1,
        description="Maximum calls at a time on one gRPC connection; further ones wait at the "
        "client.",
    )
    header_timeout: float = Field(
        10.0,
        gt=0,
        description="Seconds to send the headers of a REST request, or the first bytes of a gRPC "
        "connection, before it is closed.",
    )
    min_rate: int = Field(
        8192,
        ge=0,
        description="Minimum bytes per second at which REST clients send bodies and read replies, "
        "averaged over --header-timeout; slower ones are closed. Updates of runs may wait.",
    )
    grpc_idle_timeout: float = Field(
        300.0,
        gt=0,
        description="Seconds before a gRPC connection without a call is closed; clients make a new "
        "one when they need it.",
    )
    drain_timeout: float = Field(
        30.0, ge=0, description="Seconds to finish accepted requests when the server stops."
    )
    keep_alive: float = Field(
        75.0, gt=0, description="Seconds before an idle REST connection is closed."
    )
    grpc_keep_alive: float = Field(
        30.0, gt=0, description="Seconds between pings that detect disconnected gRPC clients."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "warning", description="Lowest level of the logs that are written."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Format of the logs on standard error, with one line per record."
    )

    @field_validator("model", mode="before")
    @classmethod
    def _parse_models(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [part for part in value.split(",") if part.strip()]
        return value if isinstance(value, dict) else _named(value, "SPEC")

    @field_validator("environment", mode="before")
    @classmethod
    def _parse_environments(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [part for part in value.split(",") if part.strip()]
        found = value if isinstance(value, dict) else _named(value, "PATH")
        if MAIN in found:
            raise ValueError(f"{MAIN!r} is the environment of the service itself")
        return found

    @field_validator(
        "max_hold",
        "header_timeout",
        "grpc_idle_timeout",
        "drain_timeout",
        "keep_alive",
        "grpc_keep_alive",
    )
    @classmethod
    def _cap(cls, seconds: float) -> float:
        """Return a time that timers can take, infinity included."""
        return min(seconds, _LONGEST_S)

    @field_validator("host")
    @classmethod
    def _check_host(cls, value: str) -> str:
        """Remove the brackets that an IPv6 address has in a URL."""
        host = value.strip().removeprefix("[").removesuffix("]")
        if not host:
            raise ValueError(f"expected an address or a name, got {value!r}")
        return host

    @field_validator("device")
    @classmethod
    def _check_device(cls, value: str) -> str:
        for each in value.split(","):
            if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", each):
                raise ValueError(f"expected auto, cpu, cuda or cuda:N, got {each!r}")
        return value

    @model_validator(mode="after")
    def _check_engine(self) -> Self:
        if self.engine == "thread" and len(self.devices()) > 1:
            raise ValueError(f"engine: expected one device for a thread, got {self.device}")
        return self

    def devices(self) -> list[str]:
        """Return the devices, each of which gets an engine."""
        return self.device.split(",")

    def trusted_packages(self) -> list[str]:
        """Return the packages that specs of models may name."""
        return [name.strip() for name in self.trust_packages.split(",") if name.strip()]

    def specs(self) -> dict[str, str]:
        """Return the specs of the models to serve, by name."""
        bundled = {BUNDLED_MODEL: BUNDLED_MODEL} if self.water else {}
        return bundled | self.model


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


def _named(parts: Sequence[str], what: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in parts:
        name, _, value = part.strip().partition("=")
        if not is_model_name(name) or not value:
            raise ValueError(f"expected NAME={what}, got {part!r}")
        if name in found:
            raise ValueError(f"the name {name!r} is given twice")
        found[name] = value
    return found


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
        options["metavar"] = _METAVARS.get(info.annotation, name.split("_")[-1].upper())
    group.add_argument(f"--{name.replace('_', '-')}", **options)


def _flag(name: str, info: FieldInfo) -> str:
    flag = f"--{name.replace('_', '-')}"
    return f"{flag}, --no-{flag[2:]}" if info.annotation is bool else flag


def _default(info: FieldInfo) -> str:
    if info.default in ({}, ""):
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
