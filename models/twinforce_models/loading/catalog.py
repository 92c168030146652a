"""The catalog of families of potentials: which module reads which models. It loads no torch.

Third parties add families under the entry point group `twinforce.families`.
"""

from dataclasses import dataclass
from importlib.metadata import entry_points

FAMILY_GROUP = "twinforce.families"


@dataclass(frozen=True, slots=True)
class Family:
    """A family of potentials.

    Attributes:
        name: Name before the colon in a spec; also the architecture, unless the loader says more.
        loader: Module and name of the loader, "package.module:name".
        extra: Extra of this distribution that installs what the loader needs, if there is one.
        suffix: Suffix of files that need no name before them, if there is one.
        alone: Package that the extra lacks, because it requires what cannot always be installed.
    """

    name: str
    loader: str
    extra: str = ""
    suffix: str = ""
    alone: str = ""


_POTENTIALS = "twinforce_models.potentials"
_BUILT_IN = (
    Family("aimnet2", f"{_POTENTIALS}.aimnet2:load", "aimnet2"),
    Family("ani", f"{_POTENTIALS}.ani:load", "ani"),
    Family("ase", f"{_POTENTIALS}.ase_calculator:load", "ase"),
    Family("chgnet", f"{_POTENTIALS}.chgnet:load", "chgnet"),
    Family("fairchem", f"{_POTENTIALS}.fairchem.loader:load", "fairchem"),
    Family("mace", f"{_POTENTIALS}.mace.loader:load", "mace"),
    Family(
        "mattersim", f"{_POTENTIALS}.mattersim:load", "mattersim", alone="mattersim>=1.2.3,<1.3"
    ),
    Family("metatomic", f"{_POTENTIALS}.metatomic:load", "metatomic", ".pt"),
    Family("nequip", f"{_POTENTIALS}.nequip:load", "nequip"),
    Family("orb", f"{_POTENTIALS}.orb.loader:load", "orb"),
    Family("pet", f"{_POTENTIALS}.pet.potential:load", "pet", ".ckpt"),
    Family("sevenn", f"{_POTENTIALS}.sevennet:load", "sevenn"),
    Family("upet", f"{_POTENTIALS}.pet.published:load", "pet"),
)


def families() -> dict[str, Family]:
    """Return the families of this package and of third parties, by name."""
    third_party = [Family(point.name, point.value) for point in entry_points(group=FAMILY_GROUP)]
    return {family.name: family for family in (*third_party, *_BUILT_IN)}
