"""The reference pages, made from the code that they describe: ``python -m scripts.reference``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from contracts.schemas import PUBLISHED, RECORDED, schema_of
from contracts.trigger import TRIGGER_STAGES, TriggerKind
from daemon.counters import Counters
from daemon.service.latencies import LATENCY_STAGES, STAGE_BUCKETS_S, STAGE_HELP
from daemon.service.metrics import (
    BUILD_HELP,
    BUILD_LABELS,
    COUNTERS,
    GAUGES,
    PREFIX,
    READY_HELP,
    WORKER,
    MetricFamily,
)
from daemon.service.settings import Settings
from daemon.triggers.latencies import TRIGGER_BUCKETS_S, TRIGGER_STAGE_HELP
from neurrate.cli import build_app
from stream_sources.online_sorter.sorter_metrics import PREFIX as SORTER_PREFIX
from stream_sources.online_sorter.sorter_metrics import (
    SORTER_COUNTERS,
    SORTER_GAUGES,
    SorterMetric,
)

ROOT = Path(__file__).parent.parent

SCHEMA_FOLDERS = ("docs/schemas", "clients/python/src/neurrate_client/schemas")
"""The client's is a copy, so that it can be built and shipped without the rest."""

MADE_BY = "<!-- Made by `python -m scripts.reference`; do not edit. -->\n"

CLI_HEAD = """# Commands

What `neurrate COMMAND --help` prints, of every command.
"""

SETTINGS_HEAD = """# Settings

Order, weakest first: the defaults below, one TOML file (`--config FILE`), the environment
(`NEURRATE_RING__CAPACITY_S=20`), the command line (`--set ring.capacity_s=20`). Values of the last
two are written as in TOML; plain text needs no quotes, `none` stands for no value, and several
addresses are separated by commas. Unknown keys are refused. `neurrate config show` prints every
effective value with its source.
"""

METRICS_HEAD = """# Metrics

`http://127.0.0.1:9571/metrics`, unless `http.host` and `http.port` say otherwise.
Counters start at zero with the process. `/healthz`
is 200 while the process is alive, `/readyz` while it can narrate; otherwise they are 503 and say
why.

## Alerts and a dashboard

```console
$ promtool check config configs/prometheus.yml
$ prometheus --config.file=configs/prometheus.yml
```

`configs/prometheus.yml` collects the metrics every five seconds. `configs/prometheus-alerts.yml`
beside it raises alerts: each has a severity and says what to look at. Four numbers in it are yours
to choose: the latency budgets of narrations, triggers and the way from a source, and the confidence
below which nobody should believe a narration. `configs/grafana/neurrate.json` is a dashboard: in
Grafana, Dashboards > New > Import, and choose the Prometheus as its data source.
"""

PROCESS = f"""## Processes

Prometheus' usual metrics of a process: `process_` of the daemon and of the online sorter,
`{WORKER}_process_` of the narrator's process (there is none under
`narrator.mode = "sequential"`). Each is followed by `resident_memory_bytes`,
`virtual_memory_bytes`, `cpu_seconds_total`, `start_time_seconds`, `open_fds` and `max_fds`.
"""


