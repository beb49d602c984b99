//! What is refused as it cannot surely be understood: who is told, and what the log says.

use mizzen_ir::ResourceKind;
use serde_json::json;

use super::{calls::*, mesh::*};

/// A listener that looks for HTTP, and passes everything else through.
fn sniffing() -> (ResourceKind, serde_json::Value) {
    let inspector = json!([{"name": "envoy.filters.listener.http_inspector", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"}}]);
    let chains = json!([
        {"filter_chain_match": {"application_protocols": ["http/1.1", "h2c"]}, "filters": [hcm(false, json!("9080"), &[])]},
        {"filters": [tcp_proxy("PassthroughCluster")]},
    ]);
    listener(
        "0.0.0.0_9080",
        "0.0.0.0",
        9080,
        "OUTBOUND",
        json!({"bind_to_port": false, "listener_filters": inspector, "filter_chains": chains}),
    )
}

#[test]
fn a_request_target_that_is_too_long_is_answered() {
    let long = |n: usize| format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(n)).into_bytes();
    for sniffed in [false, true] {
        for (n, split) in [(62_000, 0), (66_000, 0), (66_000, 999), (300_000, 0), (300_000, 30_000)] {
            let mut sim = with_app(mesh_with(2, client(if sniffed { vec![sniffing()] } else { vec![] }.as_slice()), &Inbound::default()));
            sim.split = split;
            let client = sim.connect(0, TO);
            sim.send(client, &long(n));
            sim.run();
            let text = String::from_utf8_lossy(&sim.received(client)).into_owned();
            assert!(text.starts_with("HTTP/1.1 414 ") && sim.ended(client).is_some(), "sniffed {sniffed}, {n} bytes: {text}");
            let log = lines(&sim.log(0));
            assert_eq!((log.len(), &log[0]["response_code"], &log[0]["response_flags"]), (1, &json!(414), &json!("DPE")), "{log:?}");
            assert_eq!(log[0]["response_code_details"], "http.codec_error:request_line_too_long");
        }
    }
}

#[test]
fn the_log_says_why_an_answer_was_refused() {
    let large = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(70_000));
    for (answer, code, details) in [
        ("HTTP/1.1 200 OK\nx: y\n\n", 502, "bare_line_feed"),
        ("HTTP/1.1 200 OK\r\nx: y\r\n folded\r\ncontent-length: 0\r\n\r\n", 502, "malformed_field_name"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\ntransfer-encoding: chunked\r\n\r\n", 502, "both_transfer-encoding_and_content-length"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\ntransfer-encoding : chunked\r\n\r\n", 502, "both_transfer-encoding_and_content-length"),
        (&large, 502, "head_too_large"),
        ("HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n", 502, "switches_protocols_without_being_asked"),
        ("HTTP/1.1 200 OK\r\nX-A : b\r\nX-C\t: d\r\ncontent-length: 0\r\n\r\n", 200, ""),
    ] {
        let config = client(&[assignment(CLUSTER, &["10.0.0.9:80"], false)]);
        let mut sim = mesh_with(2, config, &Inbound::default());
        let bytes = answer.as_bytes().to_vec();
        sim.serve(
            "10.0.0.9:80",
            Box::new(move |_, input, eof, out| {
                if !std::mem::take(input).is_empty() {
                    out.extend(&bytes);
                }
                eof
            }),
        );
        let text = call(&mut sim, &get("/", ""));
        let log = lines(&sim.log(0));
        assert_eq!(log[0]["response_code"], json!(code), "{log:?}");
        if code == 502 {
            let expected = format!("upstream_reset_before_response_started{{protocol_error|{details}}}");
            assert_eq!((&log[0]["response_code_details"], &log[0]["response_flags"]), (&json!(expected), &json!("UPE")), "{text}");
            assert!(!text.contains(&details.replace('_', " ")), "{text}");
        } else {
            assert!(text.contains("\r\nx-a: b\r\nx-c: d\r\n"), "{text}");
        }
    }
}

#[test]
fn the_log_says_why_an_answer_of_http2_was_refused() {
    let config = client(&[cluster(CLUSTER, "reviews", http_options("h2")), assignment(CLUSTER, &["10.0.0.9:80"], false)]);
    let mut sim = mesh_with(2, config, &Inbound::default());
    sim.serve(
        "10.0.0.9:80",
        Box::new(|_, input, eof, out| {
            if !std::mem::take(input).is_empty() {
                // SETTINGS, and a head with `:path`, which no answer has: `/` from HPACK's static table.
                out.extend(b"\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\x05\0\0\0\x01\x84");
            }
            eof
        }),
    );
    assert_eq!(status(&call(&mut sim, &get("/", ""))), "502");
    let log = lines(&sim.log(0));
    assert_eq!(log[0]["response_code_details"], "upstream_reset_before_response_started{protocol_error|malformed_head}", "{log:?}");
}

#[test]
fn the_log_says_that_a_client_speaks_http_10() {
    let request = b"GET / HTTP/1.0\r\nhost: reviews\r\n\r\n";
    let mut sim = with_app(mesh_with(2, client(&[sniffing()]), &Inbound::default()));
    let c = sim.connect(0, TO);
    sim.send(c, request);
    sim.run();
    let failure = lines(&sim.log(0))[0]["failure"].as_str().unwrap().to_owned();
    assert!(failure.starts_with("Connection refused; the client speaks HTTP/1.0"), "{failure}");
    // Where the port is known to be HTTP's.
    let mut sim = with_app(mesh(2, &Inbound::default()));
    assert_eq!(status(&call(&mut sim, request)), "426");
    let log = lines(&sim.log(0));
    assert_eq!(log[0]["response_code_details"], "http.codec_error:HTTP/1.0_is_not_accepted", "{log:?}");
}

#[test]
fn the_log_says_why_a_request_was_refused() {
    let mut sim = with_app(mesh(2, &Inbound::default()));
    assert_eq!(status(&call(&mut sim, b"GET / HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n")), "400");
    assert_eq!(lines(&sim.log(0))[0]["response_code_details"], "http.codec_error:malformed_field_name");
    // Within a body, with the request under way.
    let broken = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nx\r\n";
    call(&mut sim, broken);
    let log = lines(&sim.log(0));
    assert_eq!((log.len(), &log[0]["response_code_details"]), (1, &json!("http.codec_error:bad_chunk_size")), "{log:?}");
}
