"""Docs, README and text of the notebooks: links, commands and names in them exist, and the index is complete."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import nbformat
import pytest
from conftest import PROJECT
from torch.distributed.run import get_args_parser

from swinunetr.fields import convert_parameters
from swinunetr.recipe import DATA_SPACING, PRETRAINING_RECIPES, RECIPES
from swinunetr.scans.writers import WRITERS
from swinunetr.training.parameters import PARAMETERS, PRETRAINING_PARAMETERS

DOCS = PROJECT / "docs"
KINDS = ("tutorials", "how-to", "reference", "explanation")
PAGES = sorted(page for kind in KINDS for page in DOCS.glob(f"{kind}/*.md"))
NOTEBOOKS = {
    PROJECT / "swinunetr_finetune.ipynb": (PARAMETERS, RECIPES),
    PROJECT / "ssl_train.ipynb": (PRETRAINING_PARAMETERS, PRETRAINING_RECIPES),
}
TEXTS = [PROJECT / "README.md", DOCS / "README.md", DOCS / "contributing.md", *PAGES, *NOTEBOOKS]
ENDS = {";", "&&", "||", "|", "do", "done"}  # of a command in a line
READERS_OWN = re.compile(r"own\w*\.json|CT_LIST\.json")  # lists that the reader writes

every_text = pytest.mark.parametrize("file", TEXTS, ids=lambda file: str(file.relative_to(PROJECT)))
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))


# ------------------------------------------------------------------------------------------------- pages and links


@cache
def text_of(file: Path) -> str:
    """Return a page, or the text cells of a notebook."""
    if file.suffix == ".md":
        return file.read_text(encoding="utf-8")
    cells = nbformat.read(file, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def prose_of(file: Path) -> str:
    """Return a text without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text_of(file), flags=re.DOTALL | re.MULTILINE)


def links_in(file: Path) -> list[str]:
    """Return the links of a text to files of the project."""
    links = re.findall(r"\]\(([^)\s]+)\)", prose_of(file))
    return [link for link in links if not re.match(r"\w+:", link)]


