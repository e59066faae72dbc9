"""A directory as one packed archive in S3, and back. It runs on the machine; see `housekeeper`. It imports nothing of ours but `objects`.

The archive is what `tar -czf` makes, and `tar -xzf` reads it: links, modes, times to the nanosecond, holes. It is never whole in memory,
nor on disk: blocks are packed by a few threads, each as a member of its own, which gzip reads one after the other; what has come together
is sent as a part, while the next blocks are packed. On the way back parts are fetched a few at a time, and what comes is compared with the
checksum that was taken when it was sent. Until then nothing of it stands in its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import tempfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar

from .objects import Store, Trouble

T = TypeVar("T")
S = TypeVar("S")

BLOCK = 8 << 20  # bytes that are packed at a time
PART = 16 << 20  # packed bytes of a part: at least 5 MiB but for the last one, and at most 10,000 parts (S3 User Guide, "Multipart limits")
PARTS = 10_000
AT_ONCE = 4  # blocks and parts that are in memory at a time
LEVEL = 1  # of packing: a machine that EC2 takes back has two minutes
TOLD = 5  # names in a message
# What tar says of a file that it has left out, whatever the language of the machine is.
LEFT_OUT = (": Cannot open: ", ": Cannot stat: ", ": Read error ")


def in_order(pool: ThreadPoolExecutor, work: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """The outcomes of work that threads do, in the order of the items, a few ahead."""
    ahead: deque[Future[T]] = deque()
    try:
        for item in items:
            ahead.append(pool.submit(work, item))
            if len(ahead) >= AT_ONCE:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        for one in ahead:
            one.cancel()


def fingerprint(directory: Path) -> str:
    """What changes with whatever is in a directory: names, kinds, modes, sizes, times. Contents are not read.

    Raises Trouble where there is no such directory: an empty one in its place would be a loss, and not a state to save.
    """
    if not directory.is_dir():
        raise Trouble("gone", f"there is no {directory} any more")
    sum, waiting = hashlib.sha256(), [str(directory)]
    while waiting:
        path = waiting.pop()
        try:
            found = sorted(os.scandir(path), key=lambda one: one.name)
        except OSError as error:
            sum.update(f"{path} {error.errno}\0".encode("utf-8", "surrogateescape"))
            continue
        for one in found:
            try:
                seen = one.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            facts = (one.path, seen.st_ino, seen.st_mode, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
            sum.update(f"{facts}\0".encode("utf-8", "surrogateescape"))
            if one.is_dir(follow_symlinks=False):
                waiting.append(one.path)
    return sum.hexdigest()


def send(store: Store, directory: Path, key: str, *, partly: bool, began: Callable[[str], None]) -> dict[str, Any]:
    """Pack a directory into an object; its checksum and sizes. `began` is told the id of an upload in parts, before the first part.

    `partly`: files that cannot be read are left out, and named in `left_out`; else they raise Trouble: unreadable.
    """
    made: dict[str, Any] = {"left_out": []}
    with tempfile.TemporaryFile() as said, ThreadPoolExecutor(AT_ONCE) as pool:
        command = ["tar", "-C", str(directory), "--format=posix", "--sparse", "-c", "."]
        tar = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, env={**os.environ, "LC_ALL": "C"})
        assert tar.stdout is not None
        try:
            blocks = in_order(pool, _squeezed, _blocks(tar.stdout, made))
            parts = _parts(blocks, made, lambda: _packed(tar, said, made, partly))
            first = next(parts)
            second = next(parts, None)
            if second is None:
                store.put(key, first)
            else:
                _upload(store, key, pool, _chained(first, second, parts), began)
        finally:
            tar.kill()
            tar.wait()
            tar.stdout.close()
    return made


def _blocks(stream: IO[bytes], made: dict[str, Any]) -> Iterator[bytes]:
    made["unpacked"] = 0
    while block := stream.read(BLOCK):
        made["unpacked"] += len(block)
        yield block


def _squeezed(block: bytes) -> bytes:
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, 31)  # 31: as a member of a gzip file
    return packer.compress(block) + packer.flush()


def _parts(blocks: Iterable[bytes], made: dict[str, Any], over: Callable[[], None]) -> Iterator[bytes]:
    """Packed blocks put together, and their checksum. `over` is called before the last part: it raises if the packing has gone wrong."""
    sum, part, made["bytes"] = hashlib.sha256(), bytearray(), 0
    for block in blocks:
        sum.update(block)
        made["bytes"] += len(block)
        if len(part) >= PART:
            yield bytes(part)
            part.clear()
        part += block
    over()
    made["sha256"] = sum.hexdigest()
    yield bytes(part)


def _packed(tar: subprocess.Popen[bytes], said: IO[bytes], made: dict[str, Any], partly: bool) -> None:
    """Whether tar has packed everything. Exit code 1 is a file that changed while it was read: whoever cares looks at the fingerprint."""
    code = tar.wait()
    said.seek(0)
    lines = said.read().decode(errors="replace").splitlines()
    left_out = [line.partition(": ")[2] for line in lines if any(word in line for word in LEFT_OUT)]
    if code == 2 and left_out and partly:
        made["left_out"] = left_out
    elif code == 2 and left_out:
        raise Trouble("unreadable", f"{len(left_out)} file(s) could not be read: {'; '.join(left_out[:TOLD])}")
    elif code not in (0, 1):
        raise Trouble("unreadable", f"tar ended with {code}: {' '.join(lines[-TOLD:])}")


def _chained(first: bytes, second: bytes, others: Iterable[bytes]) -> Iterator[bytes]:
    yield first
    yield second
    yield from others


def _upload(store: Store, key: str, pool: ThreadPoolExecutor, parts: Iterable[bytes], began: Callable[[str], None]) -> None:
    id = store.begin(key)
    began(id)

    def one(numbered: tuple[int, bytes]) -> str:
        number, body = numbered
        if number > PARTS:
            raise Trouble("space", f"what is there is more than {PARTS * PART >> 30} GiB when packed, which is all that a home may be")
        return store.upload(key, id, number, body)

    try:
        store.complete(key, id, list(in_order(pool, one, enumerate(parts, 1))))
    except BaseException:
        with contextlib.suppress(Trouble):  # whoever saves next aborts it
            store.abort(key, id)
        raise


def fetch(store: Store, snapshot: dict[str, Any], directory: Path) -> None:
    """Unpack an object into an empty directory. Raises Trouble: space, before anything is fetched; broken, if it is not what was sent."""
    disk, needed = os.statvfs(directory), int(snapshot["unpacked"])
    if (free := disk.f_bavail * disk.f_frsize) < needed:
        raise Trouble("space", f"the home is {needed:,} bytes, and {free:,} are free in {directory.parent}")
    key, size, sum = snapshot["key"], snapshot["bytes"], hashlib.sha256()
    with tempfile.TemporaryFile() as said, ThreadPoolExecutor(AT_ONCE) as pool:
        command = ["tar", "-C", str(directory), "--no-same-owner", "-p", "-xz"]
        tar = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=said, env={**os.environ, "LC_ALL": "C"})
        assert tar.stdin is not None
        try:
            for body in in_order(pool, lambda first: store.part(key, first, min(PART, size - first)), range(0, size, PART)):
                sum.update(body)
                tar.stdin.write(body)
            tar.stdin.close()
        except BrokenPipeError:
            pass  # it says why
        except BaseException:
            tar.kill()
            raise
        finally:
            tar.wait()
        said.seek(0)
        if tar.returncode != 0:
            raise Trouble("broken", f"{store.whole(key)} cannot be unpacked: {said.read().decode(errors='replace').strip()[-500:]}")
    if sum.hexdigest() != snapshot["sha256"]:
        raise Trouble("broken", f"{store.whole(key)} is not what was saved: its checksum is {sum.hexdigest()[:12]}…")
