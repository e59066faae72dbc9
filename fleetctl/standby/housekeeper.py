"""A user's files on a machine and in S3: brought there, saved while they are used, saved and taken away. It runs on the machine, sent there
by `homes`, imports nothing of ours but `objects` and `parcel`, and bears Python 3.9.

    nothing ──▶ held ──unpacked, compared──▶ loaded ──▶ released ──directory removed──▶ nothing
                 └──what failed is let go──▶ nothing    (saved first)

A home in S3 is one small object, `home.json`, which names the snapshot that counts and the machine that holds the home, and snapshots:
plain .tar.gz files beside it. Only that object is ever replaced, and only if it is still what this machine has last seen of it (If-Match);
so a snapshot that is half there is never seen, of two machines that take a home one gets it, and one that has lost it overwrites nothing.
Each version of it bears a number of its own, written down here before it is sent: so a write whose answer was lost is known again.

What was there when the home was handed out stays beside the newest until the next hand-out's first save; others are deleted.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from .objects import Metadata, Store, Trouble
from .parcel import fetch, fingerprint, send

HERE = Path("~/.fleetctl/home").expanduser()
POINTER = "home.json"
HELD, LOADED, RELEASED = "held", "loaded", "released"
LOOK = 5.0  # seconds between looks for EC2's notice, as its User Guide wants ("Spot Instance interruption notices"): two minutes are left
AGAIN = 60.0  # seconds after a save that has failed
ROUNDS = 3  # saves, while something goes on writing
COMING, GOING = ".coming", ".going"  # beside the directory: what is not whole yet, what is being deleted

Pointer = dict[str, Any]


class House:
    """This machine's home, if it has one: what is known of it is in `state`, a file. Under the lock, by one process at a time."""

    def __init__(self, here: Path) -> None:
        self._file = here / "state.json"
        self.metadata = Metadata()
        self.state: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}

    @property
    def store(self) -> Store:
        """Where it lies."""
        return Store(self.metadata, self.state["bucket"], self.state["prefix"], self.state["region"])

    @property
    def directory(self) -> Path:
        """Where it is here."""
        return Path.home() / str(self.state["dir"])

    def note(self, **what: Any) -> None:
        """Write down, at one stroke."""
        self.state.update(what)
        new = self._file.with_suffix(".new")
        with new.open("w") as file:
            json.dump(self.state, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._file)

    def forget(self) -> None:
        """Nothing is here any more."""
        self.state = {}
        self._file.unlink(missing_ok=True)

    # --- the one object that is replaced ----------------------------------------------------------------------------------------------

    def hold(self, seize: str) -> Pointer:
        """Write into it that this machine holds the home; `seize`: from that version of it, whoever held it. Raises Trouble: held."""
        store = self.store
        for _ in range(ROUNDS):
            denied = None
            try:
                found = store.get(POINTER)
            except Trouble as error:  # to whom may not list, S3 says "denied" of what is not there (S3 API reference, GetObject)
                if error.kind != "denied":
                    raise
                found, denied = None, error
            pointer: Pointer = json.loads(found[1]) if found else {"fleetctl": 1, "snapshot": None, "former": None, "litter": []}
            holder = pointer.get("holder")
            ours = holder and holder["instance"] == self.state["holder"]["instance"]
            if holder and not ours and pointer["serial"] != seize:
                raise Trouble("held", f"it is in use on {holder['instance']} since {holder['since']}", holder=holder,
                              serial=pointer["serial"], me=self.state["holder"])  # fmt: skip
            pointer.update(holder=self.state["holder"], base=pointer["snapshot"])
            if self._write(pointer, {"if-match": found[0]} if found else {"if-none-match": "*"}):
                return pointer
            if denied is not None:
                raise denied
        raise Trouble("held", "others are taking it at this moment")

    def mine(self) -> Pointer:
        """It, if it is as this machine has left it. Raises Trouble: conflict."""
        found = self.store.get(POINTER)
        pointer: Pointer = json.loads(found[1]) if found else {}
        if found and pointer["serial"] in (self.state.get("serial"), self.state.get("next")):
            self.note(etag=found[0], serial=pointer["serial"])
            return pointer
        raise self._lost(pointer)

    def _lost(self, pointer: Pointer) -> Trouble:
        if not pointer:
            return Trouble("conflict", f"{self.store.whole(POINTER)} was deleted")
        by = pointer["holder"] or pointer["by"]
        return Trouble("conflict", f"{self.store.whole('')} was taken over by {by['instance']}", holder=by)

    def _write(self, pointer: Pointer, only: dict[str, str]) -> bool:
        """Replace it; False if it is not what it was."""
        pointer.update(serial=uuid4().hex, by=self.state["holder"], at=stamp())
        self.note(next=pointer["serial"])
        body = json.dumps(pointer, indent=1).encode()
        etag = self.store.put(POINTER, body, only=only)
        if etag is None:
            found = self.store.get(POINTER)  # the first try may have been taken, and its answer lost
            if found is None or json.loads(found[1])["serial"] != pointer["serial"]:
                return False
            etag = found[0]
        self.note(etag=etag, serial=pointer["serial"])
        return True

    # --- what is asked of it ----------------------------------------------------------------------------------------------------------

    def load(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Bring the home here. Raises Trouble; nothing of it is here then, and it is not held."""
        if self.state and self.state.get("holder", {}).get("instance") != asked["holder"]["instance"]:
            self.forget()  # it came with the image of another machine
        if self.state:
            raise Trouble("occupied", f"the machine has a home already, {self.store.whole('')}, in {self.directory}")
        self.state = {name: asked[name] for name in ("bucket", "prefix", "region", "dir", "minutes", "holder")}
        if os.path.lexists(self.directory) and (not self.directory.is_dir() or any(self.directory.iterdir())):
            raise Trouble("occupied", f"there is something in {self.directory} already")
        self.note(phase=HELD)
        try:
            began, snapshot = time.monotonic(), self.hold(asked.get("seize", ""))["snapshot"]
            self._unpack(snapshot)
        except BaseException:
            with contextlib.suppress(Trouble):
                self.unload(discard=True)
            self.forget()
            raise
        self.note(phase=LOADED, mark=fingerprint(self.directory), keeper=uuid4().hex)
        return {"bytes": snapshot["bytes"] if snapshot else 0, "seconds": time.monotonic() - began, "keeper": self.state["keeper"]}

    def _unpack(self, snapshot: dict[str, Any] | None) -> None:
        """Beside its place, and then there: it is whole or not there."""
        coming = self.directory.with_name(self.directory.name + COMING)
        shutil.rmtree(coming, ignore_errors=True)
        coming.mkdir(parents=True)
        if snapshot is not None:
            fetch(self.store, snapshot, coming)
        if self.directory.is_dir():
            self.directory.rmdir()
        coming.rename(self.directory)

    def save(self, *, whole: bool, release: bool) -> dict[str, Any]:
        """Have all that is there in S3. `whole`: nothing may be left out, and nothing may be written meanwhile; `release`: and give it up.

        Raises Trouble: conflict, unreadable, busy, gone, and those of S3. What was saved before counts on.
        """
        began, sent = time.monotonic(), 0
        for _ in range(ROUNDS):
            pointer = self.mine()
            mark = fingerprint(self.directory)
            if mark != self.state["mark"]:
                sent += self._send(pointer, whole)
            settled = not whole or fingerprint(self.directory) == mark
            if mark != self.state["mark"] or (release and settled and pointer["holder"] is not None):
                self._put(pointer, release=release and settled)
                self.note(mark=mark)
            if settled:
                return {"bytes": sent, "seconds": time.monotonic() - began, "left_out": (pointer["snapshot"] or {}).get("left_out", [])}
        raise Trouble("busy", f"something goes on writing in {self.directory}")

    def _send(self, pointer: Pointer, whole: bool) -> int:
        """A new snapshot, and what the pointer will say of it. The newest of before, and what was there at the hand-out, change places."""
        old, base, mine = pointer["snapshot"], pointer.get("base"), self.state["holder"]["instance"]
        key = f"snapshots/{stamp().replace(':', '')}-{mine}-{uuid4().hex[:6]}.tar.gz"
        if left := self.state.get("upload"):  # of a process that was killed: its parts are paid for, and no listing shows them
            with contextlib.suppress(Trouble):
                self.store.abort(*left)
        made = send(self.store, self.directory, key, partly=not whole, began=lambda id: self.note(upload=[key, id]))
        self.note(upload=None)
        pointer["snapshot"] = {"key": key, "at": stamp(), "instance": mine, **made}
        kept = base["key"] if base else None
        dropped = [one["key"] for one in (old, pointer["former"]) if one and one["key"] != kept]
        pointer["litter"], pointer["former"] = [one for one in pointer["litter"] if not self._deleted(one)] + dropped, base
        return int(made["bytes"])

    def _put(self, pointer: Pointer, *, release: bool) -> None:
        """Replace the pointer, and delete what it names no more. Raises Trouble: conflict."""
        if release:
            pointer["holder"] = None
        if not self._write(pointer, {"if-match": self.state["etag"]}):
            found = self.store.get(POINTER)
            pointer_now: Pointer = json.loads(found[1]) if found else {}
            sent = pointer["snapshot"]
            if sent and sent != (pointer_now.get("snapshot") or {}) and sent["instance"] == self.state["holder"]["instance"]:
                self._deleted(sent["key"])  # nobody would ever see it; the files are still here
            raise self._lost(pointer_now)
        for key in pointer["litter"]:
            self._deleted(key)

    def _deleted(self, key: str) -> bool:
        """Delete a snapshot that no pointer needs; one that stays is named as litter, and tried again with the next save."""
        try:
            self.store.delete(key)
        except Trouble as error:
            say(error.what)
            return False
        return True

    def unload(self, *, discard: bool) -> dict[str, Any]:
        """Save it, give it up, and take it away. `discard`: as it is in S3 it stays, and what was not saved is gone. Again: goes on.

        Raises Trouble as `save`; it is all here then.
        """
        told: dict[str, Any] = {"bytes": 0, "seconds": 0.0, "left_out": []}
        if self.state.get("phase") == LOADED and not discard:
            told = self.save(whole=True, release=True)
        elif self.state.get("phase") in (HELD, LOADED):
            try:
                pointer = self.mine()
                if pointer["holder"] is not None:
                    self._put(pointer, release=True)
            except Trouble as error:
                if not discard and error.kind != "conflict":  # who does not hold it has nothing to give up
                    raise
        if self.state:
            self.note(phase=RELEASED)
            going, coming = (self.directory.with_name(self.directory.name + end) for end in (GOING, COMING))
            removed(going, coming)
            if self.directory.exists():
                self.directory.rename(going)
                removed(going)
            self.forget()
        return told


def removed(*paths: Path) -> None:
    """Delete them, whatever their modes. Raises Trouble: left, for nobody else is to find them here."""
    for path in (one for one in paths if os.path.lexists(one)):
        subprocess.run(["chmod", "-R", "u+rwX", str(path)], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(path, ignore_errors=True)
        if os.path.lexists(path):
            raise Trouble("left", f"{path} cannot be deleted; it is in S3 all the same")


# --- the process that stays -------------------------------------------------------------------------------------------------------------


class Keeper:
    """Saves the home every so often, and when the machine is to end: at EC2's notice, and when it is shut down (SIGTERM).

    At the notice the home is given up with the save, so that another machine can have it at once; what is written after that is saved
    until another has it. It ends when the home is not the one that it was started for.
    """

    def __init__(self, here: Path, token: str) -> None:
        self.here, self.token = here, token
        self.told = threading.Event()
        self.metadata = Metadata()
        self.noticed = False

    def run(self) -> None:
        """Until there is nothing more to keep. As a process of its own."""
        signal.signal(signal.SIGTERM, lambda *_: self.told.set())
        self.watch()

    def watch(self) -> None:
        """Until there is nothing more to keep."""
        due, again = 0.0, 0.0
        while True:
            ending = self.told.wait(LOOK)
            with locked(self.here):
                house = House(self.here)
                if house.state.get("keeper") != self.token or house.state.get("phase") != LOADED:
                    return
                now, every = time.monotonic(), 60.0 * house.state["minutes"] or float("inf")
                due = due or now + every
                self.noticed = self.noticed or self._notice()
                if ending or (now >= again and (self.noticed or now >= due)):
                    due = now + every
                    try:
                        told = house.save(whole=False, release=self.noticed)
                    except Trouble as error:
                        say(error.what)
                        again = now + AGAIN * (not self.noticed)
                        if error.kind == "conflict":
                            return
                    else:
                        if told["bytes"]:
                            say(f"saved {told['bytes']:,} bytes in {told['seconds']:.1f} s; left out: {told['left_out'] or 'nothing'}")
            if ending:
                return

    def _notice(self) -> bool:
        try:
            return self.metadata.get("meta-data/spot/instance-action") is not None
        except (OSError, http.client.HTTPException):
            return False


@contextlib.contextmanager
def locked(here: Path) -> Iterator[None]:
    """One at a time."""
    with (here / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(what: str) -> None:
    """A line of the log."""
    print(f"{stamp()} {what}", file=sys.stderr, flush=True)


def stamp() -> str:
    """The time, as people and machines read it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def answer(verb: str, asked: dict[str, Any], here: Path) -> dict[str, Any]:
    """What comes of a verb. Raises Trouble."""
    with locked(here):
        house = House(here)
        if verb == "load":
            asked["holder"] = {**house.metadata.identity(), **asked["holder"], "since": stamp()}
            told = house.load(asked)
            with (here / "log").open("a") as log:
                subprocess.Popen([sys.executable, "-IS", sys.argv[0], "keep", told["keeper"]], stdin=subprocess.DEVNULL,
                                 stdout=log, stderr=log, start_new_session=True)  # fmt: skip
            return told
        if verb == "save":
            if house.state.get("phase") != LOADED:
                raise Trouble("occupied", "the machine has no home")
            return house.save(whole=True, release=False)
        return house.unload(discard=asked["discard"])


def main() -> int:
    """`VERB JSON`: one line of JSON comes back; exit code 3 with `trouble` and `what` in it."""
    HERE.mkdir(mode=0o700, parents=True, exist_ok=True)
    verb, rest = sys.argv[1:]
    if verb == "keep":
        Keeper(HERE, rest).run()
        return 0
    try:
        told, code = answer(verb, json.loads(rest), HERE), 0
    except Trouble as error:
        told, code = {"trouble": error.kind, "what": error.what, **error.more}, 3
    except OSError as error:
        told, code = {"trouble": "disk", "what": f"{type(error).__name__}: {error}"}, 3
    print(json.dumps(told))
    return code
