"""Homes on a real cloud: brought to a machine when it is handed out, saved when it comes back; of two that want one, one has it."""

import asyncio
import json

import pytest

from fleetctl import Standby, attach, teardown_all
from fleetctl.errors import HomeError, RequestInvalid
from fleetctl.session import Session
from fleetctl.standby.homes import place
from fleetctl.states import MachineState

pytestmark = pytest.mark.cloud

BUCKET = "lab-homes"
LIST = "cd home && find . -printf '%p %y %m %l %n %T@\\n' | sort"


@pytest.fixture
def s3(session):
    """A bucket of the user's own."""
    client = session.boto3().client("s3")
    if BUCKET not in {one["Name"] for one in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture
def ada(s3, request):
    """The address of a home that no other test uses."""
    return f"s3://{BUCKET}/homes/{request.node.name}"


@pytest.fixture
def pointer(s3, ada):
    """What S3 says of it."""
    return lambda: json.loads(s3.get_object(Bucket=BUCKET, Key=f"{place(ada).prefix}/home.json")["Body"].read())


async def until(condition, what, seconds=60.0):
    deadline = asyncio.get_running_loop().time() + seconds
    while not (value := condition()):
        assert asyncio.get_running_loop().time() < deadline, f"waited {seconds} s for: {what}"
        await asyncio.sleep(0.02)
    return value


async def test_files_come_and_go_with_their_user_and_stay_as_they_were(session, ada, pointer, request_):
    async with Standby(request_, 1, home=ada, session=session, clean=["test ! -e home"]) as standby:
        machine = await standby.take()
        assert standby.homes == {ada: machine}
        await machine.run("cd home && echo 1 > one && chmod 750 one && touch -d @1234567890.123456789 one && ln -s /nowhere link")
        await machine.run("cd home && ln one two && mkdir -p 'a b/c' && touch 'a b/c/d' && chmod 555 'a b/c' && mkfifo pipe")
        seen = (await machine.run(LIST)).stdout
        await standby.give_back(machine)
        assert (pointer()["holder"], standby.homes) == (None, {})
        again = await standby.take()
        assert (await again.run(LIST)).stdout == seen
        assert "./one f 750  2 1234567890.1234567890" in seen
        await again.run("chmod 755 'home/a b/c' && rm -r home/*")
        await standby.give_back(again)
        assert (await (await standby.take()).run("ls home")).stdout == ""  # what was deleted stays deleted


async def test_a_home_is_on_one_machine_at_a_time_and_free_when_that_has_ended(session, oracle, ada, pointer, request_):
    async with Standby(request_, 1, session=session, name="one") as one, Standby(request_, 1, session=session, name="two") as two:
        first = await one.take(home=ada)
        await first.run("echo saved > home/file")
        assert (await one.save(first)).bytes > 0
        with pytest.raises(HomeError, match=f"in use on {first.instance_id}, which was taken here"):
            await one.take(home=ada)
        with pytest.raises(HomeError, match=f"in use on {first.instance_id} since") as caught:
            await two.take(home=ada)
        assert caught.value.trouble == "held"
        await until(lambda: two.free and not two.taken, "the machine that it was not brought to is free")
        session.boto3().client("ec2").terminate_instances(InstanceIds=[first.instance_id])
        await until(lambda: first.instance_id not in oracle.living(), "its end")
        second = await two.take(home=ada)
        assert (await second.run("cat home/file")).stdout == "saved\n"
        assert pointer()["holder"]["instance"] == second.instance_id


async def test_what_cannot_be_saved_stays_on_its_machine_until_it_is_or_nobody_wants_it(session, oracle, s3, ada, pointer, request_):
    refuse = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{BUCKET}/{place(ada).prefix}/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [refuse]})
    async with Standby(request_, 1, home=ada, session=session) as standby:
        machine = await standby.take()
        await machine.run("echo dear > home/file")
        s3.put_bucket_policy(Bucket=BUCKET, Policy=policy)
        try:
            for attempt in (standby.give_back, standby.retire, standby.save):
                with pytest.raises(HomeError, match="may not s3:PutObject") as caught:
                    await attempt(machine)
                assert f"s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload on arn:aws:s3:::{BUCKET}/" in caught.value.todo
            assert caught.value.left == (f"{machine.called}, with the files in home",)
            with pytest.raises(HomeError, match="could not be saved"):
                await standby.close()
            assert standby.taken == [machine]
            assert (await machine.run("cat home/file")).stdout == "dear\n"
        finally:
            s3.delete_bucket_policy(Bucket=BUCKET)
        await standby.give_back(machine)
        machine = await standby.take()
        await machine.run("echo useless > home/file")
        await standby.retire(machine, save=False)
        assert machine.instance_id not in oracle.living()
        again = await standby.take()
        assert (await again.run("cat home/file")).stdout == "dear\n"
        with pytest.raises(ZeroDivisionError):
            async with standby.lend(home=ada + "-2") as other:
                await other.run("echo other > home/file")
                raise ZeroDivisionError
        await until(lambda: other.state is MachineState.GONE, "its end")
        async with standby.lend(home=ada + "-2") as other:
            assert (await other.run("cat home/file")).stdout == "other\n"


