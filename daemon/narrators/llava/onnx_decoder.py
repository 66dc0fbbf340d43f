"""The decoder on a CPU: the text model as a graph of ONNX Runtime, for prompts and for steps.

Theory of operation
-------------------
The arithmetic is that of `decoder`, in float32. A step of a small model is many short operations,
and most of its time is spent between them, so the graph has few: ten a layer, and one of them is
all of attention, with the rotation and the cache. Matrix products read weights in the order that
ONNX Runtime has packed them in when the graph was opened.

1. One graph reads prompts, (rows, n_tokens, width), and steps, (rows, 1, width). After the
   attention of the last layer only the last token goes on.
2. Keys and values lie in memory of our own. A call is given the places of its rows, as input and as
   output at one address, so that attention appends to them and copies nothing.
3. Each row has a length of its own. Attention does not look beyond it, and needs no mask.
4. What a step reads and writes is bound to fixed memory once for each number of rows.

The invariants are those of `decoder`, and the tests too.

References
----------
GroupQueryAttention and SkipSimplifiedLayerNormalization: docs/ContribOperators.md of ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from daemon.encoders.onnx import CPU, ERRORS_ONLY, import_runtime
from daemon.narrators.llava.decoder import remove_layers
from daemon.narrators.llava.shape import TextShape

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET, IR_VERSION = 20, 10
CONTRIB = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

HEAD_DIM_MULTIPLE = 16
"""Of the heads that its attention rotates."""

KINDS = ("keys", "values")


def takes(shape: TextShape) -> bool:
    """Whether ONNX Runtime's attention takes heads of this size, as those of most models are."""
    return shape.head_dim % HEAD_DIM_MULTIPLE == 0


@dataclass(frozen=True, slots=True)
class _Call:
    """What one call of the graph reads and writes, bound to memory."""

    hidden: NDArray[np.float32]  # (rows, n_tokens, width)
    last: NDArray[np.int32]  # (rows,): positions of the last tokens
    n_keys: NDArray[np.int32]  # (): the largest of them, plus one
    scores: NDArray[np.float32]  # (rows, 1, n_words)
    binding: Any


class OnnxDecoder:
    """Turns prompts into scores of the next token, in float32 on the CPU; as `LlamaDecoder`.

    The layers of `text_model` are removed one by one.

    Raises
    ------
    DependencyError
        If ONNX Runtime is missing.
    """

    device = "cpu"

    def __init__(
        self,
        text_model: Any,
        head: nn.Linear,
        shape: TextShape,
        *,
        max_rows: int,
        n_positions: int,
        threads: int = 1,
    ) -> None:
        import torch

        self.shape = shape
        self.max_rows = max_rows
        self._words = _array(text_model.embed_tokens.weight)
        # Zeros: what was not written must be a number.
        self.cache = torch.zeros(
            (shape.n_layers, 2, max_rows, shape.n_kv_heads, n_positions, shape.head_dim)
        )
        self._session = _write(text_model, head, shape, n_positions).open(threads)
        self._steps: dict[tuple[int, int], _Call] = {}

    def prefill(self, prompts: Tensor, first_row: int) -> Tensor:
        """Read prompts, as `LlamaDecoder.prefill` does."""
        n, length, _ = prompts.shape
        call = self._bind(np.ascontiguousarray(prompts.numpy()), first_row)
        return self._run(call, [length - 1] * n)

    def step(self, tokens: Sequence[int], positions: Sequence[int], first_row: int) -> Tensor:
        """Advance each row by one token, as `LlamaDecoder.step` does.

        The scores are overwritten by the next step.
        """
        key = (len(tokens), first_row)
        if (call := self._steps.get(key)) is None:
            hidden = np.empty((len(tokens), 1, self.shape.width), np.float32)
            call = self._steps[key] = self._bind(hidden, first_row)
        call.hidden[:, 0] = self._words[list(tokens)]
        return self._run(call, positions)

    def move(self, source: int, target: int, n_keys: int) -> None:
        """Copy the first positions of a row of the cache to another."""
        self.cache[:, :, target, :, :n_keys] = self.cache[:, :, source, :, :n_keys]

    def wipe(self, row: int) -> None:
        """Zero a row of the cache."""
        self.cache[:, :, row] = 0

    def _run(self, call: _Call, positions: Sequence[int]) -> Tensor:
        import torch

        call.last[:] = positions
        call.n_keys[...] = max(positions) + 1
        self._session.run_with_iobinding(call.binding)
        return torch.from_numpy(call.scores[:, 0])

    def _bind(self, hidden: NDArray[np.float32], first_row: int) -> _Call:
        n = len(hidden)
        binding = self._session.io_binding()
        call = _Call(
            hidden,
            last=np.zeros(n, np.int32),
            n_keys=np.zeros((), np.int32),
            scores=np.empty((n, 1, self.shape.n_words), np.float32),
            binding=binding,
        )
        inputs = {"hidden": call.hidden, "last": call.last, "n_keys": call.n_keys}
        outputs = {self._session.get_outputs()[-1].name: call.scores}
        for layer, both in enumerate(self.cache[:, :, first_row : first_row + n].numpy()):
            for kind, places in zip(KINDS, both, strict=True):
                inputs[f"past_{kind}_{layer}"] = outputs[f"present_{kind}_{layer}"] = places
        for bind, arrays in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, array in arrays.items():
                bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        return call


