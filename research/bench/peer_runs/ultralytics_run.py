"""Train a detector of ultralytics with its defaults and write what it finds; runs in an environment of its own.

    python ultralytics_run.py MODEL DATA.yaml FOLDER IMGSZ EPOCHS SEED

FOLDER gets ``found.json``: for each val image by file name its boxes as xywh in pixels, scores and class numbers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml
from ultralytics import YOLO  # pyright: ignore[reportMissingImports]


def main() -> None:
    """Train, then predict with the best weights as the peer's own ``val`` does."""
    name, data, folder, size, epochs, seed = sys.argv[1:]
    place = Path(folder).resolve()
    model = YOLO(name)
    common = {"imgsz": int(size), "device": "cpu"}
    model.train(
        data=data,
        epochs=int(epochs),
        seed=int(seed),
        project=str(place.parent),
        name=place.name,
        exist_ok=True,
        **common,
    )
    best = YOLO(str(place / "weights" / "best.pt"))
    _, parameters, _, gflops = best.info(imgsz=int(size))
    listing = yaml.safe_load(Path(data).read_text())
    images = sorted((Path(listing["path"]) / listing["val"]).iterdir())
    detections = {}
    for image in images:
        (result,) = best.predict(str(image), conf=0.001, iou=0.7, max_det=300, verbose=False, **common)
        rows = zip(result.boxes.xyxy.tolist(), result.boxes.conf.tolist(), result.boxes.cls.tolist(), strict=True)
        detections[image.name] = [[*box, score, int(number)] for box, score, number in rows]
    content = {"epochs": int(epochs), "parameters": parameters, "gflops": gflops, "detections": detections}
    (place / "found.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main()
