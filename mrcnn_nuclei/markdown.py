"""Tables in Markdown."""


def markdown_table(header, lines, names=1):
    """A table whose numbers stand at the right of their columns.

    Parameters
    ----------
    header : sequence of str
    lines : iterable of sequences of str
        As long as the header each.
    names : int
        How many of the first columns hold text, which stands at the left.

    Returns
    -------
    str
    """
    alignment = [":--"] * names + ["--:"] * (len(header) - names)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [header, alignment, *lines])
