"""The kinds of values a setting may have, and the model every block is made of."""

import math
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NoReturn

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    model_validator,
)

from optinfra.settings.errors import reworded, shown

LARGEST_WHOLE = 2**63 - 1  # counters and seeds are int64
LARGEST_REAL = sys.float_info.max


class Block(BaseModel):
    """A mapping of settings: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="wrap")
    @classmethod
    def _reword_errors(cls, data: Any, handler: ModelWrapValidatorHandler) -> Any:
        try:
            return handler(data)
        except ValidationError as error:
            raise reworded(error, cls.known_keys()) from None

    @classmethod
    def known_keys(cls) -> list[str]:
        """List the keys a file may hold."""
        return list(cls.model_fields)


class FrozenDict(dict):
    """A dict that cannot be changed, so that settings stay what was validated."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("settings are frozen: make new ones with `override` and `load`.")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple:
        """Pickle and copy by making a new one."""
        return FrozenDict, (dict(self),)


def real(
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> PlainValidator:
    """Accept a finite number of an interval. YAML 1.1 reads `3e-4` as text: that is accepted."""
    expected = f"a number{_interval(low, high, open_low, open_high)}"

    def validate(value: Any) -> float:
        number = _number(value)
        if number is None or not _inside(number, low, high, open_low, open_high):
            raise ValueError(f"expected {expected}, got {shown(value)}.")
        return float(number)

    return PlainValidator(validate)


def whole(low: float = -LARGEST_WHOLE, high: float = LARGEST_WHOLE) -> PlainValidator:
    """Accept a whole number of an interval; `1.0e7` is one."""
    expected = f"a whole number{_interval(low, high, False, False)}"

    def validate(value: Any) -> int:
        number = _number(value)
        if number is None or not _inside(number, low, high, False, False) or number % 1:
            raise ValueError(f"expected {expected}, got {shown(value)}.")
        return int(number)

    return PlainValidator(validate)


def _number(value: Any) -> int | float | None:
    """Read a number, or None where there is none. True and false are none."""
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
        return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _inside(x: float, low: float, high: float, open_low: bool, open_high: bool) -> bool:
    """Tell whether a finite number lies in an interval. Comparing is exact for any int."""
    finite = -LARGEST_REAL <= x <= LARGEST_REAL
    return finite and (x > low if open_low else x >= low) and (x < high if open_high else x <= high)


def _interval(low: float, high: float, open_low: bool, open_high: bool) -> str:
    """Write an interval as a message names it; nothing where every number lies in it."""
    if high >= LARGEST_WHOLE:
        unbounded = low <= -LARGEST_WHOLE
        return "" if unbounded else f" {'>' if open_low else '≥'} {low}"
    return f" in {'(' if open_low else '['}{low}, {high}{')' if open_high else ']'}"


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {shown(value)}.")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        hint = " Put it in quotes." if isinstance(value, bool | int | float) else ""
        raise ValueError(f"expected text, got {shown(value)}.{hint}")
    if not value:
        raise ValueError('expected text, got "".')
    return value


def chosen_by(sibling: str, models: Mapping[str, type[Block]]) -> WrapValidator:
    """Validate with the model that an earlier key of the same block chooses."""

    def validate(value: Any, handler: Callable[[Any], Any], info: ValidationInfo) -> Any:
        del handler  # It would try every model in turn and report the mistakes of all.
        model = models.get(info.data.get(sibling, ""))
        # Without a model the sibling is wrong, and reported: this value cannot be judged.
        return None if model is None else model.model_validate(value)

    return WrapValidator(validate)


Real = Annotated[float, real()]
Positive = Annotated[float, real(0, open_low=True)]
NonNegative = Annotated[float, real(0)]
Unit = Annotated[float, real(0, 1)]
Count = Annotated[int, whole(1)]  # at least one
Natural = Annotated[int, whole(0)]  # none or more
Whole = Annotated[int, whole()]
Seed = Annotated[int, whole(-1)]  # −1: drawn
Flag = Annotated[bool, PlainValidator(_flag)]
Text = Annotated[str, PlainValidator(_text)]
Frozen = AfterValidator(FrozenDict)
