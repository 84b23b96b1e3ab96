"""Files and folders are written whole or not at all, over their own kind alone, and leave no litter."""

from __future__ import annotations

import errno
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from kills import in_child, killed_at_call

from pyro_citevae.errors import RunError
from pyro_citevae.kinds import CELLS, PAGE, RUN
from pyro_citevae.whole_files import aside, require_free, sweep, together


def write_folder(target: Path, text: str) -> None:
    with aside(target, overwrite=True) as folder:
        folder.mkdir()
        for name in "ab":
            (folder / name).write_text(text)


def write_file(target: Path, text: str) -> None:
    with aside(target, overwrite=True) as file:
        file.write_text(text)


def read(target: Path) -> list[str]:
    files = sorted(target.iterdir()) if target.is_dir() else [target]
    return [file.read_text() for file in files]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(("write", "size"), [(write_folder, 2), (write_file, 1)])
@pytest.mark.parametrize("before", [True, False])
def test_killed_at_any_call_it_is_the_old_or_the_new_and_the_next_write_leaves_no_litter(
    write: Callable, size: int, before: bool, tmp_path: Path
) -> None:
    seen = set()
    for number in count():
        home = tmp_path / str(number)
        home.mkdir()
        if before:
            write(home / "made", "old")
        whole = not killed_at_call(number, home, lambda home=home: write(home / "made", "new"))
        require_free(home / "another")  # the next that writes there
        assert names(home) <= {"made"}
        if (home / "made").exists():
            found = read(home / "made")
            assert found in (["old"] * size, ["new"] * size)
            seen.add(found[0])
        else:
            assert not before
        if whole:
            assert found == ["new"] * size
            break
    assert number > 5
    assert seen == ({"old", "new"} if before else {"new"})


def test_what_is_written_by_a_living_process_is_not_swept(tmp_path: Path) -> None:
    with aside(tmp_path / "mine") as file:
        file.write_text("half")
        assert in_child(lambda: sweep(tmp_path)) == 0  # another process
        sweep(tmp_path)  # and this one
        assert file.read_text() == "half"
    assert names(tmp_path) == {"mine"}


def test_a_relative_path_is_written_as_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with aside("folder/made") as file:
        file.write_text("text")
        require_free("folder/other")
    assert read(tmp_path / "folder/made") == ["text"]


def test_another_machine_s_litter_stays_for_a_day(tmp_path: Path) -> None:
    nest = tmp_path / f".citevae-{platform.node()}-elsewhere-1-abc"
    nest.mkdir()
    sweep(tmp_path)
    assert nest.exists()
    os.utime(nest, (0, time.time() - 100_000))
    sweep(tmp_path)
    assert not nest.exists()


def test_what_was_written_after_a_kill_is_not_replaced_by_what_was_killed(tmp_path: Path) -> None:
    nest = tmp_path / f".citevae-{platform.node()}-999999999-abc"
    (nest / "whole").mkdir(parents=True)
    (nest / "whole" / "made").write_text("killed")
    os.utime(nest / "whole" / "made", (0, time.time() - 100))
    (tmp_path / "made").write_text("later")
    sweep(tmp_path)
    assert read(tmp_path / "made") == ["later"]
    assert names(tmp_path) == {"made"}


def test_several_files_are_written_all_or_none(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), together((tmp_path / "a", None), (tmp_path / "b", None)) as (a, b):
        a.touch()
        b.touch()
        raise ZeroDivisionError
    assert names(tmp_path) == set()
    message = "'.*a' and '.*b' cannot be written"
    with (
        pytest.raises(RunError, match=message),
        together((tmp_path / "a", None), (tmp_path / "b", None)) as (a, _),
    ):
        a.touch()  # and not b
    assert names(tmp_path) == set()


def test_two_processes_that_overwrite_one_folder_leave_one_whole(tmp_path: Path) -> None:
    def again(text: str) -> None:
        for _ in range(60):
            write_folder(tmp_path / "made", text)

    children = []
    for text in ("one", "two"):
        if (child := os.fork()) == 0:
            code = 1
            try:
                again(text)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0, 0]
    assert read(tmp_path / "made") in (["one"] * 2, ["two"] * 2)
    assert names(tmp_path) == {"made"}


def test_an_interrupt_anywhere_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    write_folder(tmp_path / "made", "old")
    seen = set()
    for microseconds in range(0, 3000, 100):

        def work(after: float = microseconds / 1e6) -> None:
            signal.signal(signal.SIGALRM, lambda *_: sys.exit(0))
            signal.setitimer(signal.ITIMER_REAL, after + 1e-6)
            write_folder(tmp_path / "made", "new")

        in_child(work)
        sweep(tmp_path)
        assert read(tmp_path / "made") in (["old"] * 2, ["new"] * 2)
        assert names(tmp_path) == {"made"}
        seen.add(read(tmp_path / "made")[0])
        write_folder(tmp_path / "made", "old")
    assert "old" in seen


@pytest.mark.parametrize("kind", [RUN, CELLS, PAGE])
def test_what_is_of_no_kind_of_ours_stays(kind, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("precious")
    for target in (tmp_path / "file", tmp_path / "folder"):
        with pytest.raises(RunError, match=f"is not {kind.said} .*; choose another name"):
            require_free(target, True, kind)


def test_a_run_that_holds_something_else_stays(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").touch()
    require_free(tmp_path / "run", True, RUN)
    (tmp_path / "run" / "notes.txt").touch()
    with pytest.raises(RunError, match=r"is not a run \(it holds 'notes.txt'\)"):
        require_free(tmp_path / "run", True, RUN)


def test_what_is_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "screen.h5ad").touch()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for target in ("in", "link", tmp_path / "in" / "screen.h5ad", "link/screen.h5ad"):
        with pytest.raises(
            RunError, match=r"is or holds 'in/screen\.h5ad', which is read; choose another name"
        ):
            require_free(target, True, inputs=["in/screen.h5ad"])


@pytest.mark.parametrize("name", [".", "..", "", "/", "x" * 300, "a\0b", "file/below"])
def test_a_name_that_cannot_be_made_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot be written|is the folder that you are in"):
        require_free(name, True)


def test_a_full_disk_is_said_in_one_line_with_nothing_left(tmp_path: Path) -> None:
    code = f"""
import resource
from pathlib import Path
from pyro_citevae.errors import RunError
from pyro_citevae.whole_files import aside
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with aside(Path({str(tmp_path)!r}) / "made") as file:
        file.write_bytes(bytes(5000))
except RunError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"'{tmp_path}/made' cannot be written (File too large).\n"
    assert names(tmp_path) == set()


def test_what_threads_still_write_after_a_failure_is_deleted(tmp_path: Path) -> None:
    """As those of zarr do, of which one finds the disk full."""

    def go_on(folder: Path) -> None:
        for i in range(5):
            time.sleep(0.03)
            with suppress(FileNotFoundError):
                (folder / "group").mkdir(parents=True, exist_ok=True)
                (folder / "group" / str(i)).touch()

    with pytest.raises(RunError, match="No space left"), aside(tmp_path / "out.zarr") as written:
        thread = threading.Thread(target=go_on, args=(written,))
        thread.start()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    thread.join()
    assert not list(tmp_path.iterdir())
