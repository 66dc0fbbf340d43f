"""From a checkpoint to a bundle: ONNX graph, parity, manifest."""
