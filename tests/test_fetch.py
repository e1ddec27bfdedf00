"""Fetching from servers that misbehave: the right file arrives, or none and one sentence."""

import errno
import hashlib
import os
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.error import URLError

import pytest
from mirror import FILE, REPOSITORY, REVISION, Mirror

from weights import fetch as module
from weights.fetch import MIRROR, OFFLINE, TRIES, address, fetch
from weights.lock import Held, locked
from weights.published import PUBLISHED, VARIABLE, Published, locate

CONTENT = bytes(range(256)) * 1200  # more than one read
WRONG = CONTENT[:-1] + b"!"


@pytest.fixture(autouse=True)
def published(monkeypatch):
    """One small published file, and an environment that says nothing of where to get it."""
    entry = Published(REPOSITORY, REVISION, FILE, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setitem(PUBLISHED, "sd21", entry)
    for variable in (MIRROR, VARIABLE, *OFFLINE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return entry


@contextmanager
def serving(content):
    with Mirror(content) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def mirror():
    with serving(CONTENT) as server:
        yield server


def get(folder, *mirrors, **settings):
    return fetch("sd21", folder, [m if isinstance(m, str) else m.url for m in mirrors], pause=0, **settings)


def refused(folder, *mirrors, **settings):
    with pytest.raises(ValueError) as error:
        get(folder, *mirrors, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# What arrives


def test_the_file_arrives_whole_and_alone(tmp_path, mirror, capsys):
    path = get(tmp_path / "new", mirror)
    assert path == tmp_path / "new" / FILE and path.read_bytes() == CONTENT
    assert names(tmp_path / "new") == [FILE]
    assert mirror.asked == [None]
    assert capsys.readouterr() == ("", "")


def test_a_progress_bar_is_shown_when_asked_for(tmp_path, mirror, capsys):
    get(tmp_path, mirror, progress=True)
    assert FILE in capsys.readouterr().err


def test_what_is_there_is_hashed_and_not_fetched_again(tmp_path, mirror):
    get(tmp_path, mirror)
    get(tmp_path, mirror)
    assert len(mirror.asked) == 1
    (tmp_path / FILE).write_bytes(WRONG)
    assert "its SHA-256 is" in refused(tmp_path, mirror)
    (tmp_path / FILE).write_bytes(b"short")
    assert "it has 5 bytes" in refused(tmp_path, mirror)
    assert (tmp_path / FILE).read_bytes() == b"short"


def test_an_interrupted_run_is_gone_on_from(tmp_path, mirror):
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT[:1000])
    assert get(tmp_path, mirror).read_bytes() == CONTENT
    assert mirror.asked == ["bytes=1000-"]
    assert names(tmp_path) == [FILE]


def test_an_interrupted_run_that_only_lacked_the_name(tmp_path, mirror):
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT)
    assert get(tmp_path, mirror).read_bytes() == CONTENT
    assert mirror.asked == []


@pytest.mark.parametrize("left", [b"?" * 1000, WRONG, CONTENT + b"and more"])
def test_what_was_left_of_something_else_does_no_harm(tmp_path, mirror, left):
    (tmp_path / f"{FILE}.part").write_bytes(left)
    assert get(tmp_path, mirror).read_bytes() == CONTENT
    assert mirror.asked[-1] is None


# Servers that misbehave


def test_broken_connections_are_taken_up_where_they_broke(tmp_path, mirror):
    mirror.cut = len(CONTENT) // 9
    assert get(tmp_path, mirror).read_bytes() == CONTENT
    assert mirror.asked == [None, *(f"bytes={i * mirror.cut}-" for i in range(1, 10))]


def test_a_server_without_ranges_starts_again(tmp_path, mirror):
    mirror.ranges = False
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT[:1000])
    assert get(tmp_path, mirror).read_bytes() == CONTENT


def test_a_server_that_breaks_off_and_has_no_ranges_is_given_up(tmp_path, mirror):
    mirror.ranges, mirror.cut = False, 5000
    told = refused(tmp_path, mirror)
    assert f"broke off, {TRIES} times in a row, at 5000 of {len(CONTENT)} bytes" in told
    assert len(mirror.asked) == TRIES
    assert names(tmp_path) == [f"{FILE}.part"] and "the same command goes on from there" in told


def test_a_server_that_does_not_say_how_long_the_file_is(tmp_path, mirror):
    mirror.length = False
    assert get(tmp_path, mirror).read_bytes() == CONTENT
    mirror.content = CONTENT + b"and more"
    (tmp_path / FILE).unlink()
    assert "sends more than" in refused(tmp_path, mirror)
    assert names(tmp_path) == []


