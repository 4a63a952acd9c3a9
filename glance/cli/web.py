"""`glance web`: the same in a browser."""

from glance.cli._command import takes
from glance.cli.console import Console
from glance.web.request import WebRequest


@takes(WebRequest)
def web(console: Console, request: WebRequest) -> None:
    """Serve pages for the browser: train, watch, sample, compare, take away.

    They work in the current folder, as the commands do, and start those: a training goes on when
    the server ends, and is found again by the next one. Ctrl-C ends the server.

    Example: glance web
    """
    from glance.web.serve import Address, serve

    def tell(address: Address) -> None:
        console.result(address.url)
        console.document(address.to_json())
        console.note("Ctrl-C ends the server; what it has started goes on")

    for job in serve(request, on_ready=tell):
        place = f" in {job.run}" if job.run else ""
        console.note(f"still running: glance {job.command}{place}")
