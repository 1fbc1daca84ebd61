"""Boxes and their codecs, priors, suppression, assigners and losses: pure functions on tensors."""
