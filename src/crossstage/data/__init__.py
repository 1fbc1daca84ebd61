"""Datasets."""

from crossstage.data.coco import CocoDataset, CocoImage, find_coco, read_coco

__all__ = ["CocoDataset", "CocoImage", "find_coco", "read_coco"]
