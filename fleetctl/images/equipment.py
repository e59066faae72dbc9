"""What a baked image has by itself, as shell lines: Python, a server, the nodes' Python, a boot unit where cloud-init is missing.

The lines are for Amazon Linux 2023, Ubuntu and Debian; where neither dnf nor apt-get is, what is there already will do, and what is not is
told. They make nothing that is there. The text is `equip.sh`; what the boot unit runs is `user_data.sh`.
"""

from __future__ import annotations

import base64
import shlex

from ..bootstrap import bare

__all__ = ["UNIT", "boot_script", "furnish", "prepare", "python_of"]

PYTHONS = {"ubuntu-24.04": "3.12", "debian-12": "3.11"}  # what their package managers have; Amazon Linux 2023 has each from 3.11 on
UNIT = """[Unit]
Description=What cloud-init would do for a machine of fleetctl's: its key and its user data
After=network-online.target
Wants=network-online.target
Before=sshd.service ssh.service

[Service]
Type=exec
ExecStartPre=-/usr/bin/ssh-keygen -A
ExecStart=/bin/bash /usr/local/lib/fleetctl/user-data
Environment=FLEETCTL_LOGIN_HOME=@home@
StandardOutput=journal+console
StandardError=inherit

[Install]
WantedBy=multi-user.target
"""


def python_of(begin: str, here: str) -> str:
    """The Python for an image from this beginning: what its system has, as far as that is known, else this one.

    >>> python_of("ubuntu-24.04", "3.11"), python_of("al2023", "3.13")
    ('3.12', '3.13')
    """
    return PYTHONS.get(begin, here)


def boot_script() -> str:
    """What the boot unit runs."""
    return bare("user_data.sh")


def prepare(python: str) -> str:
    """What comes before the nodes' Python: the system's own, of that version; and what `furnish` calls."""
    values = {"python": python, "boot": _encoded(boot_script()), "unit": _encoded(UNIT)}
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()) + bare("equip.sh")


def furnish() -> str:
    """What comes after it."""
    return "furnish"


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
