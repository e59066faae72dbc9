"""Service Quotas as far as launches need it: the account's vCPUs by market, as the fault "quota" has them. moto's has those of VPC only."""

from __future__ import annotations

import json
from typing import Any

from moto.core import DEFAULT_ACCOUNT_ID
from moto.servicequotas.exceptions import NoSuchResource
from moto.servicequotas.responses import ServiceQuotasResponse

ENDLESS = 100_000.0  # what EC2 gives here where no fault says otherwise
CODES = {"L-34B43A08": ("spot", "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests"),
         "L-1216C47A": ("on-demand", "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances")}


class LocalServiceQuotas(ServiceQuotasResponse):
    """GetServiceQuota for EC2; the rest is moto's."""

    def get_service_quota(self) -> Any:
        """One quota of the region."""
        from moto.ec2.models import ec2_backends

        asked = json.loads(self.body)
        if asked.get("ServiceCode") != "ec2":
            return super().get_service_quota()
        if asked.get("QuotaCode") not in CODES:
            raise NoSuchResource
        market, name = CODES[asked["QuotaCode"]]
        limit = ec2_backends[DEFAULT_ACCOUNT_ID][self.region].supply.limit(market)
        return json.dumps({"Quota": {"ServiceCode": "ec2", "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)", "QuotaName": name,
                                     "QuotaCode": asked["QuotaCode"], "Value": ENDLESS if limit is None else float(limit), "Unit": "None",
                                     "Adjustable": True, "GlobalQuota": False}})
