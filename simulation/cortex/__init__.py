"""A simulated visual thalamus and cortex that watches a movie, and a hippocampus that does not.

`units` draws the animal, `drive` turns frames into rates, `schedule` says what was shown when,
`spikes` draws the trains, `session` joins them, and `nwb` writes the recording.
"""
