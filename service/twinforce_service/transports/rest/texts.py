"""Texts of the OpenAPI description of the REST API."""

DESCRIPTION = """\
Energies and forces of atomistic systems from machine-learned interatomic potentials.

Lengths are in Å, energies in eV, forces in eV/Å, stresses in eV/Å³ (tension > 0), per the volume of
the cell whether the system is periodic or not. A model may have two kinds of forces: *conservative*
forces are the negative gradient of its energy; *direct* forces come from a separate, cheaper head
and are not a gradient. `hybrid` returns both from one evaluation.

Every path that takes JSON also takes a serialized message of the gRPC API as
`application/x-protobuf`; predictions, for example, take a `twinforce.v1.PredictRequest` and return
a `twinforce.v1.PredictReply`. The gRPC API itself is served on another port. Errors are problem
details (RFC 9457) in either case.

`propagate` and `relax` move a system on the server, with either kind of forces or with both, and
reply with a line of JSON for each update.

`nonconservativity` measures how far forces are from being a gradient. It takes a backward pass for
each coordinate of the system, so use a long timeout; other requests are served in between.
"""

LICENSE = {"name": "BSD-3-Clause", "identifier": "BSD-3-Clause"}
CONTACT = {"name": "the TwinForce developers"}
SERVERS = [{"url": "/", "description": "The service that this description comes from."}]
TAGS = [
    {"name": "predictions", "description": "Energies, forces and stresses of systems."},
    {"name": "dynamics", "description": "Systems that the service moves."},
    {"name": "models", "description": "The models that are served."},
    {"name": "service", "description": "The state of the service."},
    {
        "name": "open inference protocol",
        "description": "The same predictions as tensors, for clients of KServe and Triton.",
    },
]

SUMMARIES = {
    "energy": "Energies",
    "conservative-forces": "Energies and conservative forces",
    "direct-forces": "Energies and direct forces",
    "predict": "Any outputs",
}
DESCRIPTIONS = {
    "energy": "Evaluate the energy of each system.",
    "conservative-forces": "Evaluate energies and conservative forces, -dE/dr.",
    "direct-forces": "Evaluate energies and direct forces, without any gradient.",
    "predict": "Evaluate any set of outputs, including both kinds of forces and stresses.",
}
