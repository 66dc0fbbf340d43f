"""Rules that become triggers: concept probes on windows, words and meaning on narrations."""
