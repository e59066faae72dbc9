"""Load balancers: two services of one name, told apart by the version that a call names."""

from __future__ import annotations

from typing import Any

from moto.elb.responses import ELBResponse
from moto.elbv2.responses import ELBV2Response

CLASSIC = "2012-06-01"


class LocalBalancers:
    """What the gateway sends the calls of both to."""

    @staticmethod
    def dispatch(request: Any) -> Any:
        """Answer one call."""
        return (ELBResponse if request.values.get("Version") == CLASSIC else ELBV2Response).dispatch(request)
