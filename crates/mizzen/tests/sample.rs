//! The sample and its steps, each with a call that must work and one that must not.

use std::{
    io::{Read, Write},
    net::{TcpListener, UdpSocket},
    path::{Path, PathBuf},
};

use mizzen_testkit::{Mesh, Options, eventually};
use serde_json::Value;

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples")
}

fn step(name: &str) -> PathBuf {
    samples().join("bookshop-steps").join(name)
}

/// The books as the storefront shows them.
fn books(mesh: &Mesh, headers: &[&str]) -> Result<Value, String> {
    let (status, body) = mesh.get("/api/books", headers)?;
    if status != 200 {
        return Err(format!("{status}: {body}"));
    }
    serde_json::from_str(&body).map_err(|e| format!("{e}: {body}"))
}

/// The version of the reviews that each book of one page shows.
fn versions(page: &Value) -> Vec<String> {
    let books = page["books"]["Ok"].as_array().cloned().unwrap_or_default();
    books.iter().filter_map(|b| b["reviews"]["Ok"]["version"].as_str().map(str::to_owned)).collect()
}

/// Whether every part of the page could be had.
fn whole(page: &Value) -> Result<(), String> {
    let books = page["books"]["Ok"].as_array().ok_or_else(|| page.to_string())?;
    for book in books {
        let parts = [&book["book"]["stock"], &book["reviews"]];
        let stars = &book["reviews"]["Ok"]["stars"];
        if parts.iter().any(|part| part.get("Ok").is_none()) || stars.get("Err").is_some() {
            return Err(book.to_string());
        }
    }
    if books.len() == 3 { Ok(()) } else { Err(format!("{} books", books.len())) }
}

/// An outside of the mesh: a web server for example.com, and a DNS server that knows it. Returns the arguments of `up` that make them reachable.
fn outside() -> Vec<String> {
    let web = TcpListener::bind("127.0.0.1:0").expect("a port");
    let names = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let args = [
        "--outside".to_owned(),
        format!("192.0.2.80:80={}", web.local_addr().expect("an address")),
        "--name-server".to_owned(),
        names.local_addr().expect("an address").to_string(),
    ];
    std::thread::spawn(move || {
        for stream in web.incoming().flatten() {
            let mut stream = stream;
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\nconnection: close\r\n\r\noutside\n");
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = names.recv_from(&mut buffer) {
            let _ = names.send_to(&answer(&buffer[..length]), from);
        }
    });
    args.into()
}

/// The address of example.com to a question for it, and no such name to any other.
fn answer(question: &[u8]) -> Vec<u8> {
    // After the header: the name, its end, type and class (RFC 1035, section 4.1).
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).expect("a name") + 5;
    let is_address = question[end - 3] == 1;
    let known = question[12..].starts_with(b"\x07example\x03com\0");
    let (count, code) = (u8::from(known && is_address), if known { 0 } else { 3 });
    let mut reply = vec![question[0], question[1], 0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0];
    reply.extend_from_slice(&question[12..end]);
    if count == 1 {
        reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, 80]);
    }
    reply
}

const REVIEWS: &str = "http://reviews:9080/reviews/1";

#[test]
fn the_steps_of_the_sample() {
    let mut mesh = Mesh::start_with(MIZZEN, &samples().join("bookshop"), Options { args: outside(), ..Options::default() });
    let page = mesh.get("/", &[]).expect("the page");
    assert_eq!(page.0, 200);
    assert!(page.1.contains("Joshua Slocum"), "{}", page.1);
    eventually("a whole page", || books(&mesh, &[]).and_then(|page| whole(&page)));
    let seen: std::collections::BTreeSet<String> = (0..20).flat_map(|_| versions(&books(&mesh, &[]).expect("a page"))).collect();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["v1", "v2", "v3"], "without routing rules all versions are seen");
    let visit = |path: &str| mesh.run("shop", "visitor", &["curl", "-s", "-S", "-m", "10", "-w", " %{http_code}", path]);
    assert!(visit(REVIEWS).ok().ends_with(" 200"), "a visitor may call before there are policies");

    mesh.apply(&step("01-strict-and-deny"));
    mesh.wait_for("/", &[], "denied by default", |status, body| status == 403 && body == "RBAC: access denied");
    assert_eq!(visit(REVIEWS).ok(), "RBAC: access denied 403");

    mesh.apply(&step("02-allow"));
    eventually("what is allowed works again", || books(&mesh, &[]).and_then(|page| whole(&page)));
    assert_eq!(visit(REVIEWS).ok(), "RBAC: access denied 403", "nobody allowed the visitor");
    let stock = mesh.run("shop", "visitor", &["sh", "-c", "exec 3<>/dev/tcp/stock/7070 2>/dev/null || exit 9; echo 1 >&3; cat <&3"]);
    assert_eq!(stock.out, "", "a denied TCP connection is closed: {stock:?}");

    mesh.apply(&step("03-canary"));
    eventually("nobody sees v3", || {
        let page = books(&mesh, &[])?;
        if versions(&page).iter().any(|v| v == "v3") { Err(page.to_string()) } else { whole(&page) }
    });
    let seen: Vec<String> = (0..200).flat_map(|_| versions(&books(&mesh, &[]).expect("a page"))).collect();
    let canary = seen.iter().filter(|v| *v == "v2").count();
    // 600 requests, one in ten: the chance to miss this range is below one in a million.
    assert!(seen.len() == 600 && (25..=105).contains(&canary), "{canary} of {}", seen.len());

    mesh.apply(&step("04-header-route"));
    eventually("testers see v2, all others v1", || {
        for (headers, expected) in [(&["x-user: tester"][..], "v2"), (&["x-user: somebody"], "v1"), (&[], "v1")] {
            let page = books(&mesh, headers)?;
            whole(&page)?;
            if versions(&page) != [expected; 3] {
                return Err(format!("{headers:?}: {page}"));
            }
        }
        Ok(())
    });

    assert_eq!(visit("http://example.com/").ok(), "outside\n 200", "what is not known may pass by default");
    mesh.apply(&step("05-external"));
    eventually("only what is registered passes", || match visit("http://192.0.2.80/").out.as_str() {
        out if out.ends_with(" 502") => Ok(()),
        out => Err(out.to_owned()),
    });
    eventually("example.com is registered", || match visit("http://example.com/").out.as_str() {
        "outside\n 200" => Ok(()),
        out => Err(out.to_owned()),
    });
    eventually("the shop goes on", || books(&mesh, &[]).and_then(|page| whole(&page)));
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}
