"""What all tests share."""

import signal

from hypothesis import settings

settings.register_profile("no deadline", deadline=None)  # a test that fails because the machine was busy says nothing
settings.load_profile("no deadline")

# who runs under nohup ignores hangups, who runs in a shell's background ignores interrupts, and both pass that on to their children
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
