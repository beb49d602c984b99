//! In a network namespace of its own, in which the test runs itself once more.

use std::{net::SocketAddr, process::Command, time::Duration};

use nlink::netlink::Route;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

use super::*;

const INSIDE: &str = "MIZZEN_TEST_INSIDE";
const UDP: u8 = 17;

fn addresses(ranges: &[&str]) -> Addresses {
    ranges.iter().map(|range| Addresses::of(&range.parse().unwrap())).fold(Addresses::default(), Addresses::and)
}

fn admit(peers: Option<&[&str]>, ports: &[(u8, u16, u16)]) -> Admit {
    let ports = ports.iter().map(|&(protocol, first, last)| PortRange { protocol, first, last }).collect();
    Admit { peers: peers.map(addresses), ports }
}

fn side(of: &[&str], admits: &[Admit]) -> Side {
    Side { of: addresses(of), admits: admits.iter().cloned().collect() }
}

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// Connects, and returns what can be said over the connection afterwards.
async fn connect(from: &str, to: &str, port: u16) -> Result<TcpStream, std::io::ErrorKind> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(at(from, 0)).unwrap();
    let connected = tokio::time::timeout(Duration::from_secs(30), socket.connect(at(to, port))).await;
    connected.expect("an answer").map_err(|error| error.kind())
}

/// Whether a datagram is stopped, which its sender hears of.
async fn is_stopped(from: &str, to: &str, port: u16) -> bool {
    let server = UdpSocket::bind(at(to, port)).await.unwrap();
    let socket = UdpSocket::bind(at(from, 0)).await.unwrap();
    socket.connect(at(to, port)).await.unwrap();
    socket.send(b"x").await.unwrap();
    let (mut got, mut answer) = ([0; 8], [0; 8]);
    tokio::select! {
        received = server.recv(&mut got) => received.is_err(),
        refused = socket.recv(&mut answer) => refused.is_err(),
    }
}

fn attempt(from: &str, to: &str, port: u16) -> Attempt {
    Attempt { from: from.parse().unwrap(), to: to.parse().unwrap(), port }
}

#[tokio::test]
#[ignore = "runs in a namespace that another test makes"]
async fn inside() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let links = Connection::<Route>::new().unwrap();
    let lo = links.get_link_by_name("lo").await.unwrap().unwrap().ifindex();
    links.set_link_up_by_index(lo).await.unwrap();
    let _listeners = [
        TcpListener::bind(at("127.0.1.1", 80)).await.unwrap(),
        TcpListener::bind(at("127.0.1.1", 90)).await.unwrap(),
        TcpListener::bind(at("127.9.0.1", 80)).await.unwrap(),
    ];
    let refused = Err(std::io::ErrorKind::ConnectionRefused);
    let mut guarding = Guarding::default();
    assert_eq!(guarding.refused().await.unwrap(), Refused::default());

    let open = connect("127.0.0.9", "127.0.1.1", 80).await.unwrap();
    let mut guard = Guard {
        inside: vec!["127.0.0.0/16".parse().unwrap()],
        inbound: vec![side(
            &["127.0.1.1"],
            &[admit(Some(&["127.0.0.1", "127.0.0.4/30"]), &[(TCP, 80, 81), (UDP, 70, 70)]), admit(None, &[(TCP, 90, 90)])],
        )],
        outbound: vec![side(&["127.0.0.1", "127.0.0.5"], &[admit(Some(&["127.8.0.0/16"]), &[])])],
    };
    assert_eq!(guarding.set(&guard).await.unwrap(), Refused::default());
    let tries = [
        ("127.0.0.1", "127.0.1.1", 80, true),
        ("127.0.0.6", "127.0.1.1", 80, true),
        ("127.0.0.8", "127.0.1.1", 80, false),
        ("127.0.0.8", "127.0.1.1", 90, true),
        // From the outside of the range, to what is outside of it, and not.
        ("127.0.0.1", "127.9.0.1", 80, false),
        ("127.0.0.2", "127.9.0.1", 80, true),
    ];
    for (from, to, port, passes) in tries {
        let connected = connect(from, to, port).await.map(drop);
        assert_eq!(connected, if passes { Ok(()) } else { refused }, "{from} to {to}:{port}");
    }
    assert!(!is_stopped("127.0.0.1", "127.0.1.1", 70).await);
    assert!(is_stopped("127.0.0.8", "127.0.1.1", 70).await);
    // What was open stays open.
    open.writable().await.unwrap();
    assert_eq!(open.try_write(b"x").unwrap(), 1);
    let by = [
        (attempt("127.0.0.8", "127.0.1.1", 80), 1),
        (attempt("127.0.0.1", "127.9.0.1", 80), 1),
        (attempt("127.0.0.8", "127.0.1.1", 70), 1),
    ];
    let counted = Refused { total: 3, by: by.into() };
    assert_eq!(guarding.refused().await.unwrap(), counted);

    // Another one takes its place, and tells what was counted. One that is too long for one message is no matter.
    let many: Vec<String> = (0..1_000).map(|number| format!("10.{}.{}.0/31", number / 250, number % 250)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    guard.inbound = vec![side(&["127.0.1.1"], &[admit(Some(&many), &[]), admit(Some(&["127.0.0.8"]), &[])])];
    assert_eq!(guarding.set(&guard).await.unwrap(), counted);
    assert_eq!(connect("127.0.0.8", "127.0.1.1", 80).await.map(drop), Ok(()));
    assert_eq!(connect("127.0.0.1", "127.0.1.1", 80).await.map(drop), refused);
    assert_eq!(guarding.refused().await.unwrap().total, 1);
    let tables = async || {
        let tables = open_tables().await;
        tables.into_iter().filter(|name| name.starts_with(GUARD_TABLE)).count()
    };
    assert_eq!(tables().await, 1);
    assert_eq!(guarding.set(&Guard::default()).await.unwrap().total, 1);
    assert_eq!(connect("127.0.0.1", "127.0.1.1", 80).await.map(drop), Ok(()));
    assert_eq!(tables().await, 1);
}

async fn open_tables() -> Vec<String> {
    let tables = super::open().unwrap().list_tables_in(Family::Inet).await.unwrap();
    tables.into_iter().map(|table| table.name).collect()
}

#[test]
fn guards_in_the_kernel() {
    let unshare = |program: &std::path::Path, args: &[&str]| {
        Command::new("unshare").args(["-r", "-n"]).arg(program).args(args).env(INSIDE, "1").output()
    };
    if !unshare("true".as_ref(), &[]).is_ok_and(|output| output.status.success()) && !mizzen_testkit::require_peers() {
        return mizzen_testkit::skip("this kernel refuses namespaces, in which a guard would be set");
    }
    let output = unshare(&std::env::current_exe().unwrap(), &["--exact", "guard::tests::inside", "--ignored", "--nocapture"]).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}
