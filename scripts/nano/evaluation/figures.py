"""A row of the evaluation's table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        bound: what issue and card promise, as (">=" or "<=", number); None is only reported.
        ceiling: the same figure of rendered scores.
        count: songs it was measured on.
    """

    group: str
    name: str
    value: float
    bound: tuple[str, float] | None = None
    ceiling: float | None = None
    count: int = 1

    @property
    def is_met(self) -> bool | None:
        if self.bound is None:
            return None
        sign, number = self.bound
        return self.value >= number if sign == ">=" else self.value <= number

    def row(self) -> str:
        bound = "" if self.bound is None else f"{self.bound[0]} {self.bound[1]:g}"
        ceiling = "" if self.ceiling is None else f"{self.ceiling:.2f}"
        met = {None: "", True: "yes", False: "NO"}[self.is_met]
        return (
            f"{self.group:9} {self.name:48} {bound:>8} {self.value:>8.2f} {met:>4} "
            f"{ceiling:>8} {self.count:>6}"
        )
