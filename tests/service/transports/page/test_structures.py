"""Tests of the files that the page reads, by the JavaScript of the page itself."""

import json
import shutil
import subprocess

import pytest

from twinforce_service.transports.rest.page.assets import read_assets

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")

CELL = "\n".join(f"_cell_length_{each} 4.0" for each in "abc")
SITES = "loop_\n_atom_site_label\n" + "\n".join(f"_atom_site_fract_{each}" for each in "xyz")
CIF = f"data_one\n{CELL}\n{{symmetry}}\n{SITES}\nNa1 0.1 0.2 0.3\n"


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """A function that returns the system in a CIF, or the message of the error."""
    folder = tmp_path_factory.mktemp("assets")
    (folder / "package.json").write_text('{"type": "module"}')
    for name, asset in read_assets().items():
        if name.endswith(".js"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(asset.content)

    def parsed(text):
        program = f"""
            import {{ parseCif }} from {json.dumps(str(folder / "structures.js"))};
            const told = (value) => process.stdout.write(JSON.stringify(value));
            try {{
                told(parseCif({json.dumps(text)}));
            }} catch (error) {{
                told(error.message);
            }}"""
        command = ["node", "--input-type=module", "--eval", program]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return json.loads(done.stdout)

    return parsed


def operations(*texts):
    return "\n".join(["loop_", "_symmetry_equiv_pos_as_xyz", *(f"'{each}'" for each in texts)])


@pytest.mark.parametrize("shift", ["1/2", "0.5", ".5"])
def test_operations_move_atoms(read, shift):
    system = read(CIF.format(symmetry=operations("x,y,z", f"x+{shift},y,z")))
    assert system["symbols"] == ["Na", "Na"]
    assert [round(x, 9) for x, _, _ in system["positions"]] == [0.4, 2.4]


@pytest.mark.parametrize("operation", ["x+a,y,z", "x,y", "x;y;z", "1.+x,y,z", ""])
def test_operations_that_cannot_be_read_are_refused(read, operation):
    message = read(CIF.format(symmetry=operations("x,y,z", operation)))
    assert message.startswith("CIF: expected a symmetry operation such as -x+1/2,y,z, got")


@pytest.mark.parametrize(
    "group",
    [
        "_symmetry_Int_Tables_number 225",
        "_space_group_IT_number 225",
        "_symmetry_space_group_name_Hall '-F 4 2 3'",
        "_space_group_name_Hall '-F 4 2 3'",
        "_symmetry_space_group_name_H-M 'F m -3 m'",
    ],
)
def test_a_group_without_its_operations_is_refused(read, group):
    message = read(CIF.format(symmetry=group))
    assert message.startswith("CIF: expected the symmetry operations of the space group")


@pytest.mark.parametrize(
    "group",
    ["", "_space_group_IT_number 1", "_space_group_name_Hall 'P 1'", "_space_group_name_Hall ?"],
)
def test_a_cell_without_symmetry_needs_no_operations(read, group):
    assert read(CIF.format(symmetry=group))["symbols"] == ["Na"]


def test_only_the_first_block_is_read(read):
    text = CIF.format(symmetry="") + CIF.format(symmetry="").replace("4.0", "9.0")
    assert read(text)["cell"][0][0] == 4.0


def test_texts_are_single_values(read):
    text = CIF.format(symmetry="_note\n;\n_cell_length_a 77\nloop_\n;")
    assert read(text)["cell"][0][0] == 4.0
