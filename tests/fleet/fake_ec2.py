"""The EC2 of the in-memory AWS: the three launch calls and what they make, in plain dictionaries.

Kinds of things, by id: `requests` (sir-), `instances` (i-), `volumes` (vol-), `fleets` (fleet-), `templates` (lt-); `tags` has the tags of
them all. `grant` is the place where a subclass says what a capacity pool gives.
"""

from datetime import UTC, datetime

from fleetctl.errors import AwsError, Capacity, NotFound

ZONE = "us-east-1a"
PRICED = datetime(2026, 1, 1, tzinfo=UTC)  # when the spot prices came into force


def refusal(kind, service, operation, code):
    return kind(f"{service} {operation} was refused with {code}", service=service, operation=operation, code=code)


class FakeEc2:
    """Operations of EC2 as methods `_operation(parameters)`. The clock and what is shared with other services are FakeAws's."""

    def grant(self, kind, zone, wanted, least, spot):
        """How many machines the pool gives, and EC2's code for what it does not."""
        return wanted, ""

    # --- making ---------------------------------------------------------------------------------------------------------------------

    def _request_spot_instances(self, p):
        return {"SpotInstanceRequests": [self._request_row(key) for key in self._once(p, self._requested)]}

    def _requested(self, p):
        keys = []
        for _ in range(p["InstanceCount"]):
            number = next(self._numbers)
            keys.append(key := f"sir-{number:08x}")
            self._tag(p, "spot-instances-request", key)
            self.requests[key] = {"SpotInstanceRequestId": key, "State": "open", "Status": {"Code": "pending-evaluation"},
                                  "LaunchSpecification": p["LaunchSpecification"]}
            self._later(self.fill, self._fulfil, key, number)
        return keys

    def _fulfil(self, key, number):
        request = self.requests[key]
        if request["State"] == "open":
            instance = self._instance(number, request["LaunchSpecification"], spot=True)
            request |= {"State": "active", "Status": {"Code": "fulfilled"}, "InstanceId": instance}
            self.instances[instance]["request"] = key
            self._boot(instance, self._launch_of(key))

    def _run_instances(self, p):
        spot = "InstanceMarketOptions" in p
        made = self._once(p, lambda p: self._launched(p, p["MaxCount"], p["MinCount"], spot=spot, tagged=p, token=p["ClientToken"]))
        return {"ReservationId": "r-00000001", "Instances": [self._instance_row(key) for key in made]}

    def _launched(self, spec, wanted, least, *, spot, tagged, requests=None, token=""):
        """Machines that are there at once; refused where the pool has less than `least`."""
        kind, zone = spec.get("InstanceType", "t3.micro"), spec.get("Placement", {}).get("AvailabilityZone", ZONE)
        granted, code = self.grant(kind, zone, wanted, least, spot)
        if granted < max(1, least):
            raise refusal(Capacity, "ec2", "run_instances", code)
        made = []
        for _ in range(granted):
            number = next(self._numbers)
            full = {**spec, "InstanceType": kind, "Placement": {"AvailabilityZone": zone}}
            made.append(instance := self._instance(number, full, spot=spot))
            self.instances[instance]["ClientToken"] = token
            self._tag(tagged, "instance", instance)
            for volume in self.instances[instance]["volumes"]:
                self._tag(tagged, "volume", volume)
            if spot:
                key = self.instances[instance]["request"] = f"sir-{number:08x}"
                self._tag(requests or tagged, "spot-instances-request", key)
                self.requests[key] = {"SpotInstanceRequestId": key, "State": "active", "Status": {"Code": "fulfilled"},
                                      "InstanceId": instance, "LaunchSpecification": {"InstanceType": kind}}
            self._boot(instance, self._launch_of(instance))
        return made

    def _create_launch_template(self, p):
        [key] = self._once(p, self._template)
        return {"LaunchTemplate": self._template_row(key)}

    def _template(self, p):
        if any(one["LaunchTemplateName"] == p["LaunchTemplateName"] for one in self.templates.values()):
            raise refusal(AwsError, "ec2", "create_launch_template", "InvalidLaunchTemplateName.AlreadyExistsException")
        key = f"lt-{next(self._numbers):08x}"
        self.templates[key] = p
        self._tag(p, "launch-template", key)
        return [key]

    def _create_fleet(self, p):
        [key] = self._once(p, self._fleet)
        fleet = self.fleets[key]
        return {"FleetId": key, "Instances": fleet["shares"], "Errors": fleet["errors"]}

    def _fleet(self, p):
        """Takes from the pools in the order of the overrides; what a pool does not give is an error in the answer."""
        [config] = p["LaunchTemplateConfigs"]
        template = self.templates[self._template_id(config["LaunchTemplateSpecification"])]
        key = f"fleet-{next(self._numbers):08x}"
        fleet = self.fleets[key] = {"FleetId": key, "FleetState": "active", "shares": [], "errors": []}
        self._tag(p, "fleet", key)
        target = p["TargetCapacitySpecification"]
        missing, spot = target["TotalTargetCapacity"], target.get("DefaultTargetCapacityType") == "spot"
        for over in config.get("Overrides") or [{}]:
            spec = {**template["LaunchTemplateData"], **over}
            spec["Placement"] = {"AvailabilityZone": over.get("AvailabilityZone", ZONE)}
            granted, code = self.grant(spec.get("InstanceType", "t3.micro"), spec["Placement"]["AvailabilityZone"], missing, 1, spot)
            said = {"LaunchTemplateAndOverrides": {"Overrides": over}}
            if granted:
                made = self._of_fleet(spec, granted, spot, p, template["LaunchTemplateData"])
                fleet["shares"].append({**said, "InstanceIds": made, "InstanceType": spec.get("InstanceType", "t3.micro"),
                                        "Lifecycle": "spot" if spot else "on-demand"})
                for one in made:
                    self.tags[one].append({"Key": "aws:ec2:fleet-id", "Value": key})
            if granted < missing:
                fleet["errors"].append({**said, "ErrorCode": code, "ErrorMessage": code})
            missing -= granted
            if not missing:
                break
        return [key]

    def _of_fleet(self, spec, wanted, spot, p, data):
        grant, self.grant = self.grant, lambda kind, zone, wanted, least, spot: (wanted, "")  # it has been granted already
        try:
            return self._launched(spec, wanted, 1, spot=spot, tagged=p, requests=data)
        finally:
            self.grant = grant

    def _instance(self, number, spec, *, spot):
        instance = f"i-{number:08x}"
        volumes = []
        for disk in spec.get("BlockDeviceMappings") or [{}]:
            volumes.append(volume := f"vol-{next(self._numbers):08x}")
            self.volumes[volume] = {"VolumeId": volume, "instance": instance, "goes": disk.get("Ebs", {}).get("DeleteOnTermination", True)}
            self.tags.setdefault(volume, [])
        self.tags.setdefault(instance, [])
        self.instances[instance] = {
            "InstanceId": instance, "LaunchTime": self.utc(), "InstanceType": spec.get("InstanceType", "t3.micro"),
            "Placement": {"AvailabilityZone": spec.get("Placement", {}).get("AvailabilityZone", ZONE)}, "volumes": volumes,
            **({"InstanceLifecycle": "spot"} if spot else {}),
        }
        return instance

    def _boot(self, instance, launch):
        self._later(self.boot(int(instance[2:], 16)), self.report, instance, launch)

    # --- looking --------------------------------------------------------------------------------------------------------------------

    def _describe_spot_instance_requests(self, p):
        keys = self._chosen(self.requests, p.get("SpotInstanceRequestIds"), "describe_spot_instance_requests",
                            "InvalidSpotInstanceRequestID.NotFound")
        rows = [self._request_row(key) for key in keys]
        for row in rows:
            if row["SpotInstanceRequestId"] in self.hidden:
                row.pop("InstanceId", None)
        return self._page({"spot-instance-request-id": "SpotInstanceRequestId", "state": "State"}, rows, "SpotInstanceRequests", p)

    def _describe_instances(self, p):
        keys = self._chosen(self.instances, p.get("InstanceIds"), "describe_instances", "InvalidInstanceID.NotFound")
        rows = [self._instance_row(key) for key in keys]
        names = {"instance-id": "InstanceId", "instance-state-name": ("State", "Name"), "client-token": "ClientToken",
                 "spot-instance-request-id": "SpotInstanceRequestId"}
        answer = self._page(names, rows, "Reservations", p)
        return {**answer, "Reservations": [{"Instances": answer["Reservations"]}] if answer["Reservations"] else []}

    def _describe_instance_status(self, p):
        self._known(self.instances, p["InstanceIds"], "describe_instance_status", "InvalidInstanceID.NotFound")
        fine = {"SystemStatus": {"Status": "ok"}, "InstanceStatus": {"Status": "ok"}}
        return {"InstanceStatuses": [{"InstanceId": key, **fine} for key in p["InstanceIds"]]}

    def _get_console_output(self, p):
        self._known(self.instances, [p["InstanceId"]], "get_console_output", "InvalidInstanceID.NotFound")
        return {"InstanceId": p["InstanceId"], "Output": self.consoles.get(p["InstanceId"], "")}

    def _describe_volumes(self, p):
        keys = self._chosen(self.volumes, p.get("VolumeIds"), "describe_volumes", "InvalidVolume.NotFound")
        rows = [{"VolumeId": key, "State": "in-use" if self.volumes[key]["instance"] else "available", "Size": 8,
                 "Attachments": [{"InstanceId": one}] if (one := self.volumes[key]["instance"]) else [],
                 "Tags": self.tags.get(key, [])} for key in keys]
        return self._page({"volume-id": "VolumeId", "status": "State"}, rows, "Volumes", p)

    def _describe_launch_templates(self, p):
        if names := p.get("LaunchTemplateNames"):
            keys = [self._template_id({"LaunchTemplateName": name}) for name in names]
        else:
            keys = self._chosen(self.templates, p.get("LaunchTemplateIds"), "describe_launch_templates", "InvalidLaunchTemplateId.NotFound")
        return self._page({"launch-template-name": "LaunchTemplateName"}, [self._template_row(key) for key in keys], "LaunchTemplates", p)

    def _describe_fleets(self, p):
        keys = p.get("FleetIds") or []  # an instant fleet is not shown unless it is asked for
        self._known(self.fleets, keys, "describe_fleets", "InvalidFleetId.NotFound")
        rows = [{"FleetId": key, "FleetState": self._fleet_state(self.fleets[key]), "Tags": self.tags.get(key, [])} for key in keys]
        return self._page({"fleet-state": "FleetState"}, rows, "Fleets", p)

    def _describe_tags(self, p):
        wanted = {one["Name"]: one["Values"] for one in p["Filters"]}
        there = self.requests.keys() | self.instances.keys() | self.volumes.keys() | self.fleets.keys() | self.templates.keys()
        rows = [{"ResourceId": key, "Key": tag["Key"], "Value": tag["Value"]} for key, tags in self.tags.items() if key in there
                for tag in tags if tag["Key"] in wanted["key"] and tag["Value"] in wanted.get("value", [tag["Value"]])]
        start, most = int(p.get("NextToken") or 0), p["MaxResults"]
        return {"Tags": rows[start:start + most], **({"NextToken": str(start + most)} if start + most < len(rows) else {})}

    def _describe_spot_price_history(self, p):
        return {"SpotPriceHistory": [{"InstanceType": kind, "AvailabilityZone": ZONE, "SpotPrice": "0.0031", "Timestamp": PRICED}
                                     for kind in p["InstanceTypes"]]}

    # --- ending ---------------------------------------------------------------------------------------------------------------------

    def _cancel_spot_instance_requests(self, p):
        self._known(self.requests, p["SpotInstanceRequestIds"], "cancel_spot_instance_requests", "InvalidSpotInstanceRequestID.NotFound")
        for key in p["SpotInstanceRequestIds"]:
            one = self.requests[key]
            if one["State"] in ("open", "active"):
                code = "request-canceled-and-instance-running" if "InstanceId" in one else "canceled-before-fulfillment"
                one |= {"State": "cancelled", "Status": {"Code": code}}

    def _terminate_instances(self, p):
        self._known(self.instances, p["InstanceIds"], "terminate_instances", "InvalidInstanceID.NotFound")
        for key in p["InstanceIds"]:
            if key in self.protected:
                raise refusal(AwsError, "ec2", "terminate_instances", "OperationNotPermitted")
        for key in p["InstanceIds"]:
            self._end_instance(key, "instance-terminated-by-user")
        return {"TerminatingInstances": [{"InstanceId": key} for key in p["InstanceIds"]]}

    def _end_instance(self, key, why):
        one = self.instances[key]
        if "ended" in one:
            return
        one["ended"] = self.time()
        request = self.requests.get(one.get("request", ""))
        if request is not None:
            request |= {"Status": {"Code": why}, "State": "closed" if request["State"] == "active" else request["State"]}
        for volume in one["volumes"]:
            if self.volumes[volume]["goes"]:
                del self.volumes[volume]
            else:
                self.volumes[volume]["instance"] = None

    def _delete_volume(self, p):
        self._known(self.volumes, [p["VolumeId"]], "delete_volume", "InvalidVolume.NotFound")
        if self.volumes[p["VolumeId"]]["instance"]:
            raise refusal(AwsError, "ec2", "delete_volume", "VolumeInUse")
        del self.volumes[p["VolumeId"]]

    def _delete_launch_template(self, p):
        key = self._template_id(p)
        return {"LaunchTemplate": {"LaunchTemplateId": key, "LaunchTemplateName": self.templates.pop(key)["LaunchTemplateName"]}}

    def _delete_fleets(self, p):
        assert p["TerminateInstances"] is True, "an instant fleet cannot be deleted without its instances"
        done, failed = [], []
        for key in p["FleetIds"]:
            fleet = self.fleets.get(key)
            if fleet is None or fleet["FleetState"] != "active":
                code = "fleetIdDoesNotExist" if fleet is None else "fleetNotInDeletableState"
                failed.append({"FleetId": key, "Error": {"Code": code, "Message": code}})
                continue
            fleet["FleetState"] = "deleted_terminating"
            for instance in [one for share in fleet["shares"] for one in share["InstanceIds"]]:
                self._end_instance(instance, "instance-terminated-by-user")
            done.append({"FleetId": key, "CurrentFleetState": "deleted_terminating", "PreviousFleetState": "active"})
        return {"SuccessfulFleetDeletions": done, "UnsuccessfulFleetDeletions": failed}

    def _create_tags(self, p):
        tables = {"i-": self.instances, "vol-": self.volumes, "sir-": self.requests}
        if any(key not in table for key in p["Resources"] for begin, table in tables.items() if key.startswith(begin)):
            raise refusal(NotFound, "ec2", "create_tags", "InvalidID.NotFound")
        for key in p["Resources"]:
            self.tags[key] = [one for one in self.tags.get(key, []) if one["Key"] not in {tag["Key"] for tag in p["Tags"]}] + p["Tags"]

    # --- rows -----------------------------------------------------------------------------------------------------------------------

    def _request_row(self, key):
        return {**self.requests[key], "Tags": self.tags.get(key, [])}

    def _instance_row(self, key):
        one = {name: value for name, value in self.instances[key].items() if name[0].isupper()}
        kept = [] if "ended" in self.instances[key] else [one for one in self.instances[key]["volumes"] if one in self.volumes]
        disks = [{"DeviceName": f"/dev/xvd{chr(97 + at)}", "Ebs": {"VolumeId": one, "DeleteOnTermination": self.volumes[one]["goes"]}}
                 for at, one in enumerate(kept)]
        request = {"SpotInstanceRequestId": self.instances[key]["request"]} if self.instances[key].get("request") else {}
        return {**one, **request, "State": {"Name": self._state(self.instances[key])}, "BlockDeviceMappings": disks,
                "Tags": self.tags.get(key, [])}

    def _template_row(self, key):
        return {"LaunchTemplateId": key, "LaunchTemplateName": self.templates[key]["LaunchTemplateName"], "Tags": self.tags.get(key, [])}

    def _state(self, one):
        if "ended" not in one:
            return "running"
        return "terminated" if self.time() >= one["ended"] + self.end else "shutting-down"

    def _fleet_state(self, fleet):
        ids = [one for share in fleet["shares"] for one in share["InstanceIds"]]
        over = all(self._state(self.instances[one]) == "terminated" for one in ids if one in self.instances)
        return "deleted" if fleet["FleetState"] == "deleted_terminating" and over else fleet["FleetState"]

    def _template_id(self, p):
        key = next((key for key, one in self.templates.items() if one["LaunchTemplateName"] == p.get("LaunchTemplateName")),
                   p.get("LaunchTemplateId"))
        if key not in self.templates:
            code = "InvalidLaunchTemplateId.NotFound" if p.get("LaunchTemplateId") else "InvalidLaunchTemplateName.NotFoundException"
            raise refusal(NotFound, "ec2", "delete_launch_template", code)
        return key

    # --- helpers --------------------------------------------------------------------------------------------------------------------

    def _once(self, p, make):
        """What the client token has made, made now if it is new."""
        token = p["ClientToken"]
        if token not in self.tokens:
            self.tokens[token] = make(p)
        return self.tokens[token]

    def _tag(self, p, kind, key):
        """The tags that a creating call gives to a kind of thing."""
        given = [one["Tags"] for one in p.get("TagSpecifications", []) if one["ResourceType"] == kind]
        self.tags[key] = [dict(tag) for tags in given for tag in tags]

    def _launch_of(self, key):
        return next((tag["Value"] for tag in self.tags[key] if tag["Key"] == "fleetctl:launch"), "")

    def _chosen(self, table, keys, operation, code):
        """What a listing is about: the ids that are given, each of which must be known, or everything."""
        if keys:
            self._known(table, keys, operation, code)
        return keys or [*table]

    @staticmethod
    def _known(table, keys, operation, code):
        if any(key not in table for key in keys):
            raise refusal(NotFound, "ec2", operation, code)

    def _page(self, names, rows, key, p):
        """The rows that meet the filters, in pages."""
        for one in p.get("Filters") or []:
            rows = [row for row in rows if self._meets(row, one, names)]
        start, most = int(p.get("NextToken") or 0), p.get("MaxResults", 10**9)
        return {key: rows[start:start + most], **({"NextToken": str(start + most)} if start + most < len(rows) else {})}

    @staticmethod
    def _meets(row, one, names):
        if one["Name"] == "tag-key":
            return bool({tag["Key"] for tag in row["Tags"]} & {*one["Values"]})
        if one["Name"].startswith("tag:"):
            return any(tag["Key"] == one["Name"][4:] and tag["Value"] in one["Values"] for tag in row["Tags"])
        if one["Name"] == "attachment.instance-id":
            return any(at["InstanceId"] in one["Values"] for at in row["Attachments"])
        place = names[one["Name"]]
        return (row[place[0]][place[1]] if isinstance(place, tuple) else row.get(place)) in one["Values"]
