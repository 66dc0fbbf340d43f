"""The LLaVA narrator says, token for token, what the whole model says of the same picture."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer, LlavaForConditionalGeneration

from contracts.embedding import PatchEmbedding, PatchGrid
from contracts.errors import MisuseError, UserError
from contracts.manifest import LanguageModel, Manifest
from contracts.narration import Status
from daemon.narrators.auto import load_narrator
from daemon.narrators.llava import LlavaNarrator
from daemon.narrators.llava.loading import ModelSource, load_config, load_weights
from daemon.narrators.llava.onnx_decoder import OnnxDecoder
from daemon.narrators.protocol import EndedRow, narrate
from daemon.service.settings import PAPER_PROMPT, NarratorSettings
from tests.support.tiny_bundle import CAPTIONS, TINY_GRID, tiny_windows, write_stub_bundle

MAX_NEW_TOKENS = 24


@pytest.fixture(scope="module")
def narrator(tiny_llava, stub_bundle):
    """Return a narrator on the tiny model."""
    return llava_of(tiny_llava, stub_bundle)


@pytest.fixture(scope="module")
def tokenizer(tiny_llava):
    """Return the tiny model's tokenizer."""
    return AutoTokenizer.from_pretrained(tiny_llava)


@pytest.fixture(scope="module")
def whole(tiny_llava):
    """Return the whole model, vision tower included."""
    return LlavaForConditionalGeneration.from_pretrained(tiny_llava).eval()


