"""What a machine does with a home, over a real S3 that can be made to fail: answers get lost, rights are missing, processes are killed."""

import http.client
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from fleetctl.standby import homes, housekeeper, objects, parcel
from fleetctl.standby.housekeeper import House, Keeper, locked
from fleetctl.standby.objects import Keys, Trouble

pytestmark = pytest.mark.cloud

BUCKET = "homes-on-machines"
NOBODY = 65534

class Gate(http.server.BaseHTTPRequestHandler):
    """Between a machine and S3: `rules` are asked first, each for what to do with a request; the metadata service as well."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        size = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(size)
        if self.path.startswith("/latest/"):
            return self._say(*self.server.metadata(self.path))
        self.server.seen.append((self.command, self.path))
        done = next((one for rule in list(self.server.rules) if (one := rule(self.command, self.path))), None)
        if isinstance(done, tuple):
            return self._say(*done)
        at = urlsplit(self.server.behind)
        connection = http.client.HTTPConnection(at.hostname, at.port)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if done == "lose":
            self.close_connection = True
            return self.connection.shutdown(2)
        return self._say(answer.status, text, dict(answer.getheaders()), head=self.command == "HEAD")

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def _say(self, status, body=b"", headers=None, head=False):
        self.send_response(status)
        for name, value in (headers or {}).items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def error(status, code):
    return status, f"<Error><Code>{code}</Code></Error>".encode()


def once(match, what):
    """A rule for the first request whose method and path the words are in."""
    left = [what]

    def rule(method, path):
        return left.pop() if left and all(word in f"{method} {path}" for word in match.split()) else None

    return rule


@pytest.fixture
def gate(session, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    server.daemon_threads = True
    server.behind, server.rules, server.seen, server.notice = session.profile.endpoint_url, [], [], False

    keys = session.boto3().get_credentials()
    role = {"AccessKeyId": keys.access_key, "SecretAccessKey": keys.secret_key, "Token": "token", "Expiration": "2099-01-01T00:00:00Z"}

    def metadata(path):
        if path.endswith("/api/token"):
            return 200, b"token"
        if path.endswith("/security-credentials/"):
            return 200, b"role"
        if path.endswith("/role"):
            return 200, json.dumps(role).encode()
        if path.endswith("/instance-action") and server.notice:
            return 200, b"{}"
        return 404, b""

    server.metadata = metadata
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
    monkeypatch.setattr(objects, "PAUSE", 0.01)
    client = session.boto3().client("s3")
    if BUCKET not in {one["Name"] for one in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=BUCKET)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def machine(gate, tmp_path, request):
    """Makes machines: `.load()`, `.house()`, `.home` (the directory)."""

    def make(name="i-1", at=tmp_path, **options):
        here = at / name / "state"
        here.mkdir(parents=True, exist_ok=True)
        home = at / name / "home"
        asked = {"bucket": BUCKET, "prefix": request.node.name, "region": "us-east-1", "dir": str(home), "minutes": 0.0,
                 "holder": {"instance": name, "since": housekeeper.stamp()}, **options}  # fmt: skip
        return SimpleNamespace(here=here, home=home, house=lambda: House(here), load=lambda **more: House(here).load(asked | more))

    return make


@pytest.fixture
def stored(session, request):
    """What is in S3 of this test's home: keys, and the pointer."""
    client = session.boto3().client("s3")

    def look():
        rows = client.list_objects_v2(Bucket=BUCKET, Prefix=request.node.name + "/").get("Contents", ())
        keys = sorted(one["Key"].split("/", 1)[1] for one in rows)
        text = client.get_object(Bucket=BUCKET, Key=f"{request.node.name}/home.json")["Body"].read() if keys else b"null"
        uploads = client.list_multipart_uploads(Bucket=BUCKET, Prefix=request.node.name + "/").get("Uploads", [])
        return SimpleNamespace(keys=keys, snapshots=[key for key in keys if key != "home.json"], pointer=json.loads(text), uploads=uploads)

    return look


