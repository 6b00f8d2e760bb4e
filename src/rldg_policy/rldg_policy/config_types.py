"""Options that the configurations of all generalists share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rldg_core.configuration import Count

Share = Annotated[float, Field(ge=0, lt=1)]

Steps = Annotated[Count, Field(description="Optimiser steps.")]
BatchSize = Annotated[Count, Field(description="Samples per step.")]
LearningRate = Annotated[float, Field(ge=1e-12, le=10, description="Learning rate of AdamW; the peak of a schedule.")]
SaveEvery = Annotated[
    Count, Field(description="Steps between checkpoints; --resume continues from the last checkpoint.")
]
ShuffleBuffer = Annotated[Count, Field(description="Samples held for shuffling (JPEG, about 10 kB each).")]
