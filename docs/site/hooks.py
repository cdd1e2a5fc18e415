"""What the site takes from elsewhere when it is built: the glossary, which stands in the README alone."""

from pathlib import Path
from typing import Any


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page, with the README's table of words in its place."""
    if "<!-- words -->" not in markdown:
        return markdown
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    return "# Words\n\n" + readme.split("## Words\n", 1)[1].strip().split("\n\n")[0] + "\n"
