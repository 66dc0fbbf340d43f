"""The cases, in the order of the page."""

from evaluation.faults.case import ADDED, SECTIONS
from evaluation.faults.cases import (  # noqa: F401 - each adds its own
    daemon,
    machine,
    narrator,
    peers,
    rigs,
    sources,
    subscribers,
)

CASES = sorted(ADDED, key=lambda case: list(SECTIONS).index(case.section))
