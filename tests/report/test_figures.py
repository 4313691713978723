"""Figures: they show the numbers of the report, an algorithm has one style, and no text is cut."""

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from reports import VARIANT, build, frames, holes, without

from flowbench.report import figures
from flowbench.report.drawing import KINDS, Drawing
from flowbench.report.figures import lines as line_figures
from flowbench.report.figures import style

PUBLISHED = "tdmpc2 (published)"


def drawn(runs, evals, *, size=None, thin=False):
    """{name: figure} of the only suite, and the styles."""
    styles = style.styles_of(runs)
    built = build(runs, evals)
    with mpl.rc_context(style.SETTINGS):
        made = figures._figures(built.sections[0], runs, evals, styles, built, Drawing(size=size, thin=thin), KINDS)
        return dict(made), styles, built.sections[0]


@pytest.fixture(scope="module")
def crowded():
    """Six algorithms, one with a long label and one published, which says nothing of its time."""
    runs, evals = frames(algos=("flowrl", VARIANT, "qvpo", "sac", "td3", PUBLISHED), tasks=("a", "dog-run", "c", "d"))
    runs = runs.assign(published=runs["algo"] == PUBLISHED, origin="csv", suite_steps=10_000)
    evals = evals.assign(seconds=np.where(evals["algo"] == PUBLISHED, np.nan, evals["step"] * 3.6))
    return drawn(runs, evals)


def lines(figure, name):
    return [line for panel in figure.axes for line in panel.lines if line.get_label() == name]


def test_every_figure_is_there(crowded):
    assert list(crowded[0]) == ["curves", "aggregates", "profiles", "improvement", "efficiency", "time"]


@pytest.mark.parametrize("name", ["curves", "aggregates", "profiles", "improvement", "efficiency", "time"])
def test_no_text_is_cut_and_widths_fit_a_paper(crowded, name):
    figure = crowded[0][name]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    needed = figure.get_tightbbox(canvas.get_renderer())  # in inches
    assert figure.get_figwidth() in (style.COLUMN, style.PAGE)
    assert needed.x0 > -0.01
    assert needed.y0 > -0.01
    assert needed.x1 < figure.get_figwidth() + 0.01
    assert needed.y1 < figure.get_figheight() + 0.01


def test_an_algorithm_styles_the_same_everywhere_and_published_curves_are_dashed(crowded):
    made, styles, _ = crowded
    for name in ("curves", "profiles", "efficiency"):
        for algo, own in styles.items():
            found = {(to_hex(line.get_color()).upper(), line.get_linestyle()) for line in lines(made[name], algo)}
            assert found == {(own.colour, "--" if algo == PUBLISHED else "-")}
    assert len({own.colour for own in styles.values()}) == 6
    assert not lines(made["time"], PUBLISHED)


def test_lines_hold_the_numbers_of_the_report(crowded):
    made, _, section = crowded
    (line,) = lines(made["efficiency"], "sac")
    curve = section.curves[section.curves["algo"] == "sac"]
    np.testing.assert_array_equal(line.get_xydata(), curve[["step", "estimate"]])
    (line,) = lines(made["time"], "sac")
    np.testing.assert_allclose(line.get_xdata(), curve["step"] / 1000)  # hours
    assert made["time"].axes[0].get_xlabel() == "wall-clock time of a run (hours)"
    points = [line for line in made["improvement"].axes[0].lines if line.get_marker() == "o"]
    assert [point.get_xdata()[0] for point in points] == section.improvement["estimate"].tolist()
    assert {point.get_color() for point in points} == {style.UNDECIDED.colour}  # random returns decide nothing
    panel = made["aggregates"].axes[0]
    order = [label.get_text().replace("\n", "") for label in panel.get_yticklabels()]
    iqm = section.aggregates[section.aggregates["metric"] == "IQM"].set_index("algo")["estimate"]
    assert [line.get_xdata()[0] for line in panel.lines] == [iqm[algo] for algo in order]


def test_a_pair_has_the_colour_of_the_better_algorithm():
    runs, evals = frames(algos=("flowrl", "sac", "td3"), tasks=("a", "b"))
    evals.loc[evals["algo"] == "sac", ["mean", "score"]] += (1000, 1)
    made, styles, _ = drawn(runs, evals)
    points = [line for line in made["improvement"].axes[0].lines if line.get_marker() == "o"]
    colours = [point.get_color() for point in points]
    assert colours == [styles["sac"].colour, styles["sac"].colour, style.UNDECIDED.colour]
    assert [point.get_markerfacecolor() == "white" for point in points] == [False, False, True]


