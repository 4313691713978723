"""Reports in every format: missing runs and warnings are in all of them, and no number is cut."""

import csv
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from reports import TASKS, VARIANT, build, frames, holes, shown, without

from flowbench import report, stats
from flowbench.common.errors import UsageError
from flowbench.report import tables


@pytest.fixture(scope="module")
def holed():
    return build(*holes())


def test_the_numbers_are_those_of_stats():
    runs, evals = frames(seeds=range(3))
    section = build(runs, evals, seed=4, sort="name").sections[0]
    table = stats.at_step(runs, evals, 10_000)
    pd.testing.assert_frame_equal(section.aggregates, stats.aggregates(table, reps=50, seed=4))
    pd.testing.assert_frame_equal(section.per_task, stats.per_task(table, reps=50, seed=4))
    overall, each = stats.improvement(table, reps=50, seed=4)
    pd.testing.assert_frame_equal(section.improvement, overall)
    pd.testing.assert_frame_equal(section.improvement_per_task, each)
    assert section.missing.empty


@pytest.mark.parametrize("width", [60, 80, 120, 250])
def test_the_terminal_cuts_no_number_and_no_label(holed, width):
    text = shown(holed, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for row in holed.sections[0].aggregates.dropna().itertuples():
        assert f"{row.estimate:.3f} [{row.low:.3f}, {row.high:.3f}]" in text
    for row in holed.sections[0].per_task.dropna().itertuples():
        assert f"{row.mean:.1f} [{row.low:.1f}, {row.high:.1f}]" in text
    for row in holed.sections[0].improvement.itertuples():
        assert f"{row.estimate:.3f} [{row.low:.3f}, {row.high:.3f}]" in text
    assert VARIANT in "".join(text.split())  # rich has not taken its brackets for a style
    assert all(task in text for task in TASKS)


def test_a_terminal_too_narrow_for_a_number_folds_it(holed):
    text = shown(holed, 30)
    assert "…" not in text
    row = holed.sections[0].aggregates.iloc[0]
    assert all(f"{row[name]:.3f}" in text for name in ("estimate", "low", "high"))


def test_the_terminal_says_what_it_shows(holed):
    text = " ".join(shown(holed).split())
    assert "at step 10,000 of 10,000 (environment steps); 4 algorithms, 7 tasks, 5 seeds" in text
    assert "normalised scores; 50 bootstrap resamples" in text
    assert text.count("[95 % stratified bootstrap confidence interval]") == 3
    assert "p: permutation test stratified by task, Holm's correction for 6 pairs" in text
    order = ["Aggregate scores", "Mean return", "Probability that a run", "Missing: 6 of 140 runs", "Warnings"]
    assert sorted(order, key=text.index) == order
    assert "failed: evaluated up to step 5,000" in text
    assert "[red]went[/red]" in text
    assert " n=4" in text


def test_warnings(holed):
    text = "\n".join(holed.sections[0].warnings)
    assert f"{VARIANT}: the aggregate scores use 4 of 5 seeds (0-2, 4), because only these have all 7 tasks" in text
    assert "td3: no aggregate scores, because none of its seeds has all 7 tasks" in text
    pairs = f"{VARIANT} > td3, flowrl > td3, sac > td3"
    assert f"{pairs}: compared over 6 of 7 tasks, because not both have dog-run" in text
    assert "sac, dog-run, seed 1: diverged by step 10,000; its last finite evaluation, at step 7,500, is used" in text
    assert "50 bootstrap resamples: the intervals are rough" in text


def test_seeds_that_were_added_until_it_was_decided_are_named():
    runs, evals = frames(algos=("sac", "td3"))
    assert not any("added" in text for text in build(runs.assign(auto=0), evals).sections[0].warnings)
    warnings = build(runs.assign(auto=(runs["algo"] == "sac") * 20), evals).sections[0].warnings
    (said,) = [text for text in warnings if "added" in text]
    assert said.startswith("sac: seeds were added until a comparison was decided (--seeds auto:20)")


def test_runs_that_ended_diverged_count_and_those_that_cannot_are_said_loudly():
    runs, evals = frames(algos=("sac", "td3"), tasks=("a", "b"))
    ended = (runs["algo"] == "sac") & (runs["task"] == "a") & (runs["seed"] < 2)
    runs.loc[ended, ["status", "error"]] = ["failed", "FloatingPointError: critic/loss became nan by step 6123"]
    evals = without(without(evals, algo="sac", task="a", seed=0, after=5000), algo="sac", task="a", seed=1)
    section = build(runs, evals).sections[0]
    assert section.missing[["algo", "task", "seed", "reason"]].values.tolist() == [["sac", "a", 1, "no evaluation"]]
    of_sac = section.per_task.set_index(["algo", "task"]).loc[("sac", "a")]
    assert of_sac["seeds"] == 4
    text = "\n".join(section.warnings)
    assert "sac, a, seed 0: diverged by step 10,000; its last finite evaluation, at step 5,000, is used" in text
    assert "sac, a: 1 seed (1) diverged before any finite evaluation and cannot be counted: its numbers" in text
    assert "SURVIVORS ONLY" in text
    assert "failed, but it counts" not in text
    gone = build(runs, without(evals, algo="sac", task="a", seed=0).query("algo == 'td3' or task == 'b' or seed < 2"))
    assert "sac, a: 2 seeds (0-1) diverged before any finite evaluation and cannot be counted: no run is left" in (
        gone.sections[0].warnings
    )


def test_learning_curves_that_end_early_are_named():
    runs, evals = frames(algos=("sac", "td3"), tasks=("a", "b"), seeds=range(3))
    stopped = (runs["algo"] == "sac") & (runs["task"] == "b") & (runs["seed"] == 1)
    runs.loc[stopped, "status"] = "stopped"
    evals = without(evals, algo="sac", task="b", seed=1, after=5000)
    said = "sac: its learning curve ends where the shortest of its runs ends, on b (step 5,000 of 10,000)"
    assert said in build(runs, evals, step=5000).sections[0].warnings
    assert "learning curve" not in "\n".join(build(runs, evals).sections[0].warnings)  # there it does not count
    runs.loc[stopped, ["status", "error"]] = ["failed", "FloatingPointError: q"]
    assert "learning curve" not in "\n".join(build(runs, evals, step=5000).sections[0].warnings)


@pytest.mark.parametrize(
    ("count", "said"),
    [(1, "1 seed: no interval and no verdict"), (2, "2 seeds: the interval is unreliable"), (3, None)],
)
def test_few_seeds_are_said(count, said):
    built = build(*frames(algos=("sac", "td3"), tasks=("a", "b"), seeds=range(count)), reps=1000)
    warnings = built.sections[0].warnings
    assert [text.startswith(str(said)) and "use 5 or more (sac, td3)" in text for text in warnings] == [True] * bool(
        said
    )
    assert ("[-]" in shown(built)) == (count == 1)


def test_other_cautions():
    runs, evals = frames(algos=("sac",), tasks=("a",), seeds=range(3), every=3000)
    runs["tasks"] = 7
    runs.loc[0, "high"] = 500.0
    text = "\n".join(build(runs, evals).sections[0].warnings)
    assert "1 of the suite's 7 tasks: the aggregates are over these only" in text
    assert "the runs differ in their score bounds on a: 0 to 1000 (sac) | 0 to 500 (sac)" in text
    assert "sac: its last evaluation at or before step 10,000 is used, at step 9,000" in text


def test_two_configs_under_one_label():
    runs, evals = frames(algos=("sac",), tasks=("a",), seeds=range(4))
    for frame in (runs, evals):
        frame["config_id"] = np.where(frame["seed"] < 2, "3fa2c81b99", "77aa77aa99")
    section = build(runs, evals).sections[0]
    assert section.algos == ("sac#3fa2c81b", "sac#77aa77aa")
    assert any("sac stands for 2 different configurations" in text for text in section.warnings)


def test_a_suite_is_a_section_and_an_empty_one_is_named():
    first, second = frames(suite="quick", seeds=[0, 1]), frames(suite="dmc-easy", seeds=[0, 1], steps=5000)
    runs, evals = (pd.concat(pair, ignore_index=True) for pair in zip(first, second, strict=True))
    both = build(runs, evals)
    assert [(section.suite, section.step) for section in both.sections] == [("dmc-easy", 5000), ("quick", 10_000)]
    one = build(runs, evals, step=10_000)
    assert [section.suite for section in one.sections] == ["quick"]
    assert one.skipped[0][0] == "dmc-easy"
    for text in (shown(one), *(report.render(one, name) for name in report.FORMATS)):
        assert "dmc-easy" in text
        assert "--step 5000" in " ".join(text.replace("\\", "").split())


def test_a_suite_unlike_the_literature_says_so_in_every_format():
    built = build(*frames(seeds=[0, 1], comparable=False, note="short runs"))
    texts = {name: report.render(built, name) for name in report.FORMATS}
    loud = "NOT COMPARABLE WITH THE LITERATURE: short runs"
    assert loud in shown(built)
    assert f"**{loud}**" in texts["markdown"]
    rows = pd.read_csv(io.StringIO(texts["csv"]))
    assert loud in set(rows.loc[rows["kind"] == "warning", "note"])
    suite = json.loads(texts["json"])["suites"][0]
    assert suite["comparable"] is False
    assert suite["note"] == "short runs"


def test_csv_is_one_tidy_table(holed):
    text = report.render(holed, "csv")
    assert {len(row) for row in csv.reader(io.StringIO(text))} == {19}
    rows = pd.read_csv(io.StringIO(text), float_precision="round_trip")
    section = holed.sections[0]
    assert dict(rows["kind"].value_counts()) == {
        "task": 2 * 4 * 7,
        "aggregate": 4 * 4,
        "improvement": 6,
        "task-improvement": 6 * 7 - 3,
        "profile": 3 * 101,  # td3 has no complete seed
        "curve": 3 * 4,
        "missing": 6,
        "warning": len(section.warnings),
    }
    assert set(rows.loc[rows["kind"] != "curve", "step"]) == {10_000}
    for kind, frame in (("profile", section.profiles), ("curve", section.curves)):
        found = rows[rows["kind"] == kind].reset_index(drop=True)
        columns = [name for name in frame if name != "seconds"]
        pd.testing.assert_frame_equal(found[columns], frame[columns], check_dtype=False)
    numbers = rows[rows["kind"] == "aggregate"].reset_index(drop=True)
    columns = ["algo", "metric", "estimate", "low", "high"]
    pd.testing.assert_frame_equal(numbers[columns], section.aggregates[columns])
    for kind, frame in (("improvement", section.improvement), ("task-improvement", section.improvement_per_task)):
        found = rows[rows["kind"] == kind].reset_index(drop=True).rename(columns={"note": "verdict"})
        pd.testing.assert_frame_equal(found[list(frame)], frame, check_dtype=False)
        assert set(found["metric"]) == {"P(algo > over)"}
    returns = rows[(rows["kind"] == "task") & (rows["metric"] == "return")]
    np.testing.assert_array_equal(returns["estimate"], section.per_task["mean"])
    failed = rows[(rows["kind"] == "missing") & (rows["algo"] == VARIANT)]
    assert failed["seed"].tolist() == [3]
    assert "RuntimeError: a|b" in failed["note"].item()
    assert set(rows.loc[rows["kind"] == "warning", "note"]) == set(section.warnings)


def test_success_rates_are_in_every_format_where_there_are_any():
    runs, evals = frames(("sac", "td3"), ("h1-walk", "h1-run"), range(2))
    title = "Success rate of each task"
    assert title not in report.render(build(runs, evals), "markdown")
    evals["success"] = np.where(evals["algo"] == "sac", evals["seed"] / 2, np.nan)
    built = build(runs, evals, sort="name")
    cell = "0.25 [0.00, 0.50]"
    assert title in shown(built)
    assert re.search(rf"h1-walk +{re.escape(cell)} +-", shown(built))
    plain = re.sub(r"\\(.)", r"\1", report.render(built, "markdown"))
    assert f"| h1-run | {cell} | - |" in plain
    rows = pd.read_csv(io.StringIO(report.render(built, "csv")))
    rows = rows[rows["metric"] == "success"].set_index("algo")
    assert rows.loc["sac", ["estimate", "high", "seeds"]].values.tolist() == [[0.25, 0.5, 2]] * 2
    suite = json.loads(report.render(built, "json"))["suites"][0]
    assert [row["success"] for row in suite["success"]] == [0.25, None] * 2


def test_json_is_strict(holed):
    def refuse(name):
        raise AssertionError(name)

    content = json.loads(report.render(holed, "json"), parse_constant=refuse)
    assert (content["schema"], content["reps"], content["confidence"]) == (1, 50, 0.95)
    suite = content["suites"][0]
    assert [row["estimate"] for row in suite["aggregates"] if row["algo"] == "td3"] == [None] * 4
    section = holed.sections[0]
    for key, frame in (("improvement", section.improvement), ("improvement_per_task", section.improvement_per_task)):
        pd.testing.assert_frame_equal(pd.DataFrame(suite[key]), frame)
    assert len(suite["missing"]) == 6
    assert {row["reached"] for row in suite["missing"]} == {None, 5000}
    assert suite["warnings"] == list(holed.sections[0].warnings)


def test_markdown_tables_are_well_formed_and_escaped(holed):
    text = report.render(holed, "markdown")
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) == 4
    for table in tables:
        lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()]
        assert len({len(line) for line in lines}) == 1
        assert {cell.strip() for cell in lines[1]} == {"---"}
    assert r"flowrl\[flow\_steps=5,constraint=false\]" in text
    assert r"a\|b \[red\]went\[/red\] \*wrong\*" in text
    row = holed.sections[0].improvement.iloc[-1]
    cell = rf"{row['estimate']:.3f} \[{row['low']:.3f}, {row['high']:.3f}\]"
    assert rf"| sac \> td3 | {cell} | {row['p_holm']:.3f} | undecided | 6 |" in text
    plain = re.sub(r"\\(.)", r"\1", text)
    assert all(warning in plain for warning in holed.sections[0].warnings)