def main() -> None:
    """Write every page."""
    for name, text in pages().items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Return the text of every page, and of every JSON Schema, by its path in the project."""
    names = {SCHEMA_FOLDERS[0]: PUBLISHED | RECORDED, SCHEMA_FOLDERS[1]: PUBLISHED}
    return {
        "docs/settings.md": settings_page(),
        "docs/metrics.md": metrics_page(),
        "docs/cli.md": cli_page(),
        **{
            f"{folder}/{name}.schema.json": json.dumps(schema_of(name), indent=2) + "\n"
            for folder in SCHEMA_FOLDERS
            for name in names[folder]
        },
    }


def cli_page() -> str:
    """Return ``docs/cli.md``: the help of every command."""
    text = build_app(is_whole=True).generate_docs(output_format="markdown")
    # Under `python -m` the library shows how this process was started, in part.
    text = re.sub(r"(?m)^(neurrate .*?)-m \S+ ", r"\1", text)
    text = re.sub(r"## Table of Contents\n.*?(?=\*\*Commands)", "", text, flags=re.DOTALL)
    return f"{MADE_BY}\n{text.rstrip()}\n".replace("# neurrate\n", CLI_HEAD, 1)


def settings_page() -> str:
    """Return ``docs/settings.md``."""
    return "\n".join([MADE_BY, SETTINGS_HEAD, *_settings_sections()])


def metrics_page() -> str:
    """Return ``docs/metrics.md``."""
    counters = [_metric_row(family, suffix="_total") for family in COUNTERS]
    gauges = [_metric_row(family) for family in GAUGES]
    gauges.append(f"| `{PREFIX}_ready` | {READY_HELP} |")
    gauges.append(f"| `{PREFIX}_build_info{{{','.join(BUILD_LABELS)}}}` | {BUILD_HELP} |")
    stages = ", ".join(f"`{stage}`" for stage in LATENCY_STAGES)
    buckets = ", ".join(f"{bound:g}" for bound in STAGE_BUCKETS_S)
    kinds = ", ".join(f"`{kind.value}`" for kind in TriggerKind)
    trigger_stages = ", ".join(f"`{stage}`" for stage in (*TRIGGER_STAGES, "total"))
    trigger_buckets = ", ".join(f"{bound:g}" for bound in TRIGGER_BUCKETS_S)
    head = ["| metric | what it says |", "|---|---|"]
    return "\n".join(
        [
            MADE_BY,
            METRICS_HEAD,
            "## Counters\n",
            *head,
            *counters,
            "\n## Gauges\n",
            *head,
            *gauges,
            "\n## Latency\n",
            f"`neurrate_stage_duration_seconds{{stage}}`, a histogram. {STAGE_HELP}\n",
            f"Stages: {stages}. Buckets, seconds: {buckets}.\n",
            f"`neurrate_trigger_stage_duration_seconds{{kind,stage}}`, a histogram. "
            f"{TRIGGER_STAGE_HELP}\n",
            f"Kinds: {kinds}. Stages: {trigger_stages}. Buckets, seconds: {trigger_buckets}.\n",
            PROCESS,
            "## Online sorter\n",
            "Of `neurrate stream sorter --metrics-port PORT`, a process for each probe.\n",
            *head,
            *(_sorter_row(metric, "_total") for metric in SORTER_COUNTERS),
            *(_sorter_row(metric) for metric in SORTER_GAUGES),
            "",
        ]
    )


def _settings_sections() -> Iterator[str]:
    for name, info in Settings.model_fields.items():
        group = info.annotation
        if isinstance(group, type) and issubclass(group, BaseModel):
            yield f"## {name}\n\n{group.__doc__}\n"
            for member, member_info in group.model_fields.items():
                yield _setting(f"{name}.{member}", member_info)
        else:
            yield f"## {name}\n"
            yield _setting(name, info)


def _setting(key: str, info: FieldInfo) -> str:
    variable = "NEURRATE_" + key.replace(".", "__").upper()
    described = re.sub(r"\s+", " ", info.description or "").replace("``", "`")
    return (
        f"### `{key}`\n\n{described}\n\n"
        f"{_type(info.annotation)}; default `{_default(info)}`; `{variable}`\n"
    )


def _type(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in get_args(annotation))
    if origin is tuple:
        return "list of texts"
    if origin is dict:
        return "table of texts"
    if origin is not None and (origin is Union or type(None) in get_args(annotation)):
        kinds = [_type(one) for one in get_args(annotation) if one is not type(None)]
        return " or ".join([*kinds, "none"])
    if not isinstance(annotation, type):  # Annotated inside a union
        return _type(get_args(annotation)[0])
    names = {bool: "true or false", int: "integer", float: "number", str: "text", Path: "path"}
    return names[annotation]


def _default(info: FieldInfo) -> str:
    if info.default is None:
        return "none"
    default = info.default
    if isinstance(default, dict):
        return "{ " + ", ".join(f"{k} = {json.dumps(v)}" for k, v in default.items()) + " }"
    return json.dumps(default)


def _metric_row(family: MetricFamily, suffix: str = "") -> str:
    name = family.name + suffix
    text = family.help.replace("|", "\\|")
    if family.label:
        name += f"{{{family.label}}}"
        if usual := getattr(Counters(), family.field, None):
            text += " Values: " + ", ".join(f"`{value}`" for value in usual) + "."
    return f"| `{name}` | {text} |"


def _sorter_row(metric: SorterMetric, suffix: str = "") -> str:
    return f"| `{SORTER_PREFIX}_{metric.name}{suffix}` | {metric.help} |"


if __name__ == "__main__":
    main()
