"""The stages of all traits of a run, side by side: generate replies, check them, read activations, fit.

Replies of all traits share one pool of requests, and texts of all traits are packed into requests, a few of which are always
on their way. So the model works while a trait is checked or fitted, and while a slow reply of another trait is awaited.
What is generated and read goes to the stage stores; a trait's activations are in memory only while it is fitted.

One thread decides (`Stages.run`); the pools only work.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from trait_core.errors import DatasetError, InvalidRequestError, ServiceError, TraitError

from trait_extraction.fitting.methods import DirectionError
from trait_extraction.plan import Plan
from trait_extraction.reading.activations import Piece, pieces, read_pieces, texts_per_request
from trait_extraction.reading.elicitation import checked
from trait_extraction.reading.generation import MAX_IN_FLIGHT, ReplyTask, generate, missing_replies, refused_alone
from trait_extraction.reading.reply_check import ElicitationError, ReplyCheck
from trait_extraction.reading.source import Source
from trait_extraction.reading.tally import Tally

READS_IN_FLIGHT = 2
"""Requests for activations on their way: while one is answered and stored, the model reads the other."""

MAX_PASSED_OVER = 32
"""Most waiting pieces that are looked through for one that still fits into a request."""

SECONDS_BETWEEN_REPORTS = 5.0

OF_ONE_TRAIT = (ElicitationError, DatasetError, DirectionError, InvalidRequestError)
"""Errors that end one trait; the others go on."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Work(Protocol[T_co]):
    """One trait of a run."""

    @property
    def plan(self) -> Plan:
        """The plan, without generated replies."""
        ...

    @property
    def source(self) -> Source:
        """The model, and what it answered before."""
        ...

    def needs_activations(self, plan: Plan) -> bool:
        """Tell whether anything is left to make from the plan with its replies; called once, in another thread."""
        ...

    def finish(self, plan: Plan, source: Source) -> T_co:
        """Make and store what is left, from stored activations; called once, in another thread."""
        ...


@dataclass(frozen=True)
class Failed:
    """A trait that could not be made.

    Args:
        name: Its name.
        error: The reason.
    """

    name: str
    error: TraitError


@dataclass
class _Trait(Generic[T]):
    """One trait on its way; `work` is None when it is done."""

    at: int
    name: str
    n_texts: int
    work: Work[T] | None
    plan: Plan
    source: Source
    outstanding: int = 0
    done: bool = False


