"""``neurrate config``: the settings that the daemon would use."""

from __future__ import annotations

from contracts.atomic_files import check_writable
from daemon.service.settings_loader import settings_from
from neurrate.arguments import ConfigOption, JsonOption, SetOption
from neurrate.tables import print_table, write_json


def show(*, config: ConfigOption = None, set_: SetOption = (), json: JsonOption = None) -> None:
    """Show each effective setting and where it comes from.

    Weakest first: defaults, one TOML file, environment (NEURRATE_RING__CAPACITY_S), --set.
    docs/settings.md says what each setting means.

    Examples
    --------
        neurrate config show
        neurrate config show --config configs/daemon/replay.toml
        neurrate config show --set ring.capacity_s=20 --json settings.json

    Parameters
    ----------
    config
        TOML file.
    set_
        One setting, as key=value; may be given several times.
    json
        Write the same as JSON to this file.
    """
    check_writable(json)
    effective = settings_from(config, set_).effective()
    print_table(
        "Settings",
        [
            {"setting": key, "value": _shown(value), "source": source}
            for key, (value, source) in effective.items()
        ],
    )
    write_json(
        json,
        {key: {"value": value, "source": source} for key, (value, source) in effective.items()},
    )


def _shown(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case dict():
            return ", ".join(f"{key} = {item}" for key, item in value.items())
        case list():
            return ", ".join(str(item) for item in value)
        case str():
            return value.replace("\n", "\\n")
        case _:
            return str(value)
