"""What all tests share."""

import os
import signal

from hypothesis import settings

# without a deadline, since a test that fails because the machine was busy says nothing; and always the same examples, so that a run tells
# of the change and not of luck. HYPOTHESIS_PROFILE=explore looks for new ones
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# who runs under nohup ignores hangups, who runs in a shell's background ignores interrupts, and both pass that on to their children
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
