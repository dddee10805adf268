"""Starts the dashboard: settings → dashboard → launch."""

import argparse
import sys

from charllm.data.config import Paths
from charllm.data.errors import UserError, current_language
from charllm.services.doctor import preflight
from charllm.ui.server import ServerSettings, create_app


def main() -> int:
    parser = argparse.ArgumentParser(description="charllm dashboard")
    parser.add_argument("--host", default=ServerSettings().host)
    parser.add_argument("--port", type=int, default=ServerSettings().port)
    parser.add_argument(
        "--no-prepare", action="store_true", help="do not convert the embedded model at the start"
    )
    options = parser.parse_args()
    settings = ServerSettings(host=options.host, port=options.port, prepare=not options.no_prepare)
    paths = Paths.default()
    problems = [p.in_(current_language()) for p in preflight(paths, settings.host, settings.port)]
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 2
    try:
        app = create_app(paths, settings)
    except UserError as error:
        print(error.in_(current_language()), file=sys.stderr)
        return 2
    import uvicorn

    print(f"charllm: http://{settings.host}:{settings.port}", flush=True)
    uvicorn.run(app, host=settings.host, port=settings.port, log_level="warning")
    return 0


if __name__ == "__main__":
    sys.exit(main())
