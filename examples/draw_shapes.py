"""Draw a small detection dataset for docs/tutorial.md: circles and squares on noise, labelled in YOLO's layout.

Run ``python examples/draw_shapes.py FOLDER``.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 160, 120  # pixels
COUNTS = {"train": 64, "val": 16}
CLASSES = ("circle", "square")


def draw(folder: Path) -> None:
    """Write images, labels and ``data.yaml`` into a folder.

    Args:
        folder: The folder to make; it gets ``images/``, ``labels/`` and ``data.yaml``.
    """
    random = np.random.default_rng(0)
    for part, count in COUNTS.items():
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image, labels = _draw_image(random)
            image.save(folder / "images" / part / f"{number:03}.png")
            (folder / "labels" / part / f"{number:03}.txt").write_text("\n".join(labels) + "\n")
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(CLASSES))
    (folder / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames:\n{names}")


def _draw_image(random: np.random.Generator) -> tuple[Image.Image, list[str]]:
    """Return an image and its label lines: class, then centre and size of the box as shares of the image."""
    image = Image.fromarray(random.integers(90, 160, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    pen = ImageDraw.Draw(image)
    labels = []
    for column in random.permutation(3)[: random.integers(1, 4)]:  # one shape at most in each third, so none overlap
        kind, side = int(random.integers(2)), int(random.integers(22, 46))
        left = int(column) * WIDTH // 3 + int(random.integers(WIDTH // 3 - side))
        top = int(random.integers(HEIGHT - side))
        corners = (left, top, left + side - 1, top + side - 1)
        (pen.rectangle if kind else pen.ellipse)(corners, fill="firebrick" if kind else "royalblue")
        shares = ((left + side / 2) / WIDTH, (top + side / 2) / HEIGHT, side / WIDTH, side / HEIGHT)
        labels.append(f"{kind} " + " ".join(f"{share:.6f}" for share in shares))
    return image, labels


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
