"""Numbers from the paper, for bulk water of 64 molecules with the revPBE0-D3 labels of Cheng et al.

F. Bigi, M. Langer, M. Ceriotti, "The dark side of the forces", ICML 2025, arXiv:2412.11569.
Temperatures are deviations from 300 K, with one standard error in parentheses as in the paper.
"""

URL = "https://arxiv.org/abs/2412.11569"

# Model -> force MAE in meV/Å, energy MAE in meV/atom.
ERRORS = {
    "PET conservative": ("19.4", "0.55"),
    "PET direct only": ("24.8", "1.42"),
    "PET-M hybrid, conservative forces": ("20.2", "0.59"),
    "PET-M hybrid, direct forces": ("26.7", ""),
    "PET-M, direct pre-training then conservative": ("20.0", "0.50"),
    "SOAP-BPNN conservative": ("41.4", "1.38"),
    "SOAP-BPNN direct": ("111.9", "3.20"),
}
LAMBDAS = {
    "PET direct": 0.004,
    "ORB-v2": 0.015,
    "EquiformerV2": 0.017,
    "SOAP-BPNN direct": 0.032,
}
# Heating rate of PET direct, in K/ps; none was seen for MTS with M = 8 and conservative forces.
HEATING_K_PER_PS = 7.0
# Heating rate of ORB-v2, "about ten times that", and its deviations with SVR, τ = 10 fs, in K.
ORB_HEATING_K_PER_PS = 70.0
ORB_SPECIES_K = {"H": 36.0, "O": -70.0}
# Forces and thermostat -> deviations of all atoms, of hydrogen and of oxygen.
TEMPERATURES = {
    "PET direct; SVR, τ = 10 fs": ("0.3", "-4.4(3)", "9.9(6)"),
    "ORB direct; SVR, τ = 10 fs": ("1.0", "36", "-70"),
    "PET conservative; SVR, τ = 10 fs": ("0.1", "-0.4(3)", "1.0(7)"),
    "PET-M MTS, M = 8; SVR, τ = 10 fs": ("0.0", "-0.1(4)", "0.1(9)"),
    "PET direct; Langevin, τ = 1000 fs": ("12.8", "", ""),
    "PET direct; Langevin, τ = 100 fs": ("1.4", "", ""),
    "PET direct; Langevin, τ = 10 fs": ("0.1", "", ""),
}
# Relaxation time of a Langevin thermostat in fs -> factor by which diffusion is slower.
SLOWING = {100.0: 1.5, 10.0: 5.0}
F = 2.7
TRAINING_SAVING = 8.0
