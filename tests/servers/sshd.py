"""OpenSSH with sftp, for the user who runs the tests, by one throw-away key."""

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

from servers import free_port, program, running, wait_for

CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/key.pub
PidFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
Subsystem sftp internal-sftp
"""


@contextmanager
def serve(folder):
    """Gives the port; the key is folder/key."""
    sshd, keygen = program("sshd", "openssh-server"), program("ssh-keygen", "openssh-client")
    for name in ("host", "key"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    port = free_port()
    (folder / "sshd_config").write_text(CONFIG.format(port=port, folder=folder))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd locks itself in; only an init system makes it
    with running(sshd, "-D", "-e", "-f", folder / "sshd_config", log=folder / "log") as process:
        wait_for(port, process, folder / "log")
        yield port
