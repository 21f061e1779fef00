"""Which file systems a store may lie on, against made-up and real lists of mounts."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest

from persistent_nonce.errors import (
    ConfigurationError,
    StoreUnavailableError,
    StoreUnsupportedError,
)
from persistent_nonce.stores.filesystems import (
    Mount,
    check_filesystem,
    mount_of,
    parse_mounts,
)
from persistent_nonce.stores.permissions import BESIDE

MOUNTS = "/proc/self/mountinfo"

#: Types that another machine or another kernel serves.
ELSEWHERE = (
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre"),
    *("beegfs", "davfs", "gfs2", "9p", "virtiofs", "vboxsf", "prl_fs", "vmhgfs"),
    *("fakeowner", "fuse", "fuse.sshfs", "fuse.gvfsd-fuse", "fuseblk"),
)


def line(number: int, parent: int, point: str, kind: str) -> str:
    """Return a line of mountinfo."""
    return (
        f"{number} {parent} 0:{number} / {point} rw,noatime shared:1 - {kind} src rw\n"
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return the path of a database in an empty real directory."""
    directory = tmp_path.resolve() / "state"
    directory.mkdir()
    return directory / "nonces.db"


def check(
    path: Path, text: str, *, implicit: bool = False, trust: bool = False
) -> None:
    """Check `path` against a mountinfo file with this text."""
    mountinfo = path.parent.parent / "mountinfo"
    mountinfo.write_text(text, encoding="utf-8")
    check_filesystem(path, implicit=implicit, trust=trust, mountinfo=str(mountinfo))


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_a_file_system_served_from_elsewhere_is_refused(place: Path, kind: str) -> None:
    """The error names path, type and mount point, and nothing has been written."""
    text = line(1, 0, "/", "ext4") + line(2, 1, str(place.parent), kind)
    with pytest.raises(StoreUnsupportedError) as caught:
        check(place, text)
    said = str(caught.value)
    assert f"type '{kind}'" in said
    assert f"mounted on '{place.parent}'" in said
    assert str(place) in said
    assert caught.value.hint
    assert not list(place.parent.iterdir())


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "overlay", "tmpfs"])
def test_a_local_file_system_is_accepted(place: Path, kind: str) -> None:
    """A chosen place may lie on any file system of this kernel, in silence."""
    check(place, line(1, 0, "/", kind))


@pytest.mark.parametrize("kind", ["overlay", "aufs", "tmpfs", "ramfs"])
def test_a_place_nobody_chose_must_last(place: Path, kind: str) -> None:
    """What goes with its container or at a reboot is refused as a default, and the hint says what to set."""
    with pytest.raises(StoreUnsupportedError, match="PERSISTENT_NONCE_DB") as caught:
        check(place, line(1, 0, "/", kind), implicit=True)
    assert f"type '{kind}'" in str(caught.value)


def test_an_implicit_place_on_a_disk_is_accepted(place: Path) -> None:
    """A default on an ordinary disk is fine."""
    check(place, line(1, 0, "/", "ext4"), implicit=True)


