"""Train a detector of LibreYOLO with its defaults and write what it finds; runs in an environment of its own.

    python libreyolo_run.py FAMILY:SIZE DATA.yaml FOLDER IMGSZ EPOCHS SEED

FAMILY is the name of one of its classes, such as LibreYOLOX; weights are drawn at random. FOLDER gets ``found.json``:
for each val image by file name its boxes as corners in pixels, scores and class numbers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import libreyolo  # pyright: ignore[reportMissingImports]
import yaml


def main() -> None:
    """Train, then predict with the best weights at the thresholds that the authors of the networks measure with."""
    name, data, folder, size, epochs, seed = sys.argv[1:]
    family, _, scale = name.partition(":")
    place = Path(folder).resolve()
    model: Any = getattr(libreyolo, family)(size=scale, device="cpu")
    model.train(
        data=data,
        epochs=int(epochs),
        imgsz=int(size),
        seed=int(seed),
        device="cpu",
        pretrained=False,
        project=str(place.parent),
        name=place.name,
        exist_ok=True,
    )
    listing = yaml.safe_load(Path(data).read_text())
    images = sorted((Path(listing["path"]) / listing["val"]).iterdir())
    detections = {}
    for image in images:
        boxes = model(str(image), conf=0.001, iou=0.65, max_det=300, imgsz=int(size)).boxes
        rows = zip(boxes.xyxy.tolist(), boxes.conf.tolist(), boxes.cls.tolist(), strict=True)
        detections[image.name] = [[*box, score, int(number)] for box, score, number in rows]
    parameters = sum(parameter.numel() for parameter in model.model.parameters())
    content = {"epochs": int(epochs), "parameters": parameters, "gflops": 0.0, "detections": detections}
    place.mkdir(parents=True, exist_ok=True)
    (place / "found.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main()
