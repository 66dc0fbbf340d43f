"""What is wrong with a server, a model or the settings is said at start-up, with what to change."""

from __future__ import annotations

import socket
from contextlib import nullcontext

import pytest

from contracts.errors import DependencyError, UserError
from contracts.manifest import Manifest, PatchGridModel
from daemon.narrators.auto import load_narrator
from daemon.narrators.protocol import narrate
from daemon.narrators.vllm.narrator import VllmNarrator
from tests.support.recorded_vllm import RECORDED, SENTENCE
from tests.support.vllm_narrators import embeddings_of, narrator_settings, vllm_settings
from tests.support.vllm_server import TINY_LLAVA


def nobody() -> str:
    """Return a URL at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_no_server_is_a_missing_dependency(make_narrator):
    """The error names every URL, the command that starts a server, and ends with code 3."""
    urls = nobody(), nobody()
    with pytest.raises(DependencyError, match="no vLLM server is there") as caught:
        make_narrator(*urls)
    assert all(f"{url} cannot be reached" in str(caught.value) for url in urls)
    assert "configs/vllm/serve MODEL" in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_server_that_loads_is_a_missing_dependency(make_narrator, server):
    """A server whose health is not good yet is not there yet."""
    server.health = 503
    with pytest.raises(DependencyError, match="answered 503"):
        make_narrator(server.url)


@pytest.mark.parametrize("path", ["/health", "/v1/chat/completions"])
def test_a_server_that_drips_is_a_missing_dependency(make_narrator, server, path):
    """An answer that comes letter by letter does not hold the start for ever."""
    server.drips = path
    with pytest.raises(DependencyError, match=f"{server.url} had not "):
        make_narrator(server.url, vllm={"connect_timeout_s": 0.5, "start_timeout_s": 1})


def test_a_cluster_may_have_no_health_page(make_narrator, server):
    """What stands before several servers need not know that path; the list of models is enough."""
    server.health = 404
    assert narrate(make_narrator(server.url), embeddings_of(1))[0].text == SENTENCE
    server.health = 403
    with pytest.raises(UserError, match="answered 403"):
        make_narrator(server.url)


def test_one_server_is_enough(make_narrator, server, caplog):
    """With one of two servers there the narrator starts, and says which rests."""
    gone = nobody()
    narrator = make_narrator(gone, server.url)
    (said,) = narrate(narrator, embeddings_of(1))
    assert said.text == SENTENCE
    (rests,) = [record for record in caplog.records if record.message == "vLLM server rests"]
    assert gone in vars(rests)["reason"]


def test_another_model_is_named(make_narrator, server):
    """What the server serves and what was asked for stand in the error."""
    with pytest.raises(UserError, match=r"serves 'tiny-llava', and not 'llava-7b'") as caught:
        make_narrator(server.url, vllm={"model": "llava-7b"})
    assert "--served-model-name llava-7b" in str(caught.value)
    assert "vllm.model" in str(caught.value)


def test_the_models_own_name_is_the_default(make_narrator, server):
    """Without a name the server must serve the model under its own, as ``vllm serve`` does."""
    with pytest.raises(UserError, match=str(TINY_LLAVA)):
        make_narrator(server.url, vllm={"model": None})


def test_a_missing_flag_is_named(make_narrator, server):
    """A server that takes no embeddings says so, and we say which flag."""
    server.preflight = "no embeddings"
    with pytest.raises(UserError, match="Start it with --enable-mm-embeds --limit-mm-per-prompt"):
        make_narrator(server.url)


def test_another_template_is_found(make_narrator, server):
    """A server that puts words around the prompt is found by the tokens that it makes of it."""
    server.preflight = "other template"
    with pytest.raises(UserError, match=r"--chat-template configs/vllm/narrator\.jinja") as caught:
        make_narrator(server.url)
    assert "--chat-template-content-format openai" in str(caught.value)


def test_a_missing_key_is_named(make_narrator, server, monkeypatch):
    """A server that wants a key: the variable to put it in."""
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    server.models = "unauthorized"
    with pytest.raises(UserError, match="into the environment variable VLLM_API_KEY"):
        make_narrator(server.url)


def test_a_server_without_room_is_named(make_narrator, server):
    """Prompt, patches and sentence must fit in what the server holds."""
    with pytest.raises(UserError, match="--max-model-len 590 or more"):
        make_narrator(server.url, max_new_tokens=500)


def test_something_else_at_the_port(make_narrator, server):
    """A web server that is no vLLM is said to be none."""
    server.models = "version"
    with pytest.raises(DependencyError, match="is no vLLM server"):
        make_narrator(server.url)


def test_a_web_page_is_not_shown(make_narrator, server, monkeypatch):
    """Of an error that comes as a page for people only status and reason stand in ours."""
    page = {"status": 404, "content_type": "text/html", "body": "<!DOCTYPE HTML><html>no"}
    monkeypatch.setitem(RECORDED, "page", page)
    server.models = "page"
    with pytest.raises(UserError, match=r"answered 404 Not Found\. It must be a vLLM server"):
        make_narrator(server.url)


def test_another_refusal_shows_the_servers_words(make_narrator, server):
    """What the server says stands in the error, whatever it is."""
    server.preflight = "other width"
    with pytest.raises(UserError, match=r"At most 0 image.*docs/vllm.md"):
        make_narrator(server.url)


def test_every_wrong_server_is_named(make_narrator, server, other):
    """Two servers, two problems, one error."""
    server.preflight, other.preflight = "no embeddings", "other template"
    with pytest.raises(UserError) as caught:
        make_narrator(server.url, other.url)
    assert server.url in str(caught.value)
    assert other.url in str(caught.value)


def test_a_projector_that_does_not_fit_is_refused(fitting, server):
    """The bundle's grid and the model's stand in the error, and no server is asked."""
    grid = PatchGridModel(rows=8, cols=8, dim=64)
    model = fitting.model.model_copy(update={"patch_grid": grid})
    other_bundle = Manifest(model, fitting.folder, fitting.sha256)
    with pytest.raises(UserError, match="the bundle has 64, the model 96"):
        VllmNarrator(
            str(TINY_LLAVA), revision="", manifest=other_bundle, settings=narrator_settings(),
            vllm=vllm_settings(server.url),
        )  # fmt: skip
    assert not server.requests


@pytest.mark.parametrize(
    ("changed", "is_right"),
    [
        ({}, True),
        ({"batch_timeout_s": 92}, False),
        ({"batch_timeout_s": 92, "mode": "sequential"}, True),
        ({"batch_timeout_s": 92, "deadline_s": 91}, True),
        ({"batch_timeout_s": 92, "deadline_s": 92}, False),
    ],
)
def test_silent_servers_fail_before_the_worker_does(make_narrator, server, changed, is_right):
    """All tries together must end before the worker is killed, as they do by default."""
    with nullcontext() if is_right else pytest.raises(UserError, match="can take 92 s") as caught:
        make_narrator(server.url, **changed)
    if caught:
        assert "Lower one of these, or raise narrator.batch_timeout_s" in str(caught.value)


def test_the_settings_choose_it(fitting, server):
    """``narrator.backend = "vllm"`` loads it, with the servers of ``[vllm]``."""
    settings = narrator_settings(model=str(TINY_LLAVA))
    narrator = load_narrator(settings, fitting, vllm=vllm_settings(server.url))
    assert isinstance(narrator, VllmNarrator)
    narrator.close()
    narrator.close()
    assert RECORDED["version"]["body"] == '{"version":"0.32.0"}'
