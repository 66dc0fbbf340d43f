"""The web page of a running daemon: what it narrates, from which units, how late and how well."""
