"""What a demo plays, before any process is started."""

from pathlib import Path

import numpy as np
import pytest

from contracts.embedding import PatchGrid
from contracts.errors import UserError
from contracts.manifest import Manifest, load_manifest
from contracts.population import Population, Unit
from contracts.selection_text import shown
from daemon.narrators.fit import check_fit
from daemon.service.settings_loader import load_settings, overrides_of
from evaluation.demo_plan import DemoRequest, default_populations, n_scenes, prepare
from evaluation.trial import TrialPlan, daemon_arguments
from simulation.tiny_llava import write_random_llava
from stream_sources.recordings.open_source import open_source
from tests.support.nwb_files import random_trains, write_units


def test_demo_narrates_everything_the_areas_and_the_controls() -> None:
    """An area that holds every unit is not a part of it and is left out."""
    units = [Unit("1", area="VISp"), Unit("2", area="VISp"), Unit("3", area="LGd")]
    assert tuple(default_populations(Population(units))) == (
        "all",
        "VISp",
        "LGd",
        "shuffled",
        "silent",
    )
    assert tuple(default_populations(Population(units[:2]))) == ("all", "shuffled", "silent")


def test_demo_narrates_areas_of_any_name(tmp_path: Path) -> None:
    """Names that nobody typed reach the daemon's settings and select the area alone."""
    names = ["Primary visual area, layer 2/3", "Süd", "Sud", "視覚野 🧠", "all", 'a\nb"\x1b\x7f']
    population = Population([Unit(str(row), area=name) for row, name in enumerate(names)])
    plan = TrialPlan("session.nwb", tmp_path, "model", default_populations(population))
    arguments = daemon_arguments(plan, "tcp://127.0.0.1:5570")
    given = next(word for word in arguments if word.startswith("populations="))
    settings = load_settings(environ={}, overrides=overrides_of([given])).settings
    assert len(settings.populations) == len(names) + 3
    chosen = [population.select(*item) for item in settings.populations.items()]
    assert [one.name for one in chosen[:1] + chosen[-2:]] == ["all", "shuffled", "silent"]
    selected = [np.flatnonzero(one.mask).tolist() for one in chosen[1:-2]]
    assert sorted(selected) == [[row] for row in range(len(names))]
    assert [one.label for one in chosen[1:-2]] == [shown(area) for area in population.areas]


def test_demo_of_one_unit_has_no_shuffled_control() -> None:
    """One unit has no wrong place, and the demo does not ask for one."""
    assert tuple(default_populations(Population([Unit("1", area="VISp")]))) == ("all", "silent")


def test_scenes_fill_the_session() -> None:
    """A second of grey, then scenes of two seconds: the last one reaches to the end or beyond."""
    assert [n_scenes(seconds) for seconds in (0.5, 3.0, 3.1, 40.0)] == [1, 1, 2, 20]


def test_a_session_that_takes_too_long_to_draw_is_refused() -> None:
    """The bound is named, and what to do instead."""
    with pytest.raises(UserError, match=r"3600\. Ask for less, or give a --recording"):
        n_scenes(3601.0)


@pytest.mark.parametrize("bundle", [None, Path("bundle")])
def test_units_of_a_trained_encoder_cannot_be_chosen(bundle: Path | None, tmp_path: Path) -> None:
    """A choice that would be passed over is refused, before anything is made."""
    with pytest.raises(UserError, match="--populations"):
        prepare(tmp_path, DemoRequest(units="area:VISp", bundle=bundle))
    assert not list(tmp_path.iterdir())


def test_a_bundle_brings_its_model_and_its_areas(tiny_bundle: Manifest, tmp_path: Path) -> None:
    """Nothing is made where everything is given; a model that is named wins."""
    request = DemoRequest(recording="session.nwb", bundle=tiny_bundle.folder, model="other")
    plan = prepare(tmp_path, request)
    assert (plan.recording, plan.bundle) == ("session.nwb", tiny_bundle.folder)
    assert plan.model == "other"
    assert tuple(plan.populations) == ("all", "CA1", "LGd", "VISp", "shuffled", "silent")
    assert not plan.settings
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_a_recording_alone_gets_random_weights(tmp_path: Path) -> None:
    """Its own units, in its order, and a small model that gives a few random words."""
    path = write_units(tmp_path / "session.nwb", random_trains(n_units=5))
    plan = prepare(tmp_path, DemoRequest(recording=str(path)))
    manifest = load_manifest(plan.bundle)
    assert manifest.population == open_source(str(path)).population
    assert not manifest.model.trained
    assert Path(plan.model, "config.json").is_file()
    assert plan.settings == ("narrator.max_new_tokens=12",)


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("grid", [PatchGrid(4, 4, 32), PatchGrid(6, 6, 128)])
def test_the_encoder_is_of_the_size_that_a_given_model_takes(
    grid: PatchGrid, tmp_path: Path
) -> None:
    """A model of any size can be tried on a recording: the daemon's own check lets it pass."""
    from transformers import AutoConfig

    path = write_units(tmp_path / "session.nwb", random_trains(n_units=5))
    model = tmp_path / "small"
    write_random_llava(model, grid=grid)
    plan = prepare(tmp_path, DemoRequest(recording=str(path), model=str(model)))
    manifest = load_manifest(plan.bundle)
    assert manifest.patch_grid == grid
    check_fit(plan.model, AutoConfig.from_pretrained(model), manifest)
    assert (plan.model, plan.settings) == (str(model), ())


def test_a_model_that_is_no_llava_is_refused_before_an_encoder_is_made(tmp_path: Path) -> None:
    """The sentence of the model, and nothing is made."""
    path = write_units(tmp_path / "session.nwb", random_trains(n_units=5))
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match="must be the folder of a LLaVA"):
        prepare(tmp_path, DemoRequest(recording=str(path), model=str(tmp_path / "model")))
    assert not (tmp_path / "bundle").exists()
