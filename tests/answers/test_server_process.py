"""One server process: its output, its end, and that nobody is left behind. Real processes."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.answers import server_log, server_process
from tasks.answers.server_log import LogFile
from tasks.answers.server_process import ServerProcess
from tasks.errors import AnswererError
from tests.conftest import REPO

WAIT_S = 30.0
linux = pytest.mark.skipif(sys.platform != "linux", reason="orphans of other sessions are found on Linux alone")


def is_alive(pid: int) -> bool:
    """Running, and no zombie that nobody has reaped yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_gone(*pids: int) -> bool:
    """Whether all processes end in time."""
    deadline = time.monotonic() + WAIT_S
    while any(is_alive(p) for p in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def run(monkeypatch):
    """Starts Python programs as servers and ends them after the test."""
    monkeypatch.setattr(server_process, "STOP_S", 6.0)
    made: list[ServerProcess] = []

    def start(program: str, *arguments: object, file: LogFile | None = None, **env: str) -> ServerProcess:
        words = [sys.executable, "-u", "-c", program, *map(str, arguments)]
        made.append(ServerProcess("server-0", words, {**os.environ, **env}, file))
        return made[-1]

    yield start
    for process in made:
        process.stop()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "tasks.answers.server_log"]


# ---------------------------------------------------------------- output


def test_output_is_logged_by_line_with_the_servers_name(run, caplog):
    caplog.set_level(logging.INFO)
    process = run("import sys; print('Zähler ü'); print('oops', file=sys.stderr); print('no end', end='')")
    assert process.ended.wait(WAIT_S)
    process.stop()
    assert said(caplog) == ["server-0: Zähler ü", "server-0: oops", "server-0: no end"]


def test_letters_split_between_writes_stay_whole_and_broken_ones_are_replaced(run, caplog):
    caplog.set_level(logging.INFO)
    program = """
import os, time
for part in (b"a \\xc3", b"\\xbc b\\r", b"\\nnext \\xff", b"\\x1b[31m red\\x1b[0m\\x07\\n"):
    os.write(1, part)
    time.sleep(0.1)
"""
    run(program).ended.wait(WAIT_S)
    run("pass").stop()
    assert said(caplog)[:2] == ["server-0: a ü b", "server-0: next \ufffd red"]


def test_progress_bars_are_shown_now_and_then(run, caplog):
    caplog.set_level(logging.INFO)
    process = run(r"print(''.join(f'\rloading {i}%' for i in range(1000))); print('loaded')")
    process.ended.wait(WAIT_S)
    process.stop()
    assert said(caplog) == ["server-0: loading 0%", "server-0: loading 999%", "server-0: loaded"]


