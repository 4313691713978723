"""The algorithms by name. To add one, add a file to this folder and a line to `ALGORITHMS`."""

from algos.registry import AlgorithmError, Entry, find, names

ALGORITHMS: dict[str, str] = {
    "flowrl": "algos.flowrl:FlowRL",
    "sac": "algos.sac:SAC",
    "td3": "algos.td3:TD3",
    "qvpo": "algos.qvpo:QVPO",
    "flashsac": "algos.flashsac:FlashSAC",
}

__all__ = ["ALGORITHMS", "AlgorithmError", "Entry", "find", "names"]
