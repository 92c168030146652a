"""The messages of i-PI's protocol, in its units: bohr and hartree, little-endian.

Every message begins with twelve characters. The side that moves atoms sends STATUS, INIT, POSDATA,
GETFORCE and EXIT; this side answers STATUS with READY or HAVEDATA, and GETFORCE with FORCEREADY and
energy, forces, virial (-V σ) and a text. Cells are sent with lattice vectors as columns.
"""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Values of CODATA 2014, as ASE has them.
BOHR = 0.5291772105638411
HARTREE = 27.211386024367243

_HEADER = 12
_MAX_INIT_BYTES = 2**20


class ProtocolError(OSError):
    """The program on the other side sent something that is not in the protocol."""


@dataclass(frozen=True, slots=True, eq=False)
class SocketGeometry:
    """Positions and cell that the other side wants the forces of.

    Attributes:
        positions: Shape [n_atoms, 3], in Å.
        cell: Lattice vectors as rows, shape [3, 3], in Å.
    """

    positions: Floats
    cell: Floats


class Messages:
    """The conversation with one program, as the side that computes forces.

    Args:
        connected: Socket to the program.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._answer: bytes | None = None

    def geometries(self, n_atoms: int) -> Iterator[SocketGeometry]:
        """Yield the geometries that are sent, until the program ends; answer each with `answer`.

        Args:
            n_atoms: Number of atoms that there must be.

        Raises:
            ProtocolError: The program sent something else.
        """
        while (header := self._header()) not in ("EXIT", ""):
            if header == "STATUS":
                self._send_header("READY" if self._answer is None else "HAVEDATA")
            elif header == "INIT":
                self._skip_init()
            elif header == "POSDATA":
                yield self._geometry(n_atoms)
            elif header == "GETFORCE" and self._answer is not None:
                self._socket.sendall(self._answer)
                self._answer = None
            else:
                raise ProtocolError(f"expected STATUS, INIT, POSDATA or GETFORCE, got {header!r}")

    def answer(self, energy: float, forces: Floats, virial: Floats) -> None:
        """Keep the answer to the last geometry, to be sent when the program asks for it.

        Args:
            energy: Energy, in eV.
            forces: Shape [n_atoms, 3], in eV/Å.
            virial: -V σ, shape [3, 3], in eV.
        """
        parts = (
            b"FORCEREADY".ljust(_HEADER),
            np.array([energy / HARTREE], "<f8").tobytes(),
            np.array([len(forces)], "<i4").tobytes(),
            np.asarray(forces * (BOHR / HARTREE), "<f8").tobytes(),
            np.asarray(virial.T / HARTREE, "<f8").tobytes(),
            np.array([1], "<i4").tobytes(),
            b" ",
        )
        self._answer = b"".join(parts)

    def _geometry(self, n_atoms: int) -> SocketGeometry:
        cell = self._array("<f8", 9).reshape(3, 3).T
        self._array("<f8", 9)  # the inverse of the cell
        (n_sent,) = self._array("<i4", 1)
        if n_sent != n_atoms:
            raise ProtocolError(f"expected {n_atoms} atoms as in the file, got {n_sent}")
        positions = self._array("<f8", 3 * n_atoms).reshape(n_atoms, 3)
        return SocketGeometry(positions * BOHR, np.ascontiguousarray(cell) * BOHR)

    def _skip_init(self) -> None:
        _, n_bytes = self._array("<i4", 2)
        if not 0 <= n_bytes <= _MAX_INIT_BYTES:
            raise ProtocolError(
                f"expected at most {_MAX_INIT_BYTES} bytes with INIT, got {n_bytes}"
            )
        self._bytes(int(n_bytes))

    def _header(self) -> str:
        """Return the next header, or "" if the connection has ended."""
        first = self._socket.recv(1)
        if not first:
            return ""
        return (first + self._bytes(_HEADER - 1)).rstrip().decode("ascii", "replace")

    def _send_header(self, text: str) -> None:
        self._socket.sendall(text.encode().ljust(_HEADER))

    def _array(self, dtype: str, count: int) -> NDArray[Any]:
        return np.frombuffer(self._bytes(np.dtype(dtype).itemsize * count), dtype)

    def _bytes(self, count: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            part = self._socket.recv(count - len(found))
            if not part:
                raise ProtocolError("the connection ended in the middle of a message")
            found += part
        return bytes(found)
