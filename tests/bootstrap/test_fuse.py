"""When a machine ends by itself: the real boot script, its shutdown replaced by one that writes down what it was asked."""

import subprocess
import time

import pytest

OBJECT = "fleetctl-s1-0a0b0c0d/fuse"
PATIENCE = 60  # seconds on a busy computer
PATH = f"/{OBJECT}"


@pytest.fixture
def asked(machine):
    """What `shutdown` was asked for so far, a line each."""
    def look():
        path = machine.root / "shutdown"
        return path.read_text().splitlines() if path.exists() else []

    return look


def state(machine):
    """The fuse's file: the session's number, when the fuse has burnt down, the hard end, and what `shutdown` was asked for."""
    seen, out, ends, armed = (machine.root / "state" / f"{machine.launch}-fuse" / "state").read_text().split()
    return int(seen), int(out), int(ends), armed


def looked(cloud, times=1):
    return cloud.wait(lambda: cloud.calls.count(f"s3 GET {PATH}") >= times)


def lit(cloud, machine, number):
    machine.wait(lambda: (machine.root / "state" / f"{machine.launch}-fuse" / "state").exists() and state(machine)[0] == number)


def text(number, machine, end):
    return f"renewed {number}\n{machine.launch} {end:.0f}\nsomebody-else 1\n"


def test_the_hard_end_is_set_in_the_first_second_if_it_comes_before_the_fuse(machine, asked):
    machine.boot("true", ends=int(time.time()) + 600)
    machine.wait(asked)
    assert asked() == ["-P +10"]


def test_what_cannot_be_read_lets_the_countdown_go_on(machine, cloud, asked):
    began = int(time.time())
    machine.boot("true", ends=began + 6 * 3600, fuse_object=OBJECT)
    looked(cloud, 3)
    cloud.faults["s3"] += [(403, "<Error><Code>AccessDenied</Code></Error>"), (500, ""), (200, "no such words\nrenewed x\n")]
    looked(cloud, 7)
    seen, out, ends, _ = state(machine)
    assert (seen, ends) == (0, round(began + 6 * 3600))
    assert abs(out - began - 90 * 60) < PATIENCE
    assert asked() == ["-P +90", "-P +90"], "once in the first second, once by who looks after it"


def test_a_number_that_has_grown_lights_the_fuse_anew_and_moves_the_hard_end(machine, cloud, asked):
    began = int(time.time())
    cloud.objects[PATH] = text(7, machine, began + 4 * 3600)
    machine.boot("true", ends=began + 3600, fuse_object=OBJECT)
    lit(cloud, machine, 7)
    _, out, ends, armed = state(machine)
    assert ends == round(began + 4 * 3600)
    assert began + 90 * 60 - 1 <= out <= time.time() + 90 * 60
    assert armed.startswith(f"{out}/")
    assert asked()[0] == "-P +60"
    machine.wait(lambda: asked()[-1] == "-P +90")
    cloud.objects[PATH] = text(6, machine, began + 99 * 3600)
    before = cloud.calls.count(f"s3 GET {PATH}")
    looked(cloud, before + 2)
    assert state(machine)[0] == 7 and state(machine)[2] == ends, "an older number is no sign of life"


def test_a_dead_sessions_object_stays_as_it_is_and_keeps_nothing_alive(machine, cloud, asked):
    cloud.objects[PATH] = text(7, machine, time.time() + 4 * 3600)
    machine.boot("true", ends=time.time() + 4 * 3600, fuse_object=OBJECT)
    lit(cloud, machine, 7)
    _, out, _, _ = state(machine)
    before = cloud.calls.count(f"s3 GET {PATH}")
    looked(cloud, before + 3)
    assert state(machine)[1] == out


def test_when_the_time_is_over_the_machine_ends_at_once(machine, cloud, asked):
    machine.boot("sleep 100", ends=time.time() + 2, fuse_object=OBJECT)
    machine.wait(lambda: "-P now" in asked())


def test_with_systemd_a_timer_looks_after_the_fuse_and_outlives_a_reboot(machine, cloud, asked):
    units = machine.root / "units"
    units.mkdir()
    units.chmod(0o777)
    machine.put("systemctl", f'echo "$*" >>{machine.root}/systemctl\n')
    machine.boot("true", ends=time.time() + 3 * 3600, fuse_object=OBJECT, FLEETCTL_UNITS=str(units))
    machine.wait(lambda: (machine.root / "systemctl").exists() and (machine.root / "systemctl").read_text())
    assert (machine.root / "systemctl").read_text() == "enable --now fleetctl-fuse.timer\n"
    assert "OnBootSec=0\nOnUnitActiveSec=1\n" in (units / "fleetctl-fuse.timer").read_text()
    [command] = [line for line in (units / "fleetctl-fuse.service").read_text().splitlines() if line.startswith("ExecStart=")]
    machine.stop()  # all that ran is gone, as after a reboot
    cloud.objects[PATH] = text(3, machine, time.time() + 9 * 3600)
    environment = {"PATH": f"{machine.root}/bin:/usr/bin:/bin", "AWS_ENDPOINT_URL": cloud.url}
    subprocess.run(command.removeprefix("ExecStart=").split(), check=True, env=environment, capture_output=True)
    assert state(machine)[0] == 3
    assert asked()[-1] == "-P +90", "a reboot forgets what shutdown was asked for, so it is asked again"
    assert not (machine.root / "log").exists()


def test_a_machine_from_an_image_of_another_is_not_put_out_by_the_fuse_that_came_with_it(machine, cloud, asked):
    """Its own user data lays its own; until then the timer that is in the image finds another machine's fuse, which may be long over."""
    units = machine.root / "units"
    units.mkdir()
    units.chmod(0o777)
    machine.put("systemctl", f'echo "$*" >>{machine.root}/systemctl\n')
    machine.boot("true", ends=time.time() + 3600, fuse_object=OBJECT, FLEETCTL_UNITS=str(units))
    machine.wait(lambda: (machine.root / "systemctl").exists())
    [command] = [line for line in (units / "fleetctl-fuse.service").read_text().splitlines() if line.startswith("ExecStart=")]
    environment = {"PATH": f"{machine.root}/bin:/usr/bin:/bin", "AWS_ENDPOINT_URL": cloud.url}

    def timer():
        subprocess.run(command.removeprefix("ExecStart=").split(), check=True, env=environment, capture_output=True)

    timer()
    machine.stop()
    past = state(machine)
    (machine.root / "state" / f"{machine.launch}-fuse" / "state").write_text(f"{past[0]} 1 1 0/none\n")  # it was over long ago
    own, before = cloud.metadata["instance-id"], len(asked())
    cloud.metadata["instance-id"] = "i-0123456789abcdef1"
    timer()
    assert asked()[before:] == []
    cloud.metadata["instance-id"] = own
    timer()
    assert asked()[-1] == "-P now", "on the machine that it was laid for it still burns"


def test_nobody_but_root_may_change_what_the_timer_runs(machine, cloud):
    machine.boot("true", ends=time.time() + 3600, fuse_object=OBJECT)
    looked(cloud)
    fuses = machine.root / "state" / f"{machine.launch}-fuse"
    assert fuses.stat().st_mode & 0o777 == 0o700
