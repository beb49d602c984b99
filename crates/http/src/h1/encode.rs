//! Heads, from [`Head`] to bytes.

use super::{H1, Recv, Send};
use crate::head::{Head, is_hop_by_hop};
use std::io::Write;

impl H1 {
    pub(super) fn send_request(&mut self, head: &Head, end: bool, out: &mut Vec<u8>) {
        let method = if head.is_request() { head.method() } else { "GET" };
        let connect = method == "CONNECT";
        let target = match head.path() {
            _ if connect => head.authority(),
            "" => "/",
            path => path,
        };
        for part in [method, " ", target, " HTTP/1.1\r\nhost: ", head.authority(), "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        self.asked.head = method == "HEAD";
        self.asked.connect = connect;
        self.asked.upgrade = head.protocol().filter(|_| !connect && !end).map(str::to_owned);
        fields(head, out);
        self.send = if connect || self.asked.upgrade.is_some() {
            if end { Send::Ended } else { Send::Wait }
        } else {
            match head.content_length() {
                Some(n) if !end && n > 0 => length(n, out),
                Some(_) if end => length(0, out),
                None if end => {
                    if matches!(method, "POST" | "PUT" | "PATCH") {
                        length(0, out);
                    }
                    Send::Ended
                }
                Some(n) => length(n, out),
                None => {
                    out.extend_from_slice(b"transfer-encoding: chunked\r\n");
                    Send::Chunked
                }
            }
        };
        if end {
            self.send = Send::Ended;
        }
        let te = head.contains("te");
        if let Some(protocol) = &self.asked.upgrade {
            out.extend_from_slice(b"connection: upgrade\r\n");
            field("upgrade", protocol.as_bytes(), out);
        } else if te {
            out.extend_from_slice(b"connection: te\r\n");
        }
        out.extend_from_slice(b"\r\n");
        self.active = true;
        self.recv = Recv::Head;
    }

    pub(super) fn send_response(&mut self, head: &Head, end: bool, out: &mut Vec<u8>) {
        let status = if head.status() == 0 { 500 } else { head.status() };
        if status < 200 && self.asked.http_10 {
            return;
        }
        status_line(status, out);
        fields(head, out);
        if status == 101 {
            out.extend_from_slice(b"connection: upgrade\r\n");
            let asked = self.asked.upgrade.as_deref().unwrap_or_default();
            field("upgrade", head.protocol().unwrap_or(asked).as_bytes(), out);
            out.extend_from_slice(b"\r\n");
            return self.tunnel(end);
        }
        if status < 200 {
            return out.extend_from_slice(b"\r\n");
        }
        if self.asked.connect && status < 300 {
            out.extend_from_slice(b"\r\n");
            return self.tunnel(end);
        }
        if self.recv == Recv::Wait {
            // The tunnel is refused: the request ends here.
            self.recv = Recv::Ended;
        }
        let bodyless = self.asked.head || status == 204 || status == 304;
        self.send = if bodyless {
            if let Some(n) = head.content_length().filter(|_| status != 204) {
                length(n, out);
            }
            Send::Drop
        } else {
            match head.content_length() {
                _ if end => length(0, out),
                Some(n) => length(n, out),
                None if self.asked.http_10 => {
                    self.close = true;
                    Send::UntilClose
                }
                None => {
                    out.extend_from_slice(b"transfer-encoding: chunked\r\n");
                    Send::Chunked
                }
            }
        };
        if self.close || self.draining {
            self.close = true;
            out.extend_from_slice(b"connection: close\r\n");
        } else if self.asked.keep_alive_10 {
            out.extend_from_slice(b"connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if end {
            self.send = Send::Ended;
        }
    }

    fn tunnel(&mut self, end: bool) {
        self.become_tunnel();
        if end {
            self.send = Send::Ended;
        }
    }
}

fn length(n: u64, out: &mut Vec<u8>) -> Send {
    let _ = write!(out, "content-length: {n}\r\n");
    Send::Body(n)
}

/// The fields that are passed on; those about framing and connection are each side's own.
fn fields(head: &Head, out: &mut Vec<u8>) {
    for (name, value) in head.iter() {
        if !(is_hop_by_hop(name) || name == "content-length" || name == "host") {
            field(name, value, out);
        }
    }
}

pub(super) fn field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn status_line(status: u16, out: &mut Vec<u8>) {
    let _ = write!(out, "HTTP/1.1 {status} {}\r\n", reason(status));
}

/// An answer without anything, before the connection is closed.
pub(super) fn bare_response(status: u16, out: &mut Vec<u8>) {
    status_line(status, out);
    if status == 426 {
        out.extend_from_slice(b"upgrade: HTTP/1.1\r\n");
    }
    out.extend_from_slice(b"content-length: 0\r\nconnection: close\r\n\r\n");
}

fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Payload Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Entity",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
