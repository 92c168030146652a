"""The source of a model, as the loader of a family receives it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from twinforce_models.loading.model_file import ModelFile, read_file
from twinforce_models.loading.spec import ModelSpec
from twinforce_proto import ModelLoadError


@dataclass(frozen=True, slots=True)
class Trust:
    """Permissions to run code that a model brings along, granted by the user of this process.

    Attributes:
        pickles: True if files may be unpickled even if that could run code in them.
        packages: Packages whose code a spec may name besides the families.
    """

    pickles: bool = False
    packages: Sequence[str] = ()


NO_TRUST = Trust()


@dataclass(slots=True, eq=False)
class Source:
    """The place of a model, and how it is to be loaded.

    Attributes:
        spec: The parsed spec; its options arrive at the loader as keyword arguments.
        device: Device to compute on.
        dtype: Data type to compute in. None keeps that of the file.
        trust: Permissions to run code that the model brings along.
        file: The file that `read` has read; None before that.
    """

    spec: ModelSpec
    device: torch.device
    dtype: torch.dtype | None = None
    trust: Trust = NO_TRUST
    file: ModelFile | None = field(default=None, init=False)

    @property
    def place(self) -> str:
        """Path of a file, or a published name."""
        return self.spec.place

    def read(self, find_published: Callable[[str], Path] | None = None) -> ModelFile:
        """Return the file at the place, read and checked.

        Args:
            find_published: Returns the file of a published model by its name, downloading it if
                necessary. None if the family publishes none.

        Raises:
            ModelLoadError: If there is no such file, or it has another hash than expected.
        """
        path = Path(self.place).expanduser()
        is_published = False
        if find_published is not None and not path.is_file():
            path, is_published = find_published(self.place), True
        if not path.is_file():
            raise ModelLoadError(f"{path}: there is no such file")
        self.file = read_file(
            path, self.spec.sha256, trusted=self.trust.pickles, published=is_published
        )
        return self.file


def download(place: str, url: str, cache: object, fetch: Callable[[], Any]) -> Path:
    """Return the path of a published file, from the cache or the network.

    Args:
        place: Family and published name, for messages, such as "orb:orb-v2".
        url: Address of the file, for messages.
        cache: Folder of downloaded files, for messages.
        fetch: Returns the path of the file, downloading it if necessary.

    Raises:
        ModelLoadError: If the file could not be downloaded. The message says what to put where.
    """
    try:
        return Path(fetch())
    except Exception as error:  # of many classes, from HTTP clients
        family, file = place.partition(":")[0], url.rpartition("/")[2]
        raise ModelLoadError(
            f"model {place!r} is not in the cache {cache} and could not be downloaded "
            f"({type(error).__name__}). On a machine with network access, download {url}, and "
            f"serve the file: --model NAME={family}:{file}"
        ) from error
