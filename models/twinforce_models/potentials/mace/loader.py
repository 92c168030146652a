"""Loading of MACE models from files, or by the names that mace publishes."""

from functools import partial
from pathlib import Path
from typing import Any

from mace.calculators.foundations_models import download_mace_mp_checkpoint, mace_mp_urls
from mace.tools.utils import get_cache_dir

from twinforce_models.loading.source import Source, download
from twinforce_models.potentials.mace.potential import MacePotential
from twinforce_models.potentials.mace.reading import read_network
from twinforce_proto import ModelLoadError


def load(source: Source, *, variant: str | None = None) -> tuple[MacePotential, dict[str, Any]]:
    """Return a MACE model, and facts for `ModelInfo`.

    Args:
        source: A file of a network, or a published name of MACE-MP, such as "small".
        variant: Name of one of several heads. None selects the only one, or "default".

    Raises:
        ModelLoadError: If the model cannot be found, or is not one that can be served.
    """
    file = source.read(find)
    network: Any = read_network(file, source.dtype)
    head = _choose(list(network.heads), variant)
    name = f"mace-{source.place}" if file.is_published else file.path.stem
    return MacePotential(network, head, source.device), {
        "name": name,
        "n_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "metadata": {"heads": list(network.heads), "head": head},
        "card": f"# {name}\n\nA MACE model, evaluated with mace-torch.\n",
    }


def find(name: str) -> Path:
    """Return the path of the file of a published model, downloading it if necessary.

    Downloads go to the cache of mace.

    Args:
        name: A published name of MACE-MP.

    Raises:
        ModelLoadError: If there is no such model, or it cannot be downloaded.
    """
    url = mace_mp_urls.get(name)
    if url is None:
        raise ModelLoadError(
            f"model 'mace:{name}': there is no such file, and mace publishes no such model of "
            f"MACE-MP; it publishes {', '.join(mace_mp_urls)}"
        )
    fetch = partial(download_mace_mp_checkpoint, name)
    return download(f"mace:{name}", url, get_cache_dir(), fetch)


def _choose(heads: list[str], variant: str | None) -> str:
    """Return the head of this name, the only one, or the default one."""
    if variant is not None:
        candidates = [head for head in heads if head == variant]
    else:
        candidates = [head for head in heads if len(heads) == 1 or head.lower() == "default"]
    if len(candidates) != 1:
        got = "none" if variant is None else repr(variant)
        raise ModelLoadError(f"variant: expected one of the heads {', '.join(heads)}, got {got}")
    return candidates[0]