class _Graph:
    """A graph that is being written; weights are not copied into it."""

    def __init__(self) -> None:
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self._nodes: list[Any] = []
        self._weights: dict[str, NDArray[Any]] = {}

    def weight(self, array: NDArray[Any]) -> str:
        """Add a constant and return its name."""
        name = f"weight_{len(self._weights)}"
        self._weights[name] = np.ascontiguousarray(array)
        return name

    def add(
        self, operator: str, *inputs: str, to: Sequence[str] = (), domain: str = "", **more: Any
    ) -> str:
        """Add a node and return the name of its first output."""
        from onnx import helper

        outputs = list(to) or [f"value_{len(self._nodes)}"]
        self._nodes.append(helper.make_node(operator, inputs, outputs, domain=domain, **more))
        return outputs[0]

    def linear(self, rows: str, *parts: Any) -> str:
        """Add the product with the weights of linear layers, side by side, and their biases."""
        weights = np.concatenate([_array(part.weight) for part in parts])
        product = self.add("MatMul", rows, self.weight(weights.T))
        # Qwen2 has biases on queries, keys and values alike: all parts have one or none has.
        biases = [_array(part.bias) for part in parts if part.bias is not None]
        return self.add("Add", product, self.weight(np.concatenate(biases))) if biases else product

    def normalize(self, hidden: str, added: str, weight: Tensor, epsilon: float) -> tuple[str, str]:
        """Add what a layer has returned, if any; return the normal rows, and the rows."""
        scale = self.weight(_array(weight))
        if not added:
            operator = "SimplifiedLayerNormalization"
            return self.add(operator, hidden, scale, axis=-1, epsilon=epsilon), hidden
        both = f"normal_{len(self._nodes)}", f"hidden_{len(self._nodes)}"
        operator = "SkipSimplifiedLayerNormalization"
        to = [both[0], "", "", both[1]]
        self.add(operator, added, hidden, scale, to=to, domain=CONTRIB, epsilon=epsilon)
        return both

    def open(self, threads: int) -> Any:
        """Return a session, which has the weights in an order of its own."""
        from onnx import TensorProto, helper

        runtime = import_runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        # Beside the message: protobuf has a limit of 2 GB.
        values = [runtime.OrtValue.ortvalue_from_numpy(array) for array in self._weights.values()]
        options.add_external_initializers(list(self._weights), values)
        constants = [
            TensorProto(
                name=name,
                data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
                dims=array.shape,
                data_location=TensorProto.EXTERNAL,
                external_data=[{"key": "location", "value": "memory"}],
            )
            for name, array in self._weights.items()
        ]
        model = helper.make_model(
            helper.make_graph(self._nodes, "text", self.inputs, self.outputs, constants),
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)],
        )
        return runtime.InferenceSession(model.SerializeToString(), options, providers=[CPU])


def _write(text_model: Any, head: nn.Linear, shape: TextShape, n_positions: int) -> _Graph:
    """Write the graph of a text model, and free its layers."""
    from onnx import TensorProto, helper

    graph = _Graph()
    tensor, float32, int32 = helper.make_tensor_value_info, TensorProto.FLOAT, TensorProto.INT32
    graph.inputs += [
        tensor("hidden", float32, ["rows", "n_tokens", shape.width]),
        tensor("last", int32, ["rows"]),
        tensor("n_keys", int32, []),
    ]
    angles = [graph.weight(table) for table in _angles(text_model.rotary_emb, shape, n_positions)]
    last_token = graph.weight(np.array([-1]))
    hidden, added = "hidden", ""
    for index, layer in enumerate(remove_layers(text_model)):
        attention, gates = layer.self_attn, layer.mlp
        normal, hidden = graph.normalize(hidden, added, layer.input_layernorm.weight, shape.epsilon)
        qkv = graph.linear(normal, attention.q_proj, attention.k_proj, attention.v_proj)
        cache = [(f"past_{kind}_{index}", f"present_{kind}_{index}") for kind in KINDS]
        for past, present in cache:
            places = ["rows", shape.n_kv_heads, n_positions, shape.head_dim]
            graph.inputs.append(tensor(past, float32, places))
            graph.outputs.append(tensor(present, float32, places))
        attended = graph.add(
            "GroupQueryAttention",
            *(qkv, "", "", *(past for past, _ in cache), "last", "n_keys", *angles),
            to=[f"attended_{index}", *(present for _, present in cache)],
            domain=CONTRIB,
            num_heads=shape.n_heads,
            kv_num_heads=shape.n_kv_heads,
            do_rotary=1,
        )
        # Nothing reads the last layer's output but the scores of the last token.
        if index == shape.n_layers - 1:
            attended = graph.add("Gather", attended, last_token, axis=1)
            hidden = graph.add("Gather", hidden, last_token, axis=1)
        added = graph.linear(attended, attention.o_proj)
        normal, hidden = graph.normalize(
            hidden, added, layer.post_attention_layernorm.weight, shape.epsilon
        )
        # Sigmoid gates with a factor of one are SiLU.
        gate = graph.add(
            "QuickGelu", graph.linear(normal, gates.gate_proj), domain=CONTRIB, alpha=1.0
        )
        gated = graph.add("Mul", gate, graph.linear(normal, gates.up_proj))
        added = graph.linear(gated, gates.down_proj)
    normal, _ = graph.normalize(hidden, added, text_model.norm.weight, shape.epsilon)
    scores = graph.linear(normal, head)
    graph.outputs.append(tensor(scores, float32, ["rows", 1, shape.n_words]))
    return graph


def _angles(
    rotary: Any, shape: TextShape, n_positions: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cosines and sines of every position, (n_positions, head_dim / 2) each."""
    import torch

    positions = torch.arange(n_positions)[None]
    half = shape.head_dim // 2
    cosine, sine = (_array(angles[0, :, :half]) for angles in rotary(torch.zeros(1), positions))
    return np.ascontiguousarray(cosine), np.ascontiguousarray(sine)


def _array(weights: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = weights.detach().float().numpy()
    return array
