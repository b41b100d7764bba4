"""The desk between shards and generator: what is asked, who waits for it, and which shards are complete.

Tasks are handed out in the order of the shards. Equal tasks are asked once, and those that were answered in
an earlier run not at all. A shard is written as soon as its last answer is there; only the shards that the
generator reads ahead are open, whatever the number of captions. An image is in memory from when its task is
handed out until that is answered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from clipflow.artifacts.pairs import Pairs
from clipflow.artifacts.rewrites import Candidate
from clipflow.rewrite.cache import Cache
from clipflow.rewrite.generators import Answer, Proposal, Task, Usage
from clipflow.rewrite.params import Params

Rows = dict[str, list[Candidate]]


@dataclass
class _Shard:
    """A shard whose answers are on their way."""

    name: str
    rows: list[tuple[str, str, list[bytes]]] = field(default_factory=list)
    """Key, caption and tasks of each pair."""
    answers: dict[bytes, list[Proposal]] = field(default_factory=dict)
    num_missing: int = 0


class Desk:
    """Hands out tasks and takes in answers."""

    def __init__(
        self,
        pairs: Pairs,
        params: Params,
        cache: Cache,
        judge: Callable[[str, Iterable[Proposal]], list[Candidate]],
        write: Callable[[str, Rows], None],
    ) -> None:
        """`write(name, rows)` is called with each complete shard."""
        self.pairs, self.params, self.cache = pairs, params, cache
        self.judge, self.write = judge, write
        self._num_answers, self.usage = cache.usage()
        """Answers and tokens of this generator, in all runs."""
        self.num_remembered = self.num_asked = 0
        self.over_budget: str | None = None
        """What is used up, once the budget is."""
        self._waiting: dict[bytes, list[_Shard]] = {}
        self._keys: dict[Task, bytes] = {}
        """Of the tasks that were handed out and not yet answered."""

    def tasks(self, shards: Sequence[int], done: Callable[[int], object]) -> Iterator[Task]:
        """What is to be written for these shards; ends early if the generator's budget is used up.

        `done(n)` hears of rewrites that need not be asked for.
        """
        has_budget = self.params.generator.has_budget
        for number in shards:
            shard, tasks = self._opened(number)
            found = self.cache.look_up(list(tasks))
            new: dict[bytes, Task] = {}
            # Equal captions of a shard are one task.
            num_different = sum(task.num for task in tasks.values())
            done(self.params.num_rewrites * len(shard.rows) - num_different)
            for key, task in tasks.items():
                if key in found:
                    shard.answers[key] = found[key]
                    self.num_remembered += 1
                    done(task.num)
                    continue
                shard.num_missing += 1
                waiting = self._waiting.setdefault(key, [])
                waiting.append(shard)
                if len(waiting) == 1:
                    new[key] = task
                else:
                    done(task.num)
            if not shard.num_missing:
                self._close(shard)
            for key, task in self._with_images(number, shard, new):
                if has_budget:
                    self.over_budget = self.params.generator.spent(self._expected())
                    if self.over_budget:
                        return
                self.num_asked += 1
                self._keys[task] = key
                yield task

    def take(self, answers: Sequence[Answer]) -> None:
        """Remember answers, and write the shards that they complete."""
        keyed = [(self._keys.pop(answer.task), answer) for answer in answers]
        self.cache.store(keyed)
        self.usage = sum((answer.usage for answer in answers), self.usage)
        self._num_answers += len(answers)
        for key, answer in keyed:
            for shard in self._waiting.pop(key):
                shard.answers[key] = answer.proposals
                shard.num_missing -= 1
                if not shard.num_missing:
                    self._close(shard)

    @property
    def num_unanswered(self) -> int:
        """Tasks that were handed out and not yet answered."""
        return len(self._keys)

    def _opened(self, number: int) -> tuple[_Shard, dict[bytes, Task]]:
        """A shard, and its different tasks by their keys, without the images that the keys depend on."""
        generator, num = self.params.generator, self.params.num_rewrites
        each = max(1, generator.per_task(num))
        tar = self.pairs.shards[number]
        shard, tasks = _Shard(tar.stem), dict[bytes, Task]()
        known: dict[str, list[bytes]] = {}
        for row in self.pairs.rows(number, images=generator.sees_images):
            keys = None if generator.sees_images else known.get(row.caption)
            if keys is None:
                seed = seed_of(self.params.seed, row.caption, row.image)
                keys = []
                for first in range(0, num, each):
                    task = Task(row.caption, first, min(each, num - first), seed, row.image)
                    keys.append(self.cache.key(task))
                    tasks.setdefault(keys[-1], task._replace(image=None))
                known[row.caption] = keys
            shard.rows.append((row.key, row.caption, keys))
        return shard, tasks

    def _with_images(
        self, number: int, shard: _Shard, tasks: dict[bytes, Task]
    ) -> Iterator[tuple[bytes, Task]]:
        """The tasks in order, each with its image if the generator sees images, read when it is due."""
        if not tasks or not self.params.generator.sees_images:
            yield from tasks.items()
            return
        left = dict(tasks)
        rows = self.pairs.rows(number, images=True)
        for row, (_, _, keys) in zip(rows, shard.rows, strict=True):
            for key in keys:
                if key in left:
                    yield key, left.pop(key)._replace(image=row.image)

    def _close(self, shard: _Shard) -> None:
        judged: dict[tuple[bytes, ...], list[Candidate]] = {}
        rows: Rows = {}
        for key, caption, tasks in shard.rows:
            same = tuple(tasks)
            if same not in judged:
                proposals = [p for task in tasks for p in shard.answers[task]]
                judged[same] = self.judge(caption, proposals)
            rows[key] = judged[same]
        self.write(shard.name, rows)

    def _expected(self) -> Usage:
        """What will have been used once all that is asked is answered, and one more.

        Before the first answer nobody knows what one takes.
        """
        num = self.num_unanswered + 1
        read, written = (num * tokens // max(1, self._num_answers) for tokens in self.usage)
        return self.usage + Usage(read, written)


def seed_of(seed: int, caption: str, image: bytes | None = None) -> int:
    """64 bits fixed by the run's seed and what is rewritten, whatever the shard, order or process."""
    subject = caption.encode(errors="surrogatepass") if image is None else image
    return int.from_bytes(hashlib.sha256(b"%d/" % seed + subject).digest()[:8])
