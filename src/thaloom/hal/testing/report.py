"""What a run of the kit found, for people and for machines."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

from thaloom.base.ids import DeviceId

Status = Literal["pass", "fail", "not_advertised"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One check. `detail` says what went wrong, or which claim is missing."""

    id: str
    status: Status
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    driver: str
    device: DeviceId
    operators_version: int
    results: tuple[Result, ...]

    @property
    def passed(self) -> bool:
        """No check failed, and at least one was made."""
        return bool(self.results) and not self.failures()

    def failures(self) -> list[Result]:
        return [result for result in self.results if result.status == "fail"]

    def counts(self) -> dict[Status, int]:
        found = Counter(result.status for result in self.results)
        return {"pass": found["pass"], "fail": found["fail"], "not_advertised": found["not_advertised"]}

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return {"passed": self.passed, "counts": self.counts()} | asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.driver} {self.device}: operators version {self.operators_version}"]
        for result in self.results:
            lines.append(f"  {result.status:<14} {result.id}" + (f": {result.detail}" if result.detail else ""))
        counts = self.counts()
        lines.append(f"{counts['pass']} passed, {counts['fail']} failed, {counts['not_advertised']} not advertised")
        return "\n".join(lines)
