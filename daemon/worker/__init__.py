"""The narrator's process and the client by which the daemon talks to it."""
