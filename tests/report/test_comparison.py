"""The output of `flowbench compare` in every format."""

import io
import json

import pandas as pd
import pytest
from frames import grid, join
from reports import build
from rich.console import Console

from flowbench.report import comparison

FACTS = {"comparable": True, "note": "", "tasks": 3, "low": 0.0, "high": 1000.0}
TASKS = {
    "dog-run": ([6, 7, 8, 9, 10], [1, 2, 3, 4, 5]),
    "dog-trot": ([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]),
    "dog-walk": ([1, 3, 5, 7, 9], [2, 4, 6, 8, 10]),
}


def frames(tasks=TASKS, **run):
    return join(
        *(
            grid(
                {task: dict(enumerate(map(float, both[place]))) for task, both in tasks.items()},
                algo=algo,
                **FACTS | run,
            )
            for place, algo in enumerate(("sac", "td3[tau=0.1]"))
        ),
        grid({"dog-run": {0: 1.0}}, algo="qvpo", **FACTS | run),
    )


def made(*frames_, **options):
    runs, evals = frames_ or frames()
    return comparison.compare(runs, evals, "sac", "td3[tau=0.1]", **{"reps": 200} | options)


def shown(comparisons, width=80):
    out = io.StringIO()
    comparison.show(comparisons, Console(file=out, width=width))
    return out.getvalue()


def test_the_verdict_in_words():
    said = comparison.verdict(made().of_suites[0])
    assert said[0] == "sac is better on 1 of 3 tasks, td3[tau=0.1] on 1; undecided on 1."
    assert said[1].startswith("Over the 3 tasks: undecided (p = ")
    assert "P(sac > td3[tau=0.1]) is 0.467 [" in said[1]
    assert said[2].startswith("In a report on all 3 algorithms of this suite, with Holm's correction for 3 pairs: ")
    assert len(said) == 4
    assert said[3].endswith("came out like these: more than 50 for dog-walk, all tasks together.")


def close(seeds=8):
    """Frames in which sac and td3 differ by a p between 0.05 / 6 and 0.05, among four algorithms."""
    scores = {"sac": [3, 5, 6, 8, 9, 10, 11, 12], "td3": [1, 2, 4, 7, 2.5, 3.5, 4.5, 5.5]}
    scores |= {"qvpo": [1, 5, 6, 7, 8, 9, 2, 3], "flowrl": [2, 4, 5, 6, 8, 9, 1, 3.2]}
    return join(
        *(grid({"dog-run": dict(enumerate(map(float, own)))}, algo=algo, **FACTS) for algo, own in scores.items())
    )


def test_the_verdict_of_a_report_on_all_algorithms_is_said_too():
    runs, evals = close()
    pairs = build(runs, evals, reps=50).sections[0].improvement
    (row,) = pairs[(pairs["algo"] == "sac") & (pairs["over"] == "td3")].to_dict("records")
    assert (row["verdict"], row["tests"]) == ("undecided", 6)
    for algo, over in (("sac", "td3"), ("td3", "sac")):
        comparisons = comparison.compare(runs, evals, algo, over, reps=50)
        said = comparison.verdict(comparisons.of_suites[0])
        assert "sac is better than td3" in said[1]
        assert said[2] == (
            f"In a report on all 4 algorithms of this suite, with Holm's correction for 6 pairs: undecided "
            f"(p = {row['p_holm']:.3f})."
        )
        suite = json.loads(comparison.FORMATS["json"](comparisons))["suites"][0]
        assert suite["in_report"] == {"algorithms": 4, "tests": 6, "p_holm": row["p_holm"], "verdict": "undecided"}
    two = runs["algo"].isin(["sac", "td3"])
    alone = comparison.compare(runs[two], evals, "sac", "td3", reps=50)
    assert not any("In a report" in text for text in comparison.verdict(alone.of_suites[0]))
    assert json.loads(comparison.FORMATS["json"](alone))["suites"][0]["in_report"] is None


def test_the_verdict_of_a_report_names_the_better_of_the_two():
    tasks = {f"t{k}": ([6, 7, 8, 9, 10], [1, 2, 3, 4, 5]) for k in range(4)}
    runs, evals = join(frames(tasks), grid({task: {0: 1.0} for task in tasks}, algo="flowrl", **FACTS))
    for algo, over in (("sac", "td3"), ("td3", "sac")):
        said = comparison.verdict(comparison.compare(runs, evals, algo, over, reps=50).of_suites[0])
        assert any("for 3 pairs: sac is better than td3[tau=0.1] (p " in text for text in said)


def test_seeds_too_few_for_so_many_tasks_are_said_so():
    tasks = {f"t{k}": TASKS["dog-run"] for k in range(15)}
    said = comparison.verdict(made(*frames(tasks)).of_suites[0])
    assert said[0] == "sac is better on 0 of 15 tasks, td3[tau=0.1] on 0; undecided on 0; too few seeds on 15."
    assert said[1].startswith("Over the 15 tasks: sac is better than td3[tau=0.1] (p < 0.001)")
    assert said[2].startswith("With these seeds no single task of 15 can be decided: ")
    assert "p would be 0.119" in said[2]
    assert said[2].endswith("At least 6 seeds of each are needed.")
    assert "6 for t0, " in said[3]


