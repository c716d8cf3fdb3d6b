"""When and how fast each unit learns."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """Learning rates of all units over a training.

    learning_rate: the peak, more than 0.
    shape: "constant", or "one_cycle": up linearly over the share warm_up, in [0, 1), of a unit's steps, then down to 0
    as a cosine (Smith & Topin: Super-Convergence, 2018).
    update_every: a hidden unit learns in every so many steps; neighbours learn in different ones. The last unit learns
    in each.
    first_unit_stops_at: in (0, 1], the part of the steps after which the first hidden unit stops learning. The others
    stop evenly spread between it and the last unit, which learns to the end. The shape of each unit runs to its own
    end (FreezeOut, Brock et al., arXiv:1706.04983).
    Raises ValueError for values outside these ranges.
    """

    learning_rate: float = 0.005
    shape: Literal["constant", "one_cycle"] = "constant"
    warm_up: float = 0.1
    update_every: int = 1
    first_unit_stops_at: float = 1.0

    def __post_init__(self) -> None:
        expectations = {
            "learning_rate": (0 < self.learning_rate < math.inf, "more than 0"),
            "shape": (self.shape in ("constant", "one_cycle"), "constant or one_cycle"),
            "warm_up": (0 <= self.warm_up < 1, "0 or more and less than 1"),
            "update_every": (self.update_every >= 1, "1 or more"),
            "first_unit_stops_at": (0 < self.first_unit_stops_at <= 1, "more than 0 and at most 1"),
        }
        for name, (fits, expected) in expectations.items():
            if not fits:
                raise ValueError(f"schedule.{name}: expected {expected}, found {getattr(self, name)}")

    @property
    def rests(self) -> bool:
        """Whether there are steps in which a hidden unit does not learn."""
        return self.update_every > 1 or self.first_unit_stops_at < 1

    def rates(self, step: int, steps: int, units: int) -> list[float]:
        """The learning rate of each of `units` units in `step` (from 0) of `steps`; 0 where a hidden unit rests."""
        return [self._rate(place, step, steps, units) for place in range(units)]

    def _rate(self, place: int, step: int, steps: int, units: int) -> float:
        if place == units - 1:
            return self.learning_rate * self.factor(step, steps)
        first = self.first_unit_stops_at
        end = steps * (first + (1 - first) * place / (units - 1))
        if step >= end or (step + place) % self.update_every:
            return 0.0
        return self.learning_rate * self.factor(step, end)

    def factor(self, step: int, steps: float) -> float:
        """Share of the peak rate in `step` (from 0) of the `steps` of a unit."""
        if self.shape == "constant":
            return 1.0
        warm = max(1.0, self.warm_up * steps)
        if step < warm:
            return (step + 1) / (warm + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
