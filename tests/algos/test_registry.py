"""Finding algorithms: by name, in a file, among the entry points of installed packages."""

import hashlib
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

import algos
from algos import ALGORITHMS, AlgorithmError, Entry, find, names, registry
from algos.agent import Agent

GOOD = '''"""Mine: it stays where it is.

Paper: Nobody, "Standing
Still", 2025, arXiv:2500.00000
Code: none
"""

from dataclasses import dataclass

from algos.agent import Agent, Config


@dataclass(frozen=True, kw_only=True)
class MineConfig(Config):
    """Hyperparameters."""

    size: int = 3  # of nothing


class Mine(Agent[MineConfig]):
    Config = MineConfig


class Thing:
    pass
'''


@pytest.fixture
def write(tmp_path):
    def write(text, name="mine.py"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def install(monkeypatch):
    """Pretends that packages with these entry points are installed."""

    def install(*points):
        def entry_points(group):
            assert group == "flowbench.algos"
            return [EntryPoint(name, target, group) for name, target in points]

        monkeypatch.setattr(registry, "entry_points", entry_points)

    install()
    return install


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# By name


def test_the_package_brings_the_five_algorithms(install):
    assert names() == ["flowrl", "sac", "td3", "qvpo", "flashsac"]


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_a_name_of_the_table_finds_its_class(name):
    entry = find(name)
    assert entry == Entry(name, ALGORITHMS[name])
    assert entry.path is None
    assert entry.digest() is None
    found = entry.load()
    assert issubclass(found, Agent)
    assert f"{found.__module__}:{found.__name__}" == ALGORITHMS[name]


@pytest.mark.parametrize(
    ("wrong", "meant"), [("flowr", "flowrl"), ("flow-rl", "flowrl"), ("td4", "td3"), ("qvop", "qvpo"), ("sack", "sac")]
)
def test_an_unknown_name_is_refused_with_the_nearest_and_all_choices(install, wrong, meant):
    with pytest.raises(AlgorithmError) as caught:
        find(wrong)
    message = str(caught.value)
    assert message.startswith(f"unknown algorithm '{wrong}'; did you mean '{meant}'? ")
    assert "(choices: flowrl, sac, td3, qvpo, flashsac)" in message
    assert "path/to/file.py:Class" in message
    assert "\n" not in message


@pytest.mark.parametrize("wrong", ["", "zzzz", ":", "zzzz:Class", "algos.td3:TD3"])
def test_a_name_like_none_is_refused_with_the_choices(install, wrong):
    with pytest.raises(AlgorithmError, match=r"unknown algorithm .*choices: flowrl, sac, td3, qvpo, flashsac"):
        find(wrong)


def test_a_mistake_of_the_user_is_a_value_error():
    assert issubclass(AlgorithmError, ValueError)


# Listing


def test_listing_imports_no_torch_and_no_algorithm():
    code = """
import sys
import algos
for name in algos.names():
    assert algos.find(name).about()[0]
print(sorted({"torch", "numpy", *(f"algos.{name}" for name in algos.ALGORITHMS)} & set(sys.modules)))
"""
    assert python(code) == "[]"


def test_summary_and_paper_are_read_from_the_docstring_on_one_line_each(write):
    entry = find(f"{write(GOOD)}:Mine")
    assert entry.about() == ("Mine: it stays where it is.", 'Nobody, "Standing Still", 2025, arXiv:2500.00000')


def test_the_papers_identifier_may_start_a_line(write):
    text = '"""One.\n\nPaper: Nobody, 2025,\narXiv:2500.00000\nCode: none\n"""\n'
    assert find(f"{write(text)}:Mine").about()[1] == "Nobody, 2025, arXiv:2500.00000"


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("x = 1\n", ("", "")),
        ('"""Only a summary."""\n', ("Only a summary.", "")),
        ('"""One.\n\nPaper: A, 2025\n\nMore.\n"""\n', ("One.", "A, 2025")),
        ('"""One.\n\nNewspaper: A\nPaper: B\n"""\n', ("One.", "B")),
    ],
)
def test_a_docstring_may_lack_anything(write, text, about):
    assert Entry("mine", f"{write(text)}:Mine").about() == about


def test_a_summary_is_read_without_running_the_file(write):
    path = write('"""A summary."""\nraise RuntimeError\n')
    assert find(f"{path}:Mine").about() == ("A summary.", "")


def test_a_module_that_is_not_installed_is_named(install):
    install(("ghost", "no_such_module_anywhere:Ghost"))
    with pytest.raises(AlgorithmError, match=r"'ghost'.*no_such_module_anywhere.*not installed"):
        find("ghost").about()


