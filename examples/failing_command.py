"""A command that fails is known in about a second, with its exit code and the end of its log, not at the deadline.

    python examples/failing_command.py

A launch fails as soon as fewer than the minimum can still come up. What it had started is cancelled and terminated.
"""

from fleetctl import ScriptFailed, bring_up_spots, connect, teardown_all

REQUEST = {"SpotPrice": "0.01", "LaunchSpecification": {"InstanceType": "t3.micro"}}
COMMANDS = ["echo preparing", "cat no-such-file"]  # each line must exit with 0 before the next one runs


def main() -> None:
    connect("local")
    launch = bring_up_spots(REQUEST, 2, COMMANDS, subnet="public", minutes=10)
    try:
        launch.result()
    except ScriptFailed as error:
        print("exit code:", error.exit_code)
        print("the end of its log:", error.tail, sep="\n")
        print(f"known after {launch.progress().elapsed:.1f} s of {launch.progress().allowed:.0f} s")
    print(teardown_all().result().headline())


if __name__ == "__main__":
    main()