def test_wrong_bytes_are_deleted_and_said(tmp_path, mirror):
    mirror.content = WRONG
    told = refused(tmp_path, mirror)
    assert hashlib.sha256(WRONG).hexdigest() in told and "deleted" in told
    assert names(tmp_path) == []


def test_a_file_of_another_size_is_not_downloaded(tmp_path, mirror):
    mirror.content = CONTENT[:-1]
    assert f"has a file of {len(CONTENT) - 1} bytes where {len(CONTENT)} were published" in refused(tmp_path, mirror)
    assert names(tmp_path) == []
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT[:1000])
    refused(tmp_path, mirror)
    assert (tmp_path / f"{FILE}.part").read_bytes() == CONTENT[:1000]


def test_another_range_than_was_asked_for(tmp_path, mirror):
    mirror.shift = 7
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT[:1000])
    assert "another range than was asked for (bytes 1007-" in refused(tmp_path, mirror)


@pytest.mark.parametrize("status", [401, 403, 404, 410, 416])
def test_a_refusal_is_final(tmp_path, mirror, status):
    mirror.statuses = [status]
    assert f"answers {status}" in refused(tmp_path, mirror)
    assert len(mirror.asked) == 1 and names(tmp_path) == []


def test_a_busy_server_is_asked_again(tmp_path, mirror):
    mirror.statuses = [503, 429, 500]
    assert get(tmp_path, mirror).read_bytes() == CONTENT
    mirror.statuses = [503] * 10
    (tmp_path / FILE).unlink()
    assert f"answers 503 Service Unavailable, {TRIES} times in a row" in refused(tmp_path, mirror)


def test_nobody_there(tmp_path):
    with serving(b"") as gone:
        url = gone.url
    assert "is not to be reached" in refused(tmp_path, url)


def test_waiting_grows_between_tries(tmp_path, mirror, monkeypatch):
    waited = []
    monkeypatch.setattr(module.time, "sleep", waited.append)
    mirror.statuses = [503] * 10
    with pytest.raises(ValueError):
        fetch("sd21", tmp_path, [mirror.url])
    assert waited == [1, 2, 4, 8]


# Mirrors, folders, no network


def test_mirrors_are_tried_in_order(tmp_path, mirror):
    with ExitStack() as stack:
        absent, wrong = (stack.enter_context(serving(content)) for content in (CONTENT, WRONG))
        absent.statuses = [404]
        with pytest.warns(UserWarning) as told:
            assert get(tmp_path, absent, wrong, mirror).read_bytes() == CONTENT
    first, second = (str(warning.message) for warning in told)
    assert "answers 404" in first and "it was deleted" in second
    assert names(tmp_path) == [FILE]


def test_all_mirrors_failing_are_all_named(tmp_path, mirror):
    with serving(WRONG) as wrong:
        mirror.statuses = [404]
        with pytest.warns(UserWarning, match="answers 404 Not Found; trying 127.0.0.1"):
            told = refused(tmp_path, mirror, wrong)
    assert "answers 404" in told and "serves a file whose SHA-256" in told


def test_a_second_mirror_goes_on_where_the_first_broke_off(tmp_path, mirror):
    with serving(CONTENT) as broken:
        broken.ranges, broken.cut = False, 5000
        with pytest.warns(UserWarning, match="broke off"):
            assert get(tmp_path, broken, mirror).read_bytes() == CONTENT
    assert mirror.asked == ["bytes=5000-"]


def test_ranges_survive_being_sent_elsewhere(tmp_path, mirror):
    """The hub answers every request with the address of a storage server."""
    with serving(b"") as hub:
        hub.elsewhere, mirror.cut = mirror, len(CONTENT) // 3
        assert get(tmp_path, hub).read_bytes() == CONTENT
        assert hub.asked == mirror.asked == [None, *(f"bytes={i * mirror.cut}-" for i in range(1, 3))]


def test_a_mirror_may_be_the_file_itself(tmp_path, mirror):
    assert get(tmp_path, f"{mirror.url}/{FILE}").read_bytes() == CONTENT


def test_the_environment_names_mirrors_and_folder(tmp_path, mirror, monkeypatch):
    mirror.statuses = [404]
    monkeypatch.setenv(MIRROR, f" {mirror.url}/, {mirror.url} ")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    with pytest.warns(UserWarning, match="404"):
        assert fetch("sd21") == tmp_path / "cache" / FILE