def test_a_module_whose_package_is_not_installed_is_named(install):
    install(("ghost", "no_such_package_anywhere.ghost:Ghost"))
    with pytest.raises(AlgorithmError, match=r"'ghost'.*no_such_package_anywhere\.ghost.*not installed"):
        find("ghost").about()


@pytest.mark.parametrize("source", [b"def (", b'"""Gru\xdf."""'], ids=["no Python", "no UTF-8"])
def test_a_file_that_cannot_be_read_has_one_clear_line(tmp_path, source):
    path = tmp_path / "mine.py"
    path.write_bytes(source)
    with pytest.raises(AlgorithmError, match=r"mine\.py"):
        find(f"{path}:Mine").about()


# In a file


def test_a_class_in_a_file_is_found_and_named_after_itself(write):
    path = write(GOOD)
    entry = find(f"{path}:Mine")
    assert entry == Entry("mine", f"{path}:Mine")
    assert entry.path == path
    found = entry.load()
    assert found.__name__ == "Mine"
    assert found.Config().size == 3
    assert found(2, 1, found.Config()).config.size == 3


def test_a_file_is_found_from_the_working_folder_and_from_home(write, monkeypatch, tmp_path):
    path = write(GOOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find("mine.py:Mine") == find("./mine.py:Mine") == find("~/mine.py:Mine") == Entry("mine", f"{path}:Mine")


def test_loading_a_file_twice_gives_one_class(write):
    spec = f"{write(GOOD)}:Mine"
    assert find(spec).load() is find(spec).load()


def test_files_of_one_name_in_two_folders_do_not_mix(tmp_path):
    classes = []
    for size in (1, 2):
        folder = tmp_path / str(size)
        folder.mkdir()
        (folder / "mine.py").write_text(GOOD.replace("= 3", f"= {size}"))
        classes.append(find(f"{folder / 'mine.py'}:Mine").load())
    assert [found.Config().size for found in classes] == [1, 2]


def test_a_file_may_be_loaded_under_the_name_of_an_installed_module(write):
    path = write(GOOD, "torch.py")
    find(f"{path}:Mine").load()
    assert sys.modules["torch"].__file__ != str(path)


def test_a_file_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(AlgorithmError, match=r"file .*nowhere\.py does not exist"):
        find(f"{tmp_path / 'nowhere.py'}:Mine")


@pytest.mark.parametrize("attribute", ["", "Mine!", "a b"])
def test_what_cannot_be_a_class_is_refused(write, attribute):
    with pytest.raises(AlgorithmError, match="is not a valid class name"):
        find(f"{write(GOOD)}:{attribute}")


def test_a_class_that_is_not_there_is_refused_with_the_nearest(write):
    with pytest.raises(AlgorithmError, match=r"no Agent named 'Mime'; did you mean 'Mine'\? \(choices: Mine\)"):
        find(f"{write(GOOD)}:Mime").load()


@pytest.mark.parametrize("attribute", ["Thing", "MineConfig", "dataclass"])
def test_a_class_that_is_no_agent_is_refused(write, attribute):
    with pytest.raises(AlgorithmError, match=f"no Agent named '{attribute}'.*choices: Mine"):
        find(f"{write(GOOD)}:{attribute}").load()


def test_a_file_with_no_agent_has_no_choices(write):
    with pytest.raises(AlgorithmError, match=r"no Agent named 'Mine' \(choices: none\)"):
        find(f"{write('x = 1')}:Mine").load()


def test_an_agent_without_a_config_is_refused(write):
    with pytest.raises(AlgorithmError, match=r"must set Config to a subclass of algos\.agent\.Config"):
        find(f"{write(GOOD.replace('Config = MineConfig', 'pass'))}:Mine").load()


@pytest.mark.parametrize("config", ["Exception", "MineConfig()"])
def test_an_agent_with_another_kind_of_config_is_refused(write, config):
    with pytest.raises(AlgorithmError, match="must set Config"):
        find(f"{write(GOOD.replace('Config = MineConfig', f'Config = {config}'))}:Mine").load()


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("1 / 0", "ZeroDivisionError: division by zero (line LAST)"),
        ("def (", "SyntaxError: "),
    ],
)
def test_an_error_inside_the_file_is_reported_and_leaves_nothing_behind(write, line, error):
    path = write(f"{GOOD}\n{line}\n")
    modules = set(sys.modules)
    with pytest.raises(AlgorithmError) as caught:
        find(f"{path}:Mine").load()
    assert "cannot be imported" in str(caught.value)
    assert error.replace("LAST", str(len(path.read_text().splitlines()))) in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.__cause__ is not None
    assert not [name for name in set(sys.modules) - modules if name.startswith("flowbench_file_")]
    write(f"{GOOD}\n# fixed, and longer so that no compiled copy of the old file is taken for this one\n")
    assert find(f"{path}:Mine").load().__name__ == "Mine"


