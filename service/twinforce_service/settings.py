"""Every setting of the service, from flags, then environment variables, then defaults."""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from twinforce_proto.headers import BUNDLED_MODEL, is_model_name

ENV_PREFIX = "TWINFORCE_"


class Settings(BaseSettings):
    """What `twinforce-server` can be told."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    rest_port: int = Field(8000, ge=0, le=65535, description="Port of REST; 0 picks a free one.")
    grpc_port: int = Field(8001, ge=0, le=65535, description="Port of gRPC; 0 picks a free one.")
    model: Annotated[dict[str, str], NoDecode] = Field(
        default={},
        description="A model to serve, as NAME=SPEC, where SPEC is a directory, a .ckpt or .pt "
        "file, upet:NAME@VERSION, toy:NAME, or two specs as conservative:A+direct:B. The flag may "
        "be given many times; in the environment variable, commas separate.",
    )
    water: bool = Field(True, description="Serve the bundled model `water`.")
    device: str = Field(
        "auto",
        description="Where models compute: auto, cpu, cuda or cuda:N; or several of them with "
        "commas between, each with an engine of its own.",
    )
    engine: Literal["process", "thread"] = Field(
        "process",
        description="Where an engine runs: in a process of its own, which is started again should "
        "it die, or in a thread of the service.",
    )
    dtype: Literal["auto", "float32", "float64"] = Field(
        "auto", description="What models compute in; auto is what each was made for."
    )
    n_threads: int = Field(
        0, ge=0, description="CPU threads of one evaluation; 0 is half of the cores."
    )
    matmul_precision: Literal["highest", "high"] = Field(
        "highest",
        description="Of float32 matrix products on a GPU: `high` allows TF32, which is faster and "
        "keeps three digits only; tight optimisations and phonons need `highest`.",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Compile native models, which makes them about three times as fast. What is "
        "compiled is kept for later starts. The first one takes minutes, in which `auto` evaluates "
        "uncompiled; `on` waits for it, and does not start without.",
    )
    compile_cache: str = Field(
        "~/.cache/twinforce",
        min_length=1,
        description="Folder of compiled models. It holds machine code: nobody but its owner may be "
        "allowed to write there.",
    )
    max_batch_atoms: int = Field(
        20_000, ge=1, description="Atoms evaluated at once; on CUDA fewer, if memory asks for it."
    )
    max_batch_pairs: int = Field(
        2_000_000,
        ge=1,
        description="Neighbor pairs evaluated at once; on CUDA fewer, if memory asks for it.",
    )
    max_atoms_per_system: int = Field(20_000, ge=1, description="Atoms in one system.")
    max_pairs_per_system: int = Field(2_000_000, ge=1, description="Neighbor pairs of one system.")
    max_jacobian_atoms: int = Field(
        1000,
        ge=1,
        description="Atoms of a system whose nonconservativity is asked for; beyond, it is refused."
        " Its Jacobian takes 144 bytes of memory per pair of atoms, one at a time.",
    )
    jacobian_rows: int = Field(
        12,
        ge=1,
        description="Rows of a Jacobian, each a backward pass, for which other callers wait.",
    )
    max_propagations: int = Field(
        256,
        ge=1,
        description="Systems on the move on the server at once; beyond, callers are told to come "
        "back.",
    )
    max_propagation_steps: int = Field(
        1_000_000, ge=1, description="Inner steps that one call may ask a system to be moved."
    )
    max_waiting: int = Field(
        4096, ge=1, description="Systems that may wait; beyond, callers are told to come back."
    )
    max_waiting_atoms: int = Field(
        2_000_000, ge=1, description="Atoms that may wait; beyond, callers are told to come back."
    )
    max_hold: float = Field(
        0.05,
        ge=0,
        description="Seconds that a free device may at most wait for walkers about to return, where"
        " one batch with them costs less than two; 0 turns that off.",
    )
    max_body_bytes: int = Field(
        64 * 2**20, ge=1024, description="Bytes in one REST body or one gRPC message."
    )
    drain_timeout: float = Field(
        30.0, ge=0, description="Seconds that a stopping service takes to finish what it accepted."
    )
    keep_alive: float = Field(
        75.0, gt=0, description="Seconds that an idle REST connection is kept open."
    )
    grpc_keep_alive: float = Field(
        30.0, gt=0, description="Seconds between pings that find out which gRPC callers are gone."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "warning", description="Least severe logs that are written."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Form of the logs, one line each, on standard error."
    )

    @field_validator("model", mode="before")
    @classmethod
    def _parse_models(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [part for part in value.split(",") if part.strip()]
        return value if isinstance(value, dict) else _named_specs(value)

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
            raise ValueError(f"engine: a thread serves one device, got {self.device}")
        return self

    def devices(self) -> list[str]:
        """Return where models compute, one engine each."""
        return self.device.split(",")

    def specs(self) -> dict[str, str]:
        """Return what is served: the name and the spec of each model."""
        bundled = {BUNDLED_MODEL: BUNDLED_MODEL} if self.water else {}
        return bundled | self.model


def parse_settings(arguments: Sequence[str] | None = None) -> Settings:
    """Read flags and environment variables; on a mistake, say which on one line and exit.

    Args:
        arguments: Of the command line; None: those of this process.
    """
    parser = argparse.ArgumentParser(
        prog="twinforce-server",
        description="Serve machine-learned interatomic potentials over REST and gRPC.",
        epilog=f"Each flag may be given as an environment variable {ENV_PREFIX}NAME instead.",
    )
    for name, info in Settings.model_fields.items():
        _add_flag(parser, name, info)
    given = vars(parser.parse_args(arguments))
    try:
        settings = Settings(**given)
    except ValidationError as error:
        parser.error("; ".join(_described(problem) for problem in error.errors()))
    if not settings.specs():
        parser.error("there is nothing to serve: give --model, or leave out --no-water")
    return settings


def settings_table() -> str:
    """Return the table of all settings, in Markdown, as docs/settings.md holds it."""
    rows = [
        f"| `{_flag(name, info)}` | `{ENV_PREFIX}{name.upper()}` | {_default(info)} "
        f"| {info.description} |"
        for name, info in Settings.model_fields.items()
    ]
    return "\n".join(
        ("| flag | variable | default | meaning |", "| --- | --- | --- | --- |", *rows)
    )


def _named_specs(parts: Sequence[str]) -> dict[str, str]:
    specs: dict[str, str] = {}
    for part in parts:
        name, _, spec = part.strip().partition("=")
        if not is_model_name(name) or not spec:
            raise ValueError(f"expected NAME=SPEC, got {part!r}")
        if name in specs:
            raise ValueError(f"the name {name!r} is given twice")
        specs[name] = spec
    return specs


def _add_flag(parser: argparse.ArgumentParser, name: str, info: FieldInfo) -> None:
    options: dict[str, Any] = {
        "dest": name,
        "default": argparse.SUPPRESS,
        "help": f"{info.description} Default: {_default(info).strip('`')}.".replace("%", "%%"),
    }
    if info.annotation is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif name == "model":
        options |= {"action": "append", "metavar": "NAME=SPEC"}
    elif get_origin(info.annotation) is Literal:
        options["metavar"] = "|".join(get_args(info.annotation))
    else:
        options["metavar"] = name.split("_")[-1].upper()
    parser.add_argument(f"--{name.replace('_', '-')}", **options)


def _flag(name: str, info: FieldInfo) -> str:
    flag = f"--{name.replace('_', '-')}"
    return f"{flag}, --no-{name}" if info.annotation is bool else flag


def _default(info: FieldInfo) -> str:
    if info.default == {}:
        return "none"
    return f"`{str(info.default).lower() if info.annotation is bool else info.default}`"


def _described(problem: Any) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else "settings"
    return f"{name.replace('_', '-')}: {problem['msg'].removeprefix('Value error, ')}"


if __name__ == "__main__":
    sys.stdout.write(settings_table() + "\n")
