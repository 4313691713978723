"""The algorithms, by name. Adding one is a file in this folder and a line in `ALGORITHMS`."""

from algos.registry import AlgorithmError, Entry, find, names

ALGORITHMS: dict[str, str] = {
    "flowrl": "algos.flowrl:FlowRL",
    "sac": "algos.sac:SAC",
    "td3": "algos.td3:TD3",
    "qvpo": "algos.qvpo:QVPO",
}

__all__ = ["ALGORITHMS", "AlgorithmError", "Entry", "find", "names"]
