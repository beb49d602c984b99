"""An xDS and SDS server of grpcio that answers from a file, in both variants of the protocol.

server.py SOCKET RESOURCES MODE. RESOURCES has one resource a line: its type URL, its name and its content in base64. MODE says what is
answered: `late` answers as asked (headers come with the first message), `never` nothing, `other` answers with a resource of another name. Each request is printed: variant, type, names, the nonce that it answers and whether it rejects.
"""

import base64
import concurrent.futures
import sys
import threading

import grpc


def fields(data):
    """The fields of a message: numbers, and bytes or integers."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            size = varint()
            yield key >> 3, data[at : at + size]
            at += size


def field(number, data):
    """One field of bytes or text."""
    data = data.encode() if isinstance(data, str) else data

    def varint(value):
        out = b""
        while value > 0x7F:
            out += bytes([value & 0x7F | 0x80])
            value >>= 7
        return out + bytes([value])

    return varint(number << 3 | 2) + varint(len(data)) + data


def main():
    socket, resources, mode = sys.argv[1:]
    held = {}
    with open(resources, encoding="ascii") as lines:
        for line in lines:
            kind, name, content = line.split()
            held[kind, name] = base64.b64decode(content)
    lock = threading.Lock()

    def said(*words):
        with lock:
            print(*words, flush=True)

    def body(kind, name):
        return field(1, kind) + field(2, held[kind, name])

    def stream(delta):
        def serve(requests, _context):
            sent = set()
            for nonce, request in enumerate(requests, 1):
                all_fields = list(fields(request))

                def texts(number):
                    return [value.decode() for n, value in all_fields if n == number]

                kind = "".join(texts(2 if delta else 4))
                names = texts(3)
                answered = "".join(texts(6 if delta else 5))
                rejects = any(n == (7 if delta else 6) for n, _ in all_fields)
                said("delta" if delta else "whole", kind.rsplit(".", 1)[-1], ",".join(names) or "-", answered or "-", "nack" if rejects else "ok")
                if mode == "never":
                    continue
                root = kind.endswith((".Cluster", ".Listener"))
                wanted = [n for k, n in held if k == kind and (n in names or root)]
                if mode == "other" and names and not root:
                    wanted = [n for k, n in held if k == kind and n not in names] or wanted
                if (kind, *wanted) in sent or not (wanted or root):
                    continue
                sent.add((kind, *wanted))
                if delta:
                    yield (
                        b"".join(field(2, field(3, n) + field(1, "1") + field(2, body(kind, n))) for n in wanted)
                        + field(4, kind)
                        + field(5, str(nonce))
                    )
                else:
                    yield field(1, str(nonce)) + b"".join(field(2, body(kind, n)) for n in wanted) + field(4, kind) + field(5, str(nonce))

        return grpc.stream_stream_rpc_method_handler(serve)

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=16))
    for service, method in (("discovery.v3.AggregatedDiscovery", "AggregatedResources"), ("secret.v3.SecretDiscovery", "Secrets")):
        methods = {"Stream" + method: stream(False), "Delta" + method: stream(True)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(f"envoy.service.{service}Service", methods),))
    server.add_insecure_port("unix:" + socket)
    server.start()
    said("serving")
    server.wait_for_termination()


main()
