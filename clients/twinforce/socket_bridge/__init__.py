"""A bridge from the socket protocol of i-PI to a service, for programs that speak nothing else.

    twinforce-socket start.xyz --connect localhost:31415
    twinforce-socket start.xyz --listen unix:water

The program on the other side moves the atoms, as i-PI does, or ASE with a `SocketIOCalculator`; the
bridge answers with energies, forces and virials. It connects to the program, or waits for programs.
"""

from twinforce.socket_bridge.bridge import Forwarding
from twinforce.socket_bridge.endpoint import Endpoint
from twinforce.socket_bridge.protocol import Messages

__all__ = ["Endpoint", "Forwarding", "Messages"]
