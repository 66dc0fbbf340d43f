"""Recordings on disk or behind a URL: NWB files and the folders of sorters."""