def test_one_seed_shows_no_spread_to_estimate_from():
    one = {"dog-run": ([6], [1]), "dog-walk": ([1, 3, 5, 7, 9], [2, 4, 6, 8, 10])}
    said = comparison.verdict(made(*frames(one)).of_suites[0])
    assert said[-2].endswith("came out like these: more than 50 for dog-walk.")
    assert said[-1] == "No such estimate for dog-run, all tasks together: one seed shows no spread."
    said = comparison.verdict(made(*frames({"dog-run": ([6], [1])})).of_suites[0])
    assert not any("more than 50" in text for text in said)


@pytest.mark.parametrize("width", [50, 80, 160])
def test_the_terminal_says_it_first_and_cuts_nothing(width):
    text = shown(made(), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    flat = " ".join(text.split())
    order = ["X = sac, Y = td3[tau=0.1], at step 100; 5 seeds of X", "sac is better on 1", "X against Y on each task"]
    assert sorted(order, key=flat.index) == order
    assert "exact Mann-Whitney test, Holm's correction for 3 tasks; over all tasks: permutation test" in flat
    assert "Holm's correction for 1 pair" in flat


def test_every_format_holds_the_verdict_and_the_numbers():
    comparisons = made(*frames(comparable=False, note="short runs"))
    markdown, content = (comparison.FORMATS[name](comparisons) for name in ("markdown", "json"))
    suite = json.loads(content)["suites"][0]
    assert suite["verdict"] == comparison.verdict(comparisons.of_suites[0])
    assert suite["comparable"] is False
    pd.testing.assert_frame_equal(
        pd.DataFrame(suite["per_task"])["p_holm"].to_frame(), comparisons.of_suites[0].per_task[["p_holm"]]
    )
    assert suite["per_task"][2]["needed"] is None
    for text in (markdown, shown(comparisons)):
        assert "NOT COMPARABLE WITH THE LITERATURE: short runs" in text.replace("\n", " ").replace("\\", "")
    assert "| dog-run | better | 0.024 |" in markdown


def test_missing_runs_and_cautions_are_those_of_the_two():
    runs, evals = frames()
    gone = (runs["algo"] == "sac") & (runs["task"] == "dog-run") & (runs["seed"] == 2)
    comparisons = made(runs[~gone], evals)
    assert comparisons.of_suites[0].section.missing[["algo", "task", "seed"]].to_numpy().tolist() == [
        ["sac", "dog-run", 2]
    ]
    text = shown(comparisons)
    assert "Missing: 1 of 30 runs" in text
    assert "qvpo" not in text
    assert "4 to 5 seeds of X" in text
    assert "4, 5" in text


def test_what_cannot_be_compared_says_why():
    runs, evals = frames()
    for algo, over, said in (
        ("sac", "td4[tau=0.1]", "'td4.*did you mean 'td3"),
        ("sac", "sac", "cannot be compared with itself"),
        ("sac", "qvpo[x=1]", "unknown algorithm"),
    ):
        with pytest.raises(ValueError, match=said):
            comparison.compare(runs, evals, algo, over, reps=200)
    elsewhere = runs.assign(suite=runs["suite"].where(runs["algo"] != "qvpo", "other"))
    with pytest.raises(ValueError, match="no task on which runs of both sac and qvpo"):
        comparison.compare(elsewhere, evals.assign(suite=elsewhere["suite"].iloc[0]), "sac", "qvpo", reps=200)


def test_a_name_stands_for_its_only_variant():
    runs, evals = frames()
    assert comparison.compare(runs, evals, "sac", "td3", reps=200).of_suites[0].over == "td3[tau=0.1]"
    runs, evals = (frame.replace({"algo": {"qvpo": "td3[tau=0.2]"}}) for frame in (runs, evals))
    with pytest.raises(ValueError, match=r"'td3' is ambiguous: choose one of td3\[tau=0.1\], td3\[tau=0.2\]"):
        comparison.compare(runs, evals, "sac", "td3", reps=200)


def test_one_that_trains_for_less_is_left_out_unless_a_step_is_named():
    runs, evals = frames(suite_steps=100)
    runs.loc[runs["algo"] == "sac", "steps"] = 50
    runs, evals = runs[runs["algo"] != "qvpo"], evals[evals["algo"] != "qvpo"]
    with pytest.raises(ValueError, match="sac is left out: it trains for 50 steps only"):
        made(runs, evals)


def test_two_that_a_report_leaves_out_as_too_short_have_no_verdict_there():
    runs, evals = frames(suite_steps=200)
    runs.loc[runs["algo"] == "qvpo", "steps"] = 200
    assert made(runs, evals).of_suites[0].in_report is None


def test_strict_refuses_runs_that_differ():
    runs, evals = frames()
    runs["mujoco"] = runs["algo"].map(lambda algo: "3.2" if algo == "sac" else "3.3")
    assert any("version of mujoco" in text for text in made(runs, evals).of_suites[0].section.warnings)
    with pytest.raises(ValueError, match=r"--strict: quick: .*version of mujoco"):
        made(runs, evals, strict=True)
