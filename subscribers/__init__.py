"""Programs that listen to the daemon."""
