"""MkDocs hook: the site shows files of the repository under their own paths, so that a link that works in a checkout
works in the site.

`docs_dir` alone would leave README.md, CONTRIBUTING.md, recipes/ and examples/ outside.
"""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PLACES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "llms.txt", "docs", "recipes", "examples")
ENDINGS = {".md", ".txt", ".css", ".svg", ".png", ".json", ".yaml", ".ipynb"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the theme's files and those of the repository; README.md is the first page."""
    root = Path(config.config_file_path).parent
    paths = [path for place in PLACES for path in (root / place, *sorted((root / place).rglob("*")))]
    pages = [
        File(path.relative_to(root).as_posix(), str(root), config.site_dir, config.use_directory_urls)
        for path in paths
        if path.suffix in ENDINGS or (path.parent.name == "examples" and path.suffix == ".py")
    ]
    return Files([file for file in files if file.src_dir != config.docs_dir] + pages)
