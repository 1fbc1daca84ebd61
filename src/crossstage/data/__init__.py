"""Datasets: recognised, read, checked, augmented."""

from crossstage.data.coco import CocoDataset, CocoImage, find_coco, read_coco
from crossstage.data.faults import Fault, OnBadLabel, Reading
from crossstage.data.records import ClassificationData, Objects, class_names_of, objects_of
from crossstage.data.source import Dataset, DataSource, Format, find_data, training_parts

__all__ = [
    "ClassificationData",
    "CocoDataset",
    "CocoImage",
    "DataSource",
    "Dataset",
    "Fault",
    "Format",
    "Objects",
    "OnBadLabel",
    "Reading",
    "class_names_of",
    "find_coco",
    "find_data",
    "objects_of",
    "read_coco",
    "training_parts",
]
