"""Progress bars and messages."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress bars and messages on standard error; bars appear only on a terminal."""

    is_shown: bool = True

    @contextmanager
    def bar(self, title: str, total: int, initial: int = 0, unit: str = "") -> Iterator[Any]:
        """Show a progress bar while the context is open; yield it for updates."""
        disable = None if self.is_shown else True
        with tqdm(
            desc=title, total=total, initial=initial, unit=unit, disable=disable, leave=False
        ) as bar:
            yield bar

    def say(self, text: str) -> None:
        """Write a line."""
        if self.is_shown:
            tqdm.write(text, file=sys.stderr)
