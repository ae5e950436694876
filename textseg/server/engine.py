"""The one model and who may use it next: a bounded queue, worker threads, scenes kept for reuse."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..backbone.shared import lock_of
from ..errors import CancelledError, TextsegError
from ..predictions import predict_ahead
from ..segmenter import Segmenter
from ..workers import Threads
from .answers import Refusal, refusal_of
from .settings import ServerOptions

if TYPE_CHECKING:
    from ..backbone.base import Backbone
    from ..captioning import BlipCaptioner
    from ..progress import Progress
    from ..segmenter import Plan

_log = logging.getLogger("textseg.server")

STOPPING = "the server is stopping"
TOO_LONG = "the time limit is over"


@dataclass(eq=False)
class Work:
    """One unit of work for a worker.

    Attributes:
        kind: "segment", "edit", "generate" or "caption".
        call: does it, with a progress callback that returns False when it is to stop.
        deadline: when it must be over, in seconds of `time.monotonic`.
        image_key: of the encoded image; waiting work on the same image is done together.
        ahead: the pairs of prompts and the options whose predictions may be made together with
            those of other work, worked out on the worker.
        watch: told the progress, on the worker's thread.
        reason: why it is to stop, "" while it is not.
    """

    kind: str
    call: Callable[[Progress], Any]
    deadline: float
    image_key: str = ""
    ahead: Callable[[], Ahead] | None = None
    watch: Progress | None = None
    reason: str = ""
    started: bool = False
    done: asyncio.Future[Any] = field(init=False)

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.done = self._loop.create_future()

    def report(self, done: int, total: int, stage: str) -> bool:
        """The progress callback of the work."""
        if not self.reason and time.monotonic() > self.deadline:
            self.reason = TOO_LONG
        if self.reason:
            return False
        if self.watch is not None:
            self.watch(done, total, stage)
        return True

    def forget(self) -> None:
        """Let go of the request's files, once there is an outcome."""
        self.call, self.ahead, self.watch = _nothing, None, None

    def settle(self, result: Any = None, error: BaseException | None = None) -> None:
        """Hand over the outcome, from any thread; only the first one counts."""

        def hand_over() -> None:
            if self.done.done():
                return
            if error is None:
                self.done.set_result(result)
            else:
                self.done.set_exception(error)
                # Nobody may be left to hear of it.
                self.done.exception()

        with contextlib.suppress(RuntimeError):  # the event loop has ended
            self._loop.call_soon_threadsafe(hand_over)


def _nothing(progress: Progress) -> None:
    return None


@dataclass(frozen=True)
class Ahead:
    """Predictions a piece of work will ask for: a scene, and what is asked about it."""

    segmenter: Segmenter
    plan: Plan


