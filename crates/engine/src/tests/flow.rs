//! Large bodies, one after the other and side by side on the same connections: nothing may stay held.

use std::{collections::HashMap, time::Duration};

use mizzen_http::{Codec, ConnState, Event, Head, Limits, StreamId};

use super::{calls::*, mesh::*};
use crate::sim::Serve;

/// What a server holds of one connection.
struct Held {
    codec: Codec,
    /// Bytes of each body that is being received.
    received: HashMap<StreamId, usize>,
    /// What is to be sent of each body.
    queue: Vec<(StreamId, usize)>,
}

/// A server that answers `GET /n` by `n` bytes and other requests by the length of their body, and heeds flow control.
pub(super) fn store() -> Serve {
    let mut conns: HashMap<u64, Held> = HashMap::new();
    Box::new(move |id, input, eof, out| {
        if input.is_empty() && !conns.contains_key(&id) {
            return eof;
        }
        let held = conns.entry(id).or_insert_with(|| {
            let h2 = input.starts_with(b"PRI");
            let codec = if h2 { Codec::h2_server(Limits::default(), out) } else { Codec::h1_server(Limits::default()) };
            Held { codec, received: HashMap::new(), queue: Vec::new() }
        });
        let whole = std::mem::take(input);
        let mut at = 0;
        loop {
            let (mut give, mut answer) = (None, None);
            let Ok((n, event)) = held.codec.next(&whole[at..], out) else { return true };
            let last = event.is_none();
            match event {
                Some(Event::Head { stream, head, end: true }) => answer = Some((stream, head.path()[1..].parse().unwrap_or(0))),
                Some(Event::Head { stream, .. }) => drop(held.received.insert(stream, 0)),
                Some(Event::Data { stream, data, end }) => {
                    give = Some((stream, data.len()));
                    let received = held.received.entry(stream).or_default();
                    *received += data.len();
                    answer = end.then_some((stream, *received));
                }
                _ => {}
            }
            at += n;
            if let Some((stream, n)) = give {
                held.codec.consumed(stream, n, out);
            }
            if let Some((stream, length)) = answer {
                let sent = if held.received.remove(&stream).is_some() { 0 } else { length };
                let mut head = Head::response(200);
                head.set("x-length", length.to_string());
                head.set("content-length", sent.to_string());
                held.codec.send_head(stream, &head, sent == 0, out);
                held.queue.extend((sent > 0).then_some((stream, sent)));
            } else if last {
                break;
            }
        }
        held.queue.retain_mut(|(stream, left)| {
            *left -= held.codec.send_data(*stream, &vec![b'x'; *left], true, out);
            *left > 0
        });
        *input = whole[at..].to_vec();
        eof || held.codec.state() == ConnState::Done
    })
}

#[test]
fn downloads_and_uploads_take_turns() {
    const SIZE: usize = 1_500_000;
    let mut seed = 0;
    for hop in ["h1", "h2", "downstream"] {
        for (h2, window) in [(false, 20_000), (true, 20_000), (false, 256 * 1024), (true, 256 * 1024)] {
            seed += 1;
            let config = client(&[cluster(CLUSTER, "reviews", http_options(hop))]);
            let mut sim = mesh_with(seed, config, &Inbound::default());
            sim.window = window;
            sim.serve("10.0.0.2:9080", store());
            for round in 0..3 {
                let context = format!("{hop}, HTTP/2 {h2}, window {window}, round {round}");
                if h2 {
                    let download = (Head::request("GET", "http", "reviews:9080", &format!("/{SIZE}")), Vec::new());
                    let upload = (Head::request("PUT", "http", "reviews:9080", "/"), vec![b'x'; SIZE]);
                    let answers = h2_calls(&mut sim, &[download.clone(), upload.clone(), download, upload]);
                    let lengths: Vec<_> = answers.iter().map(|(status, body, _)| (*status, body.len())).collect();
                    assert_eq!(lengths, [(200, SIZE), (200, 0), (200, SIZE), (200, 0)], "{context}");
                } else {
                    let text = call(&mut sim, &get(&format!("/{SIZE}"), ""));
                    assert!(text.len() > SIZE, "{context}: {} bytes", text.len());
                    let mut request = format!("PUT / HTTP/1.1\r\nhost: reviews:9080\r\ncontent-length: {SIZE}\r\n\r\n").into_bytes();
                    request.resize(request.len() + SIZE, b'x');
                    let text = call(&mut sim, &request);
                    assert!(text.contains(&format!("x-length: {SIZE}\r\n")), "{context}: {text}");
                }
            }
            sim.run_for(Duration::from_secs(1));
            assert_clean(&mut sim);
        }
    }
}
