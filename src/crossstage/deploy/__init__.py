"""A model run by the fastest means that a machine has, and what they achieve."""

from crossstage.deploy.open import Engine, Opened, open_model, streams_for

__all__ = ["Engine", "Opened", "open_model", "streams_for"]
