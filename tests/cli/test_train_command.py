"""``neurrate train``: a run that was killed goes on, and what cannot be is one sentence."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from encoder_training.data_set.prepared_files import load_prepared, write_prepared
from encoder_training.history import write_history
from encoder_training.lag import CANDIDATES_NS, parse_lags
from encoder_training.model import EncoderSpec, PatchEncoder
from encoder_training.probes.probe_files import load_probes
from encoder_training.retrieval import RetrievalEncoder
from encoder_training.run_files import BESIDE, load_run
from neurrate.cli import main
from tests.support.pictures import no_drawing
from tests.support.prepared import prepared_set

QUICK = (
    "--size", "tiny", "--lag-ms", "100", "--training-epochs", "3", "--learning-rate", "3e-3",
    "--threads", "1", "--device", "cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Return the folder of a small data set."""
    folder: Path = tmp_path_factory.mktemp("train") / "data"
    folder.mkdir()
    write_prepared(folder, prepared_set(n_frames=60, n_repeats=4))
    return folder


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory) -> Path:
    """Return the folder of a finished run."""
    folder: Path = tmp_path_factory.mktemp("train") / "run"
    assert main(["train", str(dataset), str(folder), *QUICK]) == 0
    return folder


@pytest.fixture(scope="module")
def paper_run(run, dataset, tmp_path_factory) -> Path:
    """Return the folder of a finished run of the paper's encoder."""
    folder: Path = tmp_path_factory.mktemp("train") / "run"
    with no_drawing():
        command = ["train", str(dataset), str(folder), *QUICK, "--architecture", "neurrator"]
        assert main(command) == 0
    return folder


@pytest.fixture(autouse=True)
def _no_drawing(run):
    """Draw pictures for the first run alone."""
    with no_drawing():
        yield


def digest(folder: Path) -> str:
    """Return the sha256 of the weights of a run."""
    return hashlib.sha256((folder / "encoder.safetensors").read_bytes()).hexdigest()


def test_help_has_examples(capsys):
    """Options and examples are there."""
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for part in ("neurrate train data/ run/", "--lags-ms", "--variant", "--weights"):
        assert part in text


def test_run_is_whole(run, dataset):
    """Weights, scaling, history, pictures, scores, probes and a report are there, and agree."""
    found = load_run(run)
    prepared = load_prepared(dataset)
    assert found.model.finished
    assert found.model.dataset_sha256 == prepared.training_data.sha256
    assert found.model.lag_ns == 100_000_000
    assert found.model.n_passes == 3
    assert found.encoder.spec == EncoderSpec.tiny(len(prepared.population), prepared.grid)
    assert found.model.scores["cosine"] <= 1
    for name in ("history.csv", "curves.png", "report.md", "judged.json", "probes.safetensors"):
        assert (run / name).stat().st_size > 0
    assert "## Confidence" in (run / "report.md").read_text()
    assert not (run / "checkpoint.safetensors").exists()
    assert (run / "encoder.safetensors").stat().st_mode & 0o044
    assert len((run / "history.csv").read_text().splitlines()) == 4
    json.loads((run / "judged.json").read_text())


def test_killed_run_goes_on(run, dataset, tmp_path, capsys):
    """SIGKILL after the second pass, the same command again: the weights of an unbroken run."""
    broken = tmp_path / "broken"
    command = [sys.executable, "-m", "neurrate.cli", "train", str(dataset), str(broken), *QUICK]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(3)]
        child.send_signal(signal.SIGKILL)
    assert [line.split(":")[0] for line in lines[1:]] == ["pass 1 of 3", "pass 2 of 3"]
    assert not (broken / "encoder.safetensors").exists()
    assert main(["train", str(dataset), str(broken), *QUICK]) == 0
    assert "going on after pass " in capsys.readouterr().out
    assert digest(broken) == digest(run)
    assert len((broken / "history.csv").read_text().splitlines()) == 4


def test_pass_that_was_not_written_down_is(run, dataset, tmp_path, monkeypatch):
    """Ended between the last checkpoint and its line of history.csv, the same command adds it.

    The run lies in another folder, where a write was cut short, and its weights are the same.
    """
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".run.json.partial").write_text("{")

    def stop_at_the_third(rows, path):
        if len(rows) == 3:
            raise KeyboardInterrupt
        write_history(rows, path)

    with monkeypatch.context() as patch:
        patch.setattr("encoder_training.train_run.write_history", stop_at_the_third)
        main(["train", str(dataset), str(folder), *QUICK])
    assert len((folder / "history.csv").read_text().splitlines()) == 3
    assert main(["train", str(dataset), str(folder), *QUICK]) == 0
    assert len((folder / "history.csv").read_text().splitlines()) == 4
    assert digest(folder) == digest(run)


