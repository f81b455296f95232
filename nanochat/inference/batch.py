"""Continuous batching: answers join and leave between steps, and a beginning that is known is not computed again."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from threading import RLock

from torch import Tensor

from nanochat.console import UserError
from nanochat.inference.generation import Generation
from nanochat.inference.runner import Chunk, Runner
from nanochat.inference.sampling import Choice, Draw, choose

KEPT = 4  # sequences that are remembered before the first is overwritten, even if one answer at a time is asked for
SCORED = 256  # tokens of a prompt of which all logits are computed at once, since they take much memory
WORTH = 8  # tokens for which it pays to copy another request's beginning, or to wait for it


@dataclass(slots=True)
class _Slot:
    """A sequence, of which the runner holds the first `known` tokens. A busy slot's ids are its generation's own."""

    number: int
    ids: list[int]
    known: int = 0
    generation: Generation | None = None
    used: int = 0  # the step that left it


class Batch:
    """Generations side by side in a runner's slots, at most `rows` at once, the others waiting in the order they came.

    Every step gives each answer that has begun a token. Prompts are computed piece by piece beside them, and together
    no more than `runner.chunk` tokens of them in a step. What a slot holds is kept when its answer has ended: a prompt
    that begins alike is computed from where they differ, at least its last token; a prompt whose log-probabilities are
    asked for, as a whole. window: positions of a sequence.
    """

    def __init__(self, runner: Runner, rows: int, window: int) -> None:
        self.runner = runner
        self.rows = rows
        self.window = window
        self.waiting: deque[Generation] = deque()
        self._slots: list[_Slot] = []
        self._busy: list[_Slot] = []  # in the order in which they began
        self._steps = 0
        self._turn = RLock()

    @property
    def done(self) -> bool:
        """Whether nobody waits for a token."""
        return not any(s.generation and s.generation.open for s in self._busy) and not any(
            generation.open for generation in self.waiting
        )

    def add(self, generation: Generation) -> None:
        while self.waiting and not self.waiting[-1].open:  # given up before a step was taken
            self.waiting.pop()
        self.waiting.append(generation)

    def cancel(self, generation: Generation) -> None:
        """Give it no more tokens; its slot is free for the next step."""
        generation.cancelled = True

    def forget(self) -> None:
        """The model has changed: nothing that was computed counts, and answers go on from their ids."""
        for slot in self._slots:
            slot.known = 0

    def step(self) -> None:
        """One pass of the model. New tokens are in the generations' `ready`.

        An error ends every answer that has begun, as their `error`, and is raised. But RuntimeError, which ends none,
        while another thread is in a step.
        """
        if not self._turn.acquire(blocking=False):
            raise RuntimeError("two threads use one engine at once: give each its own, or let one take all steps")
        try:
            self._step()
        except BaseException as error:
            for slot in self._slots:
                if slot.generation and slot.generation.open:
                    slot.generation.error = error
                slot.generation = None
            self._busy = []
            # Ctrl-C is no fault of the runner's, and nothing is overwritten of what counts as known.
            if not isinstance(error, KeyboardInterrupt):
                self.forget()
            raise
        finally:
            self._turn.release()

    def _step(self) -> None:
        self._leave()
        if self.waiting:
            self._admit()
        if not self._busy:
            return
        self._steps += 1
        moved, chunks = [], []
        budget = self.runner.chunk
        for slot in self._busy:
            ids, known, generation = slot.ids, slot.known, slot.generation
            assert generation
            left = min(len(ids), generation.end - 1) - known  # the last token of all is never computed
            if left == 1:
                piece = [ids[known]]
            elif budget:
                piece = ids[known : known + min(left, budget, SCORED if generation.scores else budget)]
                budget -= len(piece)
            else:
                continue
            wanted = len(piece) if generation.scores else int(len(piece) == left)
            chunks.append(Chunk(slot.number, known, piece, ids[known - 1] if known else -1, wanted))
            moved.append(slot)
        logits = self.runner.step(chunks)
        asked, last, row = [], [], 0  # last: the row of logits after a sequence's newest token
        for slot, chunk in zip(moved, chunks, strict=True):
            assert slot.generation
            slot.known += len(chunk.ids)
            row += chunk.wanted
            if slot.generation.scores:
                self._score(slot, chunk.start, logits[row - chunk.wanted : row])
            if slot.known == len(slot.ids):
                asked.append(slot)
                last.append(row - 1)
        if asked:
            self._choose(asked, logits if len(last) == row else logits[last])

    def _score(self, slot: _Slot, start: int, logits: Tensor) -> None:
        """Take in the rows after the prompt's tokens from `start` on."""
        assert slot.generation
        try:
            slot.generation.score(start, logits)
        except UserError as error:
            self._fail(slot, error)

    def _choose(self, slots: list[_Slot], logits: Tensor) -> None:
        """Give each slot's answer the next token, chosen from its row of logits (n, V)."""
        generations = [slot.generation for slot in slots if slot.generation]
        draws = [generation.draw() for generation in generations]
        choices: Sequence[Choice | UserError]
        try:
            choices = choose(logits, draws)
        except UserError:  # one bad row must not end the others
            choices = [_choose_alone(logits[row : row + 1], draw) for row, draw in enumerate(draws)]
        for slot, generation, choice in zip(slots, generations, choices, strict=True):
            if isinstance(choice, UserError):
                self._fail(slot, choice)
            else:
                generation.push(choice.id, choice.logprob, choice.top)

    def _fail(self, slot: _Slot, error: UserError) -> None:
        """What the slot holds are no numbers."""
        assert slot.generation
        slot.generation.error = error
        slot.known = 0
        self.runner.clear(slot.number)

    def _leave(self) -> None:
        """Free the slots of answers that are complete, failed or not wanted any more."""
        for slot in self._busy:
            assert slot.generation
            if not slot.generation.open:
                slot.generation, slot.used = None, self._steps
        self._busy = [slot for slot in self._busy if slot.generation]

    def _admit(self) -> None:
        """Let waiting generations begin while there are slots, and prompt tokens left in this step's budget."""
        budget = self.runner.chunk - sum(left for s in self._busy if (left := len(s.ids) - s.known) > 1)
        while self.waiting and budget > 0 and len(self._busy) < self.rows:
            generation = self.waiting[0]
            if generation.open:
                slot = self._seat(generation)
                if slot is None:
                    break
                slot.generation = generation
                self._busy.append(slot)
                budget -= len(slot.ids) - slot.known
            self.waiting.popleft()

    def _seat(self, generation: Generation) -> _Slot | None:
        """A free slot that has got the prompt, and knows as much of it as any; None while others are computing more."""
        self._make_room(generation)
        prompt = generation.sequence
        most = 0 if generation.scores else len(prompt) - 1  # of its last token the logits are needed
        shared, soon, source, worth = [], 0, 0, WORTH
        for slot in self._slots:
            common = _shared(prompt, slot.ids, most)
            if slot.generation:
                soon = max(soon, common)
                if slot.generation.request is generation.request:
                    worth = 1
            shared.append(min(common, slot.known))
            if shared[-1] > shared[source]:
                source = slot.number
        longest = shared[source]
        if soon >= longest + worth:
            return None
        free = [slot for slot in self._slots if not slot.generation]
        target = max(free, key=lambda slot: shared[slot.number])
        if 2 * shared[target.number] < target.known:  # much would be lost
            target = min(free, key=lambda slot: (slot.known > 0, slot.used))
            if target.known and len(self._slots) < min(KEPT, self.rows):
                self._grow(len(self._slots) + 1, self.runner.length)
                target = self._slots[-1]
                shared.append(0)
        target.known = shared[target.number]
        target.ids = prompt
        if longest >= target.known + worth:
            self.runner.copy(source, [target.number], longest)
            target.known = longest
        return target

    def _make_room(self, generation: Generation) -> None:
        """Slots for all that may begin, long enough for them; twice as much as there was, since growing copies."""
        slots, length = len(self._slots), self.runner.length
        if (wanted := min(self.rows, len(self._busy) + len(self.waiting))) > slots:
            slots = min(self.rows, max(wanted, 2 * slots))
        if generation.end - 1 > length:  # the last token is never computed
            length = min(self.window, max(2 * length, *(waiting.end - 1 for waiting in self.waiting)))
        if (slots, length) != (len(self._slots), self.runner.length):
            self._grow(slots, length)

    def _grow(self, slots: int, length: int) -> None:
        known = [slot.known for slot in self._slots]
        self.forget()  # in case that this does not come to its end
        self.runner.grow(slots, length)
        for slot, count in zip(self._slots, known, strict=True):
            slot.known = count
        self._slots += [_Slot(number, []) for number in range(len(self._slots), slots)]


def _choose_alone(logits: Tensor, draw: Draw) -> Choice | UserError:
    try:
        return choose(logits, [draw])[0]
    except UserError as error:
        return error


def _shared(a: list[int], b: list[int], most: int) -> int:
    """How many ids two sequences have in common at their beginning, `most` at most."""
    most = min(most, len(a), len(b))
    if a[:most] == b[:most]:
        return most
    same, different = 0, most  # a[:same] equals b[:same]; a[:different] does not
    while different - same > 1:
        middle = (same + different) // 2
        if a[same:middle] == b[same:middle]:
            same = middle
        else:
            different = middle
    return same
