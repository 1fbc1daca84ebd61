"""Inference: images in, detections out, with any model that meets the contract of :mod:`~crossstage.inference.model`."""
