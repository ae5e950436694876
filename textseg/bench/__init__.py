"""What a mask costs: ours and diffusers' DiffEdit, side by side on one model and machine."""

from __future__ import annotations

from .compare import BenchOptions, compare, table
from .meter import Cost, Meter, Speed, machine_speed
from .models import ARCHITECTURES, random_model
from .rounding import rounding_floor

__all__ = [
    "ARCHITECTURES",
    "BenchOptions",
    "Cost",
    "Meter",
    "Speed",
    "compare",
    "machine_speed",
    "random_model",
    "rounding_floor",
    "table",
]
