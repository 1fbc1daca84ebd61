"""A training from options to a folder: everything wired together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader

from crossstage.data.anchors import fit_anchors, scaled_sizes
from crossstage.data.loading import end_workers, train_loader, val_loader
from crossstage.data.records import ClassificationData, Dataset, DetectionData
from crossstage.errors import ConfigError, DataError, TrainingError, WeightsError
from crossstage.models.classifier import Classifier
from crossstage.models.heads.base import Head, HeadConfig, changes
from crossstage.models.spec import Provenance
from crossstage.training.artefacts import sample_images, write_artefacts, write_metrics
from crossstage.training.batch import MEASURED, StepMemory, measured
from crossstage.training.checkpoint import Progress, of_this_run
from crossstage.training.checks import check_batch_norm, check_goes_on, check_optimizer, check_size
from crossstage.training.devices import fabric_of, load_whole_state, set_up, whole_state, workers_of
from crossstage.training.facts import TrainingData, read_data
from crossstage.training.failures import in_one_line
from crossstage.training.loop import Loop
from crossstage.training.memory import keep_freed_memory
from crossstage.training.options import RunOptions, TrainOptions
from crossstage.training.plan import Pace, as_they_stand
from crossstage.training.reporting import Reporter
from crossstage.training.schedule import MovingAverage, freeze, hasten_batch_norm
from crossstage.training.signals import Interrupted
from crossstage.training.tasks import ClassificationTask, DetectionTask, Scores, Task
from crossstage.training.trackers import Trackers, settings_of
from crossstage.weights.model_file import read_model, write_model
from crossstage.weights.starting import Started, start_model

CONFIG, PLAN, STATE = "config.yaml", "plan.json", "state.ckpt"
BEST, LAST = "best.safetensors", "last.safetensors"
PACED_SECONDS = 6.0

Watch = Callable[[Mapping[str, float]], None]
"""What follows a training: it gets the figures of each epoch that is finished."""


@dataclass(frozen=True)
class TrainResult:
    """How a training ended.

    Attributes:
        folder: The folder of the run.
        best: The best score: average precision of a detector, accuracy of a classifier.
        best_epoch: The epoch that reached the best score, counted from 1.
        history: One row of figures for each epoch.
    """

    folder: Path
    best: float
    best_epoch: int
    history: list[dict[str, float]]


def run_training(
    options: TrainOptions,
    folder: Path,
    *,
    data: TrainingData | None = None,
    going_on: bool = False,
    quiet: bool = False,
    watch: Watch | None = None,
) -> TrainResult:
    """Train in this process, as one of however many there are.

    Args:
        options: The options of the training, of which none is open.
        folder: The folder of the run; the first process's counts, which alone writes there.
        data: The data, if it has been read.
        going_on: Continue from the folder's checkpoint.
        quiet: Print the result alone.
        watch: Is called with the figures of each epoch; what it raises ends the training.

    Raises:
        CrossStageError: See :func:`crossstage.training.train`.
    """
    fabric = fabric_of(options)
    fabric.launch()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    data = data or read_data(options)
    chosen = as_they_stand(options, data.task)
    run = _Run(fabric, chosen, data, Path(fabric.broadcast(str(folder))), quiet=quiet)
    run.watch = watch
    return run.train(going_on=going_on)


def pace_of(options: RunOptions, data: TrainingData) -> Pace:
    """Measure how fast a training is on this machine, which takes some seconds; nothing of it is kept.

    Of several devices, one does its share of the batch.

    Raises:
        CrossStageError: See :func:`crossstage.training.train`.
    """
    share = max(options.accumulate, options.batch // options.world)
    alone = replace(options, devices=1, nodes=1, strategy="auto", batch=share, on_nan="skip", workers=0)
    run = _Run(fabric_of(alone), alone, data, None)
    with in_one_line(options):
        loop, _ = run.loop(Progress(), save=lambda: None, finished=lambda *_: None)
        return loop.pace(PACED_SECONDS, workers_of(options, run.fabric.device.type))


def step_memory_of(options: RunOptions, data: TrainingData) -> StepMemory:
    """Measure what a training step takes on one device, which takes some seconds; nothing of it is kept.

    Raises:
        CrossStageError: See :func:`crossstage.training.train`.
    """
    alone = replace(options, devices=1, nodes=1, strategy="auto", accumulate=1, on_nan="skip", workers=0, cache=0.0)
    loops = {}
    with in_one_line(options):
        for images in MEASURED:
            few = replace(alone, batch=images, multi_scale=0.0)
            run = _Run(fabric_of(few), few, data, None)
            loops[images], _ = run.loop(Progress(), save=lambda: None, finished=lambda *_: None)
        loop = loops[MEASURED[0]]
        copies = 1 + (2 if options.optimizer == "adamw" else 1) + bool(options.ema)
        return measured(
            {images: each.first_step() for images, each in loops.items()},
            loop.inner,
            loop.fabric.device,
            copies=copies,
            enlarged=(1 + options.multi_scale) ** 2,
        )


class _Run:
    """Model, data, loop and files of one training.

    Args:
        fabric: Devices and processes.
        options: The options of the training.
        data: What it trains on and is measured on.
        folder: The folder of the run; None for one that leaves nothing behind.
        quiet: Print the result alone.
    """

    def __init__(
        self, fabric: Fabric, options: RunOptions, data: TrainingData, folder: Path | None, *, quiet: bool = False
    ) -> None:
        self.fabric, self.options, self.data = fabric, options, data
        self.folder = folder or Path()
        told = folder is not None and fabric.is_global_zero
        self.reporter = Reporter(options.epochs, silent=not told, quiet=quiet)
        self.trackers: Trackers | None = None
        self.watch: Watch | None = None
        self.train_data, self.val_data = data.train, data.val
        self.loaders: list[DataLoader] = []
        torch.manual_seed(options.seed)
        self.started = self._start(data.train)
        self.spec = self.started.spec
        self.task = self._task()
        if told:
            self._describe()

    def _start(self, train: Dataset) -> Started:
        options = self.options
        overrides: dict[str, Any] = {"act": options.act} if options.act else {}
        overrides |= {} if options.partial == "published" else {"partial": options.partial}
        names = train.class_names
        settings = {"backbone": options.backbone, "imgsz": options.imgsz, "resize": options.resize}
        started = start_model(options.model, names, overrides=overrides, **settings)
        if isinstance(started.model, Classifier) != isinstance(train, ClassificationData):
            kinds = ("boxes", "a classifier") if isinstance(started.model, Classifier) else ("labels", "a detector")
            raise ConfigError(f"{options.data} holds {kinds[0]}, and {options.model} is {kinds[1]}; expected one task")
        if options.resize == "crop" and not isinstance(started.model, Classifier):
            raise ConfigError("resize is 'crop', which cuts objects off; expected another way for a detector")
        if options.fit_anchors:
            head = getattr(started.model, "head", None)
            if not isinstance(head, Head) or not head.row.anchors or not isinstance(train, DetectionData):
                raise ConfigError(f"fit_anchors: {options.model} has no anchors")
            fitted = changes(head.row, _with_fitted_anchors(head.row, started, train, options.seed))
            started = start_model(options.model, names, overrides={**overrides, **fitted}, **settings)
        check_size(started)
        return started

    def _task(self) -> Task:
        model, train, val = self.started.model, self.train_data, self.val_data
        if isinstance(model, Classifier):
            assert isinstance(train, ClassificationData)
            assert isinstance(val, ClassificationData)
            return ClassificationTask(model, train, val, self.options)
        assert isinstance(train, DetectionData)
        assert isinstance(val, DetectionData)
        return DetectionTask(model, train, val, self.options)

    def _describe(self) -> None:
        preprocessing = self.task.preprocessing
        say = self.reporter.say
        say(f"{self.folder}: {self.options.model} on {self.options.data} ({self.data.format})")
        sizes = f"{len(self.train_data)} train images, {len(self.val_data)} val images"
        say(f"{sizes}: {self.data.description}; {self.spec.num_classes} classes")
        if self.data.skipped:
            say(f"{self.data.skipped} broken labels are skipped")
        for remark in self.data.remarks:
            say(remark)
        say(
            f"input {preprocessing.size[0]} x {preprocessing.size[1]}, {preprocessing.resize}; seed {self.options.seed}"
        )
        if getattr(self.task, "masks", False):
            assert isinstance(self.train_data, DetectionData)
            masked, objects = self.train_data.masked, int(self.train_data.counts.sum())
            others = "; of the others, the boxes are taken for masks" if masked < objects else ""
            say(f"{masked} of {objects} objects have masks{others}")
        say(f"weights: {self.started.transfer or 'initialised at random'}")

    def loop(
        self,
        progress: Progress,
        *,
        save: Callable[[], None],
        finished: Callable[[Scores | None, bool], None],
    ) -> tuple[Loop, dict[str, Any]]:
        """Return the loop, set up, and the state that a checkpoint holds.

        Args:
            progress: Where the training begins.
            save: Writes a checkpoint.
            finished: Called after each epoch, see :class:`Loop`.
        """
        fabric, options = self.fabric, self.options
        model = self.started.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if fabric.device.type == "cpu":
            keep_freed_memory()
        if options.norm_momentum is not None:
            hasten_batch_norm(model, options.norm_momentum)
        if options.freeze_backbone:
            freeze(model.backbone)  # pyright: ignore[reportArgumentType]
        average = None
        if options.ema:
            average = MovingAverage(model, options.ema, options.ema_ramp)
            average.average.to(fabric.device)
        share = options.batch // options.accumulate // fabric.world_size
        check_batch_norm(self.started.model, self.task, options, share)
        wrapped, optimizer = set_up(fabric, model, options)
        rank, world = fabric.global_rank, fabric.world_size
        workers = workers_of(options, fabric.device.type)
        batches, order = train_loader(
            self.train_data,
            self.task.preprocessing,
            options.augment,
            batch=share,
            seed=options.seed,
            epochs=options.epochs,
            workers=workers,
            rank=rank,
            world=world,
            masks=getattr(self.task, "masks", False),
            cache=options.cache,
            on_bad_image=options.on_bad_image,
        )
        val = val_loader(
            self.val_data,
            self.task.preprocessing,
            batch=share,
            workers=workers,
            rank=rank,
            world=world,
            on_bad_image=options.on_bad_image,
        )
        self.loaders = [batches, val]
        state: dict[str, Any] = {"model": wrapped, "optimizer": optimizer}
        state |= {"average": average} if average else {}
        state |= {"precision": fabric.strategy.precision} if options.precision == "16" else {}
        loop = Loop(
            fabric,
            model=wrapped,
            optimizer=optimizer,
            average=average,
            task=self.task,
            batches=fabric.setup_dataloaders(batches, use_distributed_sampler=False),
            order=order,
            val=val,
            options=options,
            progress=progress,
            reporter=self.reporter,
            save=save,
            finished=finished,
        )
        return loop, state

    def train(self, *, going_on: bool) -> TrainResult:
        """Set up, go on from a checkpoint if asked to, train, and write what a run leaves behind."""
        try:
            with in_one_line(self.options):
                return self._train(going_on=going_on)
        finally:
            for loader in self.loaders:
                end_workers(loader)

    def _train(self, *, going_on: bool) -> TrainResult:
        fabric, progress = self.fabric, Progress()

        def save() -> None:
            about = {"progress": progress.state_dict(), "data": list(self.data.digests)}
            fabric.save(self.folder / STATE, {**state, **about})

        def finished(scores: Scores | None, best: bool) -> None:
            try:
                self._epoch_files(loop.kept, progress, scores, best)
            except (DataError, WeightsError) as error:
                kept = "; the last good checkpoint is kept" * (self.folder / STATE).is_file()
                raise TrainingError(f"{error}{kept}") from None
            if self.watch:
                self.watch(progress.history[-1])

        loop, state = self.loop(progress, save=save, finished=finished)
        if going_on:
            self._take_up(state, progress)
            self.reporter.say(f"going on in epoch {progress.epoch + 1}, after step {progress.step}")
        with self._tracked(going_on=going_on):
            loop.run()
            return self._finished(loop, progress)

    def _finished(self, loop: Loop, progress: Progress) -> TrainResult:
        """Write what a run leaves behind, from its best weights."""
        fabric, options = self.fabric, self.options
        with of_this_run(self.folder / BEST):
            load_whole_state(fabric, loop.kept, read_model(self.folder / BEST)[1])
        scores = loop.score()
        if scores is not None:
            write_artefacts(self.folder, self.spec, options, progress, self.task.val, scores)
            self.reporter.say_result(
                f"best {self.task.fitness_name} {progress.best:.4f} in epoch {progress.best_epoch + 1}"
            )
            self.reporter.say_result(f"everything is in {self.folder}")
        fabric.barrier()
        return TrainResult(self.folder, progress.best, progress.best_epoch + 1, progress.history)

    @contextmanager
    def _tracked(self, *, going_on: bool) -> Iterator[None]:
        """Let the trackers that were asked for follow the training."""
        if self.fabric.is_global_zero:
            self.trackers = Trackers(
                self.options.logger,
                self.folder,
                settings={
                    **settings_of(self.options),
                    "train_images": len(self.train_data),
                    "val_images": len(self.val_data),
                    "classes": self.spec.num_classes,
                    "network": self.spec.name,
                },
                going_on=going_on,
                say=self.reporter.say,
            )
        status: Literal["success", "failed", "killed"] = "failed"
        try:
            yield
            status = "success"
        except (Interrupted, KeyboardInterrupt):
            status = "killed"
            raise
        finally:
            if self.trackers:
                self.trackers.close(status)

    def _take_up(self, state: dict[str, Any], progress: Progress) -> None:
        """Go on from the folder's checkpoint.

        Raises:
            TrainingError: It cannot be read, is of another training or of other data, or has more epochs already.
        """
        path = self.folder / STATE
        with of_this_run(path):
            content = self.fabric.load(path, state)
            progress.load_state_dict(content["progress"])
            check_optimizer(state["optimizer"])
        check_goes_on(self.folder, progress, content.get("data"), self.data, self.options)

    def _epoch_files(self, model: nn.Module, progress: Progress, scores: Scores | None, best: bool) -> None:
        """Weights and figures of a finished epoch; written before the checkpoint that counts it."""
        tensors = whole_state(self.fabric, model)
        if not self.fabric.is_global_zero:
            return
        source = f"crossstage train, {self.options.model} on {Path(self.options.data).name}, epoch {progress.epoch}"
        spec = replace(
            self.spec, provenance=Provenance(source, "that of the training data", trained_on=self.options.data)
        )
        write_model(self.folder / LAST, tensors, spec, hashed=True)
        if best:
            write_model(self.folder / BEST, tensors, spec, hashed=True)
        write_metrics(self.folder / "metrics.csv", progress.history)
        every = self.options.sample_every
        sheet = self.folder / "samples" / f"epoch{progress.epoch:03d}.jpg"
        drawn = scores and every and (progress.epoch % every == 0 or progress.epoch in (1, self.options.epochs))
        if scores and drawn:
            sample_images(sheet, self.task.val, scores)
        if self.trackers:
            self.trackers.figures(progress.history[-1])
            if drawn:
                self.trackers.show(sheet, progress.epoch)


def _with_fitted_anchors(row: HeadConfig, started: Started, train: DetectionData, seed: int) -> HeadConfig:
    """Return a head's row with as many anchors as it has, fitted to the training boxes."""
    assert started.spec.preprocessing
    anchors = fit_anchors(scaled_sizes(train, started.spec.preprocessing), len(row.anchors), seed=seed)
    return row.with_anchors([(round(width, 1), round(height, 1)) for width, height in anchors.tolist()])
