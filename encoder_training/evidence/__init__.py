"""The encoder whose evidence adds up over units, and how it is fitted and trained."""
