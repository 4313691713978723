"""The order and the names of the algorithms, the pairs of a baseline: the same in every format."""

import csv
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from frames import grid, join
from reports import TASKS, build, frames, shown

from flowbench import report, stats
from flowbench.report import comparison, page
from flowbench.report.figures.style import PALETTE, styles_of

LEVELS = {"sac": 0.2, "qvpo": 0.9, "td3": 0.5, "flowrl": 0.4, "flowrl[tau=0.05]": 0.7}
BY_IQM = ("qvpo", "flowrl[tau=0.05]", "td3", "flowrl", "sac")


def graded(algos=tuple(LEVELS), tasks=("a", "b"), seeds=range(4)):
    """Frames in which the order by IQM is that of LEVELS and most pairs are decided."""
    runs, evals = frames(algos=algos, tasks=tasks, seeds=seeds, suite_steps=10_000)
    evals["score"] = evals["algo"].map(LEVELS) * evals["step"] / 10_000 + 0.01 * evals["seed"]
    evals["mean"] = 1000 * evals["score"]
    return runs.assign(name=runs["algo"].str.partition("[")[0], config=[{}] * len(runs), folder="nowhere"), evals


def many(count):
    return frames(algos=[f"a{k}" for k in range(count)], tasks=("t",), seeds=range(3))


def embedded(built, runs, evals):
    """What the script of the page reads."""
    text = page.render(built, runs, evals)
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(data)


def orders(built, runs, evals):
    """The order of the algorithms in each format."""
    suite = json.loads(report.render(built, "json"))["suites"][0]
    yield suite["algos"]
    for name in ("aggregates", "profiles", "curves"):
        yield list(dict.fromkeys(row["algo"] for row in suite[name]))
    yield [row["algo"] for row in suite["per_task"] if row["task"] == "a"]
    rows = list(csv.DictReader(io.StringIO(report.render(built, "csv"))))
    yield [row["algo"] for row in rows if row["metric"] == "IQM" and row["kind"] == "aggregate"]
    for text in (shown(built), report.render(built, "latex"), report.render(built, "markdown")):
        table = re.split(r"algorithm +[|&]? *IQM", text.replace("\\", ""))[1].replace("| ", "")
        yield [found for line in table.splitlines() for found in re.findall(r"^ *([^ ]+) .*\d\.\d{3}", line)][:5]
    yield embedded(built, runs, evals)["report"]["suites"][0]["algos"]


def test_every_format_lists_the_best_first():
    runs, evals = graded()
    built = build(runs, evals)
    for order in orders(built, runs, evals):
        assert order == list(BY_IQM)
    pairs = built.sections[0].improvement
    assert (pairs["estimate"] >= 0.5).all()
    assert pairs[["algo", "over"]].iloc[0].tolist() == list(BY_IQM[:2])


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ({"sort": "name"}, tuple(sorted(LEVELS))),
        ({"given": ["td3", "flowrl", "qvpo", "sac"]}, ("td3", "flowrl[tau=0.05]", "flowrl", "qvpo", "sac")),
        ({"given": ["flowrl", "flowrl[tau=0.05]", "td3"]}, ("flowrl", "flowrl[tau=0.05]", "td3")),
        ({"given": ["td3", "flowrl", "qvpo", "sac"], "sort": "iqm"}, BY_IQM),
    ],
)
def test_the_order_may_be_chosen(options, order):
    runs, evals = graded()
    if "flowrl[tau=0.05]" in options.get("given", ()):
        runs = runs[runs["algo"].isin(order)]
    built = build(runs, evals, **options)
    assert built.sections[0].algos == order
    if len(order) == 5:
        for found in orders(built, runs, evals):
            assert found == list(order)


def test_published_curves_and_algorithms_without_an_iqm_are_last():
    runs, evals = graded()
    evals = evals[~((evals["algo"] == "td3") & (evals["task"] == "b"))]
    published = runs["algo"] == "qvpo"
    runs = runs.assign(published=published, origin="csv")
    evals = evals.assign(published=evals["algo"] == "qvpo")
    assert build(runs, evals).sections[0].algos == ("flowrl[tau=0.05]", "flowrl", "sac", "td3", "qvpo")