def test_thin_lines_a_seed_where_asked():
    runs, evals = frames(algos=("sac",), tasks=("a", "b"), seeds=range(4))
    plain, thin = (drawn(runs, evals, thin=thin)[0]["curves"] for thin in (False, True))
    assert [len(panel.lines) for panel in plain.axes] == [1, 1]
    assert [len(panel.lines) for panel in thin.axes] == [5, 5]


def test_one_seed_has_a_line_and_no_band():
    made, _, _ = drawn(*frames(algos=("sac", "td3"), tasks=("a",), seeds=range(1)))
    for name in ("curves", "profiles", "efficiency"):
        bands = [c for c in made[name].axes[0].collections if isinstance(c, PolyCollection)]
        assert all(np.isnan(band.get_paths()[0].vertices).all() for band in bands if len(band.get_paths()))
        assert len(lines(made[name], "sac")) == 1
    assert not made["aggregates"].axes[0].patches
    assert "time" not in made  # nobody counted the seconds


def test_holes_are_drawn_around():
    made, _, section = drawn(*holes())
    assert set(section.profiles["algo"]) == {"flowrl", VARIANT, "sac"}
    assert not lines(made["profiles"], "td3")
    assert len(lines(made["curves"], "td3")) == 7  # one of them empty: dog-run was never started


def test_without_a_complete_seed_only_curves_and_pairs_are_left():
    runs, evals = frames(algos=("sac", "td3"), tasks=("a", "b"), seeds=range(2))
    evals = without(without(evals, algo="sac", task="a"), algo="td3", task="b", after=5000)
    assert list(drawn(runs, evals)[0]) == ["curves"]


def test_more_algorithms_than_colours_differ_in_their_dashes():
    styles = style.styles_of(frames(algos=[f"a{k}" for k in range(20)], tasks=("a",), seeds=[0])[0])
    assert len({(own.colour, own.dashes) for own in styles.values()}) == 20


def test_files_of_every_kind_repeat_byte_for_byte(tmp_path):
    runs, evals = frames(algos=("sac", "td3"), tasks=("a",), seeds=range(2), suite_steps=10_000)
    built = build(runs, evals)
    first, second = (figures.draw(built, runs, evals, Drawing(tmp_path / name)) for name in ("one", "two"))
    names = [path.name for path in first]
    assert names[:3] == ["dmc-hard-curves.svg", "dmc-hard-curves.pdf", "dmc-hard-curves.png"]
    assert len(names) == 3 * 5
    svg = names.index("dmc-hard-profiles.svg")
    assert first[svg].read_text()[:5] == "<?xml"
    png = names.index("dmc-hard-profiles.png")
    assert first[png].read_bytes() == second[png].read_bytes()


def test_a_label_that_only_short_runs_make_another_is_drawn_in_every_figure(tmp_path):
    runs, evals = frames(algos=("sac", "td3"), tasks=("a",), seeds=range(4), suite_steps=10_000)
    trial = (runs["algo"] == "sac") & (runs["seed"] == 3)
    runs.loc[trial, "steps"] = 2500
    for frame in (runs, evals):
        frame.loc[(frame["algo"] == "sac") & (frame["seed"] == 3), "config_id"] = "0" * 10
    built = build(runs, without(evals, algo="sac", seed=3, after=2500))
    assert set(built.sections[0].algos) == {"sac", "td3"}
    names = {path.name for path in figures.draw(built, runs, evals, Drawing(tmp_path))}
    assert {f"dmc-hard-{name}.svg" for name in ("curves", "aggregates", "improvement")} <= names


def test_a_curve_goes_on_where_the_report_ends():
    runs, evals = frames(algos=("sac",), tasks=("a",), seeds=range(2))
    figure = line_figures.learning(runs, evals, 5000, style.styles_of(runs), reps=50, seed=0, thin=False)
    assert lines(figure, "sac")[0].get_xdata().tolist() == [2500, 5000, 7500, 10_000]


MANY = [f"flowrl[tau=0.0{k},behaviour_q=tracked]" for k in range(1, 10)] + ["qvpo", "sac", "td3", "a-name-without-end"]


@pytest.fixture(scope="module")
def many():
    """Thirteen algorithms of which the last is better than all others."""
    runs, evals = frames(algos=MANY, tasks=("a", "dog-run", "c"), seeds=range(5), suite_steps=10_000)
    evals.loc[evals["algo"] == MANY[-1], ["mean", "score"]] += (1000, 1)
    return runs, evals.assign(seconds=evals["step"] * 3.6)


