"""The limits of one call by an agent."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AgentLimits:
    """The limits of one call; what exceeds them is refused, except that runs end at their time.

    Attributes:
        max_atoms: Number of atoms of a system.
        max_steps: Steps of a relaxation or of molecular dynamics.
        max_seconds: Time of a call, in s.
    """

    max_atoms: int = 500
    max_steps: int = 2000
    max_seconds: float = 60.0

    def check_atoms(self, n_atoms: int) -> None:
        """Raise ValueError if a system has too many atoms."""
        if n_atoms > self.max_atoms:
            raise ValueError(
                f"system: expected at most {self.max_atoms} atoms (--max-atoms), got {n_atoms}"
            )

    def check_steps(self, name: str, n_steps: int) -> None:
        """Raise ValueError if a number of steps is not positive or too large.

        Args:
            name: Name of the argument, for the error.
            n_steps: Number of steps.
        """
        if not 1 <= n_steps <= self.max_steps:
            raise ValueError(f"{name}: expected 1 to {self.max_steps} (--max-steps), got {n_steps}")
