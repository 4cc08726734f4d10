"""Latent Dirichlet allocation by collapsed Gibbs sampling (Griffiths and Steyvers 2004), with stale word counts.

Workers share, and their caches hold, the number of times that each topic was assigned to each word. Documents are
divided among the workers, so each worker owns the topics of its tokens and documents. At each iteration a worker
samples all tokens of its next tenth of documents again: one by one within a document, all documents of all workers and
settings at once, from the word counts in its cache (its own changes arrive there delayed, too). The update is the
change of counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BATCHES_PER_SWEEP = 10


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents of equal length. Longer ones are cut, and shorter ones are dropped.

    Attributes:
        words: The number of each word, int64 [documents, length].
        vocabulary: The number of different words.
    """

    words: Tensor
    vocabulary: int


def generated_corpus(documents: int = 200, length: int = 40, vocabulary: int = 200, topics: int = 10) -> Corpus:
    """Draw a corpus from the model itself, with 0.1 for both of its concentrations. It is always the same."""
    stream = np.random.RandomState(0)
    words_of = stream.dirichlet(np.full(vocabulary, 0.1), topics)
    topics_of = stream.dirichlet(np.full(topics, 0.1), documents)
    chosen = [stream.choice(vocabulary, length, p=mixture @ words_of) for mixture in topics_of]
    return Corpus(torch.from_numpy(np.stack(chosen).astype(np.int64)), vocabulary)


class GibbsLearner:
    """A `engine.Learner` for LDA. Quality: mean log-likelihood of a token, from worker 0's word counts.

    Args:
        alpha: The concentration of a document's topics.
        beta: The concentration of a topic's words.
    """

    rising = True

    def __init__(
        self,
        corpus: Corpus,
        seeds: Sequence[int],
        workers: int,
        topics: int = 10,
        alpha: float = 0.1,
        beta: float = 0.1,
    ) -> None:
        self._corpus, self._workers, self._topics, self._alpha, self._beta = corpus, workers, topics, alpha, beta
        self._draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        shape = corpus.words.shape
        self._chosen = torch.stack([torch.randint(topics, shape, generator=draw) for draw in self._draws])
        self._of_documents = torch.zeros(len(seeds), shape[0], topics)
        self._of_documents.scatter_add_(2, self._chosen, torch.ones(self._chosen.shape))
        self._parts = _parts(shape[0], workers)

    def start(self) -> Tensor:
        place = (self._corpus.words * self._topics + self._chosen).flatten(1)
        counts = torch.zeros(len(place), self._corpus.vocabulary * self._topics)
        return counts.scatter_add_(1, place, torch.ones(place.shape)).repeat_interleave(self._workers, 0)

    def updates(self, iteration: int, caches: Tensor) -> Tensor:
        documents, real = self._parts[iteration % BATCHES_PER_SWEEP]
        settings, (workers, each), length = len(self._draws), documents.shape, self._corpus.words.shape[1]
        flat, words = documents.flatten(), self._corpus.words[documents.flatten()]
        chances = torch.stack([torch.rand(len(flat), length, generator=draw) for draw in self._draws])
        counts = caches.view(settings, workers, -1, self._topics)
        totals = counts.clamp_min(0).sum(2).repeat_interleave(each, 1)
        before, mixture = self._chosen[:, flat], self._of_documents[:, flat]
        after = before.clone()
        sharer = torch.arange(len(flat)) // each
        for token in range(length):
            own = torch.nn.functional.one_hot(before[:, :, token], self._topics).float()
            mixture -= own
            of_word = (counts[:, sharer, words[:, token]] - own).clamp_min_(0).add_(self._beta)
            weight = (totals - own).clamp_min_(0).add_(self._beta * self._corpus.vocabulary)
            summed = torch.cumsum((mixture + self._alpha).mul_(of_word).div_(weight), 2)
            drawn = (summed < summed[:, :, -1:] * chances[:, :, token, None]).sum(2).clamp_max_(self._topics - 1)
            after[:, :, token] = drawn
            mixture.scatter_add_(2, drawn[:, :, None], torch.ones(settings, len(flat), 1))
        self._chosen[:, flat[real]], self._of_documents[:, flat[real]] = after[:, real], mixture[:, real]
        updates = torch.zeros_like(caches)
        row = torch.arange(settings)[:, None, None] * workers + sharer[:, None]
        one = real[:, None].float().expand_as(after).flatten()
        for chosen, sign in ((before, -1.0), (after, 1.0)):
            place = row * caches.shape[1] + words * self._topics + chosen
            updates.view(-1).index_add_(0, place.flatten(), sign * one)
        return updates

    def quality(self, caches: Tensor) -> Tensor:
        counts = caches.view(len(caches), -1, self._topics).clamp_min(0) + self._beta
        of_words = counts / counts.sum(1, keepdim=True)
        mixtures = self._of_documents + self._alpha
        mixtures = mixtures / mixtures.sum(2, keepdim=True)
        likelihood = mixtures @ of_words.transpose(1, 2)
        tokens = self._corpus.words.expand(len(caches), -1, -1)
        return likelihood.gather(2, tokens).log().double().mean((1, 2))

    def keep(self, which: Sequence[int]) -> None:
        self._draws = [self._draws[position] for position in which]
        self._chosen, self._of_documents = self._chosen[list(which)], self._of_documents[list(which)]


def _parts(documents: int, workers: int) -> list[tuple[Tensor, Tensor]]:
    """Return each worker's documents for each batch of a sweep, [P, most], and which are not padding, [P * most]."""
    parts = [np.array_split(np.arange(worker, documents, workers), BATCHES_PER_SWEEP) for worker in range(workers)]
    found = []
    for batch in range(BATCHES_PER_SWEEP):
        most = max(len(mine[batch]) for mine in parts)
        padded = np.stack([np.pad(mine[batch], (0, most - len(mine[batch])), constant_values=-1) for mine in parts])
        found.append((torch.from_numpy(np.maximum(padded, 0)), torch.from_numpy((padded >= 0).ravel())))
    return found
