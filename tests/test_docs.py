"""The documents: links lead somewhere, commands exist, what they show runs as it stands."""

import argparse
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image
from test_slides import write_aperio

from mrcnn.instances import Instances
from mrcnn_nuclei import cli
from mrcnn_nuclei.config import parse_settings
from mrcnn_nuclei.datasets import synthetic
from mrcnn_nuclei.formats import geojson, imagej, parse_writers
from mrcnn_nuclei.switches import ABLATIONS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "weights" / "README.md",
    ROOT / "benchmarks" / "RESULTS.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]

BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"sh", "python", "text"}

OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
PYTHON_ELSEWHERE = {"docs/migrating.md": "test_clients.py", "docs/export.md": "test_export.py"}
"""Pages whose programs another test runs."""


def blocks(name):
    """The fenced blocks of a page: (language, text)."""
    return BLOCK.findall((ROOT / name).read_text(encoding="utf-8"))


def commands(name):
    """The commands of a page's shell blocks, each a list of words without leading settings.

    Variables that a line of the page sets stand for their value in later lines.
    """
    variables = {}
    for language, text in blocks(name):
        if language != "sh":
            continue
        for line in text.replace("\\\n", " ").splitlines():
            line = re.sub(r"\$(\w+)", lambda match: variables[match[1]], line)
            words = shlex.split(line, comments=True)
            if len(words) == 1 and (assignment := re.fullmatch(r"(\w+)=(.*)", words[0])):
                variables[assignment[1]] = assignment[2]
                continue
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words.pop(0)
            if words:
                yield words


@pytest.mark.parametrize("name", NAMES)
def test_fences_are_closed_and_say_what_they_hold(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    fences = re.findall(r"^[ \t>]*(?:```|~~~)", text, re.MULTILINE)
    assert fences == ["```"] * 2 * len(blocks(name))
    assert {language for language, _ in blocks(name)} <= LANGUAGES


def slug(heading):
    """The anchor of a heading, as GitHub and MkDocs make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def anchors(path):
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    text = BLOCK.sub("", (ROOT / name).read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            continue
        place, _, anchor = target.partition("#")
        path = ((ROOT / name).parent / place).resolve() if place else ROOT / name
        assert path.exists(), target
        if anchor and not anchor.startswith("mrcnn"):  # of the API pages, made by mkdocstrings
            assert anchor in anchors(path), target


def check_pip(words, extras):
    """What is asked of pip is this project, one of its extras, a file of it, or a package."""
    for word in words:
        if word.startswith(".["):
            assert word[2:-1] in extras, word
        elif word.startswith("mrcnn-nuclei"):
            assert Requirement(word).extras <= extras.keys(), word
        elif word.endswith(".txt"):
            assert (ROOT / word).is_file(), word
        elif not word.startswith("-") and not word.startswith("https://"):
            Requirement(word)


def check_options(arguments):
    """The parser takes what is asked of `nucleus`, and so does who reads the lists in it."""
    options = cli.build_parser().parse_args(arguments)
    if getattr(options, "write", None):
        parse_writers(options.write)
    if getattr(options, "only", None):
        assert set(options.only.split(",")) <= set(ABLATIONS), arguments
    if getattr(options, "settings", None):
        # A command that names no network takes those of either; the U-Net has all there are.
        trained = options.command in {"train", "crossval", "ablate"} and options.model != "both"
        model = options.model if trained else "unet"
        parse_settings(options.settings, getattr(options, "preset", None) or "compact", model)


def flags(parser):
    """All options of a parser and of its commands."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= {flag for command in action.choices.values() for flag in flags(command)}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_options_named_in_the_text_exist(name):
    text = BLOCK.sub("", (ROOT / name).read_text(encoding="utf-8"))
    named = {flag for code in re.findall(r"`([^`]+)`", text) for flag in OPTION.findall(code)}
    programs = [path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py")]
    assert named <= flags(cli.build_parser()).union(*map(OPTION.findall, programs))


@pytest.mark.parametrize("name", NAMES)
def test_commands_exist(name, distribution):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in commands(name):
        program, *arguments = words
        program = program.rpartition("/")[2]
        if program == "python" and arguments[:2] == ["-m", "pip"]:
            program, arguments = "pip", arguments[2:]
        if program == "nucleus" or arguments[:1] == ["samples/nucleus.py"]:
            if arguments == ["--version"]:
                continue
            check_options(arguments[program != "nucleus" :])
        elif program == "make":
            assert set(arguments) <= set(targets), words
        elif program == "pip":
            assert arguments[0] == "install", words
            check_pip(arguments[1:], distribution["extras_require"])
        elif program == "python":
            script = next(word for word in arguments if not word.startswith("-"))
            assert arguments[:2] == ["-m", "pytest"] or (ROOT / script).is_file(), words
        elif program == "jupyter":
            assert (ROOT / arguments[-1]).is_dir()
        else:
            assert program in {"git", "cd", ".", "cp", "sed"}, words


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """The files that commands and programs of the documents name."""
    monkeypatch.chdir(tmp_path)
    tiles = synthetic.generate(3, 128, seed=5)
    Image.fromarray(tiles[0][1]).save("tissue.png")
    write_aperio(tmp_path / "slide.svs", np.tile(tiles[1][1], (4, 4, 1)), 0.25)
    for folder in ("my_images", "annotated_images", "new_images"):
        synthetic.write_tiles(tmp_path / folder, tiles)
    shutil.rmtree("new_images/labels")
    synthetic.write_tiles("monuseg", synthetic.generate(5, 128, seed=6))
    for fold in range(5):
        shutil.copytree("my_images/labels", f"fold{fold}")
    for number, (name, image, labels) in enumerate(tiles):
        for place in ("images", "annotations"):
            Path("my_tissue", place).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(f"my_tissue/images/{name}.png")
        writer, ending = [(geojson, "geojson"), (imagej, "zip")][number % 2]
        writer.write(f"my_tissue/annotations/{name}.{ending}", Instances.from_label_map(labels))
    return tmp_path


TOY = ["STEPS_PER_EPOCH=2", "VALIDATION_STEPS=1", "IMAGE_MIN_DIM=64", "IMAGE_MAX_DIM=64"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("README.md", 4),
        ("docs/first_hour.md", 8),
        ("docs/mask_nms.md", 1),
        ("docs/slides.md", 1),
        ("docs/unet.md", 4),
    ],
)
def test_commands_run(name, count, workplace, capsys):
    """As they stand, but that training takes few and small steps."""
    ran = 0
    for words in commands(name):
        if words[0] != "nucleus":
            continue
        if words[1] == "train":
            words += ["--epochs", "1", *(word for toy in TOY for word in ("--set", toy))]
        assert cli.main(words[1:]) == 0, (words, capsys.readouterr().err)
        ran += 1
    assert ran == count
    for language, tree in blocks(name):
        if language == "text" and tree.startswith("results/"):
            for path in re.findall(r"^  (\S+)", tree, re.MULTILINE):
                assert Path("results", path).is_file(), path


@pytest.mark.parametrize("name", [name for name in NAMES if name not in PYTHON_ELSEWHERE])
def test_programs_run(name, workplace):
    session = {"predictions": [np.eye(8, dtype=np.int32)] * 2}
    for language, code in blocks(name):
        if language == "python":
            exec(compile(code, name, "exec"), session)
    if name == "README.md":
        assert session["labels"].shape == (128, 128)
        assert session["labels"].max() > 3
