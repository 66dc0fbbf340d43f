#!/bin/sh
# A pulse on a serial port for each trigger: 1, ten milliseconds, 0.
#   command = "sh configs/triggers/serial_pulse.sh /dev/ttyACM0"
# Each trigger is a line of JSON on standard input; the end of the input is the end of the script.
set -e
stty -F "$1" raw -echo 115200
exec 3> "$1"
while read -r trigger; do
    printf 1 >&3
    sleep 0.01
    printf 0 >&3
done
