"""The settings of the service, from flags, environment variables and defaults."""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from twinforce_proto.headers import BUNDLED_MODEL, is_model_name
from twinforce_service.callers.limits import CallerLimits
from twinforce_service.config_file import read_config
from twinforce_service.environments.environment import MAIN
from twinforce_service.hosts import is_loopback, is_safe_url, is_url

ENV_PREFIX = "TWINFORCE_"

# Longer times mean no limit; timers of operating systems and of gRPC take little more.
_LONGEST_S = 2_000_000.0


class Settings(BaseSettings):
    """The settings of `twinforce-server`."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    config: str = Field(
        "",
        description="File of settings in TOML, named as their variables without the prefix and in "
        "small letters: rest_port = 8000. Flags and variables take precedence.",
    )
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
    page: bool = Field(
        True,
        description="Show a page in a browser, on the port of REST: models, live state and a "
        "playground. It asks its user for a key if callers need one.",
    )
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of /metrics and of /health without keys and TLS, for monitoring; 0 picks "
        "a free port. Without it, metrics are on the port of REST, where they need a key.",
    )
    metrics_host: str = Field(
        "127.0.0.1", description="Address or name to listen on for --metrics-port."
    )
    keys: str = Field(
        "",
        description="File of the keys that callers need, made by `twinforce-server keys add`; "
        "read again when it changes. Without it, everyone who can connect may use the service.",
    )
    oidc_issuer: str = Field(
        "",
        description="URL of an issuer of tokens (OpenID Connect), which callers may give in place "
        "of keys; as in the claim `iss`. It needs the packages of twinforce[oidc].",
    )
    oidc_audience: str = Field(
        "",
        description="Name of the service in the claim `aud` of tokens; several, of which one must "
        "be there, are separated by commas.",
    )
    oidc_jwks: str = Field(
        "",
        description="File or URL of the public keys of the issuer (JWKS), if they are not to be "
        "read where the issuer itself says.",
    )
    oidc_ca: str = Field(
        "",
        description="File of certificates to trust, in PEM, to read the keys of the issuer, in "
        "place of those of the system.",
    )
    oidc_token_file: str = Field(
        "",
        description="File of a token to give to the issuer when its keys are read, as Kubernetes "
        "asks for.",
    )
    oidc_name_claim: str = Field(
        "sub", min_length=1, description="Claim that names the caller in metrics and limits."
    )
    oidc_scope_claim: str = Field(
        "",
        description="Claim that holds the scopes of a token, such as scope, roles or "
        "realm_access.roles. Without it, the entries of --keys for tokens say what they allow.",
    )
    oidc_scope_prefix: str = Field(
        "",
        description="Text before the scopes of this service in that claim; others are ignored.",
    )
    insecure: bool = Field(
        False,
        description="Let everyone on the network use the service: listen on other addresses than "
        "those of this machine although callers need neither a key nor a certificate.",
    )
    trusted_hosts: str = Field(
        "",
        description="Names, separated by commas, that requests to REST may give in the header "
        "Host, such as api.example.com or *.example.com; * allows all. The default allows the "
        "names of this machine if the service listens to it alone, which keeps web pages in a "
        "browser from using the service, and otherwise all names.",
    )
    tls_certificate: str = Field(
        "",
        description="File of the certificate of the service, in PEM, with those in between. It "
        "turns on TLS for REST and gRPC, and is read again when it changes.",
    )
    tls_key: str = Field(
        "", description="File of the private key of the certificate, in PEM, not encrypted."
    )
    tls_client_ca: str = Field(
        "",
        description="File of certificates, in PEM, that sign those of clients, which then need one "
        "to connect.",
    )
    address_file: str = Field(
        "",
        description="File in which the server says where it is, once it is ready, for clients that "
        "follow file:PATH. Only its owner can read it. Without --keys and --tls-certificate it "
        "also holds a key and a certificate that the server makes for itself.",
    )
    address_file_servers: int = Field(
        1, ge=1, description="Number of servers that share the address file."
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
    watchdog: float = Field(
        10.0,
        ge=0,
        description="Seconds without a sign of life after which an engine process counts as hung "
        "and is replaced. A batch may take ten times as long as earlier ones besides, and three "
        "times this setting if its size is new, thirty times if nothing like it was evaluated; 0 "
        "turns the watchdog off.",
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
    max_batch_time: float = Field(
        0.05,
        gt=0,
        description="Seconds that a batch should take at most, so that others do not wait long. It "
        "takes longer if one system does, or if its fixed time would be more than a tenth.",
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
    caller_requests: int = Field(
        0,
        ge=0,
        description="Maximum requests of one caller that are answered at the same time; a caller "
        "is the owner of a key or, without keys, an address or a /64 network of IPv6. 0 means no "
        "limit, here and in the next four; keys may have limits of their own.",
    )
    caller_atoms: int = Field(
        0, ge=0, description="Maximum atoms in the requests of one caller at the same time."
    )
    caller_atoms_per_second: int = Field(
        0, ge=0, description="Maximum atoms per second that are evaluated for one caller."
    )
    caller_runs: int = Field(
        0, ge=0, description="Maximum systems that are moved for one caller at the same time."
    )
    caller_steps_per_day: int = Field(
        0, ge=0, description="Maximum steps in 24 hours of the systems moved for one caller."
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
        description="Maximum open connections over REST, and as many over gRPC, from one address, "
        "or from one /64 network of IPv6; further ones get 429, or are closed within a second.",
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
        description="Minimum bytes per second at which clients read replies, and send bodies over "
        "REST, averaged over --header-timeout; slower ones are closed. Updates of runs may wait.",
    )
    grpc_idle_timeout: float = Field(
        300.0,
        gt=0,
        description="Seconds before a gRPC connection without a call is closed; clients make a new "
        "one when they need it.",
    )
    drain_timeout: float = Field(
        30.0,
        ge=0,
        description="Seconds to finish accepted requests when the server stops. It has ended 10 s "
        "later in any case.",
    )
    drain_until: float = Field(
        0.0,
        ge=0,
        description="Time at which the machine is taken away, in seconds since 1970. On SIGUSR1 "
        "the server stops as on SIGTERM, but may use the time until 20 s before; 0 means as long "
        "as --drain-timeout.",
    )
    keep_alive: float = Field(
        75.0, gt=0, description="Seconds before an idle REST connection is closed."
    )
    grpc_keep_alive: float = Field(
        30.0, gt=0, description="Seconds between pings that detect disconnected gRPC clients."
    )
    otlp_endpoint: str = Field(
        "",
        description="URL of a collector of traces (OpenTelemetry Protocol), such as "
        "http://collector:4317. It needs the packages of twinforce[tracing]; without it, calls are "
        "not traced.",
    )
    otlp_protocol: Literal["grpc", "http/protobuf"] = Field(
        "grpc", description="Protocol of the collector."
    )
    trace_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of the calls that are traced among those that belong to no trace of "
        "their callers. The others are traced if their trace is recorded.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "warning", description="Lowest level of the logs that are written."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Format of the logs on standard error, with one line per record."
    )

    @model_validator(mode="before")
    @classmethod
    def _read_file(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Add the settings in the file; those from flags and the environment take precedence."""
        if not given.get("config"):
            return given
        names = cls.model_fields.keys() - {"config"}
        return read_config(Path(given["config"]).expanduser(), names) | given

    @field_validator("model", mode="before")
    @classmethod
    def _parse_models(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [part for part in value.split(",") if part.strip()]
        return _checked_names(value) if isinstance(value, dict) else _named(value, "SPEC")

    @field_validator("environment", mode="before")
    @classmethod
    def _parse_environments(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [part for part in value.split(",") if part.strip()]
        found = _checked_names(value) if isinstance(value, dict) else _named(value, "PATH")
        if MAIN in found:
            raise ValueError(f"{MAIN!r} is the environment of the service itself")
        return found

    @field_validator(
        "watchdog",
        "max_batch_time",
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

    @field_validator("watchdog")
    @classmethod
    def _check_watchdog(cls, value: float) -> float:
        """Refuse a time in which an engine cannot show several signs of life."""
        if 0 < value < 1:
            raise ValueError(f"expected 0 or at least 1 s, got {value:g}")
        return value

    @field_validator("host", "metrics_host")
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
    def _check_certificates(self) -> Self:
        if bool(self.tls_certificate) is not bool(self.tls_key):
            missing = "tls-key" if self.tls_certificate else "tls-certificate"
            raise ValueError(f"{missing}: expected a file, as certificate and key go together")
        if self.tls_client_ca and not self.tls_certificate:
            raise ValueError("tls-client-ca: expected --tls-certificate with it, got none")
        return self

    @model_validator(mode="after")
    def _check_issuer(self) -> Self:
        if not self.oidc_issuer:
            given = [name for name in ("audience", "jwks") if getattr(self, f"oidc_{name}")]
            if given:
                raise ValueError(f"oidc-{given[0]}: expected --oidc-issuer with it, got none")
            return self
        for name in ("issuer", "jwks"):
            url = getattr(self, f"oidc_{name}")
            if (name == "issuer" or is_url(url)) and not is_safe_url(url):
                expected = "a URL that begins with https://, or one of this machine"
                raise ValueError(f"oidc-{name}: expected {expected}, got {url!r}")
        if not self.audiences():
            raise ValueError("oidc-audience: expected the name that tokens are for, got none")
        if not (self.keys or self.oidc_scope_claim):
            raise ValueError(
                "oidc-issuer: expected --keys with entries for tokens, or --oidc-scope-claim, to "
                "say what tokens allow"
            )
        if find_spec("jwt") is None or find_spec("cryptography") is None:
            raise ValueError("oidc-issuer: expected the packages of twinforce[oidc]")
        return self

    @model_validator(mode="after")
    def _check_collector(self) -> Self:
        if not self.otlp_endpoint:
            return self
        if not is_url(self.otlp_endpoint) or not urlsplit(self.otlp_endpoint).hostname:
            expected = "a URL that begins with http:// or https://"
            raise ValueError(f"otlp-endpoint: expected {expected}, got {self.otlp_endpoint!r}")
        if not _has_package("opentelemetry.exporter.otlp.proto"):
            raise ValueError("otlp-endpoint: expected the packages of twinforce[tracing]")
        return self

    @model_validator(mode="after")
    def _check_exposure(self) -> Self:
        is_protected = self.has_keys or self.tls_client_ca or self.address_file
        if not (is_loopback(self.host) or is_protected or self.insecure):
            raise ValueError(
                f"host: expected --keys FILE, made by `twinforce-server keys add`, to listen on "
                f"{self.host}, or --insecure to let everyone on the network use the service"
            )
        return self

    @model_validator(mode="after")
    def _check_engine(self) -> Self:
        if self.engine == "thread" and len(self.devices()) > 1:
            raise ValueError(f"engine: expected one device for a thread, got {self.device}")
        return self

    @property
    def has_keys(self) -> bool:
        """True if callers need a key or a token."""
        return bool(self.keys or self.oidc_issuer)

    def audiences(self) -> tuple[str, ...]:
        """Return the names of the service in tokens."""
        return tuple(name.strip() for name in self.oidc_audience.split(",") if name.strip())

    def caller_limits(self) -> CallerLimits:
        """Return the limits of callers without limits of their own."""
        return CallerLimits(
            self.caller_requests or inf,
            self.caller_atoms or inf,
            self.caller_atoms_per_second or inf,
            self.caller_runs or inf,
            self.caller_steps_per_day or inf,
        )

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


def _has_package(name: str) -> bool:
    """Return True if a package is installed, whatever its parents are."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _checked_names(named: dict[str, Any]) -> dict[str, Any]:
    for name in named:
        if not is_model_name(name):
            raise ValueError(f"expected a name of letters, digits, '.', '_' and '-', got {name!r}")
    return named


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
