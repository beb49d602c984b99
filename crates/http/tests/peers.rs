//! The codecs against hyper, in both roles and both versions, over an in-memory pipe.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mizzen_http::{Codec, ConnState, Event, Head, Limits, StreamId};
use std::collections::HashMap;
use std::convert::Infallible;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// A message in the making.
#[derive(Default, Debug)]
struct Message {
    head: Head,
    body: Vec<u8>,
    trailers: Option<Head>,
    unsent: Vec<u8>,
}

/// Serves an echo on one connection: the body and trailers of the request, with its path in a field.
async fn echo_server(mut codec: Codec, greeting: Vec<u8>, mut io: DuplexStream) {
    let (mut out, mut wire) = (greeting, Vec::new());
    let mut open: HashMap<StreamId, Message> = HashMap::new();
    loop {
        io.write_all(&std::mem::take(&mut out)).await.unwrap();
        if codec.state() == ConnState::Done {
            return;
        }
        if io.read_buf(&mut wire).await.unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut ready = None;
            let (n, event) = codec.next(&wire, &mut out).unwrap();
            let quiet = event.is_none();
            match event {
                Some(Event::Head { stream, head, end }) => {
                    open.insert(stream, Message { head, ..Message::default() });
                    ready = end.then_some(stream);
                }
                Some(Event::Data { stream, data, end }) => {
                    open.get_mut(&stream).unwrap().body.extend_from_slice(data);
                    codec.consumed(stream, data.len(), &mut out);
                    ready = end.then_some(stream);
                }
                Some(Event::Trailers { stream, head }) => {
                    open.get_mut(&stream).unwrap().trailers = Some(head);
                    ready = Some(stream);
                }
                Some(Event::Window { stream }) => ready = Some(stream),
                _ => {}
            }
            wire.drain(..n);
            if let Some(stream) = ready {
                let m = open.get_mut(&stream).unwrap();
                if m.head.is_request() {
                    let mut head = Head::response(200);
                    head.append("x-path", m.head.path());
                    codec.send_head(stream, &head, false, &mut out);
                    m.unsent = std::mem::take(&mut m.body);
                    m.head = head;
                }
                let end = m.trailers.is_none();
                let n = codec.send_data(stream, &m.unsent, end, &mut out);
                m.unsent.drain(..n);
                if let (true, Some(trailers)) = (m.unsent.is_empty(), &m.trailers) {
                    codec.send_trailers(stream, trailers, &mut out);
                }
            } else if quiet {
                break;
            }
        }
    }
}

/// Makes requests one after the other with our client.
async fn requests(mut codec: Codec, mut out: Vec<u8>, mut io: DuplexStream, all: Vec<(Head, Vec<u8>)>) -> Vec<Message> {
    let mut answers = Vec::new();
    let mut wire = Vec::new();
    for (head, body) in all {
        let stream = codec.open().expect("the connection is kept");
        codec.send_head(stream, &head, body.is_empty(), &mut out);
        let mut sent = if body.is_empty() { 0 } else { codec.send_data(stream, &body, true, &mut out) };
        let mut m = Message::default();
        let mut over = false;
        while !over {
            io.write_all(&std::mem::take(&mut out)).await.unwrap();
            assert!(io.read_buf(&mut wire).await.unwrap() > 0, "closed early");
            loop {
                let (n, event) = codec.next(&wire, &mut out).unwrap();
                let mut window = false;
                let quiet = event.is_none();
                match event {
                    Some(Event::Head { head, end, .. }) => (m.head, over) = (head, end),
                    Some(Event::Data { stream, data, end }) => {
                        m.body.extend_from_slice(data);
                        codec.consumed(stream, data.len(), &mut out);
                        over = end;
                    }
                    Some(Event::Trailers { head, .. }) => (m.trailers, over) = (Some(head), true),
                    Some(Event::Window { .. }) => window = true,
                    _ => {}
                }
                wire.drain(..n);
                if window {
                    sent += codec.send_data(stream, &body[sent..], true, &mut out);
                }
                if quiet {
                    break;
                }
            }
        }
        answers.push(m);
    }
    answers
}

