"""Scores of narrations where the truth is known: values in, tables and figures out.

Reads sentences and facts; never starts a process and never opens a socket.
"""
