"""Corpora and datasets: readers, questions from a graph, nested subsets, leakage, key facts. No torch."""
