"""Locks of folders: one process at a time, also on file systems that have no locks."""

import errno
import os
import warnings
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from hfld_lite.errors import RecipeError

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""What a disk answers that has no locks: Lustre without its option, NFS without its daemon, …"""


class InUse(RecipeError):
    """Another process holds a folder's lock."""


def lock_files(folder: Path) -> tuple[Path, Path]:
    """The lock of a folder, and the soft lock that replaces it where a file system has no locks.

    They lie beside the folder, since Windows does not rename a folder in which a file is open.
    """
    return folder.with_name(folder.name + ".lock"), folder.with_name(folder.name + ".softlock")


def lock_beside(folder: Path, taken: str = "is training there; let it finish") -> BaseFileLock:
    """Refuse a second process at the same folder; the lock ends with the process, however it ends.

    Args:
        folder: or a file.
        taken: what the other process does, and what the user can do.

    Raises:
        InUse: another process holds the lock.
        OSError: the lock file cannot be written.
    """
    file, soft = lock_files(folder)
    lock: BaseFileLock = FileLock(file, timeout=0.2)
    try:
        with warnings.catch_warnings():  # filelock's own, where it falls back by itself
            warnings.simplefilter("ignore")
            try:
                lock.acquire()
            except (NotImplementedError, OSError) as error:
                if not isinstance(error, NotImplementedError) and error.errno not in _NO_LOCKS:
                    raise
                lock = SoftFileLock(soft, timeout=0.2)
                file.unlink(missing_ok=True)  # it locks nothing here
                lock.acquire()
    except Timeout as error:
        # A file that stands for a lock stays where another machine's process was killed.
        stands = isinstance(lock, SoftFileLock)
        hint = f", or delete {lock.lock_file} if there is none" if stands else ""
        raise InUse(f"{folder}: another process {taken}{hint}.") from error
    if isinstance(lock, SoftFileLock):
        warnings.warn(
            f"{folder.parent}: this file system has no locks, so {lock.lock_file} stands for one. "
            "If this process is killed, and a new run is refused because of that file, delete it.",
            stacklevel=4,
        )
    return lock


def unlock_beside(lock: BaseFileLock, folder: Path) -> None:
    """Remove the lock file and release the lock."""
    file, _ = lock_files(folder)
    native = not isinstance(lock, SoftFileLock)  # a SoftFileLock removes its own file
    if native and os.name == "posix":  # first, or the file might be another process's by then
        file.unlink(missing_ok=True)
    lock.release()
    if native and os.name != "posix":  # where an open file cannot be removed
        with suppress(OSError):
            file.unlink(missing_ok=True)