def written(machine, text="tide", name="one"):
    (machine.home / name).write_text(text)


@pytest.mark.parametrize("query", [{}, {"uploads": ""}, {"partNumber": "3", "uploadId": "a+b/c=="}])
@pytest.mark.parametrize("key", ["home.json", "a b/ü~x.tar.gz"])
def test_requests_are_signed_as_botocore_signs_them(query, key):
    path, now = f"/bucket/{key}", 1_700_000_000.0
    url = f"https://s3.eu-west-1.amazonaws.com{objects.plain(path)}" + ("?" + objects.asked(query) if query else "")
    request = AWSRequest("PUT", url, headers={"if-match": '"e"', "x-amz-content-sha256": "00"}, data=b"")
    request.context["timestamp"] = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))

    class Then(S3SigV4Auth):
        def add_auth(self, request):
            request.headers["X-Amz-Date"] = request.context["timestamp"]
            request.headers["X-Amz-Security-Token"] = "token"
            canonical = self.canonical_request(request)
            request.signature = self.signature(self.string_to_sign(request, canonical), request)

        def payload(self, request):
            return "00"

    Then(Credentials("access", "secret", "token"), "s3", "eu-west-1").add_auth(request)
    headers = objects.signed("PUT", "s3.eu-west-1.amazonaws.com", path, query, {"if-match": '"e"'}, "00",
                             Keys("access", "secret", "token", 0.0), "eu-west-1", now)  # fmt: skip
    assert headers["authorization"].rpartition("Signature=")[2] == request.signature


def test_a_new_home_is_empty_and_what_is_put_there_comes_back_elsewhere(machine, stored):
    one, two = machine("i-1"), machine("i-2")
    one.load()
    assert list(one.home.iterdir()) == []
    written(one)
    assert one.house().unload(discard=False)["bytes"] > 0
    assert (one.home.exists(), one.house().state, stored().pointer["holder"]) == (False, {}, None)
    two.load()
    assert (two.home / "one").read_text() == "tide"
    assert stored().pointer["holder"]["instance"] == "i-2"


def test_of_two_machines_that_want_a_home_one_has_it_and_what_the_other_has_is_untouched(machine, stored):
    one, two = machine("i-1"), machine("i-2")
    one.load()
    before = stored().pointer
    with pytest.raises(Trouble, match="in use on i-1") as caught:
        two.load()
    assert caught.value.more["holder"]["instance"] == "i-1"
    assert (two.home.exists(), two.house().state, stored().pointer) == (False, {}, before)


