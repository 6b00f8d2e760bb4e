"""Types that the configurations of all generalists share: a frozen model, and numbers with a range."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
NonNegativeCount = Annotated[int, Field(ge=0, le=1_000_000_000)]
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]

Steps = Annotated[Count, Field(description="Optimiser steps.")]
BatchSize = Annotated[Count, Field(description="Samples per step.")]
LearningRate = Annotated[float, Field(ge=1e-12, le=10, description="Learning rate of AdamW; the peak of a schedule.")]
SaveEvery = Annotated[
    Count, Field(description="Steps between checkpoints; --resume continues from the last checkpoint.")
]
ShuffleBuffer = Annotated[Count, Field(description="Samples held for shuffling (JPEG, about 10 kB each).")]


class FrozenModel(BaseModel):
    """Immutable configuration; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)
