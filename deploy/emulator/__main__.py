"""python -m deploy.emulator: serves until SIGTERM, then stops every container. process.py starts it."""

from __future__ import annotations

import shutil
import signal
import sys
import threading

from deploy.emulator import model_data, process
from deploy.emulator.options import from_environment
from deploy.emulator.server import Application, bound
from model_configs.errors import KitError


def main() -> int:
    """Returns the exit code."""
    try:
        options = from_environment()
    except KitError as error:
        print(f"error: {error}\nhint: {error.hint}", file=sys.stderr)
        return 2
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in ("containers", "logs"):  # of an emulator before
        model_data.make_removable(options.folder / name)
        shutil.rmtree(options.folder / name, ignore_errors=True)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    application = Application(options)
    server = bound(application)
    threading.Thread(target=server.serve_forever, name="server", daemon=True).start()
    process.announce(options)
    print(f"the emulator answers at {options.url}", flush=True)
    ended.wait()
    application.close()
    server.shutdown()
    (options.folder / process.STATE_FILE).unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