async fn hyper_echo(
    req: hyper::Request<Incoming>,
) -> Result<hyper::Response<impl hyper::body::Body<Data = Bytes, Error = Infallible> + Send>, Infallible> {
    let path = req.uri().path().to_owned();
    let body = req.into_body().collect().await.unwrap();
    let trailers = body.trailers().cloned();
    let body = Full::new(body.to_bytes()).with_trailers(async move { trailers.map(Ok) });
    Ok(hyper::Response::builder().header("x-path", path).header("trailer", "x-t").body(body.boxed_unsync()).unwrap())
}

fn posts(n: usize, size: usize) -> Vec<(Head, Vec<u8>)> {
    let post = |i: usize| {
        let body = vec![b'a' + (i % 26) as u8; if i == 0 { 0 } else { size + i }];
        let mut head = Head::request("POST", "http", "peer:80", &format!("/{i}"));
        head.append("x-repeats", "the same each time");
        (head, body)
    };
    (0..n).map(post).collect()
}

async fn check_client(h2: bool) {
    let (ours, theirs) = tokio::io::duplex(10_000);
    tokio::spawn(async move {
        let io = TokioIo::new(theirs);
        let service = hyper::service::service_fn(hyper_echo);
        if h2 {
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
        } else {
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
        }
    });
    let mut out = Vec::new();
    let codec = if h2 { Codec::h2_client(Limits::new(), &mut out) } else { Codec::h1_client(Limits::new()) };
    let sent = posts(8, 70_000);
    let answers = requests(codec, out, ours, sent.clone()).await;
    for ((head, body), answer) in sent.iter().zip(&answers) {
        assert_eq!((answer.head.status(), answer.head.get_str("x-path")), (200, Some(head.path())));
        assert!(*body == answer.body, "{} bytes sent, {} came back", body.len(), answer.body.len());
    }
}

async fn check_server(h2: bool) {
    let (ours, theirs) = tokio::io::duplex(10_000);
    let mut out = Vec::new();
    let codec = if h2 { Codec::h2_server(Limits::new(), &mut out) } else { Codec::h1_server(Limits::new()) };
    tokio::spawn(echo_server(codec, out, ours));
    let io = TokioIo::new(theirs);
    let mut all = Vec::new();
    let request = |i: usize| {
        // Mapped, so that no length is known and HTTP/1 sends chunks.
        let body = Full::new(Bytes::from(vec![i as u8; 1 + i * 40_000])).map_frame(|f| f).with_trailers(async move {
            let mut map = http::HeaderMap::new();
            map.insert("x-t", http::HeaderValue::from(i as u64));
            Some(Ok::<_, Infallible>(map))
        });
        let uri = if h2 { format!("http://peer/{i}") } else { format!("/{i}") };
        hyper::Request::post(uri)
            .header("host", "peer")
            .header("trailer", "x-t")
            .header("te", "trailers")
            .body(body.boxed_unsync())
            .unwrap()
    };
    if h2 {
        let (mut send, conn) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(conn);
        let pending: Vec<_> = (0..12).map(|i| send.send_request(request(i))).collect();
        for p in pending {
            all.push(p.await.unwrap());
        }
    } else {
        let (mut send, conn) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(conn);
        for i in 0..12 {
            send.ready().await.unwrap();
            let answer = send.send_request(request(i)).await.unwrap();
            let (parts, body) = answer.into_parts();
            check_echo(i, parts, body).await;
        }
    }
    for (i, answer) in all.into_iter().enumerate() {
        let (parts, body) = answer.into_parts();
        check_echo(i, parts, body).await;
    }
}

async fn check_echo(i: usize, parts: http::response::Parts, body: Incoming) {
    assert_eq!(parts.status, 200);
    assert_eq!(parts.headers["x-path"], format!("/{i}"));
    let body = body.collect().await.unwrap();
    assert_eq!(body.trailers().map(|t| t["x-t"].clone()), Some(http::HeaderValue::from(i as u64)), "{i}");
    assert!(body.to_bytes() == vec![i as u8; 1 + i * 40_000], "{i}");
}

#[tokio::test]
async fn our_http1_client_and_hyper() {
    check_client(false).await;
}

#[tokio::test]
async fn our_http2_client_and_hyper() {
    check_client(true).await;
}

#[tokio::test]
async fn our_http1_server_and_hyper() {
    check_server(false).await;
}

#[tokio::test]
async fn our_http2_server_and_hyper() {
    check_server(true).await;
}
