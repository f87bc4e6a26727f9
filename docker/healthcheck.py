"""Docker's HEALTHCHECK: exit code 0 while the container's /ping says 200. Imports nothing but Python's own."""

import http.client
import os
import sys

port = int(os.environ.get("SAGEMAKER_BIND_TO_PORT") or 8080)
try:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    connection.request("GET", "/ping")
    sys.exit(connection.getresponse().status != 200)
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"/ping on port {port}: {error}")
