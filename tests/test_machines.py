"""A machine is looked at like a mapping and like an object; both views go on changing with what it reports."""

import copy
import json
import pickle
from uuid import UUID

import pytest

from fleetctl.lifecycle import MachineState, Slot
from fleetctl.machines import FIELDS, Machine, Machines
from fleetctl.messages import Phase, Report

REPORT = Report(UUID(int=1), "i-00000001", Phase.READY, ip="10.0.0.7", host="h.example", type="t3.micro", zone="us-east-1a", user="me")


def machine(state=MachineState.READY, *, report=REPORT, price=0.0031, **slot):
    instance = slot.pop("instance", "i-00000001")
    was_ready = slot.pop("was_ready", state is MachineState.READY)
    return Machine(Slot("sir-1", instance, state, report, was_ready=was_ready, **slot), None, lambda slot: price)


def test_what_it_knows_stands_in_attributes_and_in_items_alike():
    one = machine()
    assert {name: getattr(one, name) for name in FIELDS} == dict(one)
    assert (one.ip, one["host"], one.request_id, one["state"]) == ("10.0.0.7", "h.example", "sir-1", "ready")
    assert len(one) == len(FIELDS)


def test_tab_completion_offers_all_of_it():
    assert {*FIELDS, "forward"} <= {*dir(machine())}


def test_a_name_that_it_has_not_is_an_error_that_lists_those_that_it_has():
    with pytest.raises(AttributeError, match="instance_id"):
        machine().adress  # noqa: B018
    with pytest.raises(KeyError):
        machine()["adress"]


def test_before_it_has_reported_it_knows_little_and_says_so():
    one = machine(MachineState.PENDING, report=None, instance=None)
    assert one.ip is None
    assert one.instance_id is None
    assert repr(one) == "<machine sir-1 pending>"


@pytest.mark.parametrize("send", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_cannot_be_sent_anywhere_but_what_it_knows_can(send):
    with pytest.raises(TypeError, match=r"dict\(machine\)"):
        send(machine())
    assert pickle.loads(pickle.dumps(dict(machine())))["ip"] == "10.0.0.7"
    assert json.loads(json.dumps(dict(machine())))["state"] == "ready"


def test_its_price_is_what_is_known_now():
    price = [0.01]
    one = Machine(Slot("sir-1"), None, lambda slot: price[0])
    price[0] = 0.0031
    assert one.price == 0.0031


def test_machines_that_are_still_expected_have_not_failed():
    ready, pending = machine(), machine(MachineState.PENDING, report=None, instance=None)
    failed, dropped = machine(MachineState.FAILED), machine(MachineState.LAUNCHED, dropped=True)
    machines = Machines(dict(zip("abcd", (ready, pending, failed, dropped), strict=True)), ("a",), ())
    assert machines.succeeded == [ready]
    assert machines.failed == [failed, dropped]
    assert repr(machines).startswith("<machines: 1 up, 2 failed, 1 expected, $")


def test_machines_that_have_ended_or_failed_since_are_not_told_as_up():
    states = (MachineState.READY, MachineState.INTERRUPTED, MachineState.FAILED, MachineState.GONE, MachineState.GONE)
    machines = Machines({state + str(number): machine(state, was_ready=True) for number, state in enumerate(states)}, (), ())
    machines._succeeded, machines._extra = tuple(machines)[:4], tuple(machines)[4:]
    assert repr(machines).startswith("<machines: 2 up, 0 failed, 1 extra, 1 interrupted, 1 failed since, 2 ended, $")


def test_a_place_instead_of_an_id_is_an_error_that_says_how_to_have_the_first():
    with pytest.raises(KeyError, match=r"0 is none of the ids of these machines: 'sir-1'; the first of them is \[\*machines"):
        Machines({"sir-1": machine()}, ("sir-1",), ())[0]
    with pytest.raises(KeyError, match="none of the ids of these machines: none"):
        Machines({}, (), ())["sir-1"]


def test_a_notebook_shows_what_machines_sent_as_text():
    rude = Machine(Slot("sir-1", "i-00000001", MachineState.READY, REPORT), None, lambda slot: None)
    rude._slot.status = "<script>"
    shown = Machines({"<b>": rude}, ("<b>",), ())._repr_html_()
    assert "h.example" in shown
    assert "<script>" not in shown
