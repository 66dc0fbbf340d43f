"""The bytes of a graph are the ones that the manifest names, and all that a runtime loads."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from contracts.errors import ManifestError
from contracts.manifest import ENCODER_FLOAT32, ENCODER_ONNX, MANIFEST_NAME, Manifest, load_manifest
from daemon.encoders.graph_file import read_graph
from daemon.encoders.onnx import OnnxGraph, open_session

PATHS = ("weights.bin", "../weights.bin", "/etc/hostname", "folder/link")


def external(path: str) -> TensorProto:
    """Return a tensor that lives in another file."""
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=path)
    tensor.external_data.add(key="length", value="16")
    return tensor


def graph(nodes, initializers=()):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    return helper.make_graph(nodes, "g", [x], [y], initializer=list(initializers))


def in_initializer(tensor):
    return graph([helper.make_node("Add", ["x", "w"], ["y"])], [tensor])


def in_constant(tensor):
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    return graph([constant, helper.make_node("Add", ["x", "c"], ["y"])])


def in_subgraph(tensor):
    branch = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "then",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        initializer=[tensor],
    )
    condition = numpy_helper.from_array(np.array(True), "c")
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    return graph([choice], [condition])


def in_sparse(tensor):
    node = helper.make_node("Constant", [], ["y"])
    sparse = onnx.SparseTensorProto(values=tensor, dims=[4])
    node.attribute.append(onnx.AttributeProto(name="s", type="SPARSE_TENSOR", sparse_tensor=sparse))
    return graph([node])


def model(of_graph, tensor=None):
    whole = helper.make_model(of_graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if tensor is not None:
        node = helper.make_node("Constant", [], ["y"], value=tensor)
        whole.functions.append(
            helper.make_function("own", "f", [], ["y"], [node], whole.opset_import)
        )
    return whole


PLACES = {
    "initializer": lambda tensor: model(in_initializer(tensor)),
    "constant": lambda tensor: model(in_constant(tensor)),
    "subgraph": lambda tensor: model(in_subgraph(tensor)),
    "sparse": lambda tensor: model(in_sparse(tensor)),
    "function": lambda tensor: model(in_constant(external("x")), tensor),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("path", PATHS)
def test_weights_in_another_file_are_refused(tmp_path: Path, place: str, path: str):
    """Wherever the tensor is and wherever it points, even if the file is there and fits."""
    (tmp_path / "weights.bin").write_bytes(np.full(4, 7, np.float32).tobytes())
    file = tmp_path / "bundle" / ENCODER_ONNX
    (file.parent / "folder").mkdir(parents=True)
    (file.parent / "weights.bin").write_bytes(np.full(4, 7, np.float32).tobytes())
    (file.parent / "folder" / "link").symlink_to("/etc/hostname")
    file.write_bytes(PLACES[place](external(path)).SerializeToString())
    with pytest.raises(ManifestError, match="keeps weights in other files") as refused:
        open_session(file)
    assert repr(path) in str(refused.value)
    assert "export the encoder again, as one file" in str(refused.value)


@pytest.mark.parametrize("marked_by", ["data_location", "external_data"])
def test_either_mark_of_external_data_is_enough(tmp_path: Path, marked_by: str):
    """Readers differ in which of the two fields they look at."""
    tensor = external("weights.bin")
    for field in {"data_location", "external_data"} - {marked_by}:
        tensor.ClearField(field)
    path = tmp_path / ENCODER_ONNX
    path.write_bytes(model(in_initializer(tensor)).SerializeToString())
    with pytest.raises(ManifestError, match="other files"):
        read_graph(path)


def test_denied_mark_does_not_undo_the_other(tmp_path: Path):
    """A tensor that names a file is refused even if it states, after that, that it has none."""
    content = model(in_initializer(external("weights.bin"))).SerializeToString()
    is_external, is_default = b"\x70\x01", b"\x70\x00"  # field 14, data_location: 1 and 0
    assert content.count(is_external) == 1
    path = tmp_path / ENCODER_ONNX
    path.write_bytes(content.replace(is_external, is_default))
    with pytest.raises(ManifestError, match="other files"):
        read_graph(path)


@pytest.mark.parametrize(
    "content",
    [b"\xff" * 40, b"\x3a\x7fcut", b"\x0b\x00", b"\x3a", bytes(1000), b"text", b"a"],
)
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes):
    """Random bytes, a cut file, a text: a sentence, not a traceback."""
    path = tmp_path / ENCODER_ONNX
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=r"no ONNX graph|cannot read"):
        open_session(path)


@pytest.mark.parametrize("name", [ENCODER_ONNX, ENCODER_FLOAT32])
def test_a_bundle_whose_graph_points_elsewhere_is_refused(
    tiny_bundle: Manifest, tmp_path: Path, name: str
):
    """The hash of the graph is right, and the file it names is beside it: refused all the same."""
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.folder, folder)
    whole = onnx.load(folder / ENCODER_ONNX)
    onnx.save(whole, folder / name, save_as_external_data=True, location="w.bin", size_threshold=0)
    content = (folder / name).read_bytes()
    fields = json.loads((folder / MANIFEST_NAME).read_text())
    fields["sha256"][name] = hashlib.sha256(content).hexdigest()
    (folder / MANIFEST_NAME).write_text(json.dumps(fields))
    with pytest.raises(ManifestError, match=r"other files, 'w\.bin'"):
        OnnxGraph(load_manifest(folder), file_name=name)


def test_a_graph_that_changes_after_the_check_is_refused(tiny_bundle: Manifest, tmp_path: Path):
    """What runs are the bytes whose sha256 the manifest has, not what lies there later."""
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.folder, folder)
    manifest = load_manifest(folder)
    whole = onnx.load(folder / ENCODER_ONNX)
    whole.doc_string = "another"
    onnx.save(whole, folder / ENCODER_ONNX)
    with pytest.raises(ManifestError, match="another sha256"):
        OnnxGraph(manifest)
