"""A user's files live apart from machines: they are there when one is handed out, and saved when it comes back.

    python examples/home.py

Each of two users has a home in S3. The machines of the list serve now the one, now the other, and nobody finds what is not theirs.
"""

import asyncio

from fleetctl import Standby, connect
from fleetctl.errors import HomeError

REQUEST = {"SpotPrice": "0.01", "LaunchSpecification": {"InstanceType": "t3.micro"}}
ADA, BOB = "s3://lab/homes/ada", "s3://lab/homes/bob"


async def main() -> None:
    session = connect("local")
    s3 = session.boto3().client("s3")
    try:
        s3.create_bucket(Bucket="lab")  # on your account: a bucket that the machines' role may use
        async with Standby(REQUEST, 1) as standby:
            async with standby.lend(home=ADA) as machine:
                await machine.run("mkdir home/model && echo 'depth 40 m' > home/model/notes")
                try:
                    await standby.take(home=ADA)
                except HomeError as error:
                    print("one machine at a time:", error.trouble)
            async with standby.lend(home=BOB) as machine:
                print("Bob finds:", (await machine.run("ls home")).stdout.split())
            async with standby.lend(home=ADA) as machine:
                print("Ada finds:", (await machine.run("cat home/model/notes")).stdout, end="")
            receipt = await standby.close()
            print(receipt.headline())
    finally:
        session.boto3().resource("s3").Bucket("lab").objects.delete()  # homes are yours: no teardown ends them
        s3.delete_bucket(Bucket="lab")
        session.close()


if __name__ == "__main__":
    asyncio.run(main())