@dataclass
class Stages(Generic[T]):
    """All traits of a run.

    Args:
        works: The traits; all of them for the same model.
        check: How generated replies are checked.
        report: Receives progress messages.
    """

    works: Sequence[Work[T]]
    check: ReplyCheck
    report: Callable[[str], None]
    tally: Tally = field(default_factory=Tally)

    def run(self) -> list[T | Failed]:
        """Run every trait; gives the result of each, in their order.

        Raises:
            ServiceError: The service failed. What it answered before is stored, and the next run continues from there.
        """
        self._started = self._reported = time.monotonic()
        self._results: list[T | Failed | None] = [None] * len(self.works)
        self._finished: SimpleQueue[tuple[Future[Any], Callable[[Future[Any]], None]]] = SimpleQueue()
        self._running = self._generating = self._reading = 0
        self._replies: deque[tuple[_Trait[T], ReplyTask]] = deque()
        self._pieces: deque[tuple[_Trait[T], Piece]] = deque()
        self._to_generate = self._to_read = 0
        if not self.works:
            return []
        info = self.works[0].source.info
        self._in_flight = max(1, min(MAX_IN_FLIGHT, info.limits.max_num_seqs))
        self._size = texts_per_request(info)
        workers = {"generate": self._in_flight, "check": 1, "read": READS_IN_FLIGHT, "fit": 1}
        self._pools = {name: ThreadPoolExecutor(n, thread_name_prefix=name) for name, n in workers.items()}
        try:
            self._begin_all()
            while self._running:
                future, then = self._finished.get()
                self._running -= 1
                then(future)
                self._feed()
        finally:  # the interrupt key, too: what is not running yet is not started
            for pool in self._pools.values():
                pool.shutdown(wait=False, cancel_futures=True)
            self.tally.seconds = time.monotonic() - self._started
        return [result for result in self._results if result is not None]

    # ---------------------------------------------------------------------------------------------------- replies

    def _begin_all(self) -> None:
        stored = 0
        for at, work in enumerate(self.works):
            plan, source = work.plan, work.source
            trait = _Trait(at, plan.name, plan.dataset.n_texts, work, plan, source)
            self._to_read += trait.n_texts
            tasks = missing_replies(plan, source) if plan.needs_replies else []
            stored += trait.n_texts - len(tasks) if plan.needs_replies else 0
            self._to_generate += len(tasks)
            if not tasks:
                self._start_check(trait)
                continue
            trait.outstanding = len(tasks)
            # A chat template that refuses the first chat refuses all of its trait, so that one goes alone.
            self._start_reply(trait, tasks[0], tasks[1:])
        if self._to_generate:
            every = self._to_generate + stored
            self.report(f"generating {self._to_generate} replies ({stored} of {every} are stored)")
        self._feed()

    def _start_reply(self, trait: _Trait[T], task: ReplyTask, after: Sequence[ReplyTask] | None = None) -> None:
        self._generating += 1

        def then(future: Future[int]) -> None:
            self._generating -= 1
            error = future.exception()
            if isinstance(error, ServiceError) and error.status == 400:
                alone = after is not None and trait.plan.dataset.style == "instructed"
                self._fail(trait, refused_alone(error, task) if alone else error)
                return
            if self._failed(trait, future):
                return
            self.tally.reply_tokens += future.result()
            self.tally.replies += 1
            trait.outstanding -= 1
            self._replies.extend((trait, each) for each in after or ())
            self._report_progress("replies", self.tally.replies, self._to_generate)
            if trait.outstanding == 0 and not trait.done:
                self._start_check(trait)

        self._start("generate", lambda: generate(task, trait.plan, trait.source), then)

    # ------------------------------------------------------------------------------------------------------ check

    def _start_check(self, trait: _Trait[T]) -> None:
        def work() -> tuple[Plan, Source, list[Piece] | None]:
            """The plan with its replies, and the pieces that are yet to be read; None if nothing is left to make."""
            assert trait.work is not None, "the trait is not done"
            plan = checked(trait.plan, trait.source, self.check)
            if not trait.work.needs_activations(plan):
                return plan, trait.source, None
            found = pieces(plan, trait.source)
            store = trait.source.stored.activations
            return plan, trait.source, [p for p in found if trait.source.again or not store.has(p.key)]

        def then(future: Future[tuple[Plan, Source, list[Piece] | None]]) -> None:
            if self._failed(trait, future):
                return
            trait.plan, source, missing = future.result()
            trait.source = replace(source, again=False)  # everything is stored by the time that it is fitted
            self._to_read += sum(map(len, missing or ())) - trait.n_texts
            trait.n_texts = sum(map(len, missing or ()))
            if not missing:
                self._start_fit(trait)
                return
            trait.outstanding = len(missing)
            at, model = trait.plan.settings.positions, source.info.model
            self.report(f"{trait.name}: reading {trait.n_texts} texts at {at} on {model}")
            self._pieces.extend((trait, piece) for piece in missing)

        self._start("check", work, then)

    # ------------------------------------------------------------------------------------------------------- read

    def _start_read(self, packed: Sequence[tuple[_Trait[T], Piece]]) -> None:
        self._reading += 1

        def then(future: Future[tuple[dict[int, ServiceError], int]]) -> None:
            self._reading -= 1
            error = future.exception()
            if isinstance(error, ServiceError) and error.status == 400:
                self._refused(packed, error)
                return
            faults, n_tokens = future.result()
            self.tally.text_tokens += n_tokens
            for at, (trait, piece) in enumerate(packed):
                self.tally.texts += len(piece)
                trait.outstanding -= 1
                if at in faults:
                    self._fail(trait, faults[at])
                elif trait.outstanding == 0 and not trait.done:
                    self._start_fit(trait)
            self._report_progress("texts read", self.tally.texts, self._to_read)

        self._start("read", lambda: read_pieces([piece for _, piece in packed]), then)

    def _refused(self, packed: Sequence[tuple[_Trait[T], Piece]], error: ServiceError) -> None:
        """One trait's text is refused: send each trait's texts by themselves, to see whose it is."""
        if len(packed) > 1:
            for each in packed:
                self._start_read([each])
            return
        ((trait, piece),) = packed
        field_name = error.param or ""
        number = field_name.partition("[")[2].partition("]")[0]
        where = f"{piece.plan.dataset.where(piece.start + int(number))}: " if number.isdigit() else ""
        self._fail(trait, ServiceError(f"{where}{error}", error.status, error.param))

    def _packed(self) -> list[tuple[_Trait[T], Piece]]:
        """The next request: pieces with the same positions, in order, as many as fit."""
        packed: list[tuple[_Trait[T], Piece]] = []
        others: list[tuple[_Trait[T], Piece]] = []
        n = 0
        while self._pieces and n < self._size and len(others) < MAX_PASSED_OVER:
            trait, piece = self._pieces.popleft()
            if trait.done:
                continue
            if packed and (n + len(piece) > self._size or piece.pools != packed[0][1].pools):
                others.append((trait, piece))
                continue
            packed.append((trait, piece))
            n += len(piece)
        self._pieces.extendleft(reversed(others))
        return packed

    # -------------------------------------------------------------------------------------------------------- fit

    def _start_fit(self, trait: _Trait[T]) -> None:
        def work() -> T:
            assert trait.work is not None, "the trait is not done"
            return trait.work.finish(trait.plan, trait.source)

        def then(future: Future[T]) -> None:
            if not self._failed(trait, future):
                self._end(trait, future.result())

        self._start("fit", work, then)

    # ------------------------------------------------------------------------------------------------------- both

    def _feed(self) -> None:
        """Keep as many requests on their way as the service takes."""
        while self._replies and self._generating < self._in_flight:
            trait, task = self._replies.popleft()
            if not trait.done:
                self._start_reply(trait, task)
        while self._pieces and self._reading < READS_IN_FLIGHT and (packed := self._packed()):
            self._start_read(packed)

    def _start(self, pool: str, work: Callable[[], Any], then: Callable[[Future[Any]], None]) -> None:
        self._running += 1
        self._pools[pool].submit(work).add_done_callback(lambda future: self._finished.put((future, then)))

    def _failed(self, trait: _Trait[T], future: Future[Any]) -> bool:
        """True if a job ended in an error of its trait alone; any other error is raised by the future."""
        error = future.exception()
        if isinstance(error, OF_ONE_TRAIT):
            self._fail(trait, error)
        return isinstance(error, OF_ONE_TRAIT)

    def _fail(self, trait: _Trait[T], error: TraitError) -> None:
        if not trait.done:
            self.report(f"{trait.name}: not made")
            self._end(trait, Failed(trait.name, error))

    def _end(self, trait: _Trait[T], result: T | Failed) -> None:
        self._results[trait.at] = result
        trait.done, trait.work = True, None

    def _report_progress(self, what: str, done: int, of: int) -> None:
        now = time.monotonic()
        if done < of and now - self._reported < SECONDS_BETWEEN_REPORTS:
            return
        self._reported = now
        self.report(f"{done} of {of} {what}, {done / max(now - self._started, 1e-3):.1f} a second")