def test_the_hub_is_where_files_come_from_unless_told(published):
    assert address(published, None).startswith("https://")
    assert address(published, None).endswith(f"/{REPOSITORY}/resolve/{REVISION}/{FILE}")
    assert address(published, "http://h/sub/") == f"http://h/sub/{REPOSITORY}/resolve/{REVISION}/{FILE}"


def test_a_mirror_that_is_no_web_address(tmp_path):
    assert "want http:// or https://" in refused(tmp_path, "file:///etc/passwd")
    assert "want http:// or https://" in refused(tmp_path, "hf-mirror.example")


@pytest.mark.parametrize("variable", OFFLINE)
def test_offline_nobody_is_asked(tmp_path, mirror, monkeypatch, variable):
    assert "no network is wanted" in refused(tmp_path, mirror, offline=True)
    monkeypatch.setenv(variable, "1")
    assert "no network is wanted" in refused(tmp_path, mirror)
    assert mirror.asked == []
    (tmp_path / FILE).write_bytes(CONTENT)
    assert get(tmp_path, mirror) == tmp_path / FILE
    monkeypatch.setenv(variable, "0")
    (tmp_path / FILE).unlink()
    get(tmp_path, mirror)


def test_an_unknown_name(tmp_path):
    with pytest.raises(ValueError, match="no published checkpoint 'sdxl': want one of sd21, sd21-base, sd15"):
        fetch("sdxl", tmp_path)


# The disk


def test_too_little_room_is_said_before(tmp_path, mirror, monkeypatch):
    usage = type("Usage", (), {"free": len(CONTENT) - 1})
    monkeypatch.setattr("weights.atomic.shutil.disk_usage", lambda _: usage)
    assert "make room" in refused(tmp_path / "new", mirror)
    assert mirror.asked == [] and names(tmp_path) == []
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT[:1000])  # what is there needs no room
    get(tmp_path, mirror)


def test_a_disk_that_fills_up_is_no_broken_connection(tmp_path, mirror, monkeypatch):
    def full(part, chunk):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.PartialFile, "append", full)
    with pytest.raises(OSError, match="No space left"):
        get(tmp_path, mirror)
    assert len(mirror.asked) == 1


def test_ctrl_c_keeps_what_came(tmp_path, mirror, monkeypatch):
    append = module.PartialFile.append

    def pressed(part, chunk):
        append(part, chunk[:1000])
        raise KeyboardInterrupt

    monkeypatch.setattr(module.PartialFile, "append", pressed)
    with pytest.raises(KeyboardInterrupt):
        get(tmp_path, mirror)
    assert (tmp_path / f"{FILE}.part").read_bytes() == CONTENT[:1000]


def test_every_published_file_is_pinned():
    for published in PUBLISHED.values():
        assert len(published.sha256) == 64 and set(published.sha256) <= set("0123456789abcdef")
        assert published.revision not in ("", "main") and published.bytes > 0


# Two at once


def test_two_at_once_do_not_share_a_file(tmp_path, mirror, monkeypatch):
    """The second is told who has it, and neither touches what the first has nor keeps it from finishing."""
    append, told = module.PartialFile.append, []

    def meanwhile(part, chunk):
        append(part, chunk)
        if not told:
            told.append(refused(tmp_path, mirror))

    monkeypatch.setattr(module.PartialFile, "append", meanwhile)
    assert get(tmp_path, mirror).read_bytes() == CONTENT
    (sentence,) = told
    assert sentence.startswith(f"process {os.getpid()} on ") and f"is fetching {tmp_path / FILE} already" in sentence
    assert mirror.asked == [None] and names(tmp_path) == [FILE]