def test_two_that_come_at_the_same_moment_do_not_both_get_it(machine, stored, gate):
    one, two = machine("i-1"), machine("i-2")
    both, looks = threading.Barrier(2), iter(range(2))

    def together(method, path):
        """Both have seen that there is no home before either makes it."""
        if method == "GET" and path.endswith("home.json") and next(looks, None) is not None:
            both.wait(60)

    gate.rules.append(together)
    outcomes = []

    def come(which):
        try:
            which.load()
            outcomes.append("has it")
        except Trouble as trouble:
            outcomes.append(trouble.kind)

    threads = [threading.Thread(target=come, args=(which,)) for which in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["has it", "held"]
    assert one.home.exists() != two.home.exists()


def test_one_that_has_lost_its_home_to_another_overwrites_nothing_and_keeps_its_files(machine, stored):
    one, two = machine("i-1"), machine("i-2")
    one.load()
    written(one, "of one")
    two.load(seize=stored().pointer["serial"])
    written(two, "of two")
    two.house().save(whole=True, release=False)
    before = stored()
    with pytest.raises(Trouble, match="taken over by i-2") as caught:
        one.house().unload(discard=False)
    assert caught.value.kind == "conflict"
    assert (one.home / "one").read_text() == "of one"
    assert stored().keys == before.keys
    one.house().unload(discard=True)
    assert (stored().pointer, one.home.exists()) == (before.pointer, False)


def test_one_that_is_taken_over_while_it_sends_leaves_nothing_of_that_behind(machine, stored, monkeypatch):
    one, two = machine("i-1"), machine("i-2")
    one.load()
    written(one)
    real = housekeeper.send

    def meanwhile(*given, **options):
        made = real(*given, **options)
        monkeypatch.setattr(housekeeper, "send", real)
        two.load(seize=stored().pointer["serial"])
        return made

    monkeypatch.setattr(housekeeper, "send", meanwhile)
    with pytest.raises(Trouble, match="taken over by i-2"):
        one.house().save(whole=True, release=False)
    assert stored().keys == ["home.json"]


@pytest.mark.parametrize("where", ["PUT home.json", "PUT snapshots", "GET home.json"])
@pytest.mark.parametrize("how", ["lose", error(503, "SlowDown"), error(500, "InternalError")])
def test_an_answer_that_is_lost_or_an_error_that_passes_harms_nothing(machine, stored, gate, where, how):
    one = machine()
    gate.rules.append(once(where, how))
    one.load()
    written(one)
    gate.rules.append(once(where, how))
    one.house().save(whole=True, release=False)
    written(one, "ebb")
    gate.rules.append(once(where, how))
    one.house().unload(discard=False)
    two = machine("i-2")
    two.load()
    assert (two.home / "one").read_text() == "ebb"


def test_a_large_home_goes_in_parts_and_comes_back_in_parts(machine, stored, gate, monkeypatch):
    monkeypatch.setattr(parcel, "BLOCK", 1 << 20)
    monkeypatch.setattr(parcel, "PART", 5 << 20)
    one, two = machine("i-1"), machine("i-2")
    one.load()
    large = os.urandom((12 << 20) + 17)
    (one.home / "large").write_bytes(large)
    with (one.home / "hole").open("wb") as file:
        file.truncate(1 << 30)  # a hole is not sent
    gate.rules.append(once("POST uploadId", "lose"))
    one.house().unload(discard=False)
    assert sum("partNumber" in path for _, path in gate.seen) == 3
    assert stored().uploads == []
    two.load()
    assert (two.home / "large").read_bytes() == large
    assert (two.home / "hole").stat().st_size == 1 << 30


def test_a_home_of_which_a_part_is_refused_is_all_there_still_and_nothing_half_is_left(machine, stored, gate, monkeypatch):
    monkeypatch.setattr(parcel, "BLOCK", 1 << 20)
    monkeypatch.setattr(parcel, "PART", 5 << 20)
    one = machine()
    one.load()
    (one.home / "large").write_bytes(os.urandom(12 << 20))
    before = stored().pointer
    gate.rules.append(refuse := lambda method, path: error(403, "AccessDenied") if "partNumber=2" in path else None)
    with pytest.raises(Trouble, match="may not s3:PutObject") as caught:
        one.house().unload(discard=False)
    assert caught.value.kind == "denied"
    assert ((one.home / "large").stat().st_size, stored().pointer, stored().uploads, stored().snapshots) == (12 << 20, before, [], [])
    gate.rules.remove(refuse)
    one.house().unload(discard=False)
    assert len(stored().snapshots) == 1


def test_one_that_is_killed_while_it_sends_is_gone_on_with_and_its_parts_are_forgotten(machine, stored, gate):
    one = machine()
    one.load()
    (one.home / "large").write_bytes(os.urandom(24 << 20))
    sending, go_on = threading.Event(), threading.Event()

    def hold(method, path):
        if "partNumber=2" in path and not go_on.is_set():
            sending.set()
            go_on.wait(60)

    gate.rules.append(hold)
    script = ("import sys; from pathlib import Path; from fleetctl.standby.housekeeper import House\n"
              "House(Path(sys.argv[1])).unload(discard=False)")  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", script, str(one.here)])
    assert sending.wait(60)
    process.kill()
    process.wait()
    go_on.set()
    [left] = stored().uploads
    one.house().unload(discard=False)
    assert left["UploadId"] not in [upload["UploadId"] for upload in stored().uploads]
    assert len(stored().snapshots) == 1


def test_what_was_there_at_the_hand_out_stays_beside_the_newest_and_nothing_else(machine, stored):
    one = machine()
    one.load()
    for text in ("1", "2", "3"):
        written(one, text)
        one.house().save(whole=True, release=False)
    assert (len(stored().snapshots), stored().pointer["former"]) == (1, None)
    one.house().unload(discard=False)
    first = stored().pointer["snapshot"]["key"]
    one.load()
    for text in ("4", "5"):
        written(one, text)
        one.house().save(whole=True, release=False)
    assert stored().pointer["former"]["key"] == first
    assert sorted(stored().snapshots) == sorted([first, stored().pointer["snapshot"]["key"]])


def test_a_snapshot_that_could_not_be_deleted_is_deleted_with_the_next_save(machine, stored, gate):
    one = machine()
    one.load()
    written(one, "1")
    one.house().save(whole=True, release=False)
    gate.rules.append(refuse := lambda method, path: error(403, "AccessDenied") if method == "DELETE" else None)
    written(one, "22")
    one.house().save(whole=True, release=False)
    assert len(stored().snapshots) == 2
    gate.rules.remove(refuse)
    written(one, "333")
    one.house().save(whole=True, release=False)
    assert stored().snapshots == [stored().pointer["snapshot"]["key"]]


def test_what_has_not_changed_is_not_sent(machine, gate):
    one = machine()
    one.load()
    written(one)
    one.house().save(whole=True, release=False)
    gate.seen.clear()
    assert one.house().save(whole=True, release=False)["bytes"] == 0
    assert [method for method, _ in gate.seen] == ["GET"]


CHANGES = {
    "mode": lambda one: one.chmod(0o700),
    "time": lambda one: os.utime(one, ns=(5, 5)),
    "name": lambda one: one.rename(one.parent / "b"),
    "end": lambda one: one.unlink(),
    "content": lambda one: one.write_text("ebb!"),
    "link": lambda one: os.symlink("a", one.parent / "c"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_changes_in_a_directory_changes_its_fingerprint(tmp_path, change):
    one = tmp_path / "below" / "one"
    one.parent.mkdir()
    one.write_text("tide")
    before = parcel.fingerprint(tmp_path)
    assert parcel.fingerprint(tmp_path) == before
    change(one)
    assert parcel.fingerprint(tmp_path) != before


def test_a_directory_that_is_gone_is_not_taken_for_an_empty_one(machine, stored):
    one = machine()
    one.load()
    written(one)
    one.house().save(whole=True, release=False)
    shutil.rmtree(one.home)
    with pytest.raises(Trouble, match="any more"):
        one.house().unload(discard=False)
    assert len(stored().snapshots) == 1


def test_what_goes_on_being_written_is_saved_and_not_taken_away(machine, stored, monkeypatch):
    one = machine()
    one.load()
    real, number = housekeeper.send, iter(range(100))

    def busy(*given, **options):
        made = real(*given, **options)
        written(one, "x" * next(number))
        return made

    monkeypatch.setattr(housekeeper, "send", busy)
    written(one, "first")
    with pytest.raises(Trouble, match="goes on writing"):
        one.house().unload(discard=False)
    assert (stored().pointer["holder"]["instance"], one.home.exists()) == ("i-1", True)
    monkeypatch.setattr(housekeeper, "send", real)
    one.house().unload(discard=False)
    assert stored().pointer["holder"] is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else, who may not read")
def test_a_file_that_cannot_be_read_is_told_and_left_out_only_where_the_machine_ends(machine, stored):
    script = ("import json, os, sys; from pathlib import Path; from fleetctl.standby.housekeeper import House, Trouble\n"
              "house = House(Path(sys.argv[1])); house.mine()\n"  # so that Python has read all that nobody else may
              f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
              "try: print(json.dumps(house.save(whole=sys.argv[2] == 'whole', release=False)))\n"
              "except Trouble as error: print(json.dumps([error.kind, error.what]))")  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        one = machine(at=Path(directory))
        one.load()
        written(one)
        written(one, "mine", "closed")
        for path in [Path(directory), *Path(directory).rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
        os.chown(one.home / "closed", 0, 0)
        (one.home / "closed").chmod(0o600)

        def as_nobody(how):
            done = subprocess.run([sys.executable, "-c", script, str(one.here), how], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        kind, what = as_nobody("whole")
        assert kind == "unreadable"
        assert "closed" in what
        assert stored().snapshots == []
        assert "closed" in as_nobody("partly")["left_out"][0]
        assert "closed" in stored().pointer["snapshot"]["left_out"][0]


def test_a_home_that_is_damaged_or_too_large_is_refused_before_anything_counts(machine, stored, session, request):
    one = machine()
    one.load()
    written(one)
    one.house().unload(discard=False)
    pointer = stored().pointer
    at, key = (f"{request.node.name}/{one}" for one in ("home.json", pointer["snapshot"]["key"]))
    client = session.boto3().client("s3")
    body = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def refused(kind, place=pointer, content=body):
        client.put_object(Bucket=BUCKET, Key=key, Body=content)
        client.put_object(Bucket=BUCKET, Key=at, Body=json.dumps(place))
        with pytest.raises(Trouble) as caught:
            one.load()
        assert (caught.value.kind, one.home.exists(), one.house().state, stored().pointer["holder"]) == (kind, False, {}, None)

    snapshot = pointer["snapshot"]
    refused("space", {**pointer, "snapshot": {**snapshot, "unpacked": 1 << 60}})
    refused("broken", {**pointer, "snapshot": {**snapshot, "sha256": "0" * 64}})
    refused("broken", content=body[:10] + bytes(len(body) - 10))
    refused("refused", content=body[:-1])
    one_again = machine()
    client.put_object(Bucket=BUCKET, Key=key, Body=body)
    client.put_object(Bucket=BUCKET, Key=at, Body=json.dumps(pointer))
    one_again.load()
    assert (one_again.home / "one").read_text() == "tide"


def test_who_may_not_list_hears_denied_of_what_is_not_there_and_makes_it(machine, stored, gate):
    gate.rules.append(once("GET home.json", error(403, "AccessDenied")))
    machine("i-1").load()
    assert stored().pointer["holder"]["instance"] == "i-1"
    gate.rules.append(lambda method, path: error(403, "AccessDenied") if method == "GET" else None)
    with pytest.raises(Trouble, match="may not s3:GetObject") as caught:
        machine("i-2").load()
    assert caught.value.kind == "denied"


def test_a_bucket_in_another_region_is_found_there_and_none_is_told(machine, gate):
    gate.rules.append(once("GET home.json", (301, b"<Error><Code>PermanentRedirect</Code></Error>", {"x-amz-bucket-region": "eu-west-1"})))
    machine().load()
    with pytest.raises(Trouble, match="there is no bucket nobody-has-this"):
        machine("i-2", bucket="nobody-has-this").load()


def test_credentials_that_have_ended_are_asked_for_anew(machine, gate):
    one = machine()
    gate.rules.append(once("GET home.json", error(400, "ExpiredToken")))
    one.load()
    gate.metadata = lambda path: (200, b"token") if path.endswith("/api/token") else (404, b"")
    with pytest.raises(Trouble, match="has no role"):
        one.house().unload(discard=False)
    assert one.home.exists()


def test_something_that_is_in_the_way_is_not_touched(machine):
    one = machine()
    one.home.mkdir(parents=True)
    written(one, "of another")
    with pytest.raises(Trouble, match="something in"):
        one.load()
    assert (one.home / "one").read_text() == "of another"
    shutil.rmtree(one.home)
    one.load()
    with pytest.raises(Trouble, match="has a home already"):
        one.load()


def test_the_image_of_a_machine_with_a_home_has_none(machine):
    one = machine()
    one.load()
    shutil.rmtree(one.home)
    two = machine("i-2")
    shutil.copy(one.here / "state.json", two.here / "state.json")
    with pytest.raises(Trouble, match="in use on i-1"):
        two.load()
    assert two.house().state == {}


def test_one_that_died_at_any_step_is_gone_on_with(machine, stored):
    one = machine()
    one.load()
    written(one)
    state = (one.here / "state.json").read_text()
    one.house().save(whole=True, release=True)
    for phase in ("loaded", "released"):  # before the directory was renamed, and after
        (one.here / "state.json").write_text(json.dumps({**json.loads((one.here / "state.json").read_text()), "phase": phase}))
        assert one.house().unload(discard=False)["bytes"] == 0
        assert (one.home.exists(), one.house().state) == (False, {})
        (one.here / "state.json").write_text(state)
    (one.here / "state.json").write_text(json.dumps({**json.loads(state), "phase": "held"}))
    one.house().unload(discard=False)  # it was being fetched: there is nothing to save
    assert one.house().unload(discard=False)["bytes"] == 0
    assert len(stored().snapshots) == 1


@pytest.fixture
def kept():
    """Has a keeper in a thread keep a machine's home; whatever becomes of the test, it ends."""
    running = []

    def make(one, **state):
        one.house().note(keeper="k", **state)
        keeper = Keeper(one.here, "k")
        running.append((keeper, threading.Thread(target=keeper.watch, daemon=True)))
        running[-1][1].start()
        return running[-1]

    yield make
    for keeper, thread in running:
        keeper.told.set()
        thread.join(60)


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_keeper_saves_every_so_often_and_once_more_when_the_machine_goes_down(machine, stored, kept, monkeypatch):
    monkeypatch.setattr(housekeeper, "LOOK", 0.02)
    one = machine()
    one.load()
    written(one, "1")
    keeper, thread = kept(one, minutes=0.0005)
    until(lambda: stored().snapshots)
    with locked(one.here):
        one.house().note(minutes=1000.0)
    written(one, "22")
    keeper.told.set()
    thread.join(60)
    assert stored().pointer["holder"]["instance"] == "i-1"
    two = machine("i-2")
    two.load(seize=stored().pointer["serial"])
    assert (two.home / "one").read_text() == "22"


def test_at_the_notice_the_keeper_saves_and_gives_up_and_goes_on_until_another_has_it(machine, stored, gate, kept, monkeypatch):
    monkeypatch.setattr(housekeeper, "LOOK", 0.02)
    one, two = machine("i-1"), machine("i-2")
    one.load()
    written(one, "1")
    _, thread = kept(one)
    gate.notice = True
    until(lambda: stored().pointer["holder"] is None)
    written(one, "22")
    until(lambda: stored().pointer["snapshot"]["key"] in stored().snapshots and thread.is_alive())
    first = stored().pointer["snapshot"]["key"]
    written(one, "333")
    until(lambda: stored().pointer["snapshot"]["key"] != first)
    two.load()
    written(one, "too late")
    thread.join(60)
    assert not thread.is_alive()
    assert (two.home / "one").read_text() in ("22", "333")


def test_a_keeper_of_a_home_that_is_away_ends(machine, kept, monkeypatch):
    monkeypatch.setattr(housekeeper, "LOOK", 0.02)
    one = machine()
    one.load()
    _, thread = kept(one)
    with locked(one.here):
        one.house().unload(discard=False)
    thread.join(60)
    assert not thread.is_alive()


def test_what_is_sent_to_the_machine_runs_by_itself_on_an_older_python(tmp_path):
    import ast
    import zipfile

    file = tmp_path / "program"
    file.write_bytes(homes.program())
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            ast.parse(archive.read(name), feature_version=(3, 9))
    done = subprocess.run([sys.executable, "-IS", str(file), "unload", '{"discard": false}'], capture_output=True, text=True, check=False,
                          env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]})  # fmt: skip
    assert (done.returncode, json.loads(done.stdout)) == (0, {"bytes": 0, "seconds": 0.0, "left_out": []})
    assert (tmp_path / ".fleetctl" / "home").stat().st_mode & 0o777 == 0o700
