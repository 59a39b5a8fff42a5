"""A run's batches: which samples each rank works on, and their prompts, prefetched on a GPU."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from workbench.flow.noise import NoiseSource
from workbench.methods import Batch, method_type
from workbench.teachers.base import Conditioning
from workbench.training.config import RunConfig
from workbench.training.networks import DistillationInputs
from workbench.training.parallel import Ranks
from workbench.training.streams import PairStream, PromptStream


class BatchLoader:
    """This rank's part of any global batch, in micro-batches.

    Attributes:
        size: samples of the part.
        micro: samples of a forward pass.

    Raises:
        RequestError: the batch is not divisible by the number of ranks.
    """

    def __init__(
        self, student: DistillationInputs, config: RunConfig, noise: NoiseSource, ranks: Ranks
    ) -> None:
        self.noise, self.ranks, self.latent_shape = noise, ranks, student.latent_shape
        self.size = ranks.local_batch_size(config.training.batch_size)
        self.micro = config.training.micro_batch_size or self.size
        prompts = student.prompts if method_type(config.method).needs_prompts else None
        self._prompts = PromptStream(prompts, noise) if prompts else None
        self._pairs = PairStream(student.pairs, noise) if student.pairs else None
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self._ahead: dict[tuple[int, int], Future[Conditioning]] = {}

    def take(self, nimg: int, evaluations: int, draws: Iterable[int]) -> dict[int, list[Batch]]:
        """Draw -> micro-batches of the batch that begins at ``nimg`` images, k = ``evaluations``.

        Phases of one draw share them. On a GPU the next batch's prompts are
        read while this one trains.
        """
        wanted = list(dict.fromkeys(draws))
        if self._prompts is None:
            return {draw: self._split(nimg, evaluations, None) for draw in wanted}
        read = {draw: self._ahead.pop((nimg, draw), None) for draw in wanted}
        self._ahead.clear()  # of what a method or a roll-back has passed over
        conds = {
            draw: self._gather(nimg, draw) if rows is None else rows.result()
            for draw, rows in read.items()
        }
        after = nimg + self.size * self.ranks.world
        # On the CPU nothing is to be won, and a thread's own OpenMP team takes cores from training.
        for draw in wanted if self.ranks.device.type == "cuda" else ():
            self._ahead[after, draw] = self._reader.submit(self._gather, after, draw)
        return {
            draw: self._split(nimg, evaluations, cond.to(self.ranks.device))
            for draw, cond in conds.items()
        }

    def _first(self, nimg: int) -> int:
        """This rank's first sample of the batch that begins at ``nimg``."""
        return nimg + self.ranks.rank * self.size

    def _gather(self, nimg: int, draw: int) -> Conditioning:
        assert self._prompts is not None
        return self._prompts.take(self._first(nimg), self.size, draw)

    def _split(self, nimg: int, evaluations: int, cond: Conditioning | None) -> list[Batch]:
        return [
            Batch(
                self._first(nimg) + place,
                min(self.micro, self.size - place),
                None if cond is None else cond.select(slice(place, place + self.micro)),
                evaluations,
                self.noise,
                self.latent_shape,
                self.ranks.device,
                self._pairs,
            )
            for place in range(0, self.size, self.micro)
        ]