def test_a_chatty_server_never_blocks_and_is_cut_short_in_the_log(run, caplog, tmp_path, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(server_log, "FILE_BYTES_MAX", 100_000)
    file = LogFile(tmp_path / "logs" / "server-0.log")
    process = run("for i in range(20_000): print(i, 'x' * 300)", file=file)
    assert process.ended.wait(WAIT_S) and process.returncode == 0
    process.stop()
    assert len(said(caplog)) < 20_000 / 4
    assert "more lines in" in caplog.text or len(said(caplog)) == server_log.LINES_PER_S_MAX
    sizes = [p.stat().st_size for p in file.path.parent.iterdir()]
    assert len(sizes) == 2 and max(sizes) <= 100_000
    assert file.path.read_text().splitlines()[-1].startswith("19999 xxx")
    assert process.last_lines().splitlines()[-1].strip().startswith("19999")


def test_a_line_without_an_end_takes_no_memory(run, caplog):
    caplog.set_level(logging.INFO)
    process = run("import os\nfor _ in range(300): os.write(1, b'y' * 100_000)")
    assert process.ended.wait(WAIT_S)
    process.stop()
    assert max(map(len, said(caplog))) <= server_log.LINE_BYTES_MAX + 20


def test_requests_are_not_shown(run, caplog):
    caplog.set_level(logging.INFO)
    process = run("""print('INFO: 127.0.0.1:1 - "POST /v1/chat/completions HTTP/1.1" 200 OK'); print('ready')""")
    process.ended.wait(WAIT_S)
    process.stop()
    assert said(caplog) == ["server-0: ready"]


def test_a_log_that_cannot_be_written_does_not_end_the_server(run, caplog, tmp_path):
    (tmp_path / "no-folder").write_text("")
    process = run("print('hello')", file=LogFile(tmp_path / "no-folder" / "x.log"))
    assert process.ended.wait(WAIT_S) and process.returncode == 0
    assert "hello" in process.last_lines() and "not written on" in caplog.text


@pytest.mark.parametrize("marker", server_process.MARKERS)
def test_a_marker_in_the_log_is_news(run, marker):
    process = run(f"import time; print('INFO: {marker} on http://x'); time.sleep(60)")
    assert process.news.wait(WAIT_S) and not process.ended.is_set()


# ---------------------------------------------------------------- the end


@pytest.mark.parametrize(
    ("program", "code", "words"),
    [
        ("raise SystemExit(3)", 3, "ended with code 3"),
        ("pass", 0, "ended with code 0"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, "ended by SIGKILL"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", -11, "ended by SIGSEGV"),
    ],
)
def test_how_it_ended_is_told(run, program, code, words):
    process = run(f"print('last words', flush=True)\n{program}")
    assert process.ended.wait(WAIT_S)
    assert (process.returncode, process.how_it_ended) == (code, words)
    assert process.last_lines().endswith("\n    last words")


def test_its_end_is_noticed_while_a_child_holds_its_output(run):
    program = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    began = time.monotonic()
    assert run(program).ended.wait(WAIT_S)
    assert time.monotonic() - began < 5


def test_a_stop_is_a_sigint_to_the_server_and_its_children(run, tmp_path):
    program = """
import subprocess, sys, time
child = "import sys, time\\ntry: time.sleep(600)\\nexcept KeyboardInterrupt: open(sys.argv[1] + '.child', 'w')"
subprocess.Popen([sys.executable, "-c", child, sys.argv[1]])
try:
    print("up")
    time.sleep(600)
except KeyboardInterrupt:
    open(sys.argv[1], "w")
    time.sleep(0.3)
    raise SystemExit(7)
"""
    process = run(program, tmp_path / "told")
    while "up" not in process.last_lines():
        time.sleep(0.02)
    time.sleep(0.3)  # the child installs its handler
    process.stop()
    assert process.returncode == 7 and (tmp_path / "told").exists() and (tmp_path / "told.child").exists()
    process.stop()


def test_a_server_that_wants_to_be_told_twice_is_told_again(run):
    program = """
import time
for _ in range(2):
    try:
        print("up")
        time.sleep(600)
    except KeyboardInterrupt:
        print("waiting for connections to close")
raise SystemExit(4)
"""
    process = run(program)
    while "up" not in process.last_lines():
        time.sleep(0.02)
    process.stop()
    assert process.returncode == 4


def test_how_it_ends_when_told_to_is_not_shown_but_kept(run, caplog, tmp_path):
    caplog.set_level(logging.INFO)
    file = LogFile(tmp_path / "server-0.log")
    process = run("import time; print('up'); time.sleep(600)", file=file)
    while "up" not in process.last_lines():
        time.sleep(0.02)
    process.stop()
    assert said(caplog) == ["server-0: up"]
    assert "KeyboardInterrupt" in file.path.read_text()


def test_sigint_has_its_meaning_even_where_the_run_ignores_it(run):
    """As in the background of a shell script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = run("import time; print('up'); time.sleep(600)")
    finally:
        signal.signal(signal.SIGINT, before)
    while "up" not in process.last_lines():
        time.sleep(0.02)
    process.stop()
    assert "KeyboardInterrupt" in process.last_lines()


BAD = [sys.executable, "-m", "tests.answers.bad_server", "--port", "0"]


def start_bad(tmp_path: Path, *arguments: str) -> tuple[ServerProcess, list[int]]:
    """A bad server with two children that ignore all but SIGKILL, one of them in another session."""
    children = tmp_path / "children"
    process = ServerProcess("server-0", [*BAD, "--child", str(children), *arguments], os.environ)
    while "http://" not in process.last_lines():
        assert not process.ended.is_set(), process.last_lines()
        time.sleep(0.02)
    pids = [process.pid, *map(int, children.read_text().split())]
    assert all(is_alive(p) for p in pids)
    return process, pids


@linux
@pytest.mark.parametrize("deaf", [False, True])
def test_a_stop_leaves_nobody_behind(tmp_path, monkeypatch, caplog, deaf):
    monkeypatch.setattr(server_process, "STOP_S", 1.0)
    process, pids = start_bad(tmp_path, *(["--deaf"] if deaf else []))
    process.stop()
    assert not any(is_alive(p) for p in pids)
    assert process.returncode == (-signal.SIGKILL if deaf else 0)
    assert ("was killed" in caplog.text) == deaf


@linux
def test_children_do_not_survive_the_server(tmp_path):
    process, pids = start_bad(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    assert process.ended.wait(WAIT_S) and wait_gone(*pids)
    process.stop()


@linux
def test_a_guard_that_is_killed_takes_the_server_and_its_group_along(run):
    program = "import subprocess, sys; c = subprocess.Popen(['sleep', '600']); print('child', c.pid); c.wait()"
    process = run(program)
    while "child" not in process.last_lines():
        time.sleep(0.02)
    child = int(process.last_lines().split()[-1])
    process._guard.kill()
    assert process.ended.wait(WAIT_S) and wait_gone(process.pid, child)


PARENT = """
import sys, threading, time
from pathlib import Path
from tasks.answers import server_process
from tests.answers.test_server_process import start_bad
server_process.STOP_S = 1.0
box = []
starter = threading.Thread(target=lambda: box.append(start_bad(Path(sys.argv[1]))))
starter.start()
starter.join()  # the thread that started the server is gone: the server must not care
time.sleep(0.5)
assert not box[0][0].ended.is_set()
print(*box[0][1], flush=True)
if sys.argv[2] == "wait":
    time.sleep(600)
if sys.argv[2] == "raise":
    raise ValueError("oops")
"""


@linux
@pytest.mark.parametrize("how", ["wait", "raise", "return"])
def test_no_server_outlives_the_run_however_it_ends(tmp_path, how):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), how], cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        pids = [int(p) for p in parent.stdout.readline().split()]
        assert len(pids) == 3
        if how == "wait":
            parent.kill()
        parent.wait(WAIT_S)
        assert wait_gone(*pids)
    finally:
        parent.kill()
        parent.communicate()


@pytest.mark.parametrize(("name", "remedy"), [("vllm", "cuebook[vllm]"), ("no-program", "install no-program")])
def test_a_program_that_is_not_installed(name, remedy, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AnswererError) as caught:
        ServerProcess("server-0", [name, "serve"], os.environ)
    assert remedy in str(caught.value) and "--vlm.serve_command" in str(caught.value)


def test_a_program_beside_this_python_is_found_although_it_is_not_on_the_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    name = Path(sys.executable).name
    assert server_process.find_program(name) == str(Path(sys.executable).parent / name)


def test_a_program_that_cannot_be_run_is_told_as_an_early_end(tmp_path):
    program = tmp_path / "server"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    process = ServerProcess("server-0", [str(program)], os.environ)
    assert process.ended.wait(WAIT_S) and process.returncode == 127
    assert "cannot start" in process.last_lines()
    process.stop()