async def test_a_home_that_cannot_be_brought_is_told_and_its_machine_serves_others(session, s3, ada, request_):
    async with Standby(request_, 1, home=ada, session=session, most=1) as standby:
        with pytest.raises(HomeError, match="no bucket no-such-bucket-here") as caught:
            await standby.take(home="s3://no-such-bucket-here/ada")
        assert caught.value.trouble == "missing"
        machine = await standby.take(home="")
        assert (await machine.run("ls")).stdout == ""
        with pytest.raises(RequestInvalid, match="has no home"):
            await standby.save(machine)
        await machine.run("mkdir home && touch home/of-the-machine")
        await standby.give_back(machine)
        with pytest.raises(HomeError, match=r"something in .*/home already"):
            await standby.take()
        assert (await (await standby.take(home="")).run("ls home")).stdout == "of-the-machine\n"


async def test_what_ec2_takes_back_was_saved_and_is_on_another_machine_at_once(cloud, session, ada, request_):
    async with Standby(request_, 1, home=ada, session=session) as standby:
        first = await standby.take()
        await first.run("echo in time > home/file")
        cloud.fault("interruption", instance=first.instance_id, seconds=120)
        await until(lambda: first.state is MachineState.INTERRUPTED, "the notice")

        async def another():
            while True:
                try:
                    return await standby.take()
                except HomeError as error:  # it is being saved at this moment
                    assert error.trouble == "held"
                    await asyncio.sleep(0.1)

        with pytest.raises(HomeError, match="taken here"):
            await standby.take()
        await standby.give_back(first)
        second = await asyncio.wait_for(another(), 60)
        assert (second != first, (await second.run("cat home/file")).stdout) == (True, "in time\n")


async def test_another_process_gives_back_what_its_predecessor_has_handed_out(cloud, ada, pointer, request_, session):
    session.close()
    former = Session(session.profile)
    standby = Standby(request_, 1, home=ada, session=former)
    taken = await standby.take()
    await taken.run("echo left > home/file")
    launch = standby._launches[0].uuid
    former.leave()
    attached = attach(launch, home=former.profile.home)
    try:
        for one in attached.session.launches:
            await asyncio.wrap_future(one.future)
        again = Standby(request_, 1, session=attached.session)
        [machine] = again.taken
        assert again.homes == {ada: machine}
        await again.give_back(machine)
        assert pointer()["holder"] is None
        other = await again.take(home=ada)
        assert (await other.run("cat home/file")).stdout == "left\n"
    finally:
        attached.session.close()
    assert pointer()["holder"] is None


async def test_the_end_of_everything_saves_first(session, ada, pointer, request_):
    standby = Standby(request_, 1, home=ada, session=session)
    machine = await standby.take()
    await machine.run("echo last > home/file")
    await teardown_all(session=session)
    assert pointer()["holder"] is None
    async with Standby(request_, 1, home=ada, session=session) as standby:
        assert (await (await standby.take()).run("cat home/file")).stdout == "last\n"


async def test_a_machine_that_is_ended_by_others_saves_as_it_goes_down(session, oracle, ada, pointer, request_):
    async with Standby(request_, 1, home=ada, session=session) as standby:
        machine = await standby.take()
        await machine.run("echo quick > home/file")
        session.boto3().client("ec2").terminate_instances(InstanceIds=[machine.instance_id])
        await until(lambda: machine.instance_id not in oracle.living(), "its end")
        assert pointer()["snapshot"]["instance"] == machine.instance_id


async def test_who_stops_waiting_for_a_home_leaves_it_free(session, ada, pointer, request_):
    async with Standby(request_, 1, session=session) as standby:
        await standby.full()
        taking = standby.take(home=ada)
        await until(lambda: standby.homes, "it is being brought")
        taking.stop()
        await until(lambda: not standby.taken and standby.free, "it is free")
        machine = await standby.take(home=ada)
        assert (await machine.run("ls home")).stdout == ""


async def test_what_is_no_home_is_refused_at_once(session, request_):
    for wrong in (7, "lab/ada", "s3://lab", "s3://lab/", "s3://lab//ada", "s3://lab/../ada", "s3://Lab/ada", "s3://lab/a b"):
        with pytest.raises(RequestInvalid, match="a home is s3://"):
            Standby(request_, session=session, home=wrong)
    for name, value in (("home_dir", ""), ("home_dir", "/"), ("save_minutes", -1), ("save_minutes", True)):
        with pytest.raises(RequestInvalid, match=name):
            Standby(request_, session=session, **{name: value})
    assert session.launches == []
