"""Weights: where they come from, the files they are kept in, and how they fill a model."""
