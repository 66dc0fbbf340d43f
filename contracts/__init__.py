"""What two programs must agree on: values, messages, integer time, the bundle.

Nothing here opens a socket, reads a spike file or imports torch.

========================  =======================================================
module                    holds
========================  =======================================================
``errors``                the error types, split by whose fault it is
``clock``                 session seconds to nanoseconds; the host clock
``binning``               a time becomes a bin, in one place, in integers
``population``            the ordered unit table, and named selections from it
``spikes``                what a source sends: SpikeBatch, Mark, Hello, StreamEnd
``wire``                  those values to ZeroMQ parts and back, within limits
``wire_header``           the header of one message, read with limits
``window``                WindowSpec and Window
``embedding``             PatchGrid and PatchEmbedding
``narration``             Narration, its stamps and latencies
``narration_wire``        it to JSON and back
``trigger``               Trigger, its stamps and latencies, to JSON and back
``words``                 the words of a sentence
``address``               which addresses may be bound
``manifest``              the bundle: manifest, validation, hashes
``temporary_folder``      temporary folders, which the next start removes after a kill
``telemetry``             switches off what libraries report to their makers
========================  =======================================================
"""

from contracts import telemetry  # noqa: F401 - before any library that reports
