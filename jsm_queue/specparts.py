"""What the parts of a spec are made of: names, formats, seeds, and their base, which takes values as they are meant."""

from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticKnownError

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Format = Literal["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"]


def _no_truth(value: Any) -> Any:
    """Python counts true as 1; whoever writes it for a number errs."""
    if isinstance(value, bool):
        raise PydanticKnownError("int_type")
    return value


def _each_once(values: list[int]) -> list[int]:
    if len(set(values)) != len(values):
        raise ValueError(f"{next(value for value in values if values.count(value) > 1)} is there twice; each once")
    return values


Whole = Annotated[int, BeforeValidator(_no_truth)]
Seeds = Annotated[
    list[Annotated[Whole, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=20), AfterValidator(_each_once)
]


class Part(BaseModel):
    """Base of every part of a spec: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        """Raises PydanticKnownError for a truth value that stands for a number, or the other way round."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        kinds = {*get_args(annotation), annotation}
        if bool in kinds and not isinstance(value, bool):
            raise PydanticKnownError("bool_type")
        if isinstance(value, bool) and bool not in kinds and kinds & {int, float}:
            raise PydanticKnownError("int_type" if int in kinds else "float_type")
        return value
