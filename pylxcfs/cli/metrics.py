"""The process that serves metrics, a child of the keeper: `--metrics-listen`.

It is apart from the server, so that no scrape makes a reader wait. What it serves is in
monitor/exposition.py.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from typing import Final

from pylxcfs import log
from pylxcfs.cli.options import Config
from pylxcfs.cli.status import place_of
from pylxcfs.errors import HostError
from pylxcfs.keeper import child
from pylxcfs.monitor import listening

_log = logging.getLogger(__name__)

_MOST_DOCUMENT: Final = 1 << 20
#: Seconds until the next try where the address is in use.
_AGAIN_S: Final = 5.0


def serve(config_fd: int) -> None:
    """Serve until the keeper ends this process."""
    child.set_name("pylxcfs-metrics")
    config = Config.parse(os.pread(config_fd, _MOST_DOCUMENT, 0))
    log.setup(config.log_level)
    try:
        listening.need_package()
    except HostError as error:  # it was there when the mount was made
        _log.error("%s; %s", error, error.hint)
        signal.pause()  # the keeper would start another process
    from pylxcfs.monitor import exposition

    application = exposition.application(place_of(config), by_container=config.metrics_containers)
    said = False
    while True:
        try:
            server = listening.serve(config.metrics_listen, application)
            break
        except OSError as error:
            if not said:
                _log.error("metrics cannot be served at %s: %s", config.metrics_listen, error)
                said = True
            time.sleep(_AGAIN_S)
    _log.info("serving metrics at %s", config.metrics_listen)
    server.serve_forever()
