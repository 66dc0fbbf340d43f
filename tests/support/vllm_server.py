"""A real vLLM server for the CPU with the tiny LLaVA, where scripts/install-servers put one.

It starts in twenty seconds: in one process less than usual, without a compiler, without kernels
that are tuned to the machine.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import get
from tests.support.wait_until import wait_until

REPOSITORY = Path(__file__).parents[2]
SERVE = REPOSITORY / "configs" / "vllm" / "serve"
TINY_LLAVA = REPOSITORY / "simulation" / "weights" / "tiny-llava"
NAME = "tiny-llava"

FOLDER = Path(
    os.environ.get("NARRATOR_VLLM_DIR")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neurrate" / "vllm"
)

IS_INSTALLED = any(FOLDER.glob(".installed-*"))
WHY_NOT = f"no vLLM in {FOLDER}: scripts/install-servers"

QUICK = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # with the executor below: a process less
    "TORCHDYNAMO_DISABLE": "1",  # 13 s of the first sentence, for functions of the sampler
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GB
    "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
QUICK_FLAGS = ("--enforce-eager", "--distributed-executor-backend", "uni", "--max-num-seqs", "16")


@dataclass(frozen=True, slots=True)
class VllmProcess:
    """A server that answers."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to each of its processes."""
        os.killpg(self.process.pid, number)


@contextmanager
def vllm_server(
    folder: Path, *flags: str, dtype: str = "float32", port: int | None = None
) -> Iterator[VllmProcess]:
    """Start ``configs/vllm/serve`` on a free port, and end it."""
    if port is None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}", folder / f"vllm-{port}.log"
    words = [
        str(SERVE), str(TINY_LLAVA), "--port", str(port), "--served-model-name", NAME,
        "--dtype", dtype, *QUICK_FLAGS, *flags,
    ]  # fmt: skip
    environment = {**os.environ, **QUICK, "VLLM": str(FOLDER / "bin" / "vllm")}
    with log.open("ab") as output:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True, env=environment,
        )  # fmt: skip

    def answers() -> bool:
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        with suppress(OSError):
            return get(f"{url}/health")[0] == 200
        return False

    try:
        wait_until(answers, deadline_s=180, what=f"vLLM at {url}, see {log}")
        yield VllmProcess(url, process, log)
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGCONT)
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        pass
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what a server that was killed leaves behind
    process.wait()
