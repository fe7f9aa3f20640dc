"""The loop of the steps of a conditional network: batches, loss in the log, regular saves, signals.

Shared by the training of a universal model and by its adaptation. Independent of where batches come
from and of what is saved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import numpy as np

from flaxflair.runtime.progress import EventLog
from flaxflair.runtime.signals import Interrupted, deferred
from flaxflair.training.batches import SynthesisBatch
from flaxflair.training.divergence import expect_finite
from flaxflair.training.universal_batches import Source, simulate_ahead
from flaxflair.training.universal_step import SynthesisState, SynthesisStep

_LOG_EVERY_STEPS = 20


@dataclass(frozen=True)
class Plan:
    """How far a training runs, and what is done on the way.

    Attributes:
      steps: number of steps in all, those done before included.
      workers: processes that prepare batches; 0 for none beside this one.
      save_every_seconds: time between two calls of `save`.
      save: saves a state; raises `InputError` if it is not finite.
      where: what is trained, for messages.
      remedy: what to do if the training diverges, for the message.
      advance: called with the number of steps done.
    """

    steps: int
    workers: int
    save_every_seconds: float
    save: Callable[[SynthesisState], None]
    where: str
    remedy: str
    advance: Callable[[int], None] = lambda done: None


def run_steps(
    state: SynthesisState, step: SynthesisStep, source: Source, plan: Plan, event_log: EventLog
) -> SynthesisState:
    """Trains from a state to the last step of the plan.

    Args:
      state: state of the start or of a checkpoint, with less than `plan.steps` steps.
      step: from `make_synthesis_step`.
      source: what the batches are cut from.
      plan: how far.
      event_log: log of the mean losses of every 20 steps.

    Returns:
      The state after the last step, saved.

    Raises:
      InputError: losses or weights are not finite.
      Interrupted: a signal was received; the state is saved.
    """
    last, first = state, int(state.step)
    with deferred() as signalled, simulate_ahead(source, first, plan.workers) as batches:
        for current in _steps(state, step, batches, plan, event_log):
            if (number := signalled()) is not None:
                plan.save(current)
                raise Interrupted(f"saved after step {int(current.step)}", number)
            last = current
    return last


def _steps(
    state: SynthesisState,
    step: SynthesisStep,
    batches: Iterator[SynthesisBatch],
    plan: Plan,
    event_log: EventLog,
) -> Iterator[SynthesisState]:
    """Yields the state after every step; saves it every `save_every_seconds` and at the end."""
    done, saved = int(state.step), time.monotonic()
    losses: list[dict[str, jax.Array]] = []
    while done < plan.steps:
        state, parts = step(state, next(batches))
        done += 1
        losses.append(parts)
        plan.advance(done)
        if done % _LOG_EVERY_STEPS == 0 or done == plan.steps:
            read = [{name: float(value) for name, value in each.items()} for each in losses]
            for number, each in enumerate(read, start=done - len(read) + 1):
                expect_finite(each, f"{plan.where}: step {number}", plan.remedy)
            means = {name: float(np.mean([each[name] for each in read])) for name in parts}
            event_log.write("steps", step=done, **means)
            losses = []
        if time.monotonic() - saved > plan.save_every_seconds or done == plan.steps:
            plan.save(state)
            saved = time.monotonic()
        yield state
