"""Inference: images in, detections out, with any model that meets the contract in :mod:`crossstage.inference.model`."""
