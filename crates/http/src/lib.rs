//! HTTP/1.1, HTTP/2 and HPACK as state machines
