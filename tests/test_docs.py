"""The documentation runs, and says what is the case."""

import os
import re
import shlex
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient

from optinfra import cli, settings
from optinfra.settings.support import REFUSED, REFUSED_WITH, UNUSED
from tests.test_architecture import FIRST_SHELL_FLOOR, FLOORS, ROOT

PROJECT = Path(__file__).parents[1]
PAGES = [PROJECT / "README.md", *sorted(PROJECT.glob("docs/**/*.md"))]
NOTEBOOKS = sorted(PROJECT.glob("notebooks/*.ipynb"))
REDUCED = {  # what notebooks read at their top
    "01_compose_an_update.ipynb": ("NOTEBOOK_ITERATIONS", "3"),
    "02_memory_by_property.ipynb": ("NOTEBOOK_EXAMPLES", "8"),
    "03_many_agents.ipynb": ("NOTEBOOK_AGENTS", "16"),
    "04_rewards_and_demos.ipynb": ("NOTEBOOK_SHARE", "0.02"),
    "05_groups.ipynb": ("NOTEBOOK_ITERATIONS", "1"),
    "06_from_mlagents.ipynb": ("NOTEBOOK_ROUNDS", "2"),
}
LONG = (  # however much they are reduced
    "02_memory_by_property.ipynb",
    "03_many_agents.ipynb",
    "04_rewards_and_demos.ipynb",
    "05_groups.ipynb",
)
LONGEST = 300  # seconds of a reduced notebook's cell, on a machine that is busy with others
HOME = r"/(?:home|Users|root|tmp|work|usr|opt|var|private)/|[A-Z]:\\"  # beginnings of paths
COMMANDS = (
    "python -m pip install -c constraints.txt -e '.[train]' && optinfra train",
    "python -m pip install -c constraints.txt -e '.[test]' && python -m pytest -n auto",
)


def name(path):
    return path.name


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)


# --- pages --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [path for path in PAGES if blocks(path, "python")], ids=name)
def test_python_blocks_of_a_page_run_from_top_to_bottom(path):
    namespace = {}
    for number, block in enumerate(blocks(path, "python"), 1):
        exec(compile(block, f"{path.name}#{number}", "exec"), namespace)


@pytest.mark.parametrize("path", [path for path in PAGES if blocks(path, "yaml")], ids=name)
def test_yaml_blocks_of_a_page_are_settings_that_can_be_trained(path):
    for block in blocks(path, "yaml"):
        run = settings.load(block)
        behavior, _ = settings.choose_behavior(run)
        assert settings.require_supported(run, behavior) == ()


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_commands_of_a_page_are_understood(path):
    for line in "".join(blocks(path, "bash")).splitlines():
        words = shlex.split(line.rpartition("&&")[2], comments=True)
        if words[0] == "optinfra":
            assert cli._parser().parse_args(words[1:]).run


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_within_the_project_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if "://" not in link:
            target, _, anchor = link.partition("#")
            page = path.parent / target if target else path
            assert page.exists(), link
            titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE) if anchor else []
            slugs = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert not anchor or anchor in slugs, link


def test_readme_has_both_commands_as_blocks_of_their_own():
    commands = [block.strip() for block in blocks(PROJECT / "README.md", "bash")]
    assert commands[:2] == list(COMMANDS)


@pytest.mark.parametrize("command", ["train", "evaluate", "record", "export", "plot"])
def test_every_option_of_a_command_is_described(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    options = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out)) - {"--help"}
    text = "\n".join(path.read_text() for path in PAGES)
    assert options and not [x for x in options if not re.search(rf"{x}(?![\w-])", text)]


# --- settings -----------------------------------------------------------------------------

