"""The training loop: epochs of steps, each a function of the state before it.

What a step does depends on the seed, the step's number and the tensors of the state alone: the order of the images,
their augmentation, dropout, the input's size and the learning rate are computed from the numbers, never carried along.
So a training that was killed and goes on from a checkpoint ends bit for bit as one that was not.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any, Literal

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader

from crossstage.data.loading import Batch, EpochOrder
from crossstage.errors import DataError, TrainingError
from crossstage.machine import StopRequests, cores
from crossstage.training.checkpoint import Progress
from crossstage.training.options import RunOptions
from crossstage.training.plan import Pace
from crossstage.training.reporting import Reporter, loss_note
from crossstage.training.schedule import MovingAverage, freeze_batch_norm, rate_factor
from crossstage.training.signals import Interrupted
from crossstage.training.tasks import Scores, Task

SHOWN_FILES = 8
FIRST_STEPS = 2  # which are slower than those that follow
SAVE_BEFORE_SCORING = 1.0  # minutes of work that a kill during the measurement would cost


class Loop:
    """One training, step by step.

    Args:
        fabric: Devices and processes.
        model: As Fabric set it up.
        optimizer: As Fabric set it up.
        average: The moving average of the model's weights, if one is kept.
        task: The losses, and how the model is scored.
        batches: Training images, moved to the device by Fabric.
        order: The order of the training images.
        val: Batches of the val images.
        options: The options of the training.
        progress: Where the training begins.
        reporter: Prints what people see.
        save: Writes a checkpoint.
        finished: Called after each epoch with its scores, if it was scored, and whether they are the best so far.
    """

    def __init__(
        self,
        fabric: Fabric,
        *,
        model: Any,
        optimizer: torch.optim.Optimizer,
        average: MovingAverage | None,
        task: Task,
        batches: Any,
        order: EpochOrder,
        val: DataLoader,
        options: RunOptions,
        progress: Progress,
        reporter: Reporter,
        save: Callable[[], None],
        finished: Callable[[Scores | None, bool], None],
    ) -> None:
        self.fabric, self.model, self.optimizer, self.average = fabric, model, optimizer, average
        self.task, self.batches, self.order, self.val = task, batches, order, val
        self.options, self.progress, self.reporter = options, progress, reporter
        self.save, self.finished = save, finished
        self.total_steps = options.epochs * math.ceil(order.steps / options.accumulate)
        self.saved_at = time.monotonic()
        self.told: set[str] = set()

    def run(self) -> None:
        """Train to the end, or until no better result came for ``patience`` epochs.

        Raises:
            Interrupted: A signal asked for it; the state was saved.
            TrainingError: A loss was not finite, or a checkpoint could not be written.
        """
        with StopRequests() as stop:
            while self.progress.epoch < self.options.epochs and not self._out_of_patience():
                images, seconds = self._train(stop)
                self._finish(self.score(stop) if self._is_val_epoch() else None, images, seconds)
                self._heed(stop)
        self.reporter.end()

    def _train(self, stop: StopRequests) -> tuple[int, float]:
        """Train the rest of the epoch; return how many images it had and how many seconds it took."""
        options, progress = self.options, self.progress
        self.order.epoch, self.order.first_step = progress.epoch, progress.batches
        self.model.train()
        freeze_batch_norm(self.model)
        self.reporter.begin(f"epoch {progress.epoch + 1}/{options.epochs}", self.order.steps, progress.batches)
        images, began = 0, time.monotonic()
        for group in self._readable(_groups(self.batches, options.accumulate)):
            parts = self._step(group)
            images += sum(len(batch.names) for batch in group) * self.fabric.world_size
            progress.batches += len(group)
            note = loss_note(parts, self._rate(), images / (time.monotonic() - began))
            for _ in group:
                self.reporter.advance(note)
            self._heed(stop)
            if self._is_due():
                self._save()
        return images, time.monotonic() - began

    def _readable(self, groups: Iterator[list[Batch]]) -> Iterator[list[Batch]]:
        """Yield groups of batches; tell of images for which others stand, and save before one ends the training."""
        try:
            for group in groups:
                self._tell(reason for batch in group for reason in batch.lost)
                yield group
        except DataError:
            if self.fabric.world_size == 1 and self.progress.step:
                self._save()
            raise

    def _tell(self, reasons: Iterable[str]) -> None:
        """Tell of images that could not be read, of each once."""
        for reason in reasons:
            if reason not in self.told:
                self.told.add(reason)
                self.reporter.say(f"lost in the middle of the training: {reason}")

    def _step(self, group: list[Batch]) -> dict[str, float]:
        """Take one optimisation step over one or more batches; return the parts of their mean loss."""
        options, progress = self.options, self.progress
        torch.manual_seed((options.seed * 1_000_003 + progress.step) * 1009 + self.fabric.global_rank)
        for entry in self.optimizer.param_groups:
            entry["lr"] = self._rate()
        kept = [buffer.clone() for buffer in self.model.buffers()] if options.on_nan == "skip" else []
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(group):
            with self.fabric.no_backward_sync(self.model, enabled=number < len(group) - 1):
                losses = self.task.losses(self.model, batch, progress.step)
                loss = torch.stack(list(losses.values())).sum() / len(group)
                if not self._all_finite(loss):
                    return self._not_finite(group, kept)
                self.fabric.backward(loss)
            for name, part in losses.items():
                sums[name] = sums.get(name, torch.zeros_like(part)) + part.detach() / len(group)
        if options.clip and not self._clip():
            return self._not_finite(group, kept)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(self.inner)
        progress.step += 1
        parts = dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))
        for name, part in parts.items():
            progress.parts[name] = progress.parts.get(name, 0.0) + part
        return parts

    def first_step(self) -> Callable[[], object]:
        """Return what takes a step on the first images, again and again."""
        self.order.epoch = self.order.first_step = 0
        self.model.train()
        freeze_batch_norm(self.model)
        return partial(self._step, next(_groups(self.batches, 1)))

    def pace(self, seconds: float, workers: int) -> Pace:
        """Train for some seconds to see how fast that is, and measure on some of the val images; nothing is kept.

        Images are prepared here, in between; in the training this is done beside, and shares the cores with it.

        Args:
            seconds: The least time to train for.
            workers: Processes that will prepare images.
        """
        loads: list[float] = []
        steps: list[float] = []
        self.order.epoch = self.order.first_step = 0
        self.model.train()
        freeze_batch_norm(self.model)
        began = time.monotonic()
        for group in _groups(self.batches, self.options.accumulate):
            loaded = time.monotonic()
            self._step(group)
            loads.append(loaded - began)
            began = time.monotonic()
            steps.append(began - loaded)
            if len(steps) > FIRST_STEPS and sum(steps) > seconds:
                break
        model = self.kept
        model.eval()
        looked, began = 0, time.monotonic()
        with torch.no_grad():
            for batch in self.val:
                images = batch.images.to(self.fabric.device, memory_format=torch.channels_last)
                with self.fabric.autocast():
                    self.task.find(model, batch._replace(images=images))
                looked += 1
                if time.monotonic() - began > seconds / 2:
                    break
        spent = time.monotonic() - began
        step, load = (statistics.fmean(took[FIRST_STEPS:] or took) for took in (steps, loads))
        return Pace(max(step + load / cores(), load / max(1, workers)), spent * len(self.val) / max(1, looked))

    @property
    def kept(self) -> Any:
        """The model that is measured and kept: the averaged one if there is one, else the one that Fabric set up."""
        return self.model if self.average is None else self.average.module

    @property
    def inner(self) -> nn.Module:
        """The model itself, without what Fabric wrapped around it."""
        inner = self.model.module
        assert isinstance(inner, nn.Module)
        return inner

    def _rate(self) -> float:
        return self.options.peak_lr * rate_factor(self.progress.step, self.total_steps, self.options)

    def _clip(self) -> bool:
        """Scale the gradients down; return whether they are finite, as far as mixed precision wants them to be."""
        norm = self.fabric.clip_gradients(
            self.model, self.optimizer, max_norm=self.options.clip, error_if_nonfinite=False
        )
        return norm is None or self.options.precision == "16" or bool(torch.isfinite(norm))

    def _all_finite(self, loss: Tensor) -> bool:
        return not self._over_all(float(not torch.isfinite(loss.detach())), "max")

    def _not_finite(self, group: list[Batch], kept: list[Tensor]) -> dict[str, float]:
        """Undo the step and go on, or stop and say where."""
        names = [name for batch in group for name in batch.names]
        more = f" and {len(names) - SHOWN_FILES} more" if len(names) > SHOWN_FILES else ""
        what = (
            f"the loss of step {self.progress.step + 1} (epoch {self.progress.epoch + 1}) is not finite; "
            f"its images: {', '.join(names[:SHOWN_FILES])}{more}"
        )
        self.reporter.end()
        if self.options.on_nan == "stop":
            raise TrainingError(f"{what}. Try a lower lr, a longer burn_in, or on_nan=skip")
        self.optimizer.zero_grad()
        for buffer, value in zip(self.model.buffers(), kept, strict=True):
            buffer.copy_(value)
        self.progress.skipped += 1
        self.progress.step += 1
        self.reporter.say(f"skipped: {what}")
        return {}

    def _heed(self, stop: StopRequests) -> None:
        """Save and stop if a signal asks for it."""
        if number := self._stop_requested(stop):
            self._save()
            self.reporter.end()
            epoch = min(self.progress.epoch + 1, self.options.epochs)
            raise Interrupted(f"stopped in epoch {epoch}, after step {self.progress.step}; the state is saved", number)

    def _is_due(self) -> bool:
        """Return whether so much work is unsaved that a kill would hurt; the first process's clock counts."""
        minutes = (time.monotonic() - self.saved_at) / 60
        most = SAVE_BEFORE_SCORING if self.progress.batches == self.order.steps else self.options.checkpoint_minutes
        due = bool(self.options.checkpoint_minutes) and minutes > most
        return bool(self.fabric.broadcast(due)) if self.fabric.world_size > 1 else due

    def _stop_requested(self, stop: StopRequests) -> int:
        """Return the number of the signal that any of the processes got, else 0."""
        return int(self._over_all(float(stop.received), "max"))

    def _over_all(self, value: float, how: Literal["mean", "max"]) -> float:
        """Combine a figure over the processes."""
        if self.fabric.world_size == 1:
            return value
        combined = self.fabric.all_reduce(torch.tensor(value, device=self.fabric.device), reduce_op=how)
        assert isinstance(combined, Tensor)
        return float(combined)

    def _save(self) -> None:
        self.save()
        self.saved_at = time.monotonic()

    def _is_val_epoch(self) -> bool:
        done = self.progress.epoch + 1
        return done % self.options.val_every == 0 or done == self.options.epochs

    @torch.no_grad()
    def score(self, stop: StopRequests | None = None) -> Scores | None:
        """Score the averaged model, or the model itself; the first process gets the scores."""
        model = self.kept
        model.eval()
        if self.fabric.world_size > 1:  # norms have seen other images in each process; those of the first count
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)
        self.reporter.begin("measuring", len(self.val))
        found = []
        for batch in self.val:
            images = batch.images.to(self.fabric.device, memory_format=torch.channels_last)
            self._tell(batch.lost)
            with self.fabric.autocast():
                found += self.task.find(model, batch._replace(images=images))
            self.reporter.advance()
            if stop is not None:
                self._heed(stop)
        self.reporter.end()
        if self.fabric.world_size > 1:
            everyone: list[Any] = [None] * self.fabric.world_size
            torch.distributed.all_gather_object(everyone, found)
            found = list(chain.from_iterable(everyone))
        return self.task.score(found) if self.fabric.is_global_zero else None

    def _finish(self, scores: Scores | None, images: int, seconds: float) -> None:
        """Note the epoch's figures, keep the best weights, save a checkpoint."""
        progress = self.progress
        steps = max(1, math.ceil(self.order.steps / self.options.accumulate))
        figures: dict[str, float] = {"epoch": progress.epoch + 1}
        figures |= {name: self._over_all(value / steps, "mean") for name, value in progress.parts.items()}
        figures |= scores.metrics if scores else {}
        figures |= {"lr": self._rate(), "images_per_second": images / max(seconds, 1e-9), "seconds": seconds}
        figures, fitness = self.fabric.broadcast((figures, scores.fitness if scores else None))
        best = fitness is not None and fitness > progress.best
        if fitness is not None and best:
            progress.best, progress.best_epoch = fitness, progress.epoch
        progress.history.append(figures)
        progress.seconds += seconds
        self.reporter.row(progress.epoch, figures, best=best)
        progress.epoch, progress.batches, progress.parts = progress.epoch + 1, 0, {}
        self.finished(scores, best)
        self._save()

    def _out_of_patience(self) -> bool:
        options, progress = self.options, self.progress
        if (
            options.patience
            and progress.best_epoch >= 0
            and progress.epoch - 1 - progress.best_epoch >= options.patience
        ):
            self.reporter.say(f"no better result since epoch {progress.best_epoch + 1}: stopped early")
            return True
        return False


def _groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Yield batches, ``size`` together, the last ones perhaps fewer."""
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
