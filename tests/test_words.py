"""One word, one meaning: what is defined in the packages keeps to the table of words."""

import ast
import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from tests.spelling import british_words
from twinforce_proto import OUTPUTS
from twinforce_proto.v1 import inference_pb2 as pb

ROOT = Path(__file__).parents[1]
ROOTS = ["clients", "models", "proto", "service"]
SOURCES = [
    path
    for root in ROOTS
    for path in sorted((ROOT / root).rglob("*.py"))
    if "_pb2" not in path.name
]

PROGRAMS = [*SOURCES, *sorted((ROOT / "bench").rglob("*.py"))]
DOCUMENTED = [*PROGRAMS, *sorted((ROOT / "demo").rglob("*.py"))]
_ENDINGS = {".md", ".proto", ".py", ".pyi", ".tpl", ".toml", ".txt", ".yaml", ".yml", ""}


def _tracked():
    """Return the files of the repository, or of a source distribution without one."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        return DOCUMENTED
    return [ROOT / name for name in listed.stdout.split("\0") if name]


TEXTS = [
    path
    for path in _tracked()
    if path.is_file()
    and path.suffix in _ENDINGS
    and "_pb2" not in path.name
    and path.name not in ("spelling.py", "test_words.py")
]

NEVER_A_NAME = re.compile(
    r"""^(
        nc_\w+ | grad_forces? | (?:non_?conservative)_\w+
      | n_?atom | natoms | nsystems | num_\w+ | maximum_\w+
      | edge_index | nl | nbrs? | ptr | potential_energy | \w*virials?
      | \w*neighbour\w*
    )$""",
    re.VERBOSE,
)
_VIRIAL = re.compile(r"\w*virials?$")
NEVER_A_MODULE = re.compile(r"^_?(utils?|helpers?|common|misc|tools?|base\w*|managers?)$")
NEVER_A_CLASS = re.compile(
    r"^_?(Base\w+|\w*(Manager|Helper|Handler|Utils?)"
    r"|Structure|Molecule|Frame|Graph|Result|Response|Job|Task|Session|User|Backend)$"
)
# The client's side and the service's side, which no process imports together.
TWO_SIDES_OF_ONE_THING = {"Run"}
RIDDLE = re.compile(r"(what|who|whom|whose|how|when|where|whether|why|which)\b", re.IGNORECASE)

# Words of ASE, and so of the client's calculator alone.
ONLY_ASE = {"forces", "stress", "calculator"}


def definitions(tree):
    """Yield every name that this module gives to something, and its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def public_definitions(tree):
    """Yield what a caller sees: functions, their arguments, and the attributes of classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if not node.name.startswith("_") or node.name == "__init__":
                arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                yield from ((each.arg, each.lineno) for each in arguments)
            yield node.name, node.lineno
        elif isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                    yield each.target.id, each.lineno


def parsed(path):
    return ast.parse(path.read_text())


def place(path, line):
    return f"{path.relative_to(ROOT)}:{line}"


def _takes_virials(path):
    """Return True in the rooms for programs that are told virials."""
    return set(path.relative_to(ROOT).parts) & {"ipi", "lammps", "socket_bridge"}


def test_there_is_something_to_read():
    assert len(SOURCES) > 10


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_keep_to_the_table_of_words(path):
    wrong = [
        f"{place(path, line)} {name}"
        for name, line in definitions(parsed(path))
        if NEVER_A_NAME.match(name) and not (_VIRIAL.match(name) and _takes_virials(path))
    ]
    assert not wrong


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_modules_and_classes_are_named_after_what_they_are(path):
    assert not NEVER_A_MODULE.match(path.stem)
    classes = [node.name for node in ast.walk(parsed(path)) if isinstance(node, ast.ClassDef)]
    assert not [name for name in classes if NEVER_A_CLASS.match(name)]


@pytest.mark.parametrize("root", ["models", "proto", "service"])
def test_below_the_calculator_forces_and_stress_say_which(root):
    wrong = [
        f"{place(path, line)} {name}"
        for path in SOURCES
        if path.is_relative_to(ROOT / root)
        for name, line in public_definitions(parsed(path))
        if name in ONLY_ASE
    ]
    assert not wrong


def test_the_wire_uses_the_same_words():
    fields = {
        field.name
        for message in pb.DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
    }
    assert not {name for name in fields if NEVER_A_NAME.match(name) or name in ONLY_ASE}
    assert set(OUTPUTS) <= fields
    numbers = [name.removeprefix("OUTPUT_").lower() for name in pb.Output.keys()]  # noqa: SIM118
    assert numbers == ["unspecified", *OUTPUTS]


def test_a_class_name_is_defined_once():
    places = defaultdict(list)
    for path in PROGRAMS:
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(place(path, node.lineno))
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert twice.keys() <= TWO_SIDES_OF_ONE_THING, twice


def test_a_docstring_opens_with_what_its_subject_does():
    wrong = []
    for path in DOCUMENTED:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                opening = (ast.get_docstring(node) or "").partition("\n")[0]
                if RIDDLE.match(opening):
                    wrong.append(f"{place(path, getattr(node, 'lineno', 1))} {opening}")
    assert not wrong


def test_spelling_is_american():
    wrong = [
        f"{place(path, number)} {', '.join(found)}"
        for path in TEXTS
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (found := british_words(line))
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the behaviour of neighbouring atoms", ["behaviour", "neighbouring"]),
        ("Optimised labelled centre_of_mass", ["Optimised", "labelled", "centre"]),
        ("gray, centered, labeled, analyses, realistic, hours, filled, noise, raised", []),
        ("future.cancelled() or asyncio.CancelledError", []),
        ("the request was cancelled", ["cancelled"]),
    ],
)
def test_british_words_are_told_from_american_ones(text, expected):
    assert british_words(text) == expected
