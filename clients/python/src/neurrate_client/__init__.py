"""Subscribe to a Neurrate daemon, and publish spikes to one.

`Subscriber` and `AsyncSubscriber` yield typed messages; `Publisher` is for authors of sources. The
JSON Schemas of the messages are in the folder ``schemas`` beside this file.
"""

from neurrate_client.display_messages import EncoderFacts, Message, Probes, Rates
from neurrate_client.messages import (
    Daemon,
    Evidence,
    Lost,
    Mark,
    Narration,
    Partial,
    Provenance,
    Software,
    Statistics,
    Stream,
    Times,
    Trigger,
    Units,
    Window,
)
from neurrate_client.publisher import Publisher
from neurrate_client.reader import Event, Reader
from neurrate_client.source_messages import InvalidMessageError, Unit
from neurrate_client.subscriber import AsyncSubscriber, Subscriber

__all__ = [
    "AsyncSubscriber",
    "Daemon",
    "EncoderFacts",
    "Event",
    "Evidence",
    "InvalidMessageError",
    "Lost",
    "Mark",
    "Message",
    "Narration",
    "Partial",
    "Probes",
    "Provenance",
    "Publisher",
    "Rates",
    "Reader",
    "Software",
    "Statistics",
    "Stream",
    "Subscriber",
    "Times",
    "Trigger",
    "Unit",
    "Units",
    "Window",
]