def test_an_unknown_format_names_the_others(holed):
    with pytest.raises(UsageError, match=r"'markdow'; did you mean 'markdown'\? \(choices: markdown, latex, csv, json"):
        report.render(holed, "markdow")


def test_nothing_to_report():
    runs, evals = frames(seeds=[0, 1])
    with pytest.raises(ValueError, match=r"no runs to report.*flowbench run"):
        build(pd.DataFrame(), pd.DataFrame())
    with pytest.raises(ValueError, match=r"dmc-hard: no evaluation yet in 56 runs.*56 queued"):
        build(runs.assign(status="queued"), pd.DataFrame())
    with pytest.raises(ValueError, match=r"reached step 20,000.*largest step available is 10,000.*--step 10000"):
        build(runs, evals, step=20_000)
    with pytest.raises(ValueError, match=r"at or before step 10; the first is at 2,500"):
        build(runs, evals, step=10)
    nan = evals.assign(score=float("nan"))
    with pytest.raises(ValueError, match=r"no finite evaluation"):
        build(runs, nan)


def test_where_only_short_runs_are_evaluated_it_is_said_how_to_compare_them():
    runs, evals = frames(algos=("sac",), tasks=("a",), suite_steps=10_000)
    runs, evals = (frame.assign(config_id="full") for frame in (runs, evals.iloc[:0]))
    runs["status"] = "queued"
    short = frames(algos=("sac", "td3"), tasks=("a",), steps=2500, suite_steps=10_000)
    waiting = (short[0]["algo"] == "td3").to_numpy()
    short[0].loc[waiting, "status"] = "queued"
    runs = pd.concat([runs, short[0]], ignore_index=True)
    evals = pd.concat([evals, without(short[1], algo="td3")], ignore_index=True)
    with pytest.raises(ValueError, match="no evaluation yet in 5 runs") as said:
        build(runs, evals)
    assert "sac is left out: it trains for 2,500 steps only (include it with --step 2500)" in str(said.value)
    assert str(said.value).endswith("td3 is left out: it trains for 2,500 steps only")
    assert build(runs, evals, step=2500).sections[0].step == 2500


