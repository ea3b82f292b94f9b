"""The command line: one module a group of `seqzoo`, which only parses, calls and prints.

A module has a docstring whose first line is its help, `add_arguments(parser)` and `run(args) -> int`; it imports what
is heavy inside `run`, because `seqzoo --help` reads every module. Results go to stdout, progress and notes to stderr.
Errors that a user can mend are `ValueError` or `OSError`, printed as one line by `seqzoo/__main__.py`. Work itself is
done in the other rooms.
"""


def one_line(message: object) -> str:
    """A message for the terminal. What does not print, such as a line end or an escape sequence in the name of a file,
    is written as in a Python string."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in str(message)
    )
