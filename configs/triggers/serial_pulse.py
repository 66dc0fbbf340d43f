"""A pulse on a serial port for each trigger: 1, ten milliseconds, 0.

``command = ".venv/bin/python configs/triggers/serial_pulse.py /dev/ttyACM0"``: a Python that has
pyserial. Each trigger is a line of JSON on standard input; the end of the input is the end of the
program.
"""

import sys
import time

import serial

PULSE_S = 0.01

with serial.Serial(sys.argv[1], 115_200, write_timeout=0.5) as port:
    for _ in sys.stdin:  # json.loads of it has name, kind, score, latency_ms: docs/triggers.md
        port.write(b"1")
        time.sleep(PULSE_S)
        port.write(b"0")
