"""The other people's files that come with the page are unchanged."""

import hashlib
import re
from pathlib import Path

VENDOR = Path(__file__).parents[3] / "subscribers" / "dashboard" / "page" / "vendor"


def test_files_of_others_are_those_of_the_table():
    """Each with its sha256; every file but licences and the table itself is in it."""
    rows = re.findall(
        r"^\| `(\S+)` .*`([0-9a-f]{64})` \|$", (VENDOR / "README.md").read_text(), re.M
    )
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.iterdir()
        if path.suffix not in {".md", ".txt"}
    }
    assert dict(rows) == found
