"""The formats of datasets: how each is recognised, and how it is read."""
