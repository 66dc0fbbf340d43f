"""The reference pages say what the code says."""

import pytest

from daemon.service.settings_loader import setting_keys
from scripts.reference import ROOT, SCHEMA_FOLDERS, pages, settings_page


@pytest.mark.parametrize("name", sorted(pages()))
def test_the_page_is_current(name):
    """A page that differs was not made again: python -m scripts.reference."""
    assert (ROOT / name).read_text(encoding="utf-8") == pages()[name]


def test_no_other_schema_is_shipped():
    """A message that is no longer published leaves no schema behind."""
    shipped = [path for folder in SCHEMA_FOLDERS for path in (ROOT / folder).iterdir()]
    assert sorted(str(path.relative_to(ROOT)) for path in shipped) == sorted(
        name for name in pages() if name.endswith(".schema.json")
    )


def test_every_setting_is_described():
    """Each key stands on the page with a description."""
    sections = {
        section.partition("`")[0]: section.partition("\n\n")[2].partition("\n")[0]
        for section in settings_page().split("### `")[1:]
    }
    assert set(sections) == set(setting_keys())
    assert all(len(text) > 20 for text in sections.values())