def test_a_class_named_like_a_built_in_algorithm_is_refused(write):
    path = write(GOOD.replace("class Mine(", "class SAC("))
    with pytest.raises(AlgorithmError, match=r"the name 'sac' is used by algos\.sac:SAC; rename the class"):
        find(f"{path}:SAC")


def test_a_class_named_like_an_entry_point_is_refused(write, install):
    install(("mine", "their_package.mine:Mine"))
    with pytest.raises(AlgorithmError, match=r"'mine' is used by their_package\.mine:Mine"):
        find(f"{write(GOOD)}:Mine")


def test_the_digest_is_that_of_the_source_and_changes_with_it(write):
    path = write(GOOD)
    entry = find(f"{path}:Mine")
    assert entry.digest() == hashlib.sha256(GOOD.encode()).hexdigest()
    write(GOOD.replace("= 3", "= 4"))
    assert find(f"{path}:Mine").digest() == hashlib.sha256(GOOD.replace("= 3", "= 4").encode()).hexdigest()
    write(GOOD)
    assert find(f"{path}:Mine").digest() == entry.digest()


# Entry points


def test_an_entry_point_is_found_listed_and_loaded(install, write, monkeypatch):
    monkeypatch.syspath_prepend(str(write(GOOD, "their_mine.py").parent))
    install(("mine", "their_mine:Mine"))
    assert names() == ["flowrl", "sac", "td3", "qvpo", "flashsac", "mine"]
    entry = find("mine")
    assert entry == Entry("mine", "their_mine:Mine")
    assert "their_mine" not in sys.modules
    assert entry.about()[0] == "Mine: it stays where it is."
    assert "their_mine" not in sys.modules
    assert entry.load().__name__ == "Mine"
    before = entry.digest()
    write(GOOD + "# edited\n", "their_mine.py")
    assert entry.digest() != before
    assert find("sac").digest() is None  # our own are known by flowbench's version


def test_an_unknown_name_may_be_near_an_entry_point(install):
    install(("standstill", "their_mine:Mine"))
    with pytest.raises(AlgorithmError, match=r"did you mean 'standstill'\? \(choices: .*flashsac, standstill\)"):
        find("standstil")


def test_an_entry_point_named_like_a_built_in_algorithm_is_refused(install):
    install(("sac", "their_package.sac:SAC"))
    for ask in (names, lambda: find("td3")):
        with pytest.raises(AlgorithmError, match=r"two algorithms are named 'sac'.*algos\.sac:SAC.*their_package\.sac"):
            ask()


def test_two_entry_points_of_one_name_are_refused(install):
    install(("mine", "one:Mine"), ("mine", "two:Mine"))
    with pytest.raises(AlgorithmError, match=r"two algorithms are named 'mine': one:Mine and two:Mine"):
        names()


def test_an_entry_point_seen_twice_is_one_algorithm(install):
    install(("mine", "one:Mine"), ("mine", "one:Mine"), ("sac", ALGORITHMS["sac"]))
    assert names() == ["flowrl", "sac", "td3", "qvpo", "flashsac", "mine"]


@pytest.mark.parametrize("name", ["My Algo", "Mine", "a[b]", "a,b", "-a", "a/b"])
def test_an_entry_point_whose_name_could_not_be_typed_is_refused(install, name):
    install((name, "one:Mine"))
    with pytest.raises(AlgorithmError, match=r"a name may contain only a-z, 0-9, _ and -"):
        names()


def test_an_entry_point_that_cannot_be_imported_is_reported_only_when_it_is_loaded(install):
    install(("ghost", "no_such_package_anywhere.ghost:Ghost"))
    assert "ghost" in names()
    with pytest.raises(AlgorithmError, match=r"cannot be imported: ModuleNotFoundError"):
        find("ghost").load()


def test_a_real_installed_package_is_found(tmp_path):
    """Through importlib.metadata itself, in a process of its own."""
    (tmp_path / "their_mine.py").write_text(GOOD)
    info = tmp_path / "their_mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[flowbench.algos]\nmine = their_mine:Mine\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import algos; print(algos.find('mine').about()[0])"
    assert python(code) == "Mine: it stays where it is."


def test_the_package_offers_its_registry():
    assert set(algos.__all__) == {"ALGORITHMS", "AlgorithmError", "Entry", "find", "names"}
