"""A small AIMNet2 with random weights, in a file that the package itself exported."""

import copy

ELEMENTS = (1, 6, 7, 8, 9)
FREE_ENERGIES = {1: -13.6, 6: -1036.0, 7: -1489.0, 8: -2043.0, 9: -2713.0}
MODULES = "aimnet.modules"


def module(name, **kwargs):
    return {"class": f"{MODULES}.{name}", "kwargs": kwargs}


IN_PLACE = {"key_in": "energy", "key_out": "energy"}
OUTPUT = {"n_in": 8, "n_out": 1, "key_in": "aim", "key_out": "energy"}
LAYERS = {"activation_fn": "torch.nn.GELU", "last_linear": True, "hidden": [8]}
COULOMB = module("LRCoulomb", rc=4.6, key_in="charges", key_out="energy")
DISPERSION = module("DFTD3", s8=0.3908, a1=0.566, a2=3.128)
PLAIN = {
    "class": "aimnet.models.AIMNet2",
    "kwargs": {
        **{"nfeature": 4, "d2features": True, "ncomb_v": 3, "aim_size": 8},
        **{"hidden": [[12], [12], [12]], "aev": {"rc_s": 5.0, "nshifts_s": 6}},
        "outputs": {
            "energy_mlp": module("Output", mlp=LAYERS, **OUTPUT),
            "atomic_shift": module("AtomicShift", **IN_PLACE),
            "atomic_sum": module("AtomicSum", **IN_PLACE),
        },
    },
}


def settings(*, coulomb=True, dispersion=True, channels=1):
    """Return the settings of a network, as a training has them."""
    found = copy.deepcopy(PLAIN)
    if channels == 2:
        found["kwargs"]["num_charge_channels"] = 2
    if coulomb:
        found["kwargs"]["outputs"]["lrcoulomb"] = COULOMB
    if dispersion:
        found["kwargs"]["outputs"]["dftd3"] = DISPERSION
    return found


def write(folder, name, **options):
    """Write weights and settings as a training does, and export them; return the path."""
    import torch
    import yaml
    from aimnet.config import build_module
    from aimnet.train.export_model import export_model

    torch.manual_seed(5)
    chosen = settings(**options)
    network = build_module(copy.deepcopy(chosen))
    with torch.no_grad():
        network.outputs.atomic_shift.shifts.weight.zero_()
    paths = {each: folder / f"{name}.{each}" for each in ("weights", "yaml", "sae", "pt")}
    torch.save(network.state_dict(), paths["weights"])
    paths["yaml"].write_text(yaml.dump(chosen, sort_keys=False))
    paths["sae"].write_text(yaml.dump(FREE_ENERGIES))
    export_model.callback(
        str(paths["weights"]), str(paths["pt"]), str(paths["yaml"]), str(paths["sae"]), None, None
    )
    return paths["pt"]
