"""The training loop and its parts: environments, replay, learners, evaluation. It knows no algorithm by name."""
