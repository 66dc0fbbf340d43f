"""Options of the verbs that follow a rig: the clock of another source, and markers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclopts import Parameter

from neurrate.arguments import Seconds
from neurrate.key_options import ConnectOptions

if TYPE_CHECKING:
    from stream_sources.rigs.live_additions import LiveAdditions


@Parameter(name="*")
@dataclass(frozen=True)
class AdditionOptions:
    """What to add to a live source."""

    sync_to: str = ""
    "Put the times on the clock of the source at this address, by pulses that both have."
    sync_pulse: str | None = None
    "Marks that are the pulses; by default 'TTL line 1' for open-ephys, 'sync bit 6' for sorter."
    sync_reference_pulse: str = ""
    "What the other source calls them, if otherwise."
    sync_within: Seconds | None = None
    "Seconds by which the clocks differ at most; needed where the pulses are periodic."
    sync_lag_ms: float = 0.0
    "By how much later than the other probe this one is expected to answer to marks."
    sync_server_key: str = ""
    "Public key of the other source, a name or a file; --key is this side's."
    lsl_marks: str = ""
    "Name of a stream of the Lab Streaming Layer whose markers are sent as marks."
    lsl_delay_ms: float = 0.0
    "How late the spikes are at the least, which marks would otherwise be early by."

    def additions(self, pulse: str, *, key: str | None, insecure: bool) -> LiveAdditions:
        """Return what was asked for; `pulse` is this verb's default, and the others its options."""
        from stream_sources.rigs.live_additions import LiveAdditions
        from stream_sources.rigs.lsl_marks import LslMarksOptions
        from stream_sources.rigs.synced_source import SyncOptions

        sync = marks = None
        if self.sync_to:
            servers = (self.sync_server_key,) if self.sync_server_key else ()
            [keys] = ConnectOptions(key, servers, insecure).keys_for([self.sync_to])
            sync = SyncOptions(
                self.sync_to,
                pulse if self.sync_pulse is None else self.sync_pulse,
                self.sync_reference_pulse,
                self.sync_within,
                self.sync_lag_ms,
                keys,
            )
        if self.lsl_marks:
            marks = LslMarksOptions(self.lsl_marks, self.lsl_delay_ms)
        return LiveAdditions(sync, marks)


NO_ADDITIONS = AdditionOptions()