class Slot:
    """One place among the requests taken in; freed once, by whoever is last."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._held = engine, True

    def free(self) -> None:
        if self._held:
            self._held = False
            self._engine.inside -= 1


class Engine:
    """Runs work on one model.

    Its public methods but `scene` are called on the event loop's thread.

    Attributes:
        model: the model.
        inside: requests taken in and not answered.
        stopping: whether no more are taken in.
        batches: calls that made predictions for several requests; batched: the requests in them.
        failures: pieces of work that ended in an error nobody foresaw.
    """

    def __init__(
        self, model: Backbone, options: ServerOptions, captioner: BlipCaptioner | None = None
    ) -> None:
        self.model, self.captioner, self._options = model, captioner, options
        self.inside, self.stopping = 0, False
        self.batches = self.batched = self.failures = 0
        self._waiting: deque[Work] = deque()
        self._running: set[Work] = set()
        self._wake = threading.Condition()
        self._scenes: OrderedDict[str, Segmenter] = OrderedDict()
        self._scenes_lock = threading.Lock()
        self._seconds = 1.0
        self._threads: list[threading.Thread] = []
        self._cores = Threads(options.threads)
        self._ended = self._told_ahead_failure = False

    def start(self) -> None:
        """Start the workers."""
        if self._options.threads:
            import cv2  # noqa: F401  # so that it is held to them as well

            self._cores.hold()
        for number in range(self._options.workers):
            # Daemons, so that a model call that never ends cannot keep the process alive.
            thread = threading.Thread(target=self._serve, name=f"worker-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    @property
    def alive(self) -> bool:
        """Whether every worker is running."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    @property
    def waiting(self) -> int:
        """Pieces of work no worker has taken yet."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Pieces of work on the workers."""
        return len(self._running)

    def admit(self) -> Slot:
        """A place for a request, before its body is read.

        Raises:
            Refusal: 503 while stopping, 429 when there is no room.
        """
        if self.stopping:
            raise Refusal(503, "stopping", f"Try again later: {STOPPING}.", {"Retry-After": "10"})
        room = self._options.queue + self._options.workers
        if self.inside >= room:
            seconds = math.ceil(self._seconds * self.inside / self._options.workers)
            raise Refusal(
                429,
                "busy",
                f"The server is busy with {self.inside} requests; try again later.",
                {"Retry-After": str(min(max(seconds, 1), 120)), "Connection": "close"},
            )
        self.inside += 1
        return Slot(self)

    def submit(self, work: Work) -> None:
        """Queue a piece of work; its outcome comes through `work.done`."""
        with self._wake:
            self._waiting.append(work)
            self._wake.notify()

    def cancel(self, work: Work, reason: str) -> None:
        """Stop a piece of work: at once if it waits, at its next step if it runs."""
        work.reason = work.reason or reason
        with self._wake:
            if work in self._waiting:
                self._waiting.remove(work)
        if not work.started:
            work.settle(error=CancelledError(f"Cancelled: {reason}."))

    async def drain(self, grace: float, hurry: Callable[[], bool] = lambda: False) -> None:
        """Take nothing more in, cancel what waits, give what runs `grace` seconds to end."""
        self.stopping = True
        with self._wake:
            waiting = list(self._waiting)
        for work in [*waiting, *(work for work in list(self._running) if not work.started)]:
            self.cancel(work, STOPPING)
        end = time.monotonic() + grace
        while self._running and time.monotonic() < end and not hurry():
            await asyncio.sleep(0.05)
        for work in list(self._running):
            self.cancel(work, STOPPING)
            # What does not look up is left behind; its caller is told now.
            end = time.monotonic() + 5
            while work in self._running and time.monotonic() < end and not hurry():
                await asyncio.sleep(0.05)
            work.settle(error=CancelledError(f"Cancelled: {STOPPING}."))

    def close(self) -> None:
        """End the workers, those that hang in a model call excepted."""
        self.stopping = self._ended = True
        with self._wake:
            self._wake.notify_all()
        for thread in self._threads:
            thread.join(timeout=2)
        self._cores.__exit__()

    def refusal(self, error: BaseException, what: str, image_key: str = "") -> Refusal:
        """What the caller is told about an error; one nobody foresaw is counted and logged."""
        if not isinstance(error, (TextsegError, Refusal)):
            self.failures += 1
            image = f" of image {image_key[:12]}" if image_key else ""
            _log.error("%s%s failed", what, image, exc_info=error)
        return refusal_of(error)

    def scene(self, key: str, read: Callable[[], Any]) -> Segmenter:
        """A segmenter with an image set that nobody sets anew, made or remembered.

        What is remembered is what the image alone decides, so that who asked cannot show.

        Args:
            key: of the image.
            read: gives the image's pixels, (H, W, 3) uint8.
        """
        with self._scenes_lock:
            if key in self._scenes:
                self._scenes.move_to_end(key)
                return self._scenes[key]
        segmenter = Segmenter(self.model, cache_bytes=2**26).set_image(read())
        with self._scenes_lock:
            self._scenes[key] = segmenter
            # What was predicted together must still be there when its turn comes.
            kept = max(self._options.scenes, self._options.batch * self._options.workers)
            while len(self._scenes) > kept:
                self._scenes.popitem(last=False)
        return segmenter

    def _serve(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._ended:
                    self._wake.wait()
                if self._ended:
                    return
                group = self._take()
            if len(group) > 1:
                self._predict_ahead(group)
            for work in group:
                self._do(work)

    def _take(self) -> list[Work]:
        """The next piece of work, with others that gain from being done along with it."""
        first = self._waiting.popleft()
        group = [first]
        if first.image_key:
            same = [work for work in self._waiting if work.image_key == first.image_key]
            group += same[: max(1, self._options.queue // self._options.workers)]
        if first.ahead is not None:
            others = [work for work in self._waiting if work.ahead is not None]
            others = [work for work in others if work not in group]
            group += others[: max(0, self._options.batch - len(group))]
        for work in group[1:]:
            self._waiting.remove(work)
        self._running.update(group)
        return group

    def _predict_ahead(self, group: list[Work]) -> None:
        if self._options.batch < 2:
            return
        wanted = []
        for work in group:
            # What is wrong with a request is told when its own turn comes.
            with contextlib.suppress(Exception):
                if work.ahead is not None and not work.reason:
                    wanted.append(work.ahead())
        if len(wanted) > 1:
            try:
                with lock_of(self.model):
                    predict_ahead(
                        [(a.segmenter.predictions, a.plan.pairs, a.plan.contrast) for a in wanted]
                    )
            except Exception as error:
                # Each request then predicts for itself, and tells what is wrong with it.
                level = logging.DEBUG if self._told_ahead_failure else logging.WARNING
                self._told_ahead_failure = True
                _log.log(level, "predicting for several requests failed", exc_info=error)
            else:
                self.batches += 1
                self.batched += len(wanted)

    def _do(self, work: Work) -> None:
        begun = time.monotonic()
        work.started = True
        try:
            if not work.report(0, 0, "start"):
                raise CancelledError(work.reason)
            result = work.call(work.report)
        except CancelledError as error:
            reason = work.reason or str(error)
            if reason == TOO_LONG:
                work.settle(error=time_over())
            else:
                work.settle(error=CancelledError(f"Cancelled: {reason}."))
        except BaseException as error:
            # Its frames hold the request's files, and a future takes no StopIteration.
            work.settle(error=self.refusal(error, work.kind, work.image_key))
        else:
            work.settle(result)
            self._seconds += 0.1 * (time.monotonic() - begun - self._seconds)
        finally:
            self._running.discard(work)


def time_over() -> Refusal:
    """What the caller of a piece of work that took too long is told."""
    return Refusal(504, "too_long", "The request took longer than the server's time limit.")
