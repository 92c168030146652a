"""The forwarding of geometries from programs to a service, each over a stream of its own."""

import socket
from dataclasses import dataclass
from typing import Literal

import numpy as np

from twinforce._client import Client
from twinforce._weights import KeptWeights
from twinforce.socket_bridge.protocol import Messages
from twinforce_proto import ModelInfo, System, UnsupportedOutputError


@dataclass(frozen=True, slots=True, eq=False)
class Forwarding:
    """All that answers depend on besides coordinates; threads may share it.

    Attributes:
        client: Client of the service.
        info: Description of the model.
        system: System whose atoms, periodicity, charge and spin count.
        force_kind: Kind of forces and stress.
        has_virial: True to compute virials, which are zero otherwise.

    Raises:
        UnsupportedOutputError: The model lacks these forces or this stress.
    """

    client: Client
    info: ModelInfo
    system: System
    force_kind: Literal["conservative", "direct"]
    has_virial: bool

    def __post_init__(self) -> None:
        if missing := [name for name in self.outputs if name not in self.info.outputs]:
            raise UnsupportedOutputError.expected(
                "outputs", f"a model with {', '.join(missing)}", f"{self.info.name!r} without"
            )

    @property
    def outputs(self) -> tuple[str, ...]:
        """Outputs to request."""
        stress = [f"{self.force_kind}_stress"] if self.has_virial else []
        return ("energy", f"{self.force_kind}_forces", *stress)

    def serve(self, connected: socket.socket) -> int:
        """Answer one program until it ends; return the number of answers.

        Raises:
            ProtocolError: The program sent something that is not in the protocol.
            ServiceError: The service could not answer.
        """
        messages, n_answers, system = Messages(connected), 0, self.system
        weights = KeptWeights("which this program began with", "start the bridge again")
        with connected, self.client.stream(self.info.name, self.outputs) as stream:
            for geometry in messages.geometries(len(system)):
                cell = geometry.cell if system.pbc.any() else system.cell
                system = system.moved(geometry.positions, cell)
                prediction = stream.predict(system)
                weights.check(prediction.provenance, allow_others=False)
                forces = getattr(prediction, f"{self.force_kind}_forces")
                stress = getattr(prediction, f"{self.force_kind}_stress")
                volume = abs(np.linalg.det(system.cell))
                virial = np.zeros((3, 3)) if stress is None else -volume * stress
                assert prediction.energy is not None
                messages.answer(prediction.energy, forces, virial)
                n_answers += 1
        return n_answers
