"""Kinds of values that settings have."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from contracts.address import bind_problem, connect_problem, http_problem

_TORCH_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


def _refuse_if(problem_of: Callable[[str], str]) -> AfterValidator:
    """Refuse a value with the problem that a function finds in it; empty if none."""

    def check(value: str) -> str:
        if problem := problem_of(value):
            raise ValueError(problem)
        return value

    return AfterValidator(check)


def _torch_device(value: str) -> str:
    if not _TORCH_DEVICE.fullmatch(value):
        raise ValueError(f"must be auto, cpu, cuda or cuda:NUMBER, got {value!r}")
    return value


def _split(value: object) -> object:
    return tuple(map(str.strip, value.split(","))) if isinstance(value, str) else value


def several(noun: str) -> tuple[BeforeValidator, AfterValidator]:
    """Let texts be separated by commas, as on a command line, and refuse an empty list."""

    def refuse_none(value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError(f"needs one {noun} or more, got none")
        return value

    return BeforeValidator(_split), AfterValidator(refuse_none)


BindEndpoint = Annotated[str, _refuse_if(bind_problem)]
ConnectEndpoint = Annotated[str, _refuse_if(connect_problem)]
HttpUrl = Annotated[str, _refuse_if(http_problem), AfterValidator(lambda url: url.rstrip("/"))]
TorchDevice = Annotated[str, AfterValidator(_torch_device)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""Any number of texts, also separated by commas."""
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class SettingsGroup(BaseModel):
    """A table of a settings file: frozen, without keys of other names."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


Cores = Annotated[tuple[Annotated[int, Field(ge=0, le=4095)], ...], Field(max_length=4096)]
"""Numbers of processor cores, as in ``/proc/cpuinfo``."""