def test_a_label_is_in_every_format_and_changes_no_number():
    runs, evals = graded()
    labels = ["flowrl[tau=0.05]=FlowRL", "sac=Zac (ours)"]
    built, plain = build(runs, evals, labels=labels), build(runs, evals)
    texts = [report.render(built, name) for name in report.FORMATS] + [shown(built)]
    for text in texts:
        assert "Zac (ours)" in text
        lines = [line for line in text.replace("\\", "").splitlines() if "Zac (ours) is sac" not in line]
        assert not re.search(r"(?<![\w\"])sac\b", "\n".join(lines).replace('"Zac (ours)": "sac"', ""))
    (section,), (before,) = built.sections, plain.sections
    back = {"FlowRL": "flowrl[tau=0.05]", "Zac (ours)": "sac"}
    assert section.labels == back
    for name in ("aggregates", "per_task", "improvement", "improvement_per_task", "profiles", "curves"):
        frame = getattr(section, name).replace({"algo": back, "over": back})
        pd.testing.assert_frame_equal(frame, getattr(before, name))
    data = embedded(built, runs, evals)
    assert {row["algo"] for row in data["styles"]} == set(section.algos)
    assert {row["algo"] for row in data["sections"][0]["curves"]} == set(section.algos)
    assert {row["algo"] for row in data["sections"][0]["coverage"]} == set(section.algos)
    assert "Names: FlowRL is flowrl[tau=0.05]; Zac (ours) is sac" in data["sections"][0]["settings"]


def test_a_label_keeps_the_numbers_of_a_pair_with_unequal_seeds():
    """The permutations of a pair are drawn for one of its sides, which no name may choose."""
    scores = {"sac": [3, 5, 6, 8, 9, 10], "td3": [1, 2, 4, 7]}
    runs, evals = join(
        *(
            grid({task: {k: v + shift for k, v in enumerate(own)} for shift, task in enumerate("ab")}, algo=algo)
            for algo, own in scores.items()
        )
    )
    runs = runs.assign(comparable=True, note="", tasks=2, low=0.0, high=1.0)
    numbers = ["estimate", "low", "high", "p", "p_holm"]
    plain, renamed = (build(runs, evals, labels=labels).sections[0].improvement for labels in ((), ["sac=zzz"]))
    assert renamed["algo"].tolist() == ["zzz"]
    assert renamed[numbers].values.tolist() == plain[numbers].values.tolist()


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["foo=Bar"], "--label: unknown algorithm in these results 'foo'"),
        (["flow=Bar"], "did you mean 'flowrl'"),
        (["sac=A", "sac=B"], "--label: 'sac' has two labels: 'A' and 'B'"),
        (["sac=A", "td3=A"], "--label: 'sac' and 'td3' would both have the name 'A'"),
        (["sac=td3"], "--label: 'sac' and 'td3' would both have the name 'td3'"),
        (["sac"], "--label 'sac' must be NAME=LABEL"),
        (["sac= "], "--label 'sac= ' must be NAME=LABEL"),
    ],
)
def test_labels_that_cannot_be_are_refused(labels, said):
    runs, evals = graded()
    with pytest.raises(ValueError, match=re.escape(said)):
        build(runs, evals, labels=labels)
    with pytest.raises(ValueError, match=re.escape(said)):
        comparison.compare(runs, evals, "sac", "td3", reps=50, labels=labels)


def test_a_name_of_several_variants_cannot_have_one_label():
    runs, evals = graded(algos=("flowrl[tau=0.05]", "sac"))
    assert build(runs, evals, labels=["flowrl=X"]).sections[0].algos == ("X", "sac")
    for frame in (runs, evals):
        frame.loc[frame["algo"] == "sac", "algo"] = "flowrl[tau=0.1]"
    with pytest.raises(ValueError, match="--label: 'flowrl' is ambiguous: choose one of flowrl"):
        build(runs.assign(name="flowrl"), evals.assign(score=0.5), labels=["flowrl=X"])


