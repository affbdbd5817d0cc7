"""Writing keeps modes and links, writes to devices, syncs, cleans up, and names the target of every failure."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest

from gta_ref import files

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes, links and devices as on POSIX systems")

WRITERS = {
    "json": lambda path: files.write_json(path, {"new": [2] * 3000}),
    "tensors": lambda path: files.write_tensors(path, {"x": np.zeros(5000)}),
}
writers = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


@writers
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002])
def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path, write, umask):
    before = os.umask(umask)
    try:
        write(tmp_path / "a.json")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o666 & ~umask


@writers
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444])
def test_an_existing_file_keeps_its_mode(tmp_path, write, mode):
    path = tmp_path / "a.json"
    path.write_text("old")
    path.chmod(mode)
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_bytes() != b"old"


@writers
def test_the_umask_of_the_process_is_never_touched(tmp_path, write, monkeypatch):
    def umask(mask):
        raise AssertionError("os.umask changes the mode of files that other threads create")

    monkeypatch.setattr(os, "umask", umask)
    write(tmp_path / "a.json")


@writers
def test_a_link_stays_and_its_target_is_replaced(tmp_path, write):
    (tmp_path / "data").mkdir()
    target, link, second = tmp_path / "data" / "a.json", tmp_path / "link.json", tmp_path / "second.json"
    link.symlink_to("data/a.json")
    second.symlink_to(link)
    for _ in range(2):  # the first time, the link's target does not exist
        write(second)
        assert link.is_symlink()
        assert second.is_symlink()
        assert not target.is_symlink()
        assert target.read_bytes() == link.read_bytes()
    assert os.listdir(tmp_path / "data") == ["a.json"]
    link.unlink()
    link.symlink_to("data/none/a.json")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*none.*second\.json"):
        write(second)
    link.unlink()
    link.symlink_to("second.json")
    with pytest.raises(OSError, match=r"symbolic links.*second\.json"):
        write(second)


@pytest.fixture
def device(tmp_path):
    """Make a device of one's own: a test that fails must not replace one of the system's, which root could do."""

    def make(name, minor):
        if os.geteuid() != 0:
            return f"/dev/{name}"
        path = tmp_path / name
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, minor))
            path.open("rb").close()
        except OSError as error:
            pytest.skip(f"no device can be made here: {error}")
        return str(path)

    return make


@writers
def test_a_device_is_written_to_and_not_replaced(device, write):
    null = device("null", 3)
    write(null)
    assert stat.S_ISCHR(os.stat(null).st_mode)


@writers
def test_a_pipe_is_written_to_and_not_replaced(tmp_path, write):
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    came = []
    reader = threading.Thread(target=lambda: came.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write(pipe)
    reader.join(10)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    write(tmp_path / "ordinary.json")
    assert came == [(tmp_path / "ordinary.json").read_bytes()]


def test_standard_output_in_a_file_is_appended_to(tmp_path):
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")  # as /dev/stdout is
    code = "from gta_ref import files\nprint('before', flush=True)\nfiles.write_json('stdout', [1])\nprint('after')"
    with (tmp_path / "out.txt").open("ab") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True, cwd=tmp_path)
    assert (tmp_path / "out.txt").read_text().split() == ["before", "[", "1", "]", "after"]


@writers
def test_the_file_is_synced_before_it_gets_its_name_and_the_folder_after(tmp_path, write, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def synced(handle):
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def replaced(*names):
        events.append("rename")
        replace(*names)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write(tmp_path / "a.json")
    assert events == ["file", "rename", "folder"]


def test_leftovers_of_a_killed_program_are_deleted_and_those_of_a_running_one_are_not(tmp_path):
    code = (
        "import sys, time\nfrom gta_ref import files\n"
        "with files.atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n    print('ready', flush=True)\n    time.sleep(600)\n"
    )
    path = tmp_path / "a.safetensors"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as program:
        assert program.stdout.readline() == b"ready\n"
        files.write_tensors(path, {"x": np.zeros(3)})
        assert len(os.listdir(tmp_path)) == 2  # the program still writes
        program.send_signal(signal.SIGKILL)
    assert list(tmp_path.glob("*.safetensors")) == [path]  # so readers of a folder do not see the leftover
    (tmp_path / ".a-0123456789abcdef").write_text("not a folder")
    (tmp_path / ".a-notes").mkdir()
    (tmp_path / ".b-0123456789abcdef").mkdir()
    files.write_tensors(path, {"x": np.zeros(3)})
    kept = [".a-0123456789abcdef", ".a-notes", ".b-0123456789abcdef", "a.safetensors"]
    assert sorted(os.listdir(tmp_path)) == kept


def test_many_threads_write_one_file(tmp_path):
    path = tmp_path / "a.json"
    failed = []

    def write(i):
        try:
            for _ in range(20):
                files.write_json(path, [i] * 100)
                assert len(set(json.loads(path.read_text()))) == 1
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert os.listdir(tmp_path) == ["a.json"]


def named(caught, path):
    """The error's line, as the command line prints it: it names the target and no other file."""
    line = f"{caught.value.filename}: {caught.value.strerror}"
    assert caught.value.filename == str(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not [p for p in os.listdir(path.parent) if p.startswith(".")] if path.parent.is_dir() else True
    return line


@writers
def test_a_missing_folder(tmp_path, write):
    path = tmp_path / "none" / "a.json"
    with pytest.raises(FileNotFoundError) as caught:
        write(path)
    assert named(caught, path) == f"{path}: there is no folder {tmp_path / 'none'}"
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError) as caught:
        write(tmp_path / "file" / "a.json")
    assert caught.value.filename == str(tmp_path / "file" / "a.json")
    with pytest.raises(IsADirectoryError) as caught:
        write(tmp_path)
    assert caught.value.filename == str(tmp_path)


