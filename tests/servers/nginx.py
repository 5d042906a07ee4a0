"""nginx: a folder over http, read only, on a second port behind a password."""

from contextlib import contextmanager

from servers import free_port, program, running, wait_for

USER, PASSWORD = "alice", "correct-horse"

CONFIG = """
daemon off; master_process off; pid {folder}/pid; error_log stderr;
events {{ worker_connections 256; }}
http {{
  access_log off; root {root};
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  server {{ listen 127.0.0.1:{port}; }}
  server {{ listen 127.0.0.1:{guarded}; auth_basic lab; auth_basic_user_file {folder}/users; }}
}}
"""


@contextmanager
def serve(folder, root):
    """Gives the two ports of what lies in `root`: open, and behind USER and PASSWORD."""
    nginx = program("nginx", "nginx")
    (folder / "users").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
    port, guarded = free_port(), free_port()
    (folder / "nginx.conf").write_text(CONFIG.format(folder=folder, root=root, port=port, guarded=guarded))
    with running(nginx, "-c", folder / "nginx.conf", log=folder / "log") as process:
        wait_for(guarded, process, folder / "log")
        yield port, guarded