def test_six_pairs_in_eighty_columns():
    algos, tasks = ("flowrl", "sac", "sb3-sac", "td3"), ("dog-run", "dog-walk")
    runs, evals = frames(algos=algos, tasks=tasks)
    better = evals["algo"] == "flowrl"
    evals.loc[better, ["mean", "score"]] += (1000, 1)
    text = shown(build(runs, evals))
    start = text.index("X > Y  ")
    lines = text[start : text.index("Missing: none of 40 runs")].rstrip().splitlines()
    assert lines[0].split() == ["X", ">", "Y", "P(X", ">", "Y)", "p", "X", "is", "tasks"]
    assert len(lines) == 2 + 6
    assert lines[2].split() == ["flowrl", ">", "sb3-sac", "1.000", "[1.000,", "1.000]", "<0.001", "better", "2"]
    assert lines[-1].startswith("sac > td3 ")


@pytest.mark.parametrize("width", [80, 120])
def test_pairs_on_each_task_where_asked(width):
    runs, evals = holes()
    title = "Probability that a run of X scores higher than a run of Y, on each task"
    assert title not in " ".join(shown(build(runs, evals)).split())
    built = build(runs, evals, pairs_per_task=True)
    text = shown(built, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    markdown = report.render(built, "markdown")
    assert title in " ".join(text.split())
    assert title in markdown
    for row in built.sections[0].improvement_per_task.itertuples():
        assert f"{row.estimate:.2f} [{row.low:.2f}, {row.high:.2f}]" in text
    line = next(line for line in markdown.split(title)[1].splitlines() if line.startswith("| dog-run "))
    assert [cell.strip() == "-" for cell in line.split("|")[2:-1]] == [False, False, True, False, True, True]


def test_one_algorithm_has_no_pairs():
    built = build(*frames(algos=("sac",), tasks=("a",)), pairs_per_task=True)
    for text in (shown(built), report.render(built, "markdown")):
        assert "Probability that" not in text
    assert json.loads(report.render(built, "json"))["suites"][0]["improvement"] == []
    assert "improvement" not in report.render(built, "csv")


def test_algorithms_without_a_common_task():
    runs, evals = frames(algos=("sac", "td3"), tasks=("a", "b"), seeds=range(3))
    keep = (runs["algo"] == "sac") == (runs["task"] == "a")
    built = build(runs[keep], evals)
    said = "sac > td3: no probability of improvement, because they have no task in common"
    assert said in built.sections[0].warnings
    assert re.search(r"sac > td3 +- +- +no common task +0", shown(built))
    suite = json.loads(report.render(built, "json"))["suites"][0]
    assert suite["improvement"][0]["estimate"] is None
    assert suite["improvement_per_task"] == []


def test_numbers_are_never_minus_zero():
    runs, evals = frames(algos=("sac",), tasks=("a",), seeds=range(3))
    evals[["mean", "score"]] = -1e-6
    assert "-0.0" not in shown(build(runs, evals))


def alike():
    """Two algorithms' runs and what must be the same for them to compare."""
    same = {"action_repeat": 2, "episodes": 10, "mujoco": "3.3.0", "dm_control": "1.0.30"}
    same |= {"device": "cpu", "precision": "float32"}
    return frames(algos=("sac", "td3"), tasks=("a", "b"), seeds=range(3), **same)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("steps", 20_000, "number of training steps: 10,000 (sac) | 20,000 (td3)"),
        ("every", 1250, "number of steps between evaluations: 1,250 (td3) | 2,500 (sac)"),
        ("episodes", 5, "number of episodes per evaluation: 5 (td3) | 10 (sac)"),
        ("action_repeat", 1, "action repeat on b: 1 (td3) | 2 (sac)"),
        ("device", "cuda", "device: cpu (sac) | cuda (td3)"),
        ("precision", "tf32", "precision of matrix products: float32 (sac) | tf32 (td3)"),
        ("mujoco", "3.2.0", "version of mujoco: 3.2.0 (td3) | 3.3.0 (sac)"),
        ("dm_control", "1.0.9", "version of dm_control: 1.0.30 (sac) | 1.0.9 (td3)"),
    ],
)
def test_runs_that_differ_are_named_and_refused_where_asked(column, value, said):
    runs, evals = alike()
    assert build(runs, evals, strict=True).sections[0].differences == ()
    runs.loc[runs["algo"] == "td3", column] = value
    section = build(runs, evals).sections[0]
    assert any(text.endswith(f"the runs differ in their {said}") for text in section.warnings)
    with pytest.raises(ValueError, match="--strict: dmc-hard: ") as refused:
        build(runs, evals, strict=True)
    assert said in str(refused.value)


