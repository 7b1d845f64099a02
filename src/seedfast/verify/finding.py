"""What a proof about a run folder finds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. holds: None if it could not be looked at. detail: what was found, in words."""

    name: str
    holds: bool | None
    detail: str

    def __str__(self) -> str:
        mark = {True: "ok", False: "FAIL", None: "--"}[self.holds]
        return f"{mark:<4} {self.name:<12} {self.detail}"
