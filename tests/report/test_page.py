"""The HTML page: it loads nothing, no text of a run acts as markup, and it has every number of the report."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from reports import VARIANT, build, frames, holes

from flowbench import report, stats
from flowbench.report import page
from flowbench.report.page import verdict
from flowbench.store import records
from flowbench.store.records import RunRecord

EVIL = "</script><!-- <script>document.title='taken'</script> <img src=x onerror=\"document.title='taken'\"> ${x} $data"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def stored(runs, evals):
    """Frames with the columns that the store gives besides."""
    more = {"folder": "nowhere", "published": runs.get("published", False), "suite_steps": runs["steps"]}
    return runs.assign(**more), evals


class Elements(HTMLParser):
    """(tag, attributes) of every element, and the texts of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.found, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.texts.append((tag, ""))

    def handle_data(self, data):
        if self.cdata_elem:
            self.texts[-1] = (self.cdata_elem, self.texts[-1][1] + data)


def rendered(runs, evals, **options):
    runs, evals = stored(runs, evals)
    built = build(runs, evals, **options)
    return page.render(built, runs, evals), built


def content(text):
    """What the page's script reads, strictly JSON."""

    def refuse(name):
        raise AssertionError(name)

    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(data, parse_constant=refuse)


@pytest.fixture(scope="module")
def holed():
    return rendered(*holes())


@pytest.fixture(scope="module")
def evil():
    """Every text that a run may bring, with markup in it."""
    runs, evals = frames(algos=("sac", EVIL), tasks=("walk", f"run{EVIL}"), suite=f"s{EVIL}", note=EVIL)
    runs.loc[3, ["status", "error"]] = ["failed", EVIL]
    evals = evals[~((evals["algo"] == "sac") & (evals["task"] == "walk") & (evals["seed"] == 3))]
    return rendered(runs, evals)


