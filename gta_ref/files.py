"""Reading and writing whole files: a new file gets its name when it is complete, and incomplete files are refused.

A file is written in a hidden folder beside its target, ``.NAME-`` and 16 hexadecimal digits, and moved from there. The
folder is locked as long as its program runs, so that the next program that writes the same target can recognise the
folders that killed programs have left, and delete them.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ml_dtypes  # registers the dtype bfloat16 with NumPy, and so with safetensors
import numpy as np

from gta_ref.errors import printable

try:
    import fcntl
except ImportError:  # on Windows, where a folder cannot be locked and leftovers stay
    fcntl = None  # type: ignore[assignment]

_FP8 = "F8_E4M3"  # read here as ml_dtypes.float8_e4m3fn: the package safetensors looks for it in NumPy
# the dtypes of safetensors that NumPy (with ml_dtypes) has
_DTYPES = ("BOOL", "U8", "I8", "U16", "I16", "F16", "BF16", "U32", "I32", "F32", "U64", "I64", "F64", "C64", _FP8)
_LONGEST_HEADER = 100_000_000  # bytes; the limit of the package safetensors
_LONGEST_REASON = 400  # characters of a reason in an error message


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path; move it to `path` when the block ends, delete it if the block raises.

    A program that reads `path` sees the old file or the complete new one, never a part of it, even if the machine
    loses its power. An existing file keeps its mode and a symbolic link its place: the file it points to is replaced.
    A device or a pipe is not replaced; the content is copied to it when the block ends.

    Raises
    ------
    OSError
        If the file cannot be written; the error names `path`, not the temporary file.
    """
    path = Path(path)
    target = _followed(path)
    if target is None:
        with _errors_name(path, path), tempfile.TemporaryDirectory() as name:
            temporary = Path(name) / path.name
            temporary.touch()
            yield temporary
            with temporary.open("rb") as content, path.open("ab") as device:
                shutil.copyfileobj(content, device)
        return
    with _errors_name(path, target), _hidden_folder(target) as folder:
        temporary = folder / path.name  # with the suffix of `path`, by which some writers choose a format
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        mode = stat.S_IMODE(os.fstat(handle).st_mode)  # what the process's umask has left of 0o666
        os.close(handle)
        with suppress(FileNotFoundError):
            mode = stat.S_IMODE(target.stat().st_mode)
        yield temporary
        _sync(temporary, os.O_RDWR, mode)
        os.replace(temporary, target)
        if os.name == "posix":
            with suppress(OSError):  # some file systems cannot sync a folder
                _sync(target.parent, os.O_RDONLY)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise OSError unless a file can be written to `path` now; call it before a long computation.

    Raises
    ------
    OSError
        If the folder does not exist or cannot be written to, or if `path` is a folder; the error names `path`.
    """
    path = Path(path)
    target = _followed(path)
    if target is None:
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return
    with _errors_name(path, target), _hidden_folder(target) as folder:
        (folder / path.name).touch()


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write `content` as JSON, indented."""
    text = json.dumps(content, indent=2) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not JSON, or has a key twice in one object; the message names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return parse_json(path.read_bytes().decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not complete JSON ({one_line(error)})") from None


def parse_json(text: str | bytes) -> Any:
    """Return the content of a JSON text.

    Raises
    ------
    ValueError
        If it is not JSON, has a key twice in one object, or is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def one_line(reason: object) -> str:
    """Return the text of an error as one line, without control characters and of limited length."""
    text = str(reason)
    if len(text) > _LONGEST_REASON:
        half = _LONGEST_REASON // 2
        text = f"{text[:half]}…{text[-half:]}"
    return printable(text)


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays to a safetensors file.

    Parameters
    ----------
    path : str or path
    tensors : mapping of str to array
        The arrays may have any strides. For bfloat16 the dtype is that of ml_dtypes.
    metadata : mapping of str to str, optional
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    # safetensors writes an array's memory as it is, which for a transposed view would be another matrix
    packed = {name: np.asarray(x, order="C") for name, x in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(packed, temporary, dict(metadata or {}))
        except SafetensorError as error:
            code = re.search(r"\(os error (\d+)\)", str(error))
            if code is None:
                raise ValueError(f"{path}: cannot be written ({one_line(error)})") from None
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(temporary)) from None


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read all arrays and the metadata of a safetensors file.

    Returns
    -------
    tensors : dict of str to array
    metadata : dict of str to str

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is truncated, corrupted or of another format, or if a tensor has a dtype that NumPy lacks (such as
        F8_E5M2); the message names the file.
    """
    from safetensors import safe_open

    with _safetensors(path) as (path, start, header):
        unreadable = _unreadable(header)
        if not unreadable:
            fp8 = {name for name, entry in header.items() if name != "__metadata__" and entry.get("dtype") == _FP8}
            with safe_open(path, framework="np") as file:  # checks all offsets and sizes
                metadata = dict(file.metadata() or {})
                if not fp8:
                    return file.get_tensors(), metadata
                names = file.keys()
                return {n: _fp8(path, start, header[n]) if n in fp8 else file.get_tensor(n) for n in names}, metadata
    raise ValueError(f"{path}: {one_line(unreadable)}")


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the metadata of a safetensors file and none of its arrays.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is truncated, corrupted or of another format; the message names the file.
    """
    from safetensors import safe_open

    with _safetensors(path) as (path, _, _), safe_open(path, framework="np") as file:  # checks all offsets and sizes
        return dict(file.metadata() or {})


@contextmanager
def _safetensors(path: str | os.PathLike[str]) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """Yield a file's path, where its arrays begin, and its header; an error in the block names the file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        yield path, *_header(path)
    except OSError:
        raise
    except Exception as error:  # nothing more specific: the package lets NumPy's errors for huge shapes pass
        raise ValueError(f"{path}: not a complete safetensors file ({one_line(error)})") from None


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the tensors' data begin, and the header of a safetensors file."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        n_header = int.from_bytes(file.read(8), "little")
        if size < 8 or n_header > min(size - 8, _LONGEST_HEADER):
            raise ValueError(f"it has {size:,} bytes, and the header alone is said to have {n_header:,}")
        header = parse_json(file.read(n_header).decode("utf-8"))
    return 8 + n_header, header if isinstance(header, dict) else {}


def _fp8(path: Path, start: int, entry: Mapping[str, Any]) -> np.ndarray:
    first, end = entry["data_offsets"]
    data = np.fromfile(path, np.uint8, end - first, offset=start + first)
    x: np.ndarray = data.view(ml_dtypes.float8_e4m3fn).reshape(entry["shape"])
    return x


def _unreadable(header: Mapping[str, Any]) -> str:
    """Check what the package safetensors does not check in a header; return the reason why NumPy cannot hold it."""
    for name, entry in header.items():
        if not name.isprintable():
            raise ValueError(f"the tensor name {name!r} has characters that cannot be printed")
        dtype = entry.get("dtype", "F32") if isinstance(entry, dict) and name != "__metadata__" else "F32"
        if dtype not in _DTYPES:
            return f"the tensor {name} has dtype {dtype}, which NumPy lacks; expected one of {', '.join(_DTYPES)}"
    return ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object; of two equal keys, the package json would silently drop the first."""
    found = dict(pairs)
    if len(found) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {key!r} is there twice")
    return found


def _followed(path: Path) -> Path | None:
    """Return the file that is replaced if `path` is written, all links followed; None for a device or a pipe.

    Raises
    ------
    OSError
        If `path` is a folder, or its folder does not exist.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    link = Path(os.readlink(path)) if path.is_symlink() else path
    if not stat.S_ISREG(mode) or os.path.realpath(link.parent).startswith("/proc/"):  # the latter: /dev/stdout
        return None
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        folder = target.parent if path.is_symlink() else path.parent
        raise FileNotFoundError(errno.ENOENT, f"there is no folder {folder}", str(path))
    return target


@contextmanager
def _errors_name(path: Path, target: Path) -> Iterator[None]:
    """Let an OSError name `path` if it names no file, or one that only this module knows."""
    try:
        yield
    except OSError as error:
        ours = error.filename is None or str(error.filename).startswith((str(target), str(_prefix(target))))
        if error.errno is None or not ours:
            raise
        raise OSError(error.errno, error.strerror or os.strerror(error.errno), str(path)) from None


@contextmanager
def _hidden_folder(target: Path) -> Iterator[Path]:
    """Make a hidden, locked folder beside `target`, and delete it at the end."""
    _delete_leftovers(target)
    handle = None
    while handle is None:
        folder = Path(f"{_prefix(target)}{secrets.token_hex(8)}")
        folder.mkdir(0o700)
        handle = _lock(folder, wait=True)
        if handle is None and folder.is_dir():
            break  # this system or file system has no locks; otherwise another program took the folder for a leftover
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def _prefix(target: Path) -> Path:
    return target.parent / f".{target.stem[:50]}-"


def _delete_leftovers(target: Path) -> None:
    """Delete the hidden folders of programs that were killed while they wrote `target`."""
    pattern = re.compile(re.escape(_prefix(target).name) + "[0-9a-f]{16}")
    with suppress(OSError), os.scandir(target.parent) as entries:
        for entry in entries:
            if pattern.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                handle = _lock(Path(entry.path), wait=False)
                if handle is not None:  # its program does not run any more
                    shutil.rmtree(entry.path, ignore_errors=True)
                    os.close(handle)


def _lock(folder: Path, *, wait: bool) -> int | None:
    """Lock a folder for this process and return the handle, or None if it is locked, gone, or cannot be locked."""
    if fcntl is None:
        return None
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if os.path.samestat(os.fstat(handle), os.stat(folder)):
            return handle
    os.close(handle)
    return None


def _sync(path: Path, flags: int, mode: int | None = None) -> None:
    """Wait until a file or folder is on the disk; set its mode before, if one is given."""
    handle = os.open(path, flags)
    try:
        if mode is not None:
            os.chmod(path, mode)
        os.fsync(handle)
    finally:
        os.close(handle)
