"""Every family learns: a few epochs on 256 photographs lower the loss."""

import io
import tarfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from crossstage.models.necks import NECKS
from crossstage.models.published import DETECTORS
from crossstage.training import TrainOptions, train
from crossstage.weights.loading import create_model, load

EPOCHS = 6
BATCH = 16

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def imagenette(shared) -> tuple[torch.Tensor, torch.Tensor]:
    """256 images of imagenette128, as many of each class as of the next, and their labels."""
    images: dict[str, list[torch.Tensor]] = {}
    (archive,) = (shared / "data" / "imagenette128").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = member.name.split("/")
            if not member.isfile() or "train" not in parts or not member.name.endswith(".jpg"):
                continue
            found = images.setdefault(parts[-2], [])
            if len(found) < 26:
                file = tar.extractfile(member)
                assert file is not None
                image = np.array(Image.open(io.BytesIO(file.read())).convert("RGB"))
                found.append(torch.from_numpy(image).permute(2, 0, 1).float() / 255)
    assert len(images) == 10
    pairs = [(image, label) for label, name in enumerate(sorted(images)) for image in images[name]]
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))[:256]
    return torch.stack([pairs[i][0] for i in order]), torch.tensor([pairs[i][1] for i in order])


@pytest.mark.parametrize(
    "name",
    [
        "darknet_reference",
        "darknet53",
        "cspdarknet53",
        "cspdarknet53_tiny",
        "densenet121",
        "cspdensenet121",
        "peleenet",
        "csppeleenet",
        "resnet18",
        "resnet50",
        "cspresnet50",
        "cspresnext50",
        "cspresnet50_elastic",
        "mobilenetv2",
        "cspmobilenetv2",
        "vovnet27_slim",
        "cspvovnet27_slim",
        "vovnet19_slim_dw_v2",
        "vovnet39_v2",
    ],
)
def test_a_few_epochs_lower_the_loss(name, imagenette):
    torch.manual_seed(0)
    images, labels = imagenette
    model = create_model(name, num_classes=10).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = EPOCHS * len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.02, total_steps=steps)
    means = []
    for _ in range(EPOCHS):
        losses = []
        for chosen in torch.randperm(len(images)).split(BATCH):
            loss = F.cross_entropy(model(images[chosen] - 0.5), labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        means.append(sum(losses) / len(losses))
    print(f"{name}: {' '.join(f'{mean:.3f}' for mean in means)}")
    assert means[-1] < means[0] - 0.1


@pytest.mark.parametrize("name", [*DETECTORS, *(f"vovnet27_slim_{neck}_rtmdet" for neck in NECKS)])
def test_the_trainer_takes_every_detector_and_every_neck(name, shapes, tmp_path):
    """What it writes loads again."""
    with torch.device("meta"):
        side = max(64, create_model(name).size_divisor)
    options = {"epochs": 1, "imgsz": side, "batch": 8, "burn_in": 0, "workers": 0, "sample_every": 0}
    result = train(TrainOptions(model=name, data=str(shapes), out=str(tmp_path), name="run", lr=0.001, **options))
    (row,) = result.history
    assert all(np.isfinite(value) for value in row.values())
    assert load(tmp_path / "run").class_names == ("circle", "square")


def test_every_loss_of_boxes_trains_exact_fusion(shapes, tmp_path):
    for box in ("mse", "giou", "diou", "ciou"):
        options = {"epochs": 4, "imgsz": 96, "batch": 8, "burn_in": 0, "workers": 0, "sample_every": 0, "lr": 0.01}
        loss = {"assign": "best", "box": box, "box_gain": 1.0}
        model = "cspdensenetb_ref_efm_sam"
        result = train(TrainOptions(model=model, data=str(shapes), out=str(tmp_path), name=box, loss=loss, **options))
        first, last = result.history[0], result.history[-1]
        assert last["box"] < first["box"] and last["objectness"] < first["objectness"]
