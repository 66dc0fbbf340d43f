"""What one recording teaches: counts, presentations, what is held out, and its report."""