def test_runs_of_one_algorithm_with_different_code_are_named_and_refused_where_asked():
    runs, evals = alike()
    runs["code"] = runs["algo"].map({"sac": "1a", "td3": "2b"})  # of each its own
    assert build(runs, evals, strict=True).sections[0].differences == ()
    runs.loc[runs["seed"] == 1, "code"] = ""  # recorded by an earlier version
    assert build(runs, evals, strict=True).sections[0].differences == ()
    runs.loc[(runs["algo"] == "td3") & (runs["seed"] == 2), "code"] = "0c"
    section = build(runs, evals).sections[0]
    said = "td3: its code was changed between or during its runs: 0c (2 runs) | 2b (2 runs)"
    assert section.differences == (said,)
    assert said in section.warnings
    with pytest.raises(ValueError, match="--strict: dmc-hard: td3: its code was changed") as refused:
        build(runs, evals, strict=True)
    assert said in str(refused.value)
    runs["code"] = "1a; then 2b"  # resumed with other code
    assert len(build(runs, evals).sections[0].differences) == 2


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("bound", ["low", "high"])
def test_runs_with_other_score_bounds_are_named_and_refused_where_asked(bound, published):
    runs, evals = alike()
    changed = (runs["algo"] == "td3") & (runs["task"] == "b")
    runs.loc[changed, bound] = 1.5
    runs["published"] = (runs["algo"] == "td3") & published
    section = build(runs, evals).sections[0]
    (text,) = section.differences
    assert text.startswith("the runs differ in their score bounds on b: ")
    assert "(sac)" in text
    assert "(td3)" in text
    assert text in section.warnings
    with pytest.raises(ValueError, match=r"--strict: .*score bounds on b"):
        build(runs, evals, strict=True)