SETTINGS = (PROJECT / "docs" / "settings.md").read_text()
ROW = re.compile(r"^\| `([\w.]+)` \| `(.+?)` \| ", re.MULTILINE)
OF_SAC = SETTINGS.partition("## Of SAC\n")[2].partition("\n## ")[0]
DOCUMENTED = ROW.findall(SETTINGS.replace(OF_SAC, ""))
REQUIRED = re.findall(r"^\| `([\w.]+)` \| – \| ", SETTINGS, re.MULTILINE)
ALL_BLOCKS = {
    "reward_signals": {"extrinsic": {}, "gail": {"demo_path": "a.demo"}},
    "behavioral_cloning": {"demo_path": "a.demo"},
}


def defaults():
    """Every setting by its path, from the behaviour or else from the top."""

    def leaves(block, path):
        for key, value in block.items():
            here = f"{path}{key}"
            if isinstance(value, dict) and value:
                yield from leaves(value, f"{here}.")
            else:
                yield here, value

    run = yaml.safe_load(settings.dump(settings.load({"behaviors": {"a": ALL_BLOCKS}})))
    behavior = run.pop("behaviors")["a"]
    return dict([*leaves(behavior, ""), *leaves(run, "")])


def test_documented_defaults_are_the_defaults():
    assert DOCUMENTED
    known = defaults()
    assert {path: yaml.safe_load(default) for path, default in DOCUMENTED} == {
        path: known[path] for path, _ in DOCUMENTED
    }


def test_documented_hyperparameters_of_sac_are_all_there_are():
    described = {key: yaml.safe_load(default) for key, default in ROW.findall(OF_SAC)}
    assert described == settings.SACSettings().model_dump(mode="json")


def test_every_setting_is_documented_or_said_to_be_refused_or_without_effect():
    described = {path for path, _ in DOCUMENTED} | {*REQUIRED}
    ruled = [rule.path for rule in (*REFUSED, *UNUSED)]
    for path in defaults():
        assert path in described or any(f"{path}.".startswith(f"{rule}.") for rule in ruled), path


@pytest.mark.parametrize(
    ("rules", "title"),
    [
        (sum(REFUSED_WITH.values(), REFUSED), "What is refused"),
        (UNUSED, "What has no effect"),
    ],
)
def test_what_is_refused_or_without_effect_is_listed(rules, title):
    section = SETTINGS.partition(f"## {title}\n")[2].partition("\n## ")[0]
    assert [rule.path for rule in rules if f"`{rule.path}" not in section] == []


# --- architecture -------------------------------------------------------------------------


def test_documented_floors_are_those_that_the_architecture_test_holds():
    text = (PROJECT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+?) \| (core|shell) \|", text, re.MULTILINE)
    there = {path.stem for path in ROOT.iterdir()} - {"version"}
    floors = [(floor & there, i) for i, floor in enumerate(FLOORS) if floor & there]
    assert [set(re.findall(r"`(\w+)`", rooms)) for _, rooms, _ in rows] == [x for x, _ in floors]
    assert [int(number) for number, _, _ in rows] == list(range(len(rows)))
    for (_, _, ring), (_, i) in zip(rows, floors):
        assert ring == ("shell" if i >= FIRST_SHELL_FLOOR else "core")


# --- notebooks ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.name, marks=[pytest.mark.thorough] * (path.name in LONG))
        for path in NOTEBOOKS
    ],
)
def test_a_notebook_runs(path, monkeypatch):
    variable, value = REDUCED[path.name]
    assert path.read_text().count(variable) == 1, f"{variable} is read in one place"
    monkeypatch.setenv(variable, value)
    # The kernel is a process of its own: this thread's warnings are not its concern.
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=LONGEST, record_timing=False).execute(cwd=os.fspath(PROJECT))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_committed_outputs_of_a_notebook_are_whole_and_of_no_machine(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert [x for x in outputs if "image/png" in x.get("data", {})], "a plot"
    for output in outputs:
        assert output.output_type != "error"
        assert output.get("name") != "stderr"
        data = {kind: x for kind, x in output.get("data", {}).items() if kind != "image/png"}
        assert not re.search(HOME, str([output.get("text"), data]))
    assert not re.search(HOME, "\n".join(cell.source for cell in notebook.cells))
    assert all("execution" not in cell.metadata for cell in cells), "timestamps"
