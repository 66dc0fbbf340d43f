"""Layers of settings, their sources, and the messages about mistakes."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from contracts.errors import SettingsError
from daemon.service.settings import Settings
from daemon.service.settings_loader import load_settings, setting_keys

CONFIGS = Path(__file__).parents[3] / "configs" / "daemon"


def _problems(**layers) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(**{"environ": {}, **layers})
    return "\n".join(caught.value.problems)


def _toml(folder: Path, text: str) -> Path:
    path = folder / "x.toml"
    path.write_text(text)
    return path


def test_defaults_are_valid_and_say_so():
    """Without any layer every key is there, from the default."""
    loaded = load_settings(environ={"PATH": "/bin"})
    assert loaded.settings == Settings()
    assert loaded.provenance == dict.fromkeys(setting_keys(), "default")


def test_later_layers_are_stronger(tmp_path):
    """Defaults, file, environment, command line: the last one that sets a key wins."""
    file = _toml(tmp_path, "[ring]\ncapacity_s = 3\n[http]\nport = 1\n[log]\nlevel = 'DEBUG'\n")
    loaded = load_settings(
        file=file,
        environ={"NEURRATE_HTTP__PORT": "2", "NEURRATE_LOG__LEVEL": "ERROR"},
        overrides={"log.level": "WARNING"},
    )
    settings = loaded.settings
    assert (settings.ring.capacity_s, settings.http.port, settings.log.level) == (3, 2, "WARNING")
    assert loaded.provenance["ring.capacity_s"] == str(file)
    assert loaded.provenance["http.port"] == "NEURRATE_HTTP__PORT"
    assert loaded.provenance["log.level"] == "--set"
    assert loaded.provenance["ring.capacity_s"] != loaded.provenance["window.stride_bins"]


def test_effective_pairs_every_value_with_its_source():
    """`effective` is what ``config show`` prints."""
    effective = load_settings(environ={}, overrides={"encoder.bundle": Path("b")}).effective()
    assert effective["encoder.bundle"] == ("b", "--set")
    assert effective["populations"] == ({"all": "all"}, "default")


def test_a_stronger_populations_table_replaces_the_weaker(tmp_path):
    """The table of populations is one value and is never merged."""
    file = _toml(tmp_path, "[populations]\na = 'all'\nb = 'silent'\n")
    loaded = load_settings(file=file, environ={"NEURRATE_POPULATIONS": '{v1 = "area:VISp"}'})
    assert loaded.settings.populations == {"v1": "area:VISp"}
    assert load_settings(file=file, environ={}).settings.populations == {"a": "all", "b": "silent"}


def test_a_population_may_have_any_name(tmp_path):
    """Names that a topic cannot hold are replaced, and two of them stay apart."""
    table = {"Süd": "all", "layer 2/3": "area:x", "Sud": "silent", "V1-a_b": "area:y"}
    file = _toml(tmp_path, "[populations]\n" + "\n".join(f"'{k}' = '{table[k]}'" for k in table))
    populations = load_settings(file=file, environ={}).settings.populations
    assert [*populations] == ["Sud-be833b", "layer_2_3", "Sud", "V1-a_b"]
    assert [*populations.values()] == [*table.values()]


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("http.enabled", "false", False),
        ("window.stride_bins", "7", 7),
        ("window.stride_bins", "none", None),
        ("narrator.model", "7", "7"),
        ("narrator.model", '"none"', "none"),
        ("narrator.model", "None", None),
        ("encoder.bundle", "a b", Path("a b")),
        ("keys.sources", "a, b", ("a", "b")),
        ("ingest.connect", '["ipc://x"]', ("ipc://x",)),
        ("vllm.urls", "http://a:1/, https://b", ("http://a:1", "https://b")),
        ("narrator.prompt", "say <image>\nhttp.port = 3", "say <image>\nhttp.port = 3"),
    ],
)
def test_texts_are_read_as_what_they_spell(key, text, value):
    """A text from the command line is a TOML value where it is one, and text otherwise."""
    group, name = key.split(".")
    settings = load_settings(environ={}, overrides={key: text}).settings
    assert getattr(getattr(settings, group), name) == value


def test_a_text_that_nests_too_deep_is_a_text():
    """What no parser follows is taken as it is, and refused for what it is not."""
    assert "ring.capacity_s must be" in _problems(overrides={"ring.capacity_s": "[" * 20_000})


def test_a_byte_order_mark_is_passed_over(tmp_path):
    """Some editors put one before the first table."""
    file = _toml(tmp_path, "\ufeff[http]\nport = 8123\n")
    assert load_settings(file=file, environ={}).settings.http.port == 8123


def test_all_problems_come_in_one_error(tmp_path):
    """Problems of all layers, of keys and of values, are listed together with their source."""
    file = _toml(tmp_path, "[handover]\ncapactiy = 3\n[ring]\ncapacity_s = 1\n")
    text = _problems(
        file=file,
        environ={"NEURRATE_WIDNOW__STRIDE_BINS": "3", "NEURRATE_NARRATOR__BACKEND": "gpt"},
        overrides={"http.prot": "1", "window.stride_bins": "0"},
    )
    assert text.splitlines() == [
        f"Unknown key handover.capactiy in {file}. Did you mean handover.capacity?",
        "Unknown variable NEURRATE_WIDNOW__STRIDE_BINS in the environment. "
        "Did you mean NEURRATE_WINDOW__STRIDE_BINS?",
        "Unknown key http.prot in --set. Did you mean http.port?",
        f"ring.capacity_s must be greater than or equal to 2, got 1 ({file}).",
        "window.stride_bins must be greater than or equal to 1, got 0 (--set).",
        "narrator.backend must be 'llava', 'vllm' or 'retrieval', got 'gpt' "
        "(NEURRATE_NARRATOR__BACKEND).",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ring = 3", "ring must be a table [ring], got 3"),
        ("rnig = 3", "Unknown key rnig"),
        ("[rnig]", "Unknown key rnig"),
        ("a = [", "is not TOML: Invalid value (at end of document)"),
        ("a = " + "[" * 20_000, "is not TOML: it nests too deep"),
        ("[triggers]\nrules = ''", "triggers.rules must name a file, or be none for no triggers"),
        ("a = 1\nb = ?", "is not TOML: Invalid value (at line 2, column 5)"),
        ("[populations]\n'' = 'all'", "populations names must not be empty, got '' for 'all'"),
        ("[populations]", "populations"),
        ("[ingest]\nconnect = []", "ingest.connect needs one address or more"),
        ("[vllm]\nurls = ['a:1']", "vllm.urls must be http://HOST:PORT or https://HOST:PORT"),
        ("[vllm]\nurls = ['http://a:99999']", "vllm.urls must be http://HOST:PORT"),
        ("[vllm]\nurls = ['http://me:word@a']", "vllm.urls must not hold a name or a password"),
        ("[vllm]\nurls = []", "vllm.urls needs one URL or more"),
        ("[ingest]\nconnect = ['x']", "ingest.connect must be tcp://HOST:PORT"),
        (
            "[ingest]\nconnect = ['tcp://127.0.0.1:99999']",
            "ingest.connect must have a port from 1 to 65535, got 'tcp://127.0.0.1:99999'",
        ),
        ("[ingest]\nconnect = ['tcp://127.0.0.1:*']", "ingest.connect must have a port from 1"),
        ("[publish]\nbind = 'tcp://127.0.0.1:70000'", "publish.bind must have a port from 0"),
        ("[narrator]\nprompt = 'hi'", "narrator.prompt must hold <image> exactly once"),
        ("[narrator]\ndevice = 'gpu'", "narrator.device must be auto, cpu, cuda or cuda:NUMBER"),
    ],
)
def test_a_bad_file_is_refused_with_its_name(tmp_path, text, message):
    """Every mistake in a file names the rule and the file."""
    file = _toml(tmp_path, text)
    problems = _problems(file=file)
    assert message in problems
    assert str(file) in problems


@pytest.mark.parametrize("head", ["triggers.car_seen", "sinks.pulse"])
def test_a_table_of_rules_is_told_where_it_belongs(tmp_path, head):
    """Rules and sinks have a file of their own, which a setting names."""
    file = _toml(tmp_path, f"[{head}]\nkind = 'x'\n")
    problems = _problems(file=file)
    assert problems.startswith(f"Unknown key {head} in {file}.")
    assert problems.endswith(" A file of rules is named by triggers.rules.")


def test_a_mistyped_setting_of_triggers_is_no_rule(tmp_path):
    """What is no table is not taken for one."""
    problems = _problems(file=_toml(tmp_path, "[triggers]\nrulse = 'x'\n"))
    assert problems.endswith("Did you mean triggers.rules?")


def test_a_missing_file_is_the_users_error(tmp_path):
    """A file that is not there, or is a folder, is reported as such."""
    assert "There is no settings file" in _problems(file=tmp_path / "none.toml")
    assert "Cannot read the settings file" in _problems(file=tmp_path)


def test_one_population_cannot_be_set_alone():
    """``populations.v1`` is no key, and the error explains how the table is set."""
    assert "set as a whole" in _problems(overrides={"populations.v1": "area:VISp"})


@pytest.mark.parametrize("bind", ["tcp://0.0.0.0:5571", "tcp://*:5571", "tcp://eth0:5571"])
def test_a_public_bind_needs_insecure(bind):
    """An address that other machines can reach is refused unless the user insists."""
    assert "loopback" in _problems(overrides={"publish.bind": bind})
    for word in ({"publish.insecure": "true"}, {"keys.own": "daemon"}):
        overrides = {"publish.bind": bind} | word
        assert load_settings(environ={}, overrides=overrides).settings.publish.bind == bind


def test_a_source_on_another_machine_needs_a_key():
    """Or the word; each address for itself, and those of this machine need neither."""
    connect: dict[str, object] = {"ingest.connect": ["tcp://127.0.0.1:1", "tcp://rig:1"]}
    problem = _problems(overrides=connect)
    assert "ingest.connect must lead to this machine, got 'tcp://rig:1'" in problem
    assert "(--set)" in problem
    keyless: dict[str, object] = {"keys.own": "daemon", "keys.sources": ["rig", "none"]}
    assert "got 'tcp://rig:1'" in _problems(overrides=connect | keyless)
    words: tuple[dict[str, object], ...] = (
        {"ingest.insecure": True},
        {"keys.own": "daemon", "keys.sources": "rig"},
        {"keys.own": "daemon", "keys.sources": "none, rig"},
    )
    for word in words:
        loaded = load_settings(environ={}, overrides=connect | word)
        assert len(loaded.settings.ingest.connect) == 2


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.168.0.3"])
def test_a_public_http_host_needs_insecure(host):
    """The same rule for HTTP, unless it is off."""
    given = {"http.host": host}
    assert "http.host must be a loopback address" in _problems(overrides=given)
    for word in (
        {"http.insecure": "true"}, {"http.enabled": "false"}, {"http.token_file": "token"}
    ):  # fmt: skip
        loaded = load_settings(environ={}, overrides=given | word)
        assert loaded.settings.http.host == host


def test_settings_cannot_be_changed():
    """Settings are frozen values."""
    with pytest.raises(ValidationError, match="frozen"):
        Settings().ring.capacity_s = 3


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda p: p.stem)
def test_example_files_load(path):
    """Every file in configs/daemon is legal."""
    assert path.name in str(load_settings(file=path, environ={}).provenance.values())


def test_a_password_in_a_url_is_not_repeated(tmp_path):
    """The error about a password in a URL does not show it."""
    assert "secret" not in _problems(file=_toml(tmp_path, "[vllm]\nurls = ['http://me:secret@a']"))