def test_those_that_race_install_the_right_file_or_none(tmp_path, mirror):
    """Six at once: at least one brings the file; the others find it there, or say who is at it."""
    mirror.cut = len(CONTENT) // 20
    start, ends = threading.Barrier(6), []

    def racing():
        start.wait()
        try:
            ends.append(get(tmp_path, mirror).read_bytes() == CONTENT)
        except ValueError as error:
            ends.append(f"is fetching {tmp_path / FILE} already" in str(error))

    threads = [threading.Thread(target=racing) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == [True] * 6
    assert (tmp_path / FILE).read_bytes() == CONTENT and names(tmp_path) == [FILE]


def test_the_lock_goes_with_the_process_that_held_it(tmp_path):
    program = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); print(); input()"
    command = [sys.executable, "-uc", program, str(tmp_path / "lock")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    holder.stdout.readline()
    with pytest.raises(Held, match="another process"), locked(tmp_path / "lock"):
        pass
    holder.kill()
    holder.communicate()
    with locked(tmp_path / "lock"):
        assert (tmp_path / "lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}"
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_no_lock(tmp_path, mirror):
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT[:1000])
    (tmp_path / f"{FILE}.part.lock").write_text("process 1 on elsewhere")
    assert get(tmp_path, mirror).read_bytes() == CONTENT
    assert mirror.asked == ["bytes=1000-"] and names(tmp_path) == [FILE]


def test_where_the_other_has_finished_meanwhile_nothing_is_fetched(tmp_path, mirror, monkeypatch):
    @contextmanager
    def late(path):
        (tmp_path / FILE).write_bytes(CONTENT)
        yield

    monkeypatch.setattr(module, "locked", late)
    assert get(tmp_path, mirror) == tmp_path / FILE and mirror.asked == []


def test_without_locks_it_warns_and_goes_on(tmp_path, mirror, monkeypatch):
    def none(handle):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("weights.lock._lock", none)
    with pytest.warns(UserWarning, match=r"cannot lock \S+\.lock \(No locks available\): run one at a time"):
        assert get(tmp_path, mirror).read_bytes() == CONTENT


def test_the_hash_is_of_what_lies_on_the_disk(tmp_path, mirror, monkeypatch):
    """What came over the wire was right; what another program wrote into the file meanwhile was not."""
    append = module.PartialFile.append

    def spoilt(part, chunk):
        append(part, chunk)
        if part.size == part.total:
            with open(part.path, "r+b") as file:
                file.write(b"!")

    monkeypatch.setattr(module.PartialFile, "append", spoilt)
    assert "serves a file whose SHA-256 is" in refused(tmp_path, mirror)
    assert names(tmp_path) == []


# Addresses and folders that cannot be


@pytest.mark.parametrize(
    "url", ["http://", "https:///file", "http://h:port", "http://h:99999", "http://[::1", "http://a b/", "http://a\n/"]
)
def test_an_address_that_cannot_be_one_is_not_tried(tmp_path, monkeypatch, url):
    monkeypatch.setattr(module, "urlopen", lambda *_, **__: pytest.fail("was asked"))
    for ending in ("", "/x.safetensors"):
        told = refused(tmp_path / "new", url + ending)
        assert "is no web address: want http:// or https://" in told
    assert not (tmp_path / "new").exists()
    assert len(refused(tmp_path, f"{url}{'x' * 5000}\n")) < 300


def test_a_name_that_does_not_exist_is_asked_for_once(tmp_path, monkeypatch):
    asked = []

    def unknown(request, timeout):
        asked.append(request)
        raise URLError(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))

    monkeypatch.setattr(module, "urlopen", unknown)
    assert "nowhere.invalid is not to be reached" in refused(tmp_path, "http://nowhere.invalid")
    assert len(asked) == 1 and names(tmp_path) == []


def test_a_redirection_to_no_address_is_final(tmp_path, mirror, monkeypatch):
    monkeypatch.setattr(Mirror, "url", "http://127.0.0.1:port")
    with Mirror(b"") as hub:
        hub.elsewhere = mirror
        threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        assert "leads to no web address" in refused(tmp_path, f"http://127.0.0.1:{hub.server_port}")
        hub.shutdown()
    assert len(hub.asked) == 1


def test_a_home_that_nobody_has_is_one_sentence(tmp_path, mirror, monkeypatch):
    with pytest.raises(ValueError, match=r"nobody knows the home folder in ~nosuchuser/x: set HOME, or PHOTOSWAP_W"):
        get(Path("~nosuchuser/x"), mirror)
    monkeypatch.setenv(VARIABLE, "~nosuchuser")
    with pytest.raises(ValueError, match="nobody knows the home folder in ~nosuchuser"):
        fetch("sd21", mirrors=[mirror.url])
    with pytest.raises(ValueError, match="nobody knows the home folder in ~nosuchuser/model"):
        locate("~nosuchuser/model")
    monkeypatch.delenv(VARIABLE)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda _: {}["nobody"])
    with pytest.raises(ValueError, match=r"nobody knows the home folder in ~/\.cache/photoswap: set HOME"):
        fetch("sd21", mirrors=[mirror.url])


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "y/" * 3000])
def test_what_can_be_no_path_is_no_model(name):
    with pytest.raises(ValueError, match="no model") as error:
        locate(name)
    assert len(str(error.value)) < 300