def test_configurations_under_one_name_may_have_labels():
    runs, evals = graded(algos=("sac", "td3"))
    for frame in (runs, evals):
        frame.loc[(frame["algo"] == "sac") & (frame["seed"] < 2), "config_id"] = "3fa2c81b"
    with pytest.raises(ValueError, match="--label: 'sac' is ambiguous: choose one of sac#3fa2c81b, sac#id-sac"):
        build(runs, evals, labels=["sac=X"])
    section = build(runs, evals, labels=["sac#3fa2c81b=before"]).sections[0]
    assert set(section.algos) == {"before", "sac", "td3"}
    assert section.labels == {"before": "sac"}
    with pytest.raises(ValueError, match="no evaluation yet"):
        build(runs, pd.DataFrame(), labels=["td3=X"])


def test_two_names_may_be_exchanged():
    runs, evals = graded(algos=("sac", "td3"))
    assert build(runs, evals, labels=["sac=td3", "td3=sac"]).sections[0].algos == ("sac", "td3")


def test_a_comparison_has_the_labels_and_accepts_either_name():
    runs, evals = graded()
    labels = ["flowrl[tau=0.05]=FlowRL", "sac=SAC"]
    for algo, over in (("FlowRL", "SAC"), ("flowrl[tau=0.05]", "sac")):
        made = comparison.compare(runs, evals, algo, over, reps=50, labels=labels)
        assert (made.of_suites[0].algo, made.of_suites[0].over) == ("FlowRL", "SAC")
        assert "FlowRL is better" in comparison.verdict(made.of_suites[0])[0]
        for text in (comparison.FORMATS["markdown"](made), comparison.FORMATS["json"](made)):
            assert "FlowRL" in text
    plain = comparison.compare(runs, evals, "flowrl[tau=0.05]", "sac", reps=50).of_suites[0]
    numbers = made.of_suites[0].per_task.replace({"FlowRL": "flowrl[tau=0.05]", "SAC": "sac"})
    pd.testing.assert_frame_equal(numbers, plain.per_task)


def test_the_pairs_of_a_baseline_are_corrected_for_alone():
    runs, evals = graded()
    built = build(runs, evals, baseline="sac")
    (section,) = built.sections
    assert section.improvement[["algo", "over"]].values.tolist() == [[algo, "sac"] for algo in BY_IQM[:-1]]
    assert section.improvement["tests"].tolist() == [4] * 4
    assert set(section.improvement_per_task["over"]) == {"sac"}
    every = stats.both_ways(build(runs, evals).sections[0].improvement)
    every = every[every["over"] == "sac"].set_index("algo").loc[list(BY_IQM[:-1])]
    np.testing.assert_array_equal(section.improvement["p"], every["p"])
    assert (section.improvement["p_holm"].to_numpy() < every["p_holm"].to_numpy()).all()
    said = " ".join(shown(built).split())
    assert "Y is the baseline sac; p: permutation test stratified by task, Holm's correction for 4 pairs" in said
    for name in ("markdown", "latex"):
        assert "Y is the baseline sac" in report.render(built, name)
    suite = json.loads(report.render(built, "json"))["suites"][0]
    assert suite["baseline"] == "sac"
    rows = [row for row in csv.DictReader(io.StringIO(report.render(built, "csv"))) if row["kind"] == "improvement"]
    verdicts = {row["algo"]: row["verdict"] for row in suite["improvement"]}
    assert {row["algo"]: row["note"] for row in rows} == verdicts
    data = embedded(built, runs, evals)["sections"][0]
    assert data["verdict"][1] == "Compared with the baseline sac: better: qvpo, flowrl[tau=0.05], td3 and flowrl."
    assert "Holm's correction for 4 pairs" in data["method"]