@writers
def test_a_full_device(device, write):
    """``/dev/full`` refuses every byte, as a full disk does."""
    full = device("full", 7)
    with pytest.raises(OSError, match=f"No space left on device: '{full}'") as caught:
        write(full)
    assert caught.value.filename == full


@writers
def test_a_full_disk(tmp_path, write):
    """A disk of 16 KiB, where this user may mount one, keeps the old file."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        path = folder / "a.json"
        path.write_text("old")
        (folder / "other").write_bytes(bytes(12 * 1024))
        with pytest.raises(OSError, match="No space left on device") as caught:
            write(path)
        named(caught, path)
        assert path.read_text() == "old"
        assert sorted(os.listdir(folder)) == ["a.json", "other"]
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@writers
def test_a_file_that_may_not_grow(tmp_path, write):
    """A limit on the size of files, as on a disk with quotas, keeps the old file and names the target."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "a.json"
    path.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    named(caught, path)
    assert path.read_text() == "old"


@writers
@pytest.mark.parametrize("function", ["fsync", "replace", "mkdir", "chmod"])
def test_every_step_that_can_fail_names_the_target(tmp_path, write, function, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("old")

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *arguments[:1])

    def full_handle(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, function, full_handle if function == "fsync" else full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write(path)
    monkeypatch.undo()
    named(caught, path)
    assert path.read_text() == "old"


def test_an_error_about_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, files.atomic_path(tmp_path / "a.json"):
        (tmp_path / "source.txt").read_text()
    assert caught.value.filename == str(tmp_path / "source.txt")


def test_a_long_name(tmp_path):
    path = tmp_path / ("ü" * 120 + ".json")
    files.write_json(path, [1])
    assert json.loads(path.read_text()) == [1]


def test_whether_a_file_can_be_written_is_known_beforehand(tmp_path):
    for path in (tmp_path / "new.json", "/dev/null"):
        files.check_writable(path)
    assert os.listdir(tmp_path) == []
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    (tmp_path / "old.json").write_text("old")
    files.check_writable(tmp_path / "old.json")
    assert (tmp_path / "old.json").read_text() == "old"
    with pytest.raises(FileNotFoundError) as caught:
        files.check_writable(tmp_path / "none" / "a.json")
    assert named(caught, tmp_path / "none" / "a.json").endswith(f"there is no folder {tmp_path / 'none'}")
    with pytest.raises(IsADirectoryError):
        files.check_writable(tmp_path)
    if os.path.isdir("/sys/kernel"):
        with pytest.raises(OSError) as caught:  # not even root may write there
            files.check_writable("/sys/kernel/a.json")
        assert caught.value.filename == "/sys/kernel/a.json"