def uncut(figure):
    """Whether no text reaches over an edge of a figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    needed = figure.get_tightbbox(canvas.get_renderer())  # in inches
    width, height = figure.get_size_inches()
    return needed.x0 > -0.01 and needed.y0 > -0.01 and needed.x1 < width + 0.01 and needed.y1 < height + 0.01


@pytest.mark.parametrize("size", [None, (7.0, 5.0), (4.0, 6.0)])
def test_many_algorithms_fit_the_size_that_is_chosen(many, size):
    made, _, _ = drawn(*many, size=size)
    for name, figure in made.items():
        width, height = figure.get_size_inches()
        if size:
            assert (width, height) == size
        assert height < 9  # a page of a paper
        assert uncut(figure), name


def test_the_pairs_of_many_algorithms_are_a_matrix_that_needs_no_colour(many):
    made, _, section = drawn(*many)
    (panel,) = made["improvement"].axes
    texts = {tuple(map(int, text.get_position())): text.get_text() for text in panel.texts}
    values = panel.images[0].get_array()
    best = section.algos.index(MANY[-1])
    assert best == 0
    for k in range(1, len(MANY)):
        assert (texts[k, 0], texts[0, k]) == ("100+", "0\N{MINUS SIGN}")
        assert (values[0, k], values[k, 0]) == (1.0, 0.0)
    assert texts[2, 1].endswith("?")
    assert texts[1, 1] == ""
    labels = ["".join(label.get_text().split()) for label in panel.get_yticklabels()]
    assert labels == [f"{place}{algo}" for place, algo in enumerate(section.algos, 1)]


def test_one_figure_has_the_file_the_size_and_the_format_of_its_name(tmp_path):
    runs, evals = frames(algos=("sac", "td3"), tasks=("a",), seeds=range(2), suite_steps=10_000)
    built = build(runs, evals)
    files = [tmp_path / "new" / name for name in ("fig2.PDF", "fig3.svg", "fig4.png")]
    drawing = Drawing.of(None, [f"curves={files[0]}", f"profiles={files[1]}", f"curves={files[2]}"], "7x4", thin=False)
    assert figures.draw(built, runs, evals, drawing) == files
    assert sorted(path.name for path in files[0].parent.iterdir()) == sorted(path.name for path in files)
    assert files[0].read_bytes()[:5] == b"%PDF-"
    assert 'width="504pt" height="288pt"' in files[1].read_text()
    assert files[2].read_bytes()[16:24] == (2100).to_bytes(4, "big") + (1200).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("files", "size", "said"),
    [
        (["curves=a.jpg"], None, r"unknown format of --figure 'jpg'.*\(choices: svg, pdf, png\)"),
        (["curves=a"], None, "unknown format of --figure ''"),
        (["curve=a.pdf"], None, "unknown figure 'curve'; did you mean 'curves'"),
        (["a.pdf"], None, "--figure 'a.pdf' must be KIND=FILE"),
        (["curves=a.pdf"], "7", "--figure-size '7' must be WxH in inches"),
        (["curves=a.pdf"], "0x4", "--figure-size '0x4' must be"),
        (["curves=a.pdf"], "7x400", "--figure-size '7x400' must be"),
        (["curves=a.pdf"], "7x-4", "--figure-size '7x-4' must be"),
        ([], "7x4", "--figure-size needs figures"),
    ],
)
def test_figures_that_cannot_be_are_refused(files, size, said):
    with pytest.raises(ValueError, match=said):
        Drawing.of(None, files, size, thin=False)


def test_a_figure_that_cannot_be_drawn_is_refused(tmp_path):
    runs, evals = frames(algos=("sac", "td3"), tasks=("a", "b"), seeds=range(2), suite_steps=10_000)
    built = build(runs, evals)

    def draw(text, size=None, of=built):
        return figures.draw(of, runs, evals, Drawing.of(None, [text], size, thin=False))

    with pytest.raises(ValueError, match=r"--figure time=.*: dmc-hard has no data for this figure"):
        draw(f"time={tmp_path / 'a.pdf'}")
    with pytest.raises(ValueError, match=r"--figure-size: 1x1 inches are too small for a\.pdf"):
        draw(f"curves={tmp_path / 'a.pdf'}", "1x1")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"--figure curves=.*: "):
        draw(f"curves={tmp_path / 'file' / 'a.pdf'}")
    two = replace(built, sections=built.sections * 2)
    with pytest.raises(ValueError, match="--figure draws one suite: choose it with --suite"):
        draw(f"curves={tmp_path / 'a.pdf'}", of=two)
