"""Sources that follow acquisition systems while they record."""
