"""The backends: what each writes, how it runs, and the package that it needs."""
