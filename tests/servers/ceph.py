"""Ceph's RADOS Gateway, an S3 server, over a cluster of one monitor and one store."""

import subprocess
import uuid
from contextlib import ExitStack, contextmanager

from servers import free_port, program, running, wait_for

KEY, SECRET = "ALICE", "correct-horse"

CONFIG = """
[global]
fsid = {cluster}
mon host = [v2:127.0.0.1:{monitor}]
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
mon data = {folder}/mon
mon allow pool size one = true
mon max pg per osd = 1000
osd data = {folder}/osd
osd objectstore = bluestore
osd memory target = 939524096
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
paxos propose interval = 0.05
paxos min wait = 0.01
bluestore block size = 2147483648
rgw frontends = beast endpoint=127.0.0.1:{port}
run dir = {folder}
admin socket =
pid file =
log file =
log to stderr = true
"""


@contextmanager
def serve(folder):
    """Gives the port; KEY and SECRET are the keys of the one user."""
    programs = {name: program(name, package) for name, package in PACKAGES.items()}
    port, config, cluster, store = free_port(), folder / "ceph.conf", uuid.uuid4(), uuid.uuid4()
    monitor = free_port()
    config.write_text(CONFIG.format(cluster=cluster, monitor=monitor, folder=folder, port=port))
    for name in ("mon", "osd"):
        (folder / name).mkdir()

    def call(name, *words):
        found = subprocess.run([programs[name], *map(str, words)], capture_output=True, text=True, timeout=120)
        assert found.returncode == 0, found.stdout + found.stderr

    with ExitStack() as stack:

        def start(name, *words):
            log = folder / f"{name}.log"
            return stack.enter_context(running(programs[name], "-f", "-c", config, *words, log=log)), log

        call("monmaptool", "--create", "--addv", "a", f"[v2:127.0.0.1:{monitor}]", "--fsid", cluster, folder / "map")
        call("ceph-mon", "-c", config, "--mkfs", "-i", "a", "--monmap", folder / "map")
        start("ceph-mon", "-i", "a")
        call("ceph", "-c", config, "osd", "new", store)
        call("ceph-osd", "-c", config, "-i", "0", "--mkfs", "--osd-uuid", store)
        start("ceph-osd", "-i", "0")
        wait_for(port, *start("radosgw", "-n", "client.rgw.a", "--no-mon-config"))
        keys = ["--access-key", KEY, "--secret-key", SECRET]
        call("radosgw-admin", "-c", config, "user", "create", "--uid", "alice", "--display-name", "alice", *keys)
        yield port


PACKAGES = {
    "ceph-mon": "ceph-mon", "ceph-osd": "ceph-osd", "ceph": "ceph-common", "monmaptool": "ceph-common",
    "radosgw": "radosgw", "radosgw-admin": "ceph-common",
}  # fmt: skip