@pytest.fixture(scope="module")
def pixels():
    """Return six random pictures."""
    return torch.randn(6, 3, 112, 112, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def embeddings(whole, pixels):
    """Return what the vision tower makes of them, as if an encoder had."""
    with torch.inference_mode():
        layers = whole.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    return [embedding_of(patches.numpy()) for patches in layers[-2][:, 1:]]


def llava_of(model, manifest, **options):
    """Make a narrator with the paper's prompt."""
    # One thread: two that wait for each other are slow on a machine that runs other tests.
    defaults: dict[str, Any] = {
        "prompt": PAPER_PROMPT,
        "max_new_tokens": MAX_NEW_TOKENS,
        "threads": 1,
    }
    return LlavaNarrator(model, manifest=manifest, **(defaults | options))


def embedding_of(patches):
    (window,) = tiny_windows(1)
    return PatchEmbedding(window, "all", 12, TINY_GRID, patches.astype(np.float32))


def plain_road(model, tokenizer, pixels):
    """Return tokens and their scores from picture to words, as the model's makers call it."""
    prompt = PAPER_PROMPT.replace("<image>", "<image>" * TINY_GRID.n_patches)
    ids = tokenizer([prompt] * len(pixels), return_tensors="pt").input_ids
    with torch.inference_mode():
        return ids.shape[1], model.generate(
            input_ids=ids,
            pixel_values=pixels,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=MAX_NEW_TOKENS,
            output_logits=True,
            return_dict_in_generate=True,
        )


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_same_words_as_the_whole_model(narrator, whole, tokenizer, pixels, embeddings, n):
    """With the vision tower's own patches, text, length, end and score are the plain road's."""
    n_prompt, expected = plain_road(whole, tokenizer, pixels[:n])
    said = narrate(narrator, embeddings[:n])
    for row, utterance in enumerate(said):
        ids = expected.sequences[row, n_prompt:].tolist()
        ended = tokenizer.eos_token_id in ids
        ids = ids[: ids.index(tokenizer.eos_token_id) + 1] if ended else ids
        scores = [
            float(expected.logits[step][row].log_softmax(-1)[token])
            for step, token in enumerate(ids)
        ]
        assert utterance.text == tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert utterance.n_tokens == len(ids)
        assert utterance.status == (Status.OK if ended else Status.TRUNCATED)
        assert utterance.mean_logprob == pytest.approx(np.mean(scores), abs=1e-4)


def test_pictures_cover_both_ends(narrator, embeddings):
    """The pictures of these tests give sentences that end, and sentences that are cut."""
    statuses = {utterance.status for utterance in narrate(narrator, embeddings)}
    assert statuses == {Status.OK, Status.TRUNCATED}


def test_batch_equals_single(narrator, embeddings):
    """A neighbour in the batch changes nothing but the time."""
    together = narrate(narrator, embeddings)
    alone = [narrate(narrator, [each])[0] for each in embeddings]
    assert [each.text for each in together] == [each.text for each in alone]
    assert [each.n_tokens for each in together] == [each.n_tokens for each in alone]
    assert [each.mean_logprob for each in together] == pytest.approx(
        [each.mean_logprob for each in alone], abs=1e-4
    )


def test_short_sentence_is_stamped_before_its_long_neighbour(narrator, embeddings):
    """The last word of each row has the time of its own step, not of the batch's end."""
    said = sorted(narrate(narrator, embeddings), key=lambda each: each.n_tokens)
    stamps = [each.last_token_host_ns for each in said]
    assert stamps == sorted(stamps)
    assert stamps[0] < stamps[-1]
    assert len({each.first_token_host_ns for each in said}) == 1


def test_cut_sentence_gives_the_reason(tiny_llava, stub_bundle, embeddings):
    """A narration that ran into the limit says which."""
    narrator = llava_of(tiny_llava, stub_bundle, max_new_tokens=2)
    said = narrate(narrator, embeddings)
    cut = [each for each in said if each.status == Status.TRUNCATED]
    assert cut
    assert all(each.reason == "cut at 2 tokens" and each.n_tokens == 2 for each in cut)


def test_patches_that_are_no_numbers_fail_alone(narrator, embeddings):
    """A broken grid is a failed narration with a reason; its neighbour is told as ever."""
    broken = embedding_of(np.full((64, 64), np.nan))
    failed, good = narrate(narrator, [broken, embeddings[0]])
    assert (failed.status, failed.text, failed.mean_logprob) == (Status.FAILED, "", None)
    assert "not numbers" in failed.reason
    assert good.text == narrate(narrator, embeddings[:1])[0].text


def test_evidence_is_attached(narrator, embeddings, tiny_llava, tmp_path):
    """A bundle with captioned frames gives evidence, one without gives none."""
    (said,) = narrate(narrator, embeddings[:1])
    assert said.evidence is not None
    assert said.evidence.caption in CAPTIONS
    bare = llava_of(tiny_llava, write_stub_bundle(tmp_path / "bare"))
    assert narrate(bare, embeddings[:1])[0].evidence is None


def test_provenance_names_model_and_prompt(narrator, tiny_llava, stub_bundle):
    """Enough is said to make the narration again."""
    provenance = narrator.provenance
    assert provenance.backend == "llava"
    assert (provenance.model, provenance.prompt) == (str(tiny_llava), PAPER_PROMPT)
    assert provenance.bundle == stub_bundle.sha256


def test_vision_tower_is_never_read(tiny_llava, stub_bundle):
    """The model is loaded without its eyes; nothing of their layers is in memory."""
    source = ModelSource(str(tiny_llava), "main")
    config, _ = load_config(source, stub_bundle)
    model = load_weights(source, config)
    assert not [name for name, _ in model.named_parameters() if "vision" in name]
    assert config.vision_config.num_hidden_layers == 0


def test_missing_weights_are_named(tiny_llava, stub_bundle, tmp_path):
    """A file that lacks a matrix is refused; transformers alone would make up random numbers."""
    folder = shutil.copytree(tiny_llava, tmp_path / "holed")
    weights = load_file(folder / "model.safetensors")
    del weights["language_model.lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack 1: lm_head\.weight"):
        llava_of(folder, stub_bundle)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_refused_on_a_cpu(tiny_llava, stub_bundle, dtype):
    """Before any weights are read; some processors have no kernels for it."""
    with pytest.raises(UserError, match=f"must be float32 or auto .*, got '{dtype}'"):
        llava_of(tiny_llava, stub_bundle, dtype=dtype, device="cpu")


@pytest.mark.parametrize("prompt", ["Describe.", "<image> and <image>"])
def test_prompt_without_one_image_is_refused(tiny_llava, stub_bundle, prompt):
    """The patches need one place to go; settings refuse the prompt, and so does the model."""
    with pytest.raises(ValueError, match="<image> exactly once"):
        NarratorSettings(prompt=prompt)
    with pytest.raises(UserError, match=r"<image> in the prompt as token .* once"):
        llava_of(tiny_llava, stub_bundle, prompt=prompt)


def test_revision_of_the_bundle_is_loaded(tiny_llava, stub_bundle, tmp_path, monkeypatch):
    """Every part of the bundle's model is of its commit, and narrations say which."""
    kinds = (AutoConfig, LlavaForConditionalGeneration, AutoTokenizer)
    asked: dict[type, str] = {}
    for kind in kinds:
        load = kind.from_pretrained

        def remember_and_load(name, *, revision, kind=kind, load=load, **options):
            asked.setdefault(kind, revision)  # the first is ours, others come from inside
            return load(name, **options)

        monkeypatch.setattr(kind, "from_pretrained", remember_and_load)
    model = stub_bundle.model.model_copy(
        update={"language_model": LanguageModel(model_id=str(tiny_llava), revision="f" * 40)}
    )
    manifest = Manifest(model, stub_bundle.folder, stub_bundle.sha256)
    narrator = load_narrator(NarratorSettings(device="cpu", max_new_tokens=1), manifest)
    assert asked == dict.fromkeys(kinds, "f" * 40)
    assert narrator.provenance.revision == "f" * 40
    asked.clear()
    other = NarratorSettings(device="cpu", max_new_tokens=1, model=str(tiny_llava))
    assert load_narrator(other, manifest).provenance.revision == ""
    assert asked == dict.fromkeys(kinds, "main")


def test_first_narration_does_not_pay(tiny_llava, stub_bundle, monkeypatch):
    """The model has read a prompt and gone on by a token before any window, and has room."""
    called: list[str] = []
    for name in ("prefill", "step"):
        monkeypatch.setattr(OnnxDecoder, name, remembering(called, getattr(OnnxDecoder, name)))
    narrator = llava_of(tiny_llava, stub_bundle)
    assert called == ["prefill", "step"]
    assert narrator.n_rows == 0


def remembering(called, method):
    """Return a method that writes its name down first."""

    def remember_and_call(*arguments, **options):
        called.append(method.__name__)
        return method(*arguments, **options)

    return remember_and_call


@pytest.mark.parametrize("name", ["/nowhere", "./tiny", "../tiny", "~/tiny", "tiny/", "a/b/tiny"])
def test_missing_folder_is_refused_at_once(stub_bundle, tmp_path, monkeypatch, name):
    """A path that is no folder is said so, and the hub is not asked for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(AutoConfig, "from_pretrained", None)
    with pytest.raises(UserError, match="no such folder, seen from ") as caught:
        llava_of(name, stub_bundle)
    assert repr(name) in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_model_that_the_hub_lacks_says_what_to_do(stub_bundle, monkeypatch):
    """An id is the hub's to know, and a model that it lacks is the user's to fetch."""

    def not_there(*_, **__):
        raise OSError("no-such is not a model identifier")

    monkeypatch.setattr(AutoConfig, "from_pretrained", not_there)
    with pytest.raises(UserError, match="Download it first"):
        llava_of("nobody/no-such", stub_bundle)


def test_folder_without_weights_says_what_to_do(stub_bundle, tiny_llava, tmp_path):
    """A download that stopped half way is named as such."""
    (tmp_path / "config.json").write_text((tiny_llava / "config.json").read_text())
    with pytest.raises(UserError, match="cannot be loaded"):
        llava_of(tmp_path, stub_bundle)


def test_other_architecture_is_refused(stub_bundle, tmp_path):
    """A language model without eyes is not taken for a LLaVA."""
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="is a llama"):
        llava_of(tmp_path, stub_bundle)


def test_model_of_another_shape_is_refused(stub_bundle, tmp_path):
    """Both sides' numbers stand in the error, before any weights are read."""
    from simulation.tiny_llava import write_random_llava

    write_random_llava(tmp_path / "other", grid=PatchGrid(4, 4, 32))
    with pytest.raises(UserError) as caught:
        llava_of(tmp_path / "other", stub_bundle)
    assert "image tokens: the bundle has 64, the model 16" in str(caught.value)
    assert "numbers in an image token: the bundle has 64, the model 32" in str(caught.value)


def test_missing_gpu_is_named(tiny_llava, stub_bundle, monkeypatch):
    """A GPU that was asked for and is not there stops the start."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no NVIDIA GPU"):
        llava_of(tiny_llava, stub_bundle, device="cuda")


def test_other_grid_is_our_mistake(narrator):
    """Patches of another encoder never reach the model."""
    (window,) = tiny_windows(1)
    other = PatchEmbedding(window, "all", 12, PatchGrid(2, 2, 64), np.zeros((4, 64), np.float32))
    with pytest.raises(MisuseError, match="patches must be of"):
        narrate(narrator, [other])


def test_partials_begin_the_sentence(narrator, embeddings):
    """What is said before the end begins what is said in the end, and only for who asked."""
    narrator.begin(3, embeddings[:2], with_partials=True)
    narrator.begin(4, embeddings[2:3])
    parts, ended = [], {}
    while narrator.n_rows:
        for event in narrator.step():
            if isinstance(event, EndedRow):
                ended[event.batch_id, event.row] = event.utterance
            else:
                parts.append(event)
    assert {part.batch_id for part in parts} == {3}
    assert {part.row for part in parts} == {0, 1}
    for part in parts:
        assert part.text
        assert ended[3, part.row].text.startswith(part.text)
    assert ended[4, 0].text == narrate(narrator, embeddings[2:3])[0].text


def test_cancelled_window_says_nothing_more(narrator, embeddings):
    """Its rows leave at once, also those that wait, and its number can be used again."""
    narrator.begin(1, embeddings[:3], with_partials=True)
    narrator.step()
    narrator.cancel(1)
    narrator.cancel(99)
    assert (narrator.n_rows, list(narrator.step())) == (0, [])
    assert len(narrate(narrator, embeddings[:1])) == 1


def test_deadline_cuts_at_a_word(tiny_llava, stub_bundle, embeddings):
    """What is not said in time is cut; what has not begun fails, and both say which deadline."""
    narrator = llava_of(tiny_llava, stub_bundle, deadline_s=1e-6, max_rows=1)
    first, second = narrate(narrator, embeddings[:2])
    for utterance in (first, second):
        assert utterance.status == Status.FAILED
        assert utterance.reason == "cut at the deadline of 1e-06 s"
        assert utterance.last_token_host_ns >= utterance.start_host_ns


@pytest.mark.parametrize("joins", [True, False])
def test_room(tiny_llava, stub_bundle, embeddings, joins):
    """An idle narrator takes any window; a busy one only if windows may join and rows are free."""
    narrator = llava_of(tiny_llava, stub_bundle, max_rows=4, joins=joins)
    assert narrator.has_room(9)
    narrator.begin(0, embeddings[:3])
    assert narrator.has_room(1) == joins
    assert not narrator.has_room(2)
    narrator.cancel(0)
    assert narrator.has_room(9)


def test_window_of_nobody_leaves_nothing_behind(narrator, embeddings):
    """Without an embedding there is nothing to say and nothing under way."""
    narrator.begin(5, [])
    assert (narrator.n_rows, list(narrator.step()), narrator.has_room(9)) == (0, [], True)
    narrator.begin(5, embeddings[:1])
    assert narrator.n_rows == 1
    narrator.cancel(5)


def test_rows_that_the_memory_does_not_hold_are_refused(tiny_llava, stub_bundle):
    """More rows than any machine has room for: one sentence that says what to change."""
    with pytest.raises(UserError, match=r"Set narrator\.max_rows to fewer or narrator\.model"):
        llava_of(tiny_llava, stub_bundle, max_rows=1 << 40)


@pytest.mark.parametrize("name", ["prefill", "step"])
def test_device_that_holds_no_row_is_found_at_the_start(tiny_llava, stub_bundle, monkeypatch, name):
    """A narrator that could say nothing is never ready."""

    def full(*_, **__):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(OnnxDecoder, name, full)
    with pytest.raises(UserError, match="'cpu' must hold the language model and 16 sentences"):
        llava_of(tiny_llava, stub_bundle)


def test_other_errors_of_a_load_keep_their_name(tiny_llava, stub_bundle, monkeypatch):
    """What is not about memory is not said to be."""

    def broken(*_, **__):
        raise RuntimeError("a kernel is missing")

    monkeypatch.setattr(OnnxDecoder, "prefill", broken)
    with pytest.raises(RuntimeError, match="a kernel is missing"):
        llava_of(tiny_llava, stub_bundle)


def test_heads_of_another_size_are_decoded_by_torch(
    tiny_llava, stub_bundle, narrator, embeddings, monkeypatch
):
    """Where ONNX Runtime's attention does not take the heads, the words are the same."""
    expected = [each.text for each in narrate(narrator, embeddings)]
    monkeypatch.setattr("daemon.narrators.llava.onnx_decoder.HEAD_DIM_MULTIPLE", 1_000)
    monkeypatch.setattr(OnnxDecoder, "prefill", None)
    other = llava_of(tiny_llava, stub_bundle)
    assert [each.text for each in narrate(other, embeddings)] == expected
