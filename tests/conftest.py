"""What all tests share."""

import os
import signal

import pytest
from hypothesis import settings

# without a deadline, since a test that fails because the machine was busy says nothing; and always the same examples, so that a run tells
# of the change and not of luck. HYPOTHESIS_PROFILE=explore looks for new ones
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# who runs under nohup ignores hangups, who runs in a shell's background ignores interrupts, and both pass that on to their children
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """Where this test process keeps its state; its local cloud serves while the tests run."""
    from fleetctl import local

    home = tmp_path_factory.mktemp("fleet")
    local.up(home / "local", idle=300)  # should this process be killed, it ends by itself
    yield home
    local.down(home / "local", force=True)


@pytest.fixture
def cloud(home):
    """The local cloud itself: the oracle of what exists, and the place to break things."""
    from fleetctl import local

    cloud = local.status(home / "local")
    yield cloud
    cloud.clear_faults()
