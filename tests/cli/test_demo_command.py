"""The demo: what it narrates when nobody says."""

from contracts.population import Population, Unit
from neurrate.demo_command import _populations


def test_demo_narrates_everything_the_areas_and_the_controls() -> None:
    """An area that holds every unit is not a part of it and is left out."""
    units = [Unit("1", area="VISp"), Unit("2", area="VISp"), Unit("3", area="LGd")]
    assert _populations(Population(units)) == ["all", "VISp", "LGd", "shuffled", "silent"]
    assert _populations(Population(units[:2])) == ["all", "shuffled", "silent"]


def test_demo_of_one_unit_has_no_shuffled_control() -> None:
    """One unit has no wrong place, and the demo does not ask for one."""
    assert _populations(Population([Unit("1", area="VISp")])) == ["all", "silent"]
