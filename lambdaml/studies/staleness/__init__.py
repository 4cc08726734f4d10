"""The staleness study: what delayed updates do to learning, in minutes on two cores.

It reproduces Dai, Zhou, Dong, Zhang and Xing, "Toward Understanding the Impact of Staleness in Distributed Machine
Learning" (ICLR 2019, arXiv 1810.03264). P workers train with caches of their own, and each update reaches each cache
after a delay of its own. All workers, seeds and staleness values of a model and algorithm are one batched computation.
"""
