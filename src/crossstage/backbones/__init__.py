"""Backbones: one file for each family, each beginning with its table."""

from crossstage.backbones.darknet import DARKNETS, Darknet, DarknetConfig

__all__ = ["DARKNETS", "Darknet", "DarknetConfig"]