def test_data_set_that_was_changed_is_refused(dataset, tmp_path, capsys):
    """One count that is another since the data set was made is found before any work."""
    changed = tmp_path / "data"
    shutil.copytree(dataset, changed)
    content = bytearray((changed / "counts.npy").read_bytes())
    content[-1] ^= 1
    (changed / "counts.npy").write_bytes(content)
    assert main(["train", str(changed), str(tmp_path / "run"), *QUICK]) == 2
    assert "counts.npy has another sha256" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_named_concepts_are_probed(paper_run, dataset, tmp_path, capsys):
    """The words of --concepts and no others; another run has others, and a wrong word no run."""
    folder = tmp_path / "run"
    quick = (*QUICK[:5], "1", *QUICK[6:], "--weights", str(paper_run / "encoder.safetensors"))
    named = ("--concepts", "dog,cars", "--test-windows", "20")
    assert main(["train", str(dataset), str(folder), *quick, "--concepts", "zebra"]) == 2
    assert "zebra is in none" in " ".join(capsys.readouterr().err.split())
    assert not folder.exists()
    assert main(["train", str(dataset), str(folder), *quick, *named]) == 0
    assert load_probes(folder).concepts == ("dog", "cars")
    assert json.loads((folder / "judged.json").read_text())["n_windows"] == 20
    assert main(["train", str(dataset), str(folder), *quick]) == 2
    assert "concepts" in capsys.readouterr().err


def test_finished_run_says_so(run, dataset, capsys):
    """The same command once more does nothing."""
    before = digest(run)
    assert main(["train", str(dataset), str(run), *QUICK]) == 0
    assert "is finished: 3 passes" in capsys.readouterr().out
    assert digest(run) == before


def test_other_options_are_refused(run, dataset, capsys):
    """What differs is named, with both values; the run stays."""
    before = digest(run)
    words = ["train", str(dataset), str(run), *QUICK, "--seed", "7", "--batch-size", "16"]
    assert main(words) == 2
    text = capsys.readouterr().err
    assert "options.batch_size (64 there, 16 now)" in text
    assert "options.seed (0 there, 7 now)" in text
    assert "learning_rate" not in text
    assert digest(run) == before


def test_overwriting_begins_anew(run, dataset, tmp_path, capsys):
    """All that the run before wrote is replaced or gone, what others wrote stays."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "lag.png").write_bytes(b"of another run")
    assert {path.name for path in folder.iterdir()} - {"notes.txt", "run.json"} <= set(BESIDE)
    before = (folder / "history.csv").read_bytes()
    words = ["train", str(dataset), str(folder), *QUICK, "--seed", "7", "--overwrite"]
    too_long = ["9000" if word == "100" else word for word in words]
    assert main(too_long) == 2
    assert "no presentation has a window" in capsys.readouterr().err
    assert load_run(folder).model.finished  # what can be refused is refused before
    assert main(words) == 0
    assert load_run(folder).model.seed == 7
    assert (folder / "history.csv").read_bytes() != before
    assert not (folder / "lag.png").exists()
    assert (folder / "notes.txt").read_text() == "mine"


def test_lag_is_chosen(dataset, tmp_path):
    """Without a lag, it is chosen from the list, drawn, and kept in the run."""
    words = [word for n, word in enumerate(QUICK) if n not in {2, 3}]
    folder = tmp_path / "run"
    assert main(["train", str(dataset), str(folder), *words, "--lags-ms", "0,100"]) == 0
    choice = load_run(folder).model.lag_choice
    assert choice is not None
    assert choice.lag_ns == 100_000_000  # the latency is 50 ms
    assert [score.lag_ns for score in choice.scores] == [0, 100_000_000]
    assert (folder / "lag.png").exists()


def test_retrieval_variant_is_trained_and_evaluated(dataset, tmp_path):
    """Its table holds the training images' patches as they are in the data set."""
    folder = tmp_path / "run"
    assert main(["train", str(dataset), str(folder), *QUICK, "--variant", "retrieval"]) == 0
    found = load_run(folder)
    assert isinstance(found.encoder, RetrievalEncoder)
    targets = torch.from_numpy(load_prepared(dataset).targets[:].copy())
    for image in found.encoder.table:
        assert (image == targets).all(dim=(1, 2)).any()


