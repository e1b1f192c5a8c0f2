"""Environment parameters: constants, samplers and curricula of lessons."""

import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import model_validator

from optinfra.settings.errors import SettingsWarning, problem_at
from optinfra.settings.kinds import (
    Block,
    Flag,
    Natural,
    NonNegative,
    Real,
    Seed,
    Text,
    chosen_by,
)


class ConstantParameters(Block):
    """Always the same value."""

    seed: Seed = -1
    value: Real = 0.0


class UniformParameters(Block):
    """Any value of an interval."""

    seed: Seed = -1
    min_value: Real = 0.0
    max_value: Real = 1.0

    @model_validator(mode="after")
    def _order_the_ends(self) -> "UniformParameters":
        if self.min_value > self.max_value:
            text = f"expected at most max_value = {self.max_value}, got {self.min_value}."
            raise problem_at("min_value", self.min_value, text)
        return self


class GaussianParameters(Block):
    """Values around a mean."""

    seed: Seed = -1
    mean: Real = 1.0
    st_dev: NonNegative = 1.0


class MultiRangeUniformParameters(Block):
    """Any value of several intervals."""

    seed: Seed = -1
    intervals: tuple[tuple[Real, Real], ...] = ((0.0, 1.0),)

    @model_validator(mode="after")
    def _order_the_ends(self) -> "MultiRangeUniformParameters":
        if not self.intervals or any(low > high for low, high in self.intervals):
            text = "expected at least one [low, high] with low ≤ high in each."
            raise problem_at("intervals", self.intervals, text)
        return self


SAMPLERS: Mapping[str, type[Block]] = {
    "constant": ConstantParameters,
    "uniform": UniformParameters,
    "gaussian": GaussianParameters,
    "multirangeuniform": MultiRangeUniformParameters,
}


class SamplerSettings(Block):
    """How a parameter is drawn. A bare number is the constant."""

    sampler_type: Literal["constant", "uniform", "gaussian", "multirangeuniform"]
    sampler_parameters: Annotated[
        ConstantParameters | UniformParameters | GaussianParameters | MultiRangeUniformParameters,
        chosen_by("sampler_type", SAMPLERS),
    ]

    @model_validator(mode="before")
    @classmethod
    def _read_a_number(cls, data: Any) -> Any:
        if isinstance(data, int | float) and not isinstance(data, bool):
            return {"sampler_type": "constant", "sampler_parameters": {"value": data}}
        return data


class CompletionCriteriaSettings(Block):
    """When a lesson is over."""

    behavior: Text
    measure: Literal["reward", "progress"] = "reward"
    min_lesson_length: Natural = 0  # episodes
    signal_smoothing: Flag = True
    threshold: Real = 0.0
    require_reset: Flag = False

    @model_validator(mode="after")
    def _bound_progress(self) -> "CompletionCriteriaSettings":
        if self.measure == "progress" and not 0 <= self.threshold <= 1:
            text = f"expected a number in [0, 1] for progress, got {self.threshold}."
            raise problem_at("threshold", self.threshold, text)
        return self


class Lesson(Block):
    """One step of a curriculum."""

    name: Text
    value: SamplerSettings
    completion_criteria: CompletionCriteriaSettings | None = None


class EnvironmentParameterSettings(Block):
    """A parameter's curriculum. A bare sampler or number is a single lesson."""

    curriculum: tuple[Lesson, ...]

    @model_validator(mode="before")
    @classmethod
    def _read_a_sampler(cls, data: Any) -> Any:
        if isinstance(data, dict) and "sampler_type" not in data:
            return data
        if isinstance(data, EnvironmentParameterSettings):
            return data
        sampler = SamplerSettings.model_validate(data)
        return {"curriculum": [Lesson(name="only", value=sampler)]}

    @model_validator(mode="after")
    def _require_an_end_of_every_lesson_but_the_last(self) -> "EnvironmentParameterSettings":
        if not self.curriculum:
            raise ValueError("expected at least one lesson.")
        *lessons, last = self.curriculum
        for lesson in lessons:
            if lesson.completion_criteria is None:
                raise ValueError(f"lesson {lesson.name}: missing completion_criteria.")
        if last.completion_criteria is not None:
            text = f"lesson {last.name} is the last: its completion_criteria have no effect."
            warnings.warn(text, SettingsWarning, stacklevel=2)
        return self