def test_what_is_not_known_or_does_not_count_is_no_difference():
    runs, evals = alike()
    runs.loc[runs["algo"] == "td3", "mujoco"] = ""
    runs.loc[runs["task"] == "b", "action_repeat"] = 4
    runs.loc[0, ["episodes", "status"]] = [1, "failed"]
    evals = without(evals, algo="sac", task="a", seed=0)
    assert build(runs, evals, strict=True).sections[0].differences == ()
    runs["published"] = runs["algo"] == "td3"
    runs.loc[runs["algo"] == "td3", "episodes"] = 1
    assert build(runs, evals, strict=True).sections[0].differences == ()


def test_latex_tables_are_whole_and_escaped(holed):
    text = report.render(holed, "latex")
    tables = re.findall(r"\\begin\{table\*\}.*?\\end\{table\*\}", text, flags=re.DOTALL)
    assert len(tables) == 4
    for table in tables:
        assert [rule in table for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{", r"\label{tab:")]
        columns = len(re.search(r"\\begin\{tabular\}\{([lr]+)\}", table)[1])
        rows = [line for line in table.splitlines() if line.endswith(r" \\")]
        assert {len(re.split(r"(?<!\\)&", row)) for row in rows} == {columns}
    assert len(set(re.findall(r"\\label\{.*?\}", text))) == 4
    assert (
        "Bold: of the algorithms with enough seeds for a verdict, the highest IQM and those that are not found worse "
        in text
    )
    assert r"flowrl[flow\_steps=5,constraint=false]" in text
    assert r"a\textbar{}b [red]went[/red] *wrong*" in text
    row = holed.sections[0].aggregates.iloc[0]
    assert f"{row['estimate']:.3f}}} {{\\scriptsize [{row['low']:.3f}, {row['high']:.3f}]}}" in text
    assert all(f"% Warning: {warning}" in text for warning in holed.sections[0].warnings)


def test_the_caption_says_why_the_highest_may_not_be_bold():
    runs, evals = frames(algos=("sac", "td3", "qvpo"), seeds=range(5))
    kept = (runs["algo"] != "qvpo") | (runs["seed"] < 2)
    evals.loc[evals["algo"] == "qvpo", ["mean", "score"]] = [999.0, 0.999]  # the highest, of two seeds
    text = report.render(build(runs[kept], evals), "latex")
    first = text[text.index(r"\begin{table*}") : text.index(r"\end{table*}")]
    assert r"\textbf{0.999}" not in first
    assert "Bold: of the algorithms with enough seeds for a verdict, the highest IQM" in first


def test_best_is_what_the_test_does_not_find_worse_than_the_highest():
    verdicts = [("a", "b", "better"), ("a", "c", "undecided"), ("b", "c", "worse"), ("a", "d", "too few seeds")]
    pairs = pd.DataFrame(verdicts, columns=["algo", "over", "verdict"])
    pairs = pairs.assign(estimate=0.5, low=0.4, high=0.6, seeds=5, over_seeds=5)
    assert tables.best({"a": 0.5, "b": 0.4, "c": 0.3, "d": 0.9}, pairs) == {"a", "c"}  # nothing is known of d
    assert tables.best({"a": 0.5, "b": 0.4, "c": float("nan"), "d": 0.9}, pairs) == {"a"}
    assert tables.best({"a": 0.5, "d": 0.9}, pairs[3:]) == set()


def test_bold_and_verdicts_agree_in_every_format():
    """Four runs of td3 above four of all others: decided between two algorithms (2 / 70), not among three (6 / 70)."""
    runs, evals = frames(algos=("flowrl", "sac", "td3"), tasks=("a",), seeds=range(4))
    evals.loc[evals["algo"] == "td3", ["mean", "score"]] += (1000, 1)
    for algos, verdict, bold in ((("sac", "td3"), "better", ["td3"]), (("flowrl", "sac", "td3"), "too few seeds", [])):
        built = build(runs[runs["algo"].isin(algos)], evals)
        latex, text, rows = (report.render(built, name) for name in ("latex", "markdown", "csv"))
        overall = [line for line in latex.splitlines() if line.strip().startswith(tuple(f"{algo} &" for algo in algos))]
        assert [line.split()[0] for line in overall if r"\textbf" in line] == bold
        (of_task,) = (line for line in latex.splitlines() if line.strip().startswith("a &"))
        assert of_task.count(r"\textbf") == 1  # on a task there is no correction for the pairs
        (line,) = (line for line in text.splitlines() if line.startswith(r"| td3 \> sac"))
        assert f"| {verdict} |" in line
        pair = pd.read_csv(io.StringIO(rows)).query("kind == 'improvement' and algo == 'td3' and over == 'sac'")
        assert pair[["note", "tests"]].values.tolist() == [[verdict, len(algos) * (len(algos) - 1) // 2]]