def test_an_override_is_logged(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With `trust` the place is accepted, and one line of warning says what is trusted."""
    with caplog.at_level(logging.WARNING, "persistent_nonce"):
        check(place, line(1, 0, "/", "nfs4"), trust=True)
    [record] = caplog.records
    assert (record.name, record.levelname) == ("persistent_nonce", "WARNING")
    assert "type 'nfs4'" in record.getMessage()
    assert record.getMessage().isprintable()


@pytest.mark.parametrize("suffix", ["", *BESIDE])
@pytest.mark.parametrize("trust", [False, True])
def test_a_file_that_is_a_mount_point_is_always_refused(
    place: Path, suffix: str, trust: bool
) -> None:
    """A single-file mount gave two containers the same nonces, so no override helps."""
    text = line(1, 0, "/", "ext4") + line(2, 1, f"{place}{suffix}", "ext4")
    with pytest.raises(StoreUnsupportedError, match="is a mount point itself"):
        check(place, text, trust=trust)


def test_the_directory_may_be_a_mount_point(place: Path) -> None:
    """What is mounted on the directory, or on a file that is none of the store's, is no fault."""
    text = line(1, 0, "/", "ext4") + line(2, 1, str(place.parent), "xfs")
    check(place, text + line(3, 2, f"{place}.bak", "nfs"))


def test_the_directory_may_be_missing_or_reached_by_a_link(place: Path) -> None:
    """What counts is where the directory is, or would be made."""
    text = line(1, 0, "/", "ext4") + line(2, 1, str(place.parent), "nfs")
    link = place.parent.parent / "link"
    link.symlink_to(place.parent)
    with pytest.raises(StoreUnsupportedError, match="nfs"):
        check(link / "nonces.db", text)
    missing = place.parent / "a" / "b" / "nonces.db"
    mountinfo = place.parent.parent / "mountinfo"
    with pytest.raises(StoreUnsupportedError, match="nfs"):
        check_filesystem(missing, implicit=True, trust=False, mountinfo=str(mountinfo))


def test_escapes(place: Path) -> None:
    """A mount point with blanks, a backslash and other white space is found under its own name."""
    odd = place.parent / "a b\\c\u2028d\x85e\xa0f"
    odd.mkdir()
    point = str(odd).replace("\\", r"\134").replace(" ", r"\040")
    text = line(1, 0, "/", "ext4") + line(2, 1, point, "nfs")
    [_, mount] = parse_mounts(text)
    assert mount == Mount(2, 1, str(odd), "nfs")
    assert mount_of(f"{odd}/nonces.db", parse_mounts(text)) == mount


def test_a_line_without_optional_fields_is_read() -> None:
    """The number of optional fields varies from none to many."""
    text = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:2 / /x rw shared:1 master:2 - xfs b rw\n"
    assert [mount.type for mount in parse_mounts(text)] == ["ext4", "xfs"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a", 1),
        ("/mnt", 3),  # the later of two mounts on one point, which lies on the earlier
        ("/mnt/x", 3),
        ("/mntx", 1),  # only whole names count
        ("/mnt/old/x", 3),  # hidden by what was mounted over /mnt later
        ("/mnt/new/x", 5),
        ("/deep/er/x", 6),
    ],
)
def test_mount_of(path: str, expected: int) -> None:
    """A path lies on the mount that the kernel would reach, also where mounts hide each other."""
    mounts = [
        Mount(1, 0, "/", "ext4"),
        Mount(2, 1, "/mnt", "xfs"),
        Mount(4, 2, "/mnt/old", "nfs"),
        Mount(3, 2, "/mnt", "xfs"),
        Mount(5, 3, "/mnt/new", "xfs"),
        Mount(6, 1, "/deep/er", "xfs"),
    ]
    found = mount_of(path, mounts)
    assert found is not None
    assert found.id == expected


def test_odd_trees_of_mounts() -> None:
    """The first mount names itself as its parent; of two on one parent the last counts; there may be no "/" at all."""
    first = Mount(1, 1, "/", "rootfs")
    second = Mount(2, 1, "/", "ext4")
    assert mount_of("/x", [first, second]) == second
    twins = [Mount(3, 2, "/x", "xfs"), Mount(4, 2, "/x", "nfs")]
    assert mount_of("/x", [first, second, *twins]) == twins[1]
    assert mount_of("/x", [Mount(7, 3, "/proc", "proc")]) is None
    assert mount_of("/x", []) is None


def test_no_mountinfo_accepts(place: Path) -> None:
    """A system without mountinfo is no reason to refuse."""
    for absent in ("absent", "nonces.db/absent"):
        place.touch()
        check_filesystem(
            place,
            implicit=True,
            trust=False,
            mountinfo=str(place.parent / absent),
        )


def test_unreadable_mountinfo_refuses(place: Path) -> None:
    """A list of mounts that is there but cannot be read is an error (I9)."""
    with pytest.raises(StoreUnavailableError, match="cannot read"):
        check_filesystem(
            place, implicit=False, trust=False, mountinfo=str(place.parent)
        )


def test_a_hostile_name_is_refused_first(place: Path) -> None:
    """A name with a NUL is a typed error here too, since this check comes before any other."""
    with pytest.raises(ConfigurationError):
        check_filesystem(place.with_name("x\0y"), implicit=False, trust=False)


@pytest.mark.skipif(
    sys.platform != "linux", reason="NOT RUN: this system has no mountinfo"
)
def test_this_machine() -> None:
    """The real list is understood: /proc lies on a file system of that name."""
    found = mount_of("/proc/self", parse_mounts(os.fsdecode(Path(MOUNTS).read_bytes())))
    assert found is not None
    assert (found.point, found.type) == ("/proc", "proc")
