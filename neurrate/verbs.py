"""The verbs of the command: where each one is, and its line in the help.

They are named as texts and imported when they are used, so that ``--help`` loads nothing heavy.
"""

from __future__ import annotations

from typing import NamedTuple


class Verb(NamedTuple):
    """One verb: its module in `neurrate` and function, and its line in the list."""

    target: str
    summary: str


VERBS = {
    "demo": Verb("demo_command:demo", "Replay a recording through the whole daemon."),
    "run": Verb("run_command:run", "Run the daemon: spikes in, narrations out."),
    "record": Verb("record_command:record", "Record spikes and narrations in a journal."),
    "watch": Verb("watch_command:watch", "Show narrations as they are published."),
    "dashboard": Verb("dashboard_command:dashboard", "Serve the web page of a daemon."),
    "learn": Verb("learn_command:learn", "Make a bundle of a recording: all three below."),
    "calibrate": Verb("calibrate_command:calibrate", "Calibrate the online sorter."),
    "rehearse": Verb("rehearse_command:rehearse", "Rehearse a day at a rig, and score it."),
    "prepare": Verb("prepare_command:prepare", "Make a data set of a recording and its frames."),
    "train": Verb("train_command:train", "Train an encoder on a data set, and evaluate it."),
    "export": Verb("export_command:export", "Make a bundle of a trained encoder."),
    "score": Verb("score_command:score", "Score narrations of a recording by its captions."),
    "evaluate": Verb("evaluate_command:evaluate", "Answer the paper's questions, with controls."),
    "doctor": Verb("doctor_command:doctor", "Show what is installed and what is missing."),
    "inspect": Verb("inspect_command:inspect", "Show what is in a recording or a bundle."),
}

GROUPS = {
    "stream": (
        "Send the spikes of a recording or a rig to the daemon.",
        {
            "nwb": Verb("stream_command:nwb", "Replay an NWB file."),
            "dandi": Verb("dandi_command:dandi", "Replay NWB of the DANDI archive."),
            "sorting": Verb("stream_command:sorting", "Replay a spike sorting."),
            "open-ephys": Verb("open_ephys_command:stream", "Follow the Open Ephys GUI."),
            "journal": Verb("journal_command:stream", "Replay a journal of 'neurrate record'."),
            "sorter": Verb("sorter_command:sorter", "Sort voltages by templates, online."),
        },
    ),
    "bridge": (
        "Pass on what the daemon publishes.",
        {
            "lsl": Verb("bridge_command:lsl", "As markers of the Lab Streaming Layer."),
        },
    ),
    "emulate": (
        "Play a recording as an acquisition system would send it.",
        {
            "open-ephys": Verb("emulate_command:open_ephys", "As the Open Ephys GUI does."),
            "spikeglx": Verb("emulate_command:spikeglx", "As SpikeGLX does, in a file."),
        },
    ),
    "journal": (
        "Look at what was recorded.",
        {
            "check": Verb("journal_command:check", "Count what a journal has and what is missing."),
            "to-nwb": Verb("journal_command:to_nwb", "Export a journal as an NWB file."),
        },
    ),
    "config": (
        "Look at the settings.",
        {"show": Verb("config_command:show", "Show each value and where it is from.")},
    ),
    "keys": (
        "Make and exchange keys for other machines.",
        {
            "new": Verb("keys_command:new", "Make a pair of keys."),
            "list": Verb("keys_command:show", "Show the keys that are here, and who may connect."),
            "allow": Verb("keys_command:allow", "Let a public key connect."),
            "revoke": Verb("keys_command:revoke", "Let a public key connect no more."),
        },
    ),
    "bundle": (
        "Make encoder bundles.",
        {
            "random": Verb("bundle_command:random", "Make one with random weights."),
            "simulated": Verb("bundle_command:simulated", "Make the one of the simulated animal."),
        },
    ),
    "bench": (
        "Measure the daemon, all its processes running.",
        {
            "latency": Verb("bench_command:latency", "How late it is, by rate of windows."),
            "soak": Verb("bench_command:soak", "Whether it stays stable for hours."),
        },
    ),
    "triggers": (
        "Try rules before they reach anything.",
        {
            "score": Verb("triggers_command:score", "Score what rules fire at, on a recording."),
        },
    ),
    "sessions": (
        "Take several sessions together.",
        {
            "summarize": Verb("sessions_command:summarize", "Average results over sessions."),
            "pool": Verb("sessions_command:pool", "Join data sets by the frame that was shown."),
        },
    ),
    "clips": (
        "Show pairs of clips that differ in one feature, and test what is narrated.",
        {
            "run": Verb("clips_command:run", "Run an experiment on the simulated animal."),
            "schedule": Verb("clips_command:schedule", "Draw the order for a stimulus program."),
            "score": Verb("clips_command:score", "Test what was narrated at a rig."),
        },
    ),
    "simulate": (
        "Make a world in which the truth is known.",
        {
            "recording": Verb("simulate_command:recording", "Make a recording."),
            "session": Verb("simulate_command:session", "Make an animal that watches movies."),
            "scenes": Verb(
                "simulate_command:scenes", "Draw street scenes, on a page or as images."
            ),
            "llava": Verb("simulate_command:llava", "Make a small LLaVA."),
            "train-llava": Verb(
                "simulate_train_command:train_llava", "Train a small LLaVA that sees."
            ),
            "train-encoder": Verb(
                "simulate_train_command:train_encoder", "Train the encoder of the animal."
            ),
            "train-probes": Verb(
                "simulate_train_command:train_probes", "Train concept probes for that encoder."
            ),
            "score": Verb(
                "simulate_score_command:score", "Score narrations of scenes that are known."
            ),
        },
    ),
}