def test_with_a_baseline_bold_is_what_is_better_than_it():
    built = build(*graded(), baseline="td3")
    text = report.render(built, "latex")
    lines = [line for line in text[: text.index(r"\end{table*}")].splitlines() if r"\textbf" in line]
    assert [line.split()[0] for line in lines] == ["qvpo", "flowrl[tau=0.05]"]
    assert "Bold: those that are found better than td3 over the tasks" in text


def test_a_baseline_that_is_not_there_is_refused():
    runs, evals = graded()
    with pytest.raises(ValueError, match=r"--baseline: unknown algorithm in these results 'sad'; did you mean 'sac'"):
        build(runs, evals, baseline="sad")
    both = [pd.concat([frame, frame[frame["algo"] != "sac"].assign(suite="other")]) for frame in (runs, evals)]
    built = build(*(frame.reset_index(drop=True) for frame in both), baseline="sac")
    assert [section.suite for section in built.sections] == ["dmc-hard"]
    assert built.skipped == (("other", "no run of the baseline 'sac'"),)


@pytest.mark.parametrize("count", [6, 7])
def test_the_pairs_of_more_than_six_algorithms_are_a_matrix(count):
    built = build(*many(count))
    (section,) = built.sections
    assert len(section.improvement) == count * (count - 1) // 2
    text = shown(built)
    assert ("The row is + better, - worse, ? not decided" in " ".join(text.split())) == (count == 7)
    lines = text[text.index("X > Y  ") :].splitlines()
    assert len(lines[2 : lines.index("")]) == {6: 15, 7: 7}[count]
    (section,) = embedded(built, *many_stored(count))["sections"]
    assert section["matrix"] == (count == 7)


def many_stored(count):
    runs, evals = many(count)
    return runs.assign(folder="nowhere", published=False, suite_steps=runs["steps"]), evals


def test_the_signs_of_the_matrix_are_the_verdicts():
    algos = [f"a{k}" for k in range(7)]
    runs, evals = frames(algos=algos, tasks=TASKS[:3])
    for place, algo in enumerate(algos[:2]):
        evals.loc[evals["algo"] == algo, ["mean", "score"]] += (1000 * (place + 1), place + 1)
    built = build(runs, evals)
    (section,) = built.sections
    pairs = stats.both_ways(section.improvement).set_index(["algo", "over"])
    text = shown(built)
    rows = text[text.index("X > Y  ") :].splitlines()[2:9]
    for row, algo in zip(rows, section.algos, strict=True):
        cells = row.split()[2:]
        for over, cell in zip([other for other in section.algos if other != algo], cells, strict=True):
            sign = {"better": "+", "worse": "-", "undecided": "?"}[pairs.loc[(algo, over), "verdict"]]
            assert cell == f"{100 * pairs.loc[(algo, over), 'estimate']:.0f}{sign}"
    assert rows[0].split() == ["1", "a1", *["100+"] * 6]
    assert rows[1].split()[2:] == ["0-", *["100+"] * 5]


@pytest.mark.parametrize("width", [60, 80])
def test_a_matrix_that_is_too_wide_is_split(width):
    text = shown(build(*many(24)), width)
    assert max(map(len, text.splitlines())) <= width
    heads = [line.split() for line in text.splitlines() if line.startswith("X > Y ")]
    assert len(heads) > 1
    assert [number for head in heads for number in head[3:]] == [str(place) for place in range(1, 25)]


def test_with_a_baseline_there_is_no_matrix():
    assert "Holm's correction for 7 pairs" in " ".join(shown(build(*many(8), baseline="a3")).split())