def anchors_in(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    anchors, repeats = set(), Counter()
    for heading in re.findall(r"^#+ (.*)$", prose_of(page), flags=re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        anchors.add(f"{slug}-{repeats[slug]}" if repeats[slug] else slug)
        repeats[slug] += 1
    return anchors


@every_text
def test_links_lead_to_files_and_headings(file):
    wrong = []
    for link in links_in(file):
        name, _, anchor = link.partition("#")
        target = Path(os.path.normpath(file.parent / name)) if name else file
        exists = target.is_relative_to(PROJECT) and target.exists()
        if not exists or (anchor and anchor not in anchors_in(target)):
            wrong.append(link)
    assert not wrong


def test_anchors_are_those_of_github(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A: `b.py`, 3 c\n## Same\n## Same\n```bash\n# no heading\n```\n### Not_a - b\n")
    assert anchors_in(page) == {"a-bpy-3-c", "same", "same-1", "not_a---b"}


@every_text
def test_pages_that_are_named_exist(file):
    named = re.findall(r"`(docs/[\w/-]+\.md)`", prose_of(file))
    assert not [name for name in named if not (PROJECT / name).exists()]


def test_pages_that_code_names_exist():
    for file in [*PROJECT.glob("*.py"), *PROJECT.glob("swinunetr/**/*.py"), *PROJECT.glob("benchmarks/*.py")]:
        named = re.findall(r"docs/[\w/-]+\.md", file.read_text(encoding="utf-8"))
        assert not [name for name in named if not (PROJECT / name).exists()], file


@every_page
def test_a_page_begins_with_what_one_will_have(page):
    title, first = text_of(page).split("\n\n")[:2]
    assert title.startswith("# ") and re.search(r"At the end\b.*\byou\b", first, re.DOTALL)


def test_the_index_lists_every_page_once():
    listed = Counter(link for link in links_in(DOCS / "README.md") if "/" in link and not link.startswith(".."))
    assert listed == {page.relative_to(DOCS).as_posix(): 1 for page in PAGES}


def test_the_reference_is_that_of_the_fields():
    spec = importlib.util.spec_from_file_location("make_reference", DOCS / "make_reference.py")
    make_reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_reference)
    made = make_reference.PAGE.read_text(encoding="utf-8")
    assert made == make_reference.page(), "make it again: .venv/bin/python docs/make_reference.py"


# -------------------------------------------------------------------------------------------------------- commands


def blocks_in(file: Path) -> list[str]:
    """Return the blocks of commands of a text, as one shell reads them, and the commands inside its sentences."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text_of(file), flags=re.DOTALL | re.MULTILINE)
    return blocks + re.findall(r"`(\.venv/bin/[^`]+)`", prose_of(file))


def commands_in(block: str) -> Iterator[list[str]]:
    """Yield the words of each command of the environment in a block, from ``.venv/bin/`` on."""
    for line in re.sub(r"\\\n\s*", " ", block).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if word not in ENDS:
                command.append(word)
                continue
            started = [number for number, each in enumerate(command) if each.startswith(".venv/bin/")]
            if started:
                yield command[started[0] :]
            if "-c" in command and "bash" in command:
                yield from commands_in(command[command.index("-c") + 1])
            command = []


@cache
def options_in(file: Path) -> frozenset[str]:
    """Return the options of a program, with those of the benchmarks and phantoms that it imports."""
    options = {f"--{writer.option.replace('_', '-')}" for writer in WRITERS} if file.name == "segment.py" else set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            options |= {each.value for each in node.args if isinstance(each, ast.Constant)}
        if isinstance(node, ast.ImportFrom) and node.module.startswith(("benchmarks", "swinunetr.data.phantoms")):
            modules = (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
            options |= set().union(*(options_in(file_of(module)) for module in modules if file_of(module).is_file()))
    return frozenset(option for option in options if str(option).startswith("-"))


def file_of(module: str) -> Path:
    """Return the file of a module of the project, as ``python -m`` runs it."""
    path = PROJECT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__main__.py") if file.is_file()), path)


def given_parameters(words: list[str]) -> dict[str, str]:
    """Return what a command gives to a notebook after ``-p``, without values that a loop sets."""
    given = {words[i + 1]: words[i + 2] for i, word in enumerate(words) if word == "-p"}
    return {name: value for name, value in given.items() if "$" not in value or name not in PARAMETERS}


def require_parameters(given: dict[str, str], notebook: Path, page: Path) -> None:
    """Check that a notebook takes parameters, that its recipe allows them, and that their lists exist."""
    parameters, recipes = NOTEBOOKS[notebook]
    values = {name: value for name, value in convert_parameters(given, parameters).items() if value != DATA_SPACING}
    recipe = recipes[values.get("recipe_name") or next(iter(recipes))]
    settings = {name: values[name] for name in values if name in {field.name for field in fields(recipe)}}
    replace(recipe, **settings | values.get("other_settings", {}))
    if name := given.get("json_path"):
        saved = f"Save this as `{name}`" in text_of(page)
        assert saved or READERS_OWN.fullmatch(Path(name).name) or (PROJECT / name).is_file(), name


def require_program(words: list[str], page: Path) -> None:
    """Check that the program of a command exists, and that it has the options."""
    program, *rest = words
    options = {word.split("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
    if program == ".venv/bin/papermill":
        notebook = PROJECT / next(word for word in rest if word.endswith(".ipynb"))
        assert options <= {"-p", "--help-notebook"}
        require_parameters(given_parameters(rest), notebook, page)
    elif program == ".venv/bin/torchrun":
        known = {option for action in get_args_parser()._actions for option in action.option_strings}
        assert options - {"-c"} <= known
    elif program == ".venv/bin/python" and rest[0] != "-c":
        file = file_of(rest[1]) if rest[0] == "-m" else PROJECT / rest[0]
        if file.is_file():
            assert options - {"-m"} <= options_in(file), (options, options_in(file))
            if "-p" in options:
                require_parameters(given_parameters(rest), next(iter(NOTEBOOKS)), page)
        else:
            assert rest[0] == "-m" and importlib.util.find_spec(rest[1]), rest
    else:
        assert program in (".venv/bin/pip", ".venv/bin/jupyter", ".venv/bin/python"), program


@every_text
def test_commands_exist_with_their_options_and_parameters(file):
    for block in blocks_in(file):
        for words in commands_in(block):
            require_program(words, file)


@every_text
def test_blocks_are_those_of_a_shell(file):
    for block in blocks_in(file):
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
        assert done.returncode == 0, (block, done.stderr)


@pytest.mark.parametrize(
    "command",
    [
        ".venv/bin/papermill swinunetr_finetune.ipynb out.ipynb -p no_such 1",
        ".venv/bin/papermill swinunetr_finetune.ipynb out.ipynb -p max_steps many",
        ".venv/bin/papermill swinunetr_finetune.ipynb out.ipynb -p other_settings '{\"overlap\": 2}'",
        ".venv/bin/papermill swinunetr_finetune.ipynb out.ipynb -p json_path json_files/none.json",
        ".venv/bin/python -m benchmarks.no_such",
        ".venv/bin/python -m benchmarks.speed --no-such",
        ".venv/bin/python segment.py weights scans out --no-such",
        "for i in 1; do .venv/bin/torchrun --no-such --no-python bash -c 'x'; done",
        ".venv/bin/torchrun --no-python bash -c '.venv/bin/papermill ssl_train.ipynb out.ipynb -p fold 1'",
    ],
)
def test_a_wrong_command_is_noticed(command):
    with pytest.raises((AssertionError, ValueError)):
        for words in commands_in(command):
            require_program(words, DOCS / "README.md")
