"""Where triggers go beside the publish socket. None of them can slow or stop the fast loop."""
