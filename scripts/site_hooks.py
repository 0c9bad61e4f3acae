"""What MkDocs needs to show documents that lie beside `docs`, with links that hold in both places.

Documents link to each other as files of the repository do, so that they can be read there too. The
site takes in those of `OUTSIDE`, notebooks as pages with their outputs, and links are turned to
where a file is in the site. What is no part of the site, such as a source file, is named without a
link.
"""

import base64
import mimetypes
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent

OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CITATION.cff": "CITATION.cff",
    "LICENSE": "LICENSE",
    "benchmarks/RESULTS.md": "benchmarks/RESULTS.md",
    "weights/README.md": "weights/README.md",
    "weights/LICENSE": "weights/LICENSE",
    "weights/dsb2018_fluo_sample.txt": "weights/dsb2018_fluo_sample.txt",
    "tests/golden/README.md": "tests/golden/README.md",
    **{f"notebooks/{p.name}": f"notebooks/{p.stem}.md" for p in ROOT.glob("notebooks/*.ipynb")},
}
"""File of the repository -> its place in the site."""

LINK = re.compile(r"(!?)\[((?:[^][]|\[[^][]*\])*)\]\((?!\w+:|#)([^)#\s]*)(#[^)\s]*)?\)")


def on_files(files, config):
    """Take in what lies beside `docs`."""
    for source, place in OUTSIDE.items():
        if source.endswith(".ipynb"):
            files.append(File.generated(config, place, content=page_of(ROOT / source)))
        else:
            files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def page_of(notebook):
    """A notebook as Markdown, its pictures in it."""
    text, resources = MarkdownExporter().from_filename(notebook)
    for name, data in resources["outputs"].items():
        kind = mimetypes.guess_type(name)[0]
        text = text.replace(name, f"data:{kind};base64,{base64.b64encode(data).decode()}")
    return text


def on_page_markdown(markdown, page, config, files):
    """Turn links from where a file is in the repository to where it is in the site."""
    places = {ROOT / source: place for source, place in OUTSIDE.items()}
    places |= {Path(file.abs_src_path): file.src_uri for file in files if file.abs_src_path}
    source = next(path for path, place in places.items() if place == page.file.src_uri)
    here = posixpath.dirname(page.file.src_uri) or "."

    def turn(match):
        mark, words, target, anchor = match.groups(default="")
        place = places.get((source.parent / target).resolve())
        return f"{mark}[{words}]({posixpath.relpath(place, here)}{anchor})" if place else words

    return LINK.sub(turn, markdown)
