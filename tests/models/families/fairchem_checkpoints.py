"""Small checkpoints of fairchem with random weights, written by fairchem's own functions.

The settings are those of published models but for their sizes: an eSCN-MD with experts that mixes
them by composition, charge, spin and task, as in UMA, and networks with heads for direct forces and
stress, as in eSEN. Nothing of fairchem is imported before a checkpoint is made.
"""

import copy

TASKS = ("omat", "omol")
N_ELEMENTS = 40
REFERENCES = [0.0] + [-1.7 * number for number in range(1, N_ELEMENTS)]
UMA = "fairchem.core.models.uma"
TENSOR = {"_target_": "torch.DoubleTensor", "_args_": [REFERENCES]}
NORMALIZATION = "fairchem.core.modules.normalization"
PLAIN = {
    "model": f"{UMA}.escn_md.eSCNMDBackbone",
    **{"max_num_elements": N_ELEMENTS, "sphere_channels": 8, "lmax": 2, "mmax": 2},
    **{"otf_graph": True, "max_neighbors": 300, "cutoff": 5.0, "edge_channels": 8},
    **{"num_distance_basis": 16, "num_layers": 2, "hidden_channels": 8, "norm_type": "rms_norm_sh"},
    **{"act_type": "gate", "ff_type": "spectral", "chg_spin_emb_type": "rand_emb"},
    **{"cs_emb_grad": True, "dataset_emb_grad": True},
    "dataset_mapping": {task: task for task in TASKS},
}
CONSERVATIVE = {"direct_forces": False, "regress_forces": True, "regress_stress": True}
DIRECT = {**CONSERVATIVE, "direct_forces": True, "direct_stress": True}
EXPERTS = {
    "model": f"{UMA}.escn_moe.eSCNMDMoeBackbone",
    **{"num_experts": 3, "use_composition_embedding": True},
}


def wrapped(kind, head, **options):
    mapping = (
        {"dataset_names": list(TASKS)}
        if kind == "DatasetSpecificSingleHeadWrapper"
        else {"dataset_mapping": {task: task for task in TASKS}}
    )
    module = {"module": f"{UMA}.escn_moe.{kind}", "head_cls": f"{UMA}.escn_md.{head}"}
    return {**module, **mapping, "head_kwargs": options}


OF_EXPERTS = "DatasetSpecificMoEWrapper"
BARE = {
    "energy": {"module": f"{UMA}.escn_md.MLP_Energy_Head", "reduce": "sum"},
    "forces": {"module": f"{UMA}.escn_md.Linear_Force_Head"},
    "stress": {"module": f"{UMA}.escn_md.MLP_Stress_Head"},
}
KINDS = {
    "uma": {
        "backbone": PLAIN | EXPERTS | CONSERVATIVE,
        "heads": {"efs": wrapped(OF_EXPERTS, "MLP_EFS_Head", wrap_property=False)},
    },
    "uma-direct": {
        "backbone": PLAIN | EXPERTS | DIRECT,
        "heads": {
            "e": wrapped(OF_EXPERTS, "MLP_Energy_Head", wrap_property=False),
            "f": wrapped("DatasetSpecificSingleHeadWrapper", "Linear_Force_Head"),
            "s": wrapped("DatasetSpecificSingleHeadWrapper", "MLP_Stress_Head"),
        },
    },
    "esen": {
        "backbone": PLAIN | CONSERVATIVE | {"charge_balanced_channels": [0, 1]},
        "heads": {"efs": {"module": f"{UMA}.escn_md.MLP_EFS_Head", "prefix": "omol"}},
        "tasks": ("omol",),
    },
    "esen-direct": {
        "backbone": PLAIN | DIRECT,
        "heads": BARE,
        "pass_through_head_outputs": False,
        "tasks": ("omol",),
        "prefix": "",
    },
}


def target(name, quantity, task, *, scale=1.5):
    """Return the settings of a target, with a loss that nobody needs for inference."""
    level = "atom" if quantity == "forces" else "system"
    loss = {"_target_": "fairchem.core.modules.loss.DDPMTLoss", "coefficient": 10}
    loss["loss_fn"] = {"_target_": "fairchem.core.modules.loss.MAELoss"}
    found = {
        "_target_": "fairchem.core.units.mlip_unit.mlip_unit.Task",
        **{"name": name, "level": level, "property": quantity, "datasets": [task]},
        "out_spec": {"dim": [{"energy": 1, "forces": 3, "stress": 9}[quantity]]},
        "loss_fn": loss,
        "metrics": ["mae"],
        "normalizer": {
            "_target_": f"{NORMALIZATION}.normalizer.Normalizer",
            **{"mean": 0.3 if quantity == "energy" else 0.0, "rmsd": scale},
        },
    }
    found["out_spec"]["dtype"] = "float32"
    if quantity == "energy":
        found["element_references"] = {
            "_target_": f"{NORMALIZATION}.element_references.ElementReferences",
            "element_references": TENSOR,
        }
    return found


def settings(kind, **options):
    """Return the settings of a model and its targets, as a training has them."""
    chosen = {"pass_through_head_outputs": True, **copy.deepcopy(KINDS[kind])}
    tasks, prefix = chosen.pop("tasks", TASKS), chosen.pop("prefix", None)
    backbone = chosen.pop("backbone") | options.pop("backbone", {})
    model = {"_target_": "fairchem.core.models.base.HydraModel", "model_id": "UMA-S-1.2.1"}
    names = [
        (quantity if prefix == "" else f"{task}_{quantity}", quantity, task)
        for task in tasks
        for quantity in ("energy", "forces", "stress")
    ]
    targets = [target(*each) for each in names]
    return model | chosen | options | {"backbone": backbone}, targets


def write(folder, kind, *, change=None, **options):
    """Train nothing, save everything: return the path of an inference checkpoint.

    Args:
        folder: Folder to write to.
        kind: One of `KINDS`.
        change: Function that changes the settings of the model and of its targets before they are
            saved; the network is made before.
        options: Options of the model; those under "backbone" are those of the backbone.
    """
    import hydra
    import torch
    from fairchem.core.units.mlip_unit import mlip_unit
    from omegaconf import OmegaConf
    from torch.distributed import checkpoint

    model, targets = settings(kind, **options)
    torch.manual_seed(3)
    network = hydra.utils.instantiate(OmegaConf.create(model))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "embedding" in name and parameter.ndim == 2:
                parameter.normal_()  # as they are made, elements are all but equal
            elif parameter.ndim > 1:
                parameter.mul_(2.0)
    averaged = torch.optim.swa_utils.AveragedModel(network)
    if change is not None:
        change(model, targets)
    parts = {"model": model, "tasks": targets}
    state = {
        "unit_state": {"model": network.state_dict(), "ema": averaged.state_dict()},
        "config": OmegaConf.create({"runner": {"train_eval_unit": parts}}),
    }
    path = folder / f"{kind}-{len(list(folder.iterdir()))}.pt"
    training = path.with_suffix("")
    checkpoint.save(state, checkpoint_id=training)
    mlip_unit.convert_train_checkpoint_to_inference_checkpoint(str(training), str(path))
    return path
