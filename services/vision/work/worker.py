"""A worker process: reads jobs from its standard input, writes results to its standard output.

Started with an empty environment, a limit on its address space and no core dumps. One job at a
time; whatever a job raises becomes an error reply, and the process lives on. It ends at the end of
its input, so it never outlives the service.
"""

from __future__ import annotations

import argparse
import os
import resource
from typing import Any, BinaryIO

import orjson

from services.vision.work.frames import read_message, write_message


def limit_process(memory_bytes: int) -> None:
    """Bound the address space, forbid core dumps."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def answer(task: str, parameters: Any, blobs: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
    """Run one job; errors become replies."""
    from services.vision.work.tasks import TASKS, error_reply

    try:
        result, produced = TASKS[task](orjson.dumps(parameters), blobs)
    except MemoryError:
        return {
            "error": {"code": "image_too_large", "message": "the image takes more memory than allowed"}
        }, []
    except Exception as error:
        return {"error": error_reply(error)}, []
    return {"result": result}, produced


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer messages until the input ends."""
    while True:
        try:
            head, blobs = read_message(source)
        except EOFError:
            return
        reply, produced = answer(head["task"], head["parameters"], blobs)
        write_message(sink, reply, produced)


def main() -> None:
    """Entry of `python -m services.vision.work.worker`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory", type=int, required=True)
    limit_process(parser.parse_args().memory)
    sink = os.fdopen(os.dup(1), "wb", buffering=0)
    source = os.fdopen(0, "rb", buffering=1 << 16, closefd=False)
    import services.vision.work.tasks  # noqa: F401 - load the codecs before the first job

    # Codecs print about broken files: neither the protocol nor the log is a sender's to write to.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    write_message(sink, {"ready": True})
    serve(source, sink)


if __name__ == "__main__":
    main()
