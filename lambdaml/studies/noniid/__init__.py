"""The non-IID study: what skewed labels do to learning, by algorithm, normalisation and degree of skew.

It follows Hsieh, Phanishayee, Mutlu and Gibbons, "The Non-IID Data Quagmire of Decentralized Machine Learning" (ICML 2020,
arXiv 1910.00189). Five partitions own the training samples and train one model together. All partitions, degrees of skew
and seeds of a model, algorithm and normalisation are one batched computation.
"""
