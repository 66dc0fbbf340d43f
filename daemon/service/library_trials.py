"""Libraries tried as Neurrate uses them: ``python -m daemon.service.library_trials NAME ...``.

A library can be installed and not work: built for another processor, half overwritten, without a
library of the system. So each is imported and called, in a process that may crash. It prints a line
before a library is tried and one after: ``try NAME``, ``ok NAME DETAIL`` or ``bad NAME REASON``.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module

import numpy as np

from daemon.service.distributions import MODULES

TIMEOUT_S = 120.0
"""For all of them. On a busy machine importing the largest takes half a minute."""


def try_libraries(names: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Try libraries, each in a process that survives the one before.

    Yields the name of each, a detail, and the reason why it cannot be used, empty if it can.
    """
    waiting = list(names)
    while waiting:
        trying = waiting[0]
        command = [sys.executable, "-m", __name__, *waiting]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            output, end = _text(error.stdout), f"no answer within {TIMEOUT_S:g} s"
        else:
            output, end = done.stdout, _end(done)
        for line in output.splitlines():
            verdict, _, rest = line.partition(" ")
            name, _, detail = rest.partition(" ")
            if verdict == "try" and name in waiting:
                trying = name
            elif verdict in {"ok", "bad"} and name in waiting:
                waiting.remove(name)
                yield name, *((detail, "") if verdict == "ok" else ("", detail))
        if trying in waiting:
            waiting.remove(trying)
            yield trying, "", end


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def _end(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode == -signal.SIGILL:
        return "it uses instructions that this processor does not have (SIGILL)"
    if done.returncode < 0:
        return f"it crashed ({signal.Signals(-done.returncode).name})"
    last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
    return f"it ended Python with code {done.returncode}: {last[0]}"


def _msgpack() -> str:
    import msgpack

    return _expect(msgpack.unpackb(msgpack.packb([1])), [1])


def _zmq() -> str:
    import zmq

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sender, receiver = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    try:
        sender.bind("inproc://trial")
        receiver.connect("inproc://trial")
        sender.send(b"1")
        return _expect(receiver.recv(), b"1")
    finally:
        context.destroy(linger=0)


def _h5py() -> str:
    import h5py

    with h5py.File("trial", "w", driver="core", backing_store=False) as file:
        file["x"] = np.arange(3)
        return _expect(file["x"][1], 1)


def _safetensors() -> str:
    from safetensors.numpy import load, save

    return _expect(load(save({"x": np.ones(1)}))["x"][0], 1)


def _torch() -> str:
    import torch

    with torch.inference_mode():
        product = torch.nn.functional.linear(torch.ones(3, 64), torch.ones(64, 64))
        convolved = torch.nn.functional.conv1d(torch.ones(1, 4, 8), torch.ones(4, 4, 3))
    _expect((product[0, 0].item(), convolved[0, 0, 0].item()), (64, 12))
    return f"kernels for {torch.backends.cpu.get_cpu_capability()}"


def _onnx_runtime() -> str:
    import onnx

    from daemon.encoders.onnx import import_runtime

    runtime = import_runtime()
    number = onnx.TensorProto.FLOAT
    pair = onnx.helper.make_tensor_value_info("a", number, [2, 2])
    product = onnx.helper.make_tensor_value_info("b", number, [2, 2])
    node = onnx.helper.make_node("MatMul", ["a", "a"], ["b"])
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "trial", [pair], [product]),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=9,
    )
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (result,) = session.run(None, {"a": np.ones((2, 2), np.float32)})
    return _expect(result[0, 0], 2)


def _transformers() -> str:
    from transformers import LlavaConfig, LlavaForConditionalGeneration  # noqa: F401 - imported

    return _expect(LlavaConfig().model_type, "llava")


def _spikeinterface() -> str:
    from spikeinterface.core import NumpySorting

    sorting = NumpySorting.from_samples_and_labels([np.array([1])], [np.array([0])], 30_000.0)
    return _expect(sorting.get_num_units(), 1)


def _expect(found: object, expected: object) -> str:
    if found != expected:
        raise ArithmeticError(f"it returned {found!r} and should have returned {expected!r}")
    return ""


TRIALS: dict[str, Callable[[], str]] = {
    "msgpack": _msgpack,
    "pyzmq": _zmq,
    "h5py": _h5py,
    "safetensors": _safetensors,
    "onnxruntime": _onnx_runtime,
    "torch": _torch,
    "transformers": _transformers,
    "spikeinterface": _spikeinterface,
}
"""By distribution. Others are imported."""


def _try(name: str) -> str:
    trial = TRIALS.get(name)
    if trial is not None:
        return trial()
    import_module(MODULES.get(name, name.replace("-", "_")))
    return ""


def main(names: list[str]) -> int:
    """Try the libraries that are named."""
    for name in names:
        sys.stdout.write(f"try {name}\n")
        sys.stdout.flush()
        try:
            line = f"ok {name} {_try(name)}"
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            line = f"bad {name} {type(error).__name__}: {reason}"
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
