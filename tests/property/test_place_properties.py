"""Hostile names: what is not refused is taken literally, and nothing is made anywhere else."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from persistent_nonce.errors import ConfigurationError, StoreError
from persistent_nonce.stores import place

#: Pieces that have harmed somebody: in a shell, a URI, SQL, a terminal, a path, or the eye.
PIECES = (
    *(
        "..",
        "../",
        "./",
        "/",
        "//",
        "\\",
        "~",
        "$HOME",
        "`id`",
        ";",
        "|",
        "*",
        "-",
        "--",
    ),
    *(
        "?mode=memory",
        "file:",
        ":memory:",
        "%2e%2e%2f",
        "#",
        "'",
        '"',
        "';--",
        "{x}",
        "%s",
    ),
    *("\n", "\r", "\t", "\0", "\x1b[2J", "\x7f", "\x85", "\u2028", "\u2029", "\ud800"),
    *(
        "\u202e",
        "\u200b",
        "\u0430",
        "a",
        "\u212b",
        "\xe9",
        "e\u0301",
        "\uff0f",
        "\u2024",
    ),
    *(".lock", "-wal", ".sessions", "nonces.db", "x" * 243, "\xe9" * 130, "y" * 10_000),
)

names = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=6).map("".join)


def tree(root: Path) -> set[str]:
    """Return everything below `root`."""
    return {
        os.path.join(directory, name)
        for directory, directories, files in os.walk(root)
        for name in (*directories, *files)
    }


@given(names)
@example("../x")
@example("a\nb")
@example("a\0b")
@example("n'; drop table keys; --")
@example("y" * 10_000)
@example("x" * 250)  # its own name fits, the names of the files beside it do not
@example("nonces\u202ebd.db")
def test_hostile_names(name: str) -> None:
    """A name is refused with a typed error of one line, or means exactly the file that the system means by it."""
    with tempfile.TemporaryDirectory() as made:
        root = Path(os.path.realpath(made))
        inner = root / "a" / "b"
        inner.mkdir(parents=True)
        path = inner / name.lstrip("/")
        before = tree(root)
        if not Path(os.path.normpath(path)).is_relative_to(root):
            path = inner / name.replace("..", "")  # the test keeps to its own directory
        error = None
        try:
            place.check_filesystem(path, implicit=False, trust=True)
            real = place.prepare(path, shared=False, create=False)
            os.close(place.open_beside(real, ".lock", shared=False))
            place.create_database(real, shared=False)
        except (ConfigurationError, StoreError) as refusal:
            error = refusal
        if error is not None:
            assert str(error).isprintable()
            assert len(str(error)) < 1000
            assert tree(root) == before
            return
        literal = os.path.join(os.path.realpath(path.parent), path.name)
        assert str(real) == literal
        assert tree(root) == before | {literal, literal + ".lock"}
