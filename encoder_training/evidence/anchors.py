"""Anchors: the frames of training or, where they are many, clusters of frames with like patches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_ANCHORS = 1024
"""Each frame of a movie of 30 s. More of them are neighbours of each other, and at 2,000 units and
four parts of a window each takes 73 kB in the network."""

N_CLUSTERED = 64
"""Principal components in which clusters are sought."""


def choose_anchors(
    coordinates: NDArray[np.float32], frames: NDArray[np.int64], *, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Take the training frames, or clusters of them.

    Parameters
    ----------
    coordinates : array, shape (n_frames, n_latents), float32
        Of every frame.
    frames : array, shape (n_train_frames,), int64
        Those that training shows.

    Returns
    -------
    anchors : array, shape (n_anchors, n_latents), float32
    nearest : array, shape (n_frames,), int64
        The anchor that is nearest to each frame.
    """
    anchors = coordinates[frames]
    if len(frames) > MAX_ANCHORS:
        from sklearn.cluster import MiniBatchKMeans

        clusters = MiniBatchKMeans(MAX_ANCHORS, random_state=seed, n_init=1, max_iter=20)
        label = clusters.fit(anchors[:, :N_CLUSTERED]).predict(anchors[:, :N_CLUSTERED])
        anchors = np.stack([anchors[label == cluster].mean(axis=0) for cluster in np.unique(label)])
    else:  # of frames that are equal, one: their products may differ in the last bit
        anchors = anchors[np.sort(np.unique(anchors, axis=0, return_index=True)[1])]
    # No frame of training is nearest to the others.
    anchors = anchors[np.unique(nearest(coordinates[frames], anchors))]
    return anchors, nearest(coordinates, anchors)


def nearest(points: NDArray[np.float32], anchors: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the nearest anchor of each point, shape (n,)."""
    found = np.empty(len(points), dtype=np.int64)
    half = 0.5 * np.square(anchors).sum(axis=1)
    for first in range(0, len(points), 4096):
        block = slice(first, first + 4096)
        found[block] = (points[block] @ anchors.T - half).argmax(axis=1)
    return found
