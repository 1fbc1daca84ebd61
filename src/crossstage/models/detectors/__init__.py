"""Detectors by name: one file for each family, see :mod:`crossstage.models.detectors.base`."""
