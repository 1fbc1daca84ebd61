"""A dataset on a page of this machine: its images, labels and faults, and what a model finds beside them."""