@pytest.mark.parametrize("width", [80, 120])
def test_tables_of_many_algorithms_are_transposed_and_break_no_word(width):
    labels = [f"flowrl[tau=0.0{k},behaviour_q=tracked]" for k in range(1, 9)]
    tasks = ("cartpole-swingup_sparse", "h1hand-balance_simple-v0")
    runs, evals = frames(algos=[*labels, "sac"], tasks=tasks, seeds=range(3))
    built = build(runs, evals)
    text = shown(built, width)
    assert max(map(len, text.splitlines())) <= width
    words = set(re.split(r"[\s,\[\]=_-]+", text))
    for name in (*labels, *tasks):
        assert set(re.split(r"[,\[\]=_-]+", name)) - {""} <= words
    title = "Mean return of each task"
    header, after, *_ = text[text.index(title) :].split("algorithm ")
    assert "cartpole-swingup" in header
    assert after.lstrip().startswith("sparse ")
    for name in ("markdown", "latex"):
        lines = report.render(built, name).replace("\\", "")
        lines = lines[lines.index(title) :].splitlines()
        assert any(re.match(r"[| ]*algorithm [|&] cartpole", line) for line in lines)


def test_latex_splits_a_table_that_is_too_wide_either_way():
    text = report.render(build(*frames(algos=[f"a{k}" for k in range(8)], tasks=[f"t{k}" for k in range(9)])), "latex")
    table = next(part for part in text.split(r"\begin{table*}") if "Mean return of each task" in part)
    layouts = re.findall(r"\\begin\{tabular\}\{(l[lr]+)\}", table)
    assert [len(layout) - 1 for layout in layouts] == [6, 2]
    assert table.count(r"\caption") == 1
    assert len(re.findall(r"^ +t3 &", table, re.MULTILINE)) == 2


def test_colours_follow_neither_the_order_nor_the_label_nor_the_others():
    runs, evals = graded()
    styles = styles_of(runs)
    assert styles_of(runs.iloc[::-1]) == styles
    labelled = build(runs, evals, labels=["sac=Zac"]).sections[0].table
    assert styles_of(labelled)["Zac"].colour == styles["sac"].colour
    for algo in ("sac", "td3", "qvpo", "flowrl"):
        assert styles_of(runs[runs["algo"] == algo])[algo].colour == styles[algo].colour
    assert len({style.colour for style in styles.values()}) == len(styles)
    assert {style.colour for style in styles.values()} <= set(PALETTE)


def test_the_command_has_the_options(flowbench, tmp_path):
    curves = tmp_path / "curves.csv"
    rows = [f"{algo},walker-stand,{seed},6000,{level}" for algo, level in (("a", 1), ("b", 3)) for seed in range(3)]
    curves.write_text("\n".join(["algo,task,seed,step,return", *rows]), encoding="utf-8")
    results = ("--results", tmp_path / "results")
    assert flowbench("import", "csv", curves, "--suite", "quick", *results)[0] == 0

    def algos(*options):
        status, out, err = flowbench("report", *results, "--reps", 50, "--format", "json", *options)
        assert status == 0, err
        return json.loads(out)["suites"][0]["algos"]

    for command in ("report", "compare"):
        words = re.sub(r"[\s│]", "", flowbench(command, "--help")[1])
        assert '"flowrl[tau=0.05]=FlowRL"' in words  # rich has not taken the brackets for a style
    one, other = "a (published)", "b (published)"
    assert algos() == [other, one]
    assert algos("--sort", "name") == [one, other]
    assert algos("--algo", f"{one},{other}") == [one, other]
    assert algos("--algo", f"{one},{other}", "--sort", "iqm") == [other, one]
    assert algos("--label", f"{one}=A", "--baseline", "A") == [other, "A"]
    for options, said in (
        (("--sort", "best"), "unknown --sort 'best' (choices: iqm, name, given)"),
        (("--sort", "given"), "--sort given needs --algo"),
        (("--baseline", "c"), "--baseline: unknown algorithm"),
        (("--label", "c=C"), "--label: unknown algorithm"),
    ):
        status, out, err = flowbench("report", *results, *options)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert said in err
    status, out, _ = flowbench("compare", "A", other, *results, "--reps", 50, "--label", f"{one}=A")
    assert status == 0
    assert "X = A, Y = b (published)" in " ".join(out.split())