def test_weights_are_only_evaluated(run, paper_run, dataset, tmp_path, capsys):
    """With no pass at all, a released checkpoint and those of a run come out as they went in."""
    encoder = load_run(paper_run).encoder
    assert isinstance(encoder, PatchEncoder)
    released = tmp_path / "released.pt"
    torch.save({"model": encoder.state_dict()}, released)
    words = [word for n, word in enumerate(QUICK) if n not in {0, 1, 4, 5}]
    trained = [paper_run / "encoder.safetensors", run / "encoder.safetensors"]
    for path, more in ((released, ["--heads", "4"]), *((path, []) for path in trained)):
        folder = tmp_path / f"evaluated-{path.parent.parent.name}-{path.stem}"
        source = run if path.parent == run else paper_run
        command = ["train", str(dataset), str(folder), *words, *more, "--weights", str(path)]
        assert main([*command, "--training-epochs", "0"]) == 0
        found = load_run(folder)
        assert found.model.judged_only
        assert found.model.n_passes == 0
        assert found.model.scores == load_run(source).model.scores
        assert found.model.variant == load_run(source).model.variant
        for name, tensor in load_run(source).encoder.state_dict().items():
            assert torch.equal(found.encoder.state_dict()[name], tensor)
    begins = ["train", str(dataset), str(tmp_path / "new"), *QUICK, "--weights", str(trained[1])]
    assert main(begins) == 2
    assert "which training cannot begin with" in capsys.readouterr().err


def test_weights_of_the_architecture_that_is_named(run, paper_run, dataset, tmp_path, capsys):
    """Named, it changes nothing for an evidence run, and those of another are refused."""
    words = [word for n, word in enumerate(QUICK) if n not in {0, 1, 4, 5}]
    begins = ["train", str(dataset), str(tmp_path / "run"), *words, "--architecture", "evidence"]
    own, paper = (["--weights", str(one / "encoder.safetensors")] for one in (run, paper_run))
    assert main([*begins, *paper, "--training-epochs", "0"]) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert "--architecture evidence was given, and" in text
    assert "are weights of the variant patches. Leave --architecture out" in text
    assert main([*begins, *own]) == 2
    assert "which training cannot begin with" in capsys.readouterr().err
    assert main([*begins, *own, "--training-epochs", "0"]) == 0
    found = load_run(tmp_path / "run").model
    assert found.judged_only
    assert found.variant == found.options.variant == "evidence"
    assert found.scores == load_run(run).model.scores


def test_training_goes_on_from_weights(paper_run, dataset, tmp_path):
    """The first pass begins where the weights were: its validation is better than from nothing."""
    folder = tmp_path / "run"
    words = [word for n, word in enumerate(QUICK) if n not in {0, 1}]
    weights = ["--weights", str(paper_run / "encoder.safetensors")]
    assert main(["train", str(dataset), str(folder), *words, *weights]) == 0
    first, before = load_run(folder).model.history_tail[0], load_run(paper_run).model.history_tail
    assert first.validation_loss < before[0].validation_loss


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--lag-ms", "100", "--lags-ms", "0"], "not both"),
        (["--lags-ms", "0,fast"], "got 'fast'"),
        (["--training-epochs", "0"], "needs --weights"),
        (["--device", "tpu"], "device must be auto, cpu"),
        (["--device", "mps"], "is not there"),
        (["--variant", "retrieval", "--contrastive", "1"], "no contrastive loss"),
        (["--architecture", "evidence", "--paper-loss"], "--paper-loss go with"),
        (["--precision", "bfloat16"], "log likelihoods need float32"),
        (["--weights", "nowhere.pt"], "There is no checkpoint nowhere.pt"),
        (["--learning-rate", "0"], "learning-rate"),
        (["--lag-ms", "9000"], "no presentation has a window"),
    ],
)
def test_what_cannot_be_is_one_sentence(words, sentence, dataset, tmp_path, capsys):
    """Options that contradict each other, or the data, end with exit code 2 and what to do."""
    assert main(["train", str(dataset), str(tmp_path / "run"), *words]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_folders_that_are_something_else_are_refused(dataset, tmp_path, capsys):
    """No data set, and a folder with other things in it, are named; the latter is never emptied."""
    assert main(["train", str(tmp_path / "nowhere"), str(tmp_path / "run"), *QUICK]) == 2
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    assert main(["train", str(dataset), str(tmp_path / "run"), *QUICK]) == 2
    assert "holds something that is no run" in capsys.readouterr().err
    assert main(["train", str(dataset), str(tmp_path / "run"), *QUICK, "--overwrite"]) == 2
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_lags_are_read():
    """One lag, a list, or the usual ones; each in nanoseconds, in order."""
    assert parse_lags(83.3, "") == (83_300_000,)
    assert parse_lags(None, "33, 0,33") == (0, 33_000_000)
    assert parse_lags(None, "") == CANDIDATES_NS
