"""How much of what was worked out still counts when it is some time old."""

from datetime import timedelta


def still_counts(age: timedelta, scale: float, half_life: timedelta) -> float:
    """``scale`` at age 0, and half of that after each ``half_life``."""
    return float(scale * 0.5 ** (age / half_life))