def test_the_page_loads_nothing(holed):
    text, _ = holed
    elements = Elements(text)
    assert [tag for tag, _ in elements.found if tag in ("script", "style", "link", "img", "iframe")] == [
        "style", "script", "script",
    ]  # fmt: skip
    for _, attributes in elements.found:
        assert not {"src", "href", "srcset", "data", "action"} & attributes.keys()
    style, _, script = (inside for _, inside in elements.texts)
    assert "url(" not in style
    assert "@import" not in style
    assert re.findall(r"https?://[^\"' ]+", style + script) == ["http://www.w3.org/2000/svg"]  # a name, not an address
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|innerHTML|insertAdjacentHTML|document\.write|eval\(", script)


def test_the_browser_is_told_to_run_this_script_only_and_to_load_nothing(holed):
    elements = Elements(holed[0])
    (policy,) = (own["content"] for _, own in elements.found if own.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(elements.texts[-1][1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_no_text_of_a_run_is_markup(evil):
    text, built = evil
    assert [tag for tag, _ in Elements(text).found].count("script") == 2
    assert "<img" not in text
    assert "<!--" not in text
    found = content(text)
    assert {style["algo"] for style in found["styles"]} == {"sac", EVIL}
    assert found["report"] == json.loads(report.render(built, "json"))
    assert EVIL in found["sections"][0]["missing"]["rows"][0][-1]


def test_it_holds_every_number_of_the_report(holed):
    text, built = holed
    found = content(text)
    assert found["report"] == json.loads(report.render(built, "json"))
    runs, evals = stored(*holes())
    expected = stats.task_curves(runs, evals, 10_000, reps=50, seed=0)
    (section,) = found["sections"]
    for own in section["curves"]:
        curve = expected[(expected["task"] == own["task"]) & (expected["algo"] == own["algo"])]
        assert own["x"] == curve["step"].tolist()
        for name in ("estimate", "low", "high"):
            np.testing.assert_allclose(np.array(own[name], dtype=float), curve[name], rtol=1e-5)
    assert len(section["curves"]) == 4 * 7 - 1  # td3 has no run of dog-run
    assert len(section["runs"]) == len(runs)


def test_coverage_counts_as_the_report_does(holed):
    (section,) = content(holed[0])["sections"]
    found = {(row["task"], row["algo"]): row["seeds"] for row in section["coverage"]}
    assert found["dog-walk", "sac"] == [{"status": "done", "count": 5, "which": "0-4"}]
    assert found["dog-run", "td3"] == [{"status": "missing", "count": 5, "which": "0-4"}]
    assert found["dog-trot", VARIANT][1] == {"status": "failed", "count": 1, "which": "3"}
    assert section["missing"]["title"] == "Missing: 6 of 140 runs"


def test_a_run_is_told_as_it_was_recorded(tmp_path):
    folder = tmp_path / "quick" / "walk" / "sac" / "default-1" / "seed-0"
    shape = {"suite": {"name": "quick", "title": "", "comparable": True, "note": "", "tasks": 1, "steps": 10_000}}
    shape["task"] = {"name": "walk", "source": "dm_control", "action_repeat": 1, "low": 0.0, "high": 1000.0}
    shape["algo"] = {"name": "sac", "label": "sac", "target": "algos.sac:SAC", "sha256": None}
    shape["protocol"] = {"steps": 10_000, "every": 2500, "episodes": 5}
    record = {"schema": 1, "status": "done", **shape, "config_id": "1", "config": {"lr": 3e-4}, "seed": 0}
    records.write_run(folder, RunRecord.parse(record))
    text = (folder / "run.json").read_text(encoding="utf-8").replace("0.0003", "NaN")
    (folder / "run.json").write_text(text, encoding="utf-8")  # nothing that flowbench writes
    runs, evals = stored(*frames(algos=("sac",), tasks=("walk",), seeds=(0,)))
    runs["folder"] = str(folder)
    (run,) = content(page.render(build(runs, evals), runs, evals))["sections"][0]["runs"]
    assert run["record"] == {**record, "config": {"lr": None}}
    assert run["folder"] == "quick/walk/sac/default-1/seed-0"


def test_the_page_of_a_full_grid_is_small():
    tasks = [f"humanoid-task-{number}" for number in range(15)]
    runs, evals = frames(tasks=tasks, steps=1_000_000, every=10_000)
    text, _ = rendered(runs, evals)
    records = len(runs) * 4096  # a run.json has half of that
    assert len(text.encode()) + records < 5 * 2**20


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_few_seeds_and_several_suites(seeds):
    pairs = [
        frames(algos=algos, tasks=("a",), seeds=seeds, suite=name)
        for name, algos in (("one", ["sac"]), ("two", ["sac", "td3"]))
    ]
    text, _ = rendered(*(pd.concat(own, ignore_index=True) for own in zip(*pairs, strict=True)))
    one, two = content(text)["sections"]
    (said,) = one["verdict"]
    assert said.startswith("sac is the only algorithm, so there is nothing to compare. Its IQM is 0.")
    (last,) = (algo for algo in ("sac", "td3") if not two["verdict"][0].startswith(algo))
    assert two["verdict"][1] == f"Too few seeds for a verdict: {last}."
    assert (None in one["curves"][0]["low"]) == (len(seeds) == 1)


def above(evals, algo, by):
    """The evaluations with one algorithm's raised, so that it is better for sure."""
    raised = evals["algo"] == algo
    evals.loc[raised, ["mean", "score"]] += (1000 * by, by)
    return evals


def build_raised(algos):
    runs, evals = frames(algos=algos)
    return build(runs, above(evals, algos[-1], 1)).sections[0]


def test_the_headline_is_two_sentences_and_leads_with_the_highest_iqm():
    section = build_raised(("flowrl", "sac", "td3"))
    (best, second), (_, low) = section.algos[:2], section.algos[1:]
    said = verdict.sentences(section)
    assert len(said) == 2
    assert best == "td3"
    assert said[0].startswith("td3 has the highest IQM: 1.")
    assert f", followed by {second}: 0." in said[0]
    assert said[1] == f"It is better than {second} and {low}."
    assert section.improvement["verdict"].tolist() == ["better", "better", "undecided"]
    note = verdict.method(section)
    assert "7 tasks, 5 seeds, step 10,000" in note
    assert "permutation test stratified by task, as in flowbench compare, after Holm's correction for 3 pairs" in note


def test_many_others_are_counted():
    said = verdict.sentences(build(*frames(algos=tuple("abcdefgh"), tasks=("t",), seeds=range(2))).sections[0])
    assert said[1] == "Too few seeds for a verdict: 7 others."


def test_the_headline_without_an_iqm():
    runs, evals = frames(algos=("sac", "td3"), tasks=("a", "b"), seeds=range(3))
    evals = evals[(evals["algo"] == "sac") == (evals["task"] == "a")]
    said = verdict.sentences(build(runs, evals).sections[0])
    assert said == [
        "There is no IQM, because no algorithm has a seed with a run on every task.",
        "Of 1 pair, 0 are decided.",
    ]


def test_the_best_of_ours_is_compared_with_published_curves_and_they_are_dashed():
    runs, evals = frames(algos=("sac", "td3", "x (published)"))
    runs = runs.assign(published=runs["algo"] == "x (published)", origin="csv", suite_steps=10_000)
    evals = evals.assign(published=evals["algo"] == "x (published)")
    text, _ = rendered(runs, above(evals, "x (published)", 1))
    found = content(text)
    said = found["sections"][0]["verdict"]
    assert said[0].startswith("td3 has the highest IQM: 0.")
    assert said[1] == "It is worse than x (published); undecided: sac."
    assert [style["dashes"] for style in found["styles"]] == ["-", "-", "--"]
    assert {row["algo"] for row in found["sections"][0]["coverage"]} == {"sac", "td3"}


def test_the_command_writes_it_beside_what_it_prints(flowbench, tmp_path):
    results = tmp_path / "results"
    curves = tmp_path / "curves.csv"
    curves.write_text("algo,task,seed,step,return\nppo,walker-stand,0,6000,300.5\n", encoding="utf-8")
    assert flowbench("import", "csv", curves, "--suite", "quick", "--results", results)[0] == 0
    status, out, err = flowbench("report", "--results", results, "--html", tmp_path / "page.html", "--format", "json")
    assert status == 0
    assert f"wrote {tmp_path / 'page.html'}" in err
    found = content((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert found["report"] == json.loads(out)
    status, _, err = flowbench("report", "--results", results, "--html", tmp_path / "nowhere" / "page.html")
    assert status == 2
    assert "--html" in err


USE = """
const text = (node) => node.textContent;
const table = () => [...document.querySelectorAll("table.data")].find((node) => node.querySelector("thead button"));
const rows = () => [...table().querySelectorAll("tbody tr")].map((row) => [...row.cells].map(text));
const found = { title: document.title, sorted: [] };
for (let click = 0; click < 2; click += 1) {
  table().querySelectorAll("thead button")[1].click();
  found.sorted.push(rows().map((row) => row[1]));
}
const filter = document.querySelector("input[type=search]");
filter.value = "WALK";
filter.dispatchEvent(new Event("input"));
found.filtered = rows().map((row) => row[0]);
const chart = document.querySelector("figure[data-title='dog-run'] .plot");
for (const key of ["Home", "ArrowRight"]) chart.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }));
found.read = [...chart.parentElement.querySelectorAll(".tip div")].map(text);
const pre = document.createElement("pre");
pre.textContent = JSON.stringify(found).replaceAll("<", "&lt;").replaceAll(">", "&gt;");
pre.id = "found";
document.body.append(pre);
"""


def opened(path, tmp_path):
    """The page's document once its script has run, and what the browser's console says."""
    quiet = ("gpu", "quic", "background-networking", "component-update", "sync")
    options = [f"--disable-{name}" for name in quiet]
    command = [CHROMIUM, "--headless", "--no-sandbox", "--no-first-run", *options, "--enable-logging=stderr"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_every_number_without_a_complaint(holed, tmp_path):
    text, built = holed
    path = tmp_path / "page.html"
    # The page allows no script but its own; a reader's hands are another.
    text = re.sub(r"<meta http-equiv.*>", "", text).replace("</body>", f"<script>{USE}</script></body>")
    path.write_text(text, encoding="utf-8")
    document, complaints = opened(path, tmp_path)
    assert complaints == []
    section = built.sections[0]
    for row in pd.concat([section.aggregates, section.improvement]).dropna(subset="estimate").itertuples():
        assert f"{row.estimate:.3f} [{row.low:.3f}, {row.high:.3f}]" in document
    assert all(warning.replace(">", "&gt;") in document for warning in section.warnings)
    found = json.loads(re.search(r'<pre id="found">(.*?)</pre>', document)[1].replace("&amp;", "&"))
    numbers = [[float(cell.split()[0]) for cell in column] for column in found["sorted"]]
    means = section.per_task[section.per_task["algo"] == section.algos[0]]["mean"]
    assert numbers[0] == sorted(round(mean, 1) for mean in means)[::-1]
    assert numbers[1] == numbers[0][::-1]
    assert sorted(found["filtered"]) == ["dog-walk", "humanoid-walk"]
    assert found["read"][0] == "step 5,000"
    assert len(found["read"]) == 1 + 3  # td3 has no run of dog-run


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_rounds_as_the_other_formats_do(tmp_path):
    # Sixteenths have no nearest number of three digits.
    runs, evals = frames(algos=("flowrl", "sac", "td3"), tasks=("a",), seeds=range(4))
    evals["mean"] = 0.0625 + 0.125 * np.arange(len(evals)) - 3
    text, built = rendered(runs, evals)
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    document, _ = opened(tmp_path / "page.html", tmp_path)
    section = built.sections[0]
    assert any(round(16 * estimate) % 2 for estimate in section.improvement["estimate"])
    for row in section.improvement.itertuples():
        assert f"{row.estimate:.3f} [{row.low:.3f}, {row.high:.3f}]<" in document
    for row in section.per_task.itertuples():
        assert f">{row.mean:.1f} [{row.low:.1f}, {row.high:.1f}]<" in document


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_an_axis_has_two_labels_at_least(tmp_path):
    # From 0.03 to 0.87 steps of 0.5, of which there is one alone, come next to a third of it.
    runs, evals = frames(algos=("flowrl", "sac"), tasks=("a",), seeds=range(3))
    evals["mean"] = evals["score"] = np.where(evals["algo"] == "sac", 0.8, 0.1)
    text, _ = rendered(runs, evals)
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    document, _ = opened(tmp_path / "page.html", tmp_path)
    cards = re.findall(r'<table class="bars">(.*?)</table>', document, re.DOTALL)
    assert cards
    assert all(len(re.findall(r'<text[^>]*text-anchor="middle"', card)) >= 2 for card in cards)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_runs_nothing_that_a_run_brings(evil, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(evil[0], encoding="utf-8")
    document, complaints = opened(path, tmp_path)
    assert complaints == []
    assert "<title>flowbench: s&lt;/script&gt;" in document
    assert "<img" not in re.sub(r"<script.*?</script>", "", document, flags=re.DOTALL)
    assert "onerror" in document  # as text


MEASURE = """
const found = {};
document.querySelector("iframe").addEventListener("load", ({ target }) => {
  const page = target.contentDocument;
  found.width = page.documentElement.scrollWidth;
  found.order = [...page.querySelectorAll("h3, .verdict, .cards, .matrix, .bars.wide")].map(
    (node) => node.className || node.textContent);
  found.touching = [];
  for (const card of page.querySelectorAll(".card")) {
    const edge = card.getBoundingClientRect();
    for (const node of card.querySelectorAll("h4, th, td, text, rect, circle, polyline, polygon")) {
      const box = node.getBoundingClientRect();
      if (!box.width) continue;
      const gap = Math.min(box.left - edge.left, edge.right - box.right, box.top - edge.top, edge.bottom - box.bottom);
      if (gap < 8) found.touching.push([card.querySelector("h4").textContent, node.tagName, node.textContent, gap]);
    }
  }
  const text = (node) => parseFloat(target.contentWindow.getComputedStyle(node).fontSize);
  const scale = (node) => node.ownerSVGElement.getScreenCTM().a;
  found.ticks = Math.min(...[...page.querySelectorAll("svg text")].map((node) => text(node) * scale(node)));
  found.cells = [...page.querySelectorAll(".matrix td")].map((node) => [node.className, node.innerText]);
  document.body.textContent = "";
  const pre = document.createElement("pre");
  pre.textContent = JSON.stringify(found).replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  pre.id = "found";
  document.body.append(pre);
});
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("count", [4, 13])
def test_the_page_is_readable_at_every_width(tmp_path, width, count):
    """A frame has its own width; a window of Chromium may not be as narrow as a phone."""
    algos = [f"flowrl[tau=0.0{k},behaviour_q=tracked]" for k in range(1, count - 2)] + ["qvpo", "sac", "td3"]
    runs, evals = frames(algos=algos, tasks=("dog-run", "humanoid-walk"), steps=2_500_000, every=500_000)
    text, _ = rendered(runs, above(evals, "sac", 1).assign(seconds=evals["step"] / 100))
    frame = f'<iframe srcdoc="{html.escape(text)}" style="width:{width}px;height:900px;border:0"></iframe>'
    path = tmp_path / "frame.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><body>{frame}<script>{MEASURE}</script>", encoding="utf-8")
    document, _ = opened(path, tmp_path)
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', document)[1]).replace("&amp;", "&"))
    assert found["width"] <= width
    assert found["touching"] == []
    assert found["ticks"] >= 11.5
    order = ["verdict", "Learning curves", "cards", "Over all tasks", "Aggregate scores over the tasks"]
    assert [name for name in found["order"] if name in order and name != "cards"] == [n for n in order if n != "cards"]
    assert found["order"][:3] == order[:3]
    assert ("matrix" in found["order"]) == (count == 13)
    signs = {"better": "+", "worse": "\N{MINUS SIGN}", "undecided": "?", "": ""}
    for kind, shown in found["cells"]:
        assert re.fullmatch(r"\d+." if kind and width > 600 else ".?", shown)
        assert shown.endswith(signs[kind])
    assert {kind for kind, _ in found["cells"]} == (set(signs) if count == 13 else set())
