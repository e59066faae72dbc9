"""The shortest way: a script that brings three machines up, runs a command on each, and ends them.

    python examples/script.py

`.result()` blocks, and shows progress in a terminal; Ctrl-C in it cancels the launch and ends what it had started.
"""

from fleetctl import bring_up_spots, connect, teardown_all

REQUEST = {"SpotPrice": "0.01", "LaunchSpecification": {"InstanceType": "t3.micro"}}


def main() -> None:
    connect("local")
    launch = bring_up_spots(REQUEST, 3, 'echo "hello from $FLEETCTL_INSTANCE" > greeting', subnet="public", minutes=5)
    machines = launch.result()
    for machine in machines.succeeded:
        print(machine.instance_id, machine.state, machine.ip, f"${machine.price:.4f} an hour")
    receipt = teardown_all().result()
    print(receipt)


if __name__ == "__main__":
    main()
