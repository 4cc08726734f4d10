"""Fed-Influence: how much each client of a federated run moved its model, for better or worse, without training it again.

The model of a run that a client had never been part of differs from the run's by eps. One walk along the log follows eps of every client
at once (`lambdaml.influence.recursion`); the metrics at w + eps less those at w are the client's influence on them
(`lambdaml.influence.measure`). The truth beside it is a training without the client (`lambdaml.influence.truth`).

Source: Xue, Niu, Zheng, Tang, Lv, Wu and Chen, "Toward understanding the influence of individual clients in federated learning"
(AAAI 2021, arXiv 2012.10936).
"""
