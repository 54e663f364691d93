"""`manifold-xai` in a namespace without network, where only the machine itself can be reached.

`unshare --user --map-root-user --net .venv/bin/python tests/offline.py run --profile cpu`, as
`make offline` does: the kernels of the chapters are spoken to over the loopback device, which such
a namespace does not switch on.
"""

import fcntl
import socket
import struct
import sys

from manifold_xai.course.cli import main

UP, READ, WRITE = 0x1, 0x8913, 0x8914  # IFF_UP, SIOCGIFFLAGS, SIOCSIFFLAGS

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    asked = struct.pack("16sh14x", b"lo", 0)
    name, flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, READ, asked))
    fcntl.ioctl(any_socket, WRITE, struct.pack("16sh14x", name, flags | UP))
sys.exit(main())
