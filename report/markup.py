"""Words of a run as text of an HTML page."""

import html
import re


def text(value):
    """A value as text of a page. A brace too: DVC puts its plots in place of words in braces."""
    return html.escape(str(value)).replace("{", "&#123;")


def marked(words):
    """A line as text of a page, what stands between backquotes as code."""
    return re.sub("`(.*?)`", r"<code>\1</code>", text(words))


def absent(what, how):
    """The line in place of what is not there, with what brings it."""
    return note(f"{what} here: {how}.")


def note(words):
    """A line that is set apart."""
    return f'<p class="note">{marked(words)}</p>'
