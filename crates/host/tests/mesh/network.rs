//! Hosts, routes, capture, relay.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use mizzen_capture::{Dns, Owner, Plan, Ports, Ranges, Settings};
use mizzen_host::{Host, Link, Router};
use mizzen_types::ports::{INBOUND_PASSTHROUGH_V6, PROXY_MARK};
use nlink::netlink::{link::VethLink, route::Ipv6Route};
use socket2::{Domain, Socket, Type};

use crate::Paths;

pub(crate) const A: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);
pub(crate) const B: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);

pub(crate) struct Mesh {
    pub(crate) link: Link,
    pub(crate) router: Router,
    pub(crate) a: Host,
    pub(crate) b: Host,
}

impl Mesh {
    pub(crate) async fn start(link: &Link) -> Mesh {
        let router = Router::start(link, Default::default()).await.unwrap();
        let a = Host::create(&router, A).await.unwrap();
        let b = Host::create(&router, B).await.unwrap();
        Mesh { link: link.clone(), router, a, b }
    }
}

/// How a connection is opened.
#[derive(Clone, Copy, Default)]
struct From {
    mark: bool,
    source: Option<IpAddr>,
}

const PLAIN: From = From { mark: false, source: None };
const MARKED: From = From { mark: true, source: None };

fn connect_here(from: From, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if from.mark {
        socket.set_mark(PROXY_MARK)?;
    }
    if let Some(source) = from.source {
        socket.bind(&SocketAddr::from((source, 0)).into())?;
    }
    socket.connect(&to.into())?;
    Ok(socket.into())
}

async fn connect(host: &Host, from: From, to: impl Into<SocketAddr>) -> io::Result<TcpStream> {
    let to = to.into();
    host.run(move || connect_here(from, to)).await.unwrap()
}

pub(crate) async fn listen(host: &Host, address: impl Into<SocketAddr>) -> TcpListener {
    let address = address.into();
    host.run(move || TcpListener::bind(address)).await.unwrap().unwrap()
}

/// Opens a connection and says which of the listeners got it, with which original destination.
async fn arrives(
    host: &Host,
    from: From,
    to: impl Into<SocketAddr>,
    listeners: &[(&'static str, &TcpListener)],
) -> (&'static str, Option<SocketAddr>) {
    let to = to.into();
    let client = connect(host, from, to).await.unwrap_or_else(|error| panic!("{to}: {error}"));
    // The last packet of the handshake may still be on its way to the listener.
    for _ in 0..1_000_000 {
        for (name, listener) in listeners {
            listener.set_nonblocking(true).unwrap();
            match listener.accept() {
                Ok((stream, _)) => {
                    drop(client);
                    return (name, mizzen_net::original_dst(&stream));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    }
    panic!("{to} arrived nowhere")
}

pub(crate) async fn checks(mesh: &Mesh, paths: &Paths) {
    between_hosts(mesh).await;
    beyond(mesh, paths).await;
    dns(mesh).await;
    gateway(mesh, paths).await;
    captured_inbound(mesh).await;
    captured_outbound(mesh).await;
    captured_v6(mesh).await;
    captured_by_user(mesh).await;
    questions_of_two(mesh).await;
    half_closed(mesh).await;
    again(mesh).await;
}

async fn between_hosts(mesh: &Mesh) {
    let server = listen(&mesh.b, (B, 80)).await;
    let client = connect(&mesh.a, PLAIN, (B, 80)).await.unwrap();
    let (_, peer) = server.accept().unwrap();
    assert_eq!((peer.ip(), client.peer_addr().unwrap().ip()), (A.into(), B.into()));
    // Nobody there, a service without capture, an unused host address: an answer at once, no silence.
    let refused = connect(&mesh.a, PLAIN, (B, 81)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    for nowhere in [[10, 96, 0, 10], [240, 240, 0, 10], [10, 244, 9, 9]] {
        let error = connect(&mesh.a, PLAIN, (nowhere, 80)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{nowhere:?}");
    }
    if let Some(of_b) = mesh.b.address_v6() {
        let service: Ipv6Addr = "2001:2::10".parse().unwrap();
        let error = connect(&mesh.a, PLAIN, (service, 80)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{service}");
        // By IPv6 no host is reached, and nothing beyond the mesh is.
        for nowhere in [of_b, "2606:4700::1111".parse().unwrap()] {
            let error = connect(&mesh.a, PLAIN, (nowhere, 80)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{nowhere}");
        }
        // Nor does the router lead there whoever makes a way to it, where somebody listens.
        let _server = listen(&mesh.b, (of_b, 80)).await;
        let way = move || {
            let around = Ipv6Route::from_addr(of_b, 128).gateway("fd6d:697a:7a65:6e00::af4:1".parse().unwrap()).dev("eth0");
            mizzen_host::block_on(async { nlink::netlink::Connection::<nlink::Route>::new().unwrap().add_route(around).await.unwrap() })
        };
        mesh.a.run(way).await.unwrap().unwrap();
        let error = connect(&mesh.a, PLAIN, (of_b, 80)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{of_b}");
    }
    println!("ok: hosts reach each other");
}

async fn beyond(mesh: &Mesh, paths: &Paths) {
    for _ in 0..3 {
        let mut stream = connect(&mesh.a, PLAIN, ([192, 0, 2, 1], 80)).await.unwrap();
        stream.write_all(b"hello").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "HELLO", "half-close and what comes after it are carried");
    }
    // The machine's own services stay out of reach: by its addresses, and by loopback seen from a host.
    let port = paths.echo.port();
    for refused in [[169, 254, 169, 254], [224, 0, 0, 1]] {
        assert!(closed(connect(&mesh.a, PLAIN, (refused, port)).await), "{refused:?}");
    }
    let local = connect(&mesh.a, PLAIN, ([127, 0, 0, 1], port)).await.unwrap_err();
    assert_eq!(local.kind(), ErrorKind::ConnectionRefused);
    println!("ok: the relay carries what leaves the mesh");
}

/// Whether a connection failed or was closed without a byte.
fn closed(stream: io::Result<TcpStream>) -> bool {
    stream.is_err() || stream.is_ok_and(|mut stream| !matches!(stream.read(&mut [0]), Ok(1..)))
}

async fn dns(mesh: &Mesh) {
    let query = *b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01";
    let router = mesh.router.options().address;
    let answer = mesh.a.run(move || -> io::Result<Vec<u8>> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((router, 53))?;
        socket.send(&query)?;
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer)?;
        Ok(buffer[..length].to_vec())
    });
    let answer = answer.await.unwrap().unwrap();
    assert_eq!((&answer[..2], answer[2] & 0x80), (&query[..2], 0x80));
    println!("ok: DNS is forwarded");
}

async fn gateway(mesh: &Mesh, paths: &Paths) {
    let listener = mesh.link.listen(paths.gateway).await.unwrap();
    // From a host through the relay and the machine's loopback back to the inner: the port is really outside.
    let _client = connect(&mesh.a, PLAIN, ([192, 0, 2, 2], 80)).await.unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    listener.accept().await.unwrap();
    let taken = mesh.link.listen(paths.gateway).await.unwrap_err().to_string();
    assert!(taken.contains("in use"), "{taken}");
    let refused = mesh.link.listen("0.0.0.0:0".parse().unwrap()).await.unwrap_err().to_string();
    assert!(refused.contains("not a loopback address"), "{refused}");
    println!("ok: listeners come from outside");
}

async fn captured_inbound(mesh: &Mesh) {
    mesh.b.capture(&Plan::new(&Settings { exclude_inbound: vec![9000], ..Settings::default() })).await.unwrap();
    let proxy = listen(&mesh.b, ([0, 0, 0, 0], 15006)).await;
    let app = listen(&mesh.b, ([0, 0, 0, 0], 8080)).await;
    let excluded = listen(&mesh.b, ([0, 0, 0, 0], 9000)).await;
    let agent = listen(&mesh.b, ([0, 0, 0, 0], 15020)).await;
    let all = [("proxy", &proxy), ("app", &app), ("excluded", &excluded), ("agent", &agent)];
    let to = |port| SocketAddr::from((B, port));
    for from in [PLAIN, MARKED] {
        assert_eq!(arrives(&mesh.a, from, to(8080), &all).await, ("proxy", Some(to(8080))));
        assert_eq!(arrives(&mesh.a, from, to(1), &all).await, ("proxy", Some(to(1))));
        assert_eq!(arrives(&mesh.a, from, to(9000), &all).await, ("excluded", None));
        assert_eq!(arrives(&mesh.a, from, to(15020), &all).await, ("agent", None));
    }
    // Within the host: the app by itself, the proxy to its app, and the proxy that picked its own host.
    let handing = From { source: Some(Ipv4Addr::new(127, 0, 0, 6).into()), ..MARKED };
    assert_eq!(arrives(&mesh.b, PLAIN, to(8080), &all).await, ("app", None));
    assert_eq!(arrives(&mesh.b, PLAIN, ([127, 0, 0, 1], 8080), &all).await, ("app", None));
    assert_eq!(arrives(&mesh.b, MARKED, ([127, 0, 0, 1], 8080), &all).await, ("app", None));
    assert_eq!(arrives(&mesh.b, handing, to(8080), &all).await, ("app", None));
    assert_eq!(arrives(&mesh.b, MARKED, to(8080), &all).await, ("proxy", Some(to(8080))));
    // Only one port.
    let one = Settings { include_inbound: Ports::Only(vec![8080]), ..Settings::default() };
    mesh.b.capture(&Plan::new(&one)).await.unwrap();
    assert_eq!(arrives(&mesh.a, PLAIN, to(8080), &all).await, ("proxy", Some(to(8080))));
    assert_eq!(arrives(&mesh.a, PLAIN, to(9000), &all).await, ("excluded", None));
    println!("ok: inbound capture");
}

async fn captured_outbound(mesh: &Mesh) {
    let settings = Settings { exclude_outbound: vec![3306], exclude_ranges: vec![IpAddr::from(B).into()], ..Settings::default() };
    mesh.a.capture(&Plan::new(&settings)).await.unwrap();
    mesh.b.capture(&Plan::default()).await.unwrap();
    let proxy = listen(&mesh.a, ([0, 0, 0, 0], 15001)).await;
    let remote = listen(&mesh.b, (B, 8080)).await;
    let all = [("proxy", &proxy), ("remote", &remote)];
    for to in [[10, 96, 0, 10], [240, 240, 0, 10], [192, 0, 2, 1], [10, 244, 9, 9]] {
        let to = SocketAddr::from((to, 80));
        assert_eq!(arrives(&mesh.a, PLAIN, to, &all).await, ("proxy", Some(to)));
    }
    assert_eq!(arrives(&mesh.a, PLAIN, (B, 8080), &all).await, ("remote", None), "an excluded range");
    let service = connect(&mesh.a, PLAIN, ([10, 96, 0, 10], 3306)).await.unwrap_err();
    assert_eq!(service.kind(), ErrorKind::ConnectionRefused, "an excluded port");
    mesh.a.capture(&Plan::new(&Settings::default())).await.unwrap();
    assert_eq!(arrives(&mesh.a, PLAIN, (B, 8080), &all).await, ("proxy", Some((B, 8080).into())));
    assert_eq!(arrives(&mesh.a, MARKED, (B, 8080), &all).await, ("remote", None), "the proxy's own");
    println!("ok: outbound capture");
}

/// A link of its own between both hosts, and their addresses there; none if this kernel has no IPv6.
async fn linked_by_ipv6(mesh: &Mesh) -> Option<[Ipv6Addr; 2]> {
    const NAME: &str = "six";
    let namespace = mesh.b.run(|| std::fs::File::open("/proc/thread-self/ns/net")).await.unwrap().unwrap();
    let open = || nlink::netlink::Connection::<nlink::Route>::new().unwrap();
    let link = move || {
        mizzen_host::block_on(async { open().add_link(VethLink::new(NAME, NAME).peer_netns_fd(&namespace)).await.unwrap() }).unwrap();
    };
    mesh.a.run(link).await.unwrap();
    let addresses = ["fd00::1", "fd00::2"].map(|text| text.parse::<Ipv6Addr>().unwrap());
    for (host, own) in [&mesh.a, &mesh.b].into_iter().zip(addresses) {
        let address = move || {
            // An address that is still tentative is not chosen as a source.
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{NAME}/accept_dad"), "0").ok()?;
            let made = async {
                open().add_address_by_name(NAME, own.into(), 64).await.ok()?;
                open().set_link_up(NAME).await.ok()
            };
            mizzen_host::block_on(made).unwrap()
        };
        host.run(address).await.unwrap()?;
    }
    for (host, own) in [&mesh.a, &mesh.b].into_iter().zip(addresses) {
        while host.run(move || UdpSocket::bind((own, 0)).is_err()).await.unwrap() {}
    }
    Some(addresses)
}

/// IPv6 is captured as IPv4 is: none of it reaches a program past its proxy.
async fn captured_v6(mesh: &Mesh) {
    let Some([a, b]) = linked_by_ipv6(mesh).await else {
        println!("SKIPPED: IPv6 capture, since this kernel has no IPv6");
        return;
    };
    mesh.a.capture(&Plan::default()).await.unwrap();
    mesh.b.capture(&Plan::new(&Settings { exclude_inbound: vec![9000], ..Settings::default() })).await.unwrap();
    let any = |port: u16| SocketAddr::from(([0u16; 8], port));
    let proxy = listen(&mesh.b, any(15006)).await;
    let app = listen(&mesh.b, any(8080)).await;
    let excluded = listen(&mesh.b, any(9000)).await;
    let agent = listen(&mesh.b, any(15020)).await;
    let all = [("proxy", &proxy), ("app", &app), ("excluded", &excluded), ("agent", &agent)];
    let to = |port| SocketAddr::from((b, port));
    for from in [PLAIN, MARKED] {
        assert_eq!(arrives(&mesh.a, from, to(8080), &all).await, ("proxy", Some(to(8080))));
        assert_eq!(arrives(&mesh.a, from, to(1), &all).await, ("proxy", Some(to(1))));
        assert_eq!(arrives(&mesh.a, from, to(9000), &all).await, ("excluded", None));
        assert_eq!(arrives(&mesh.a, from, to(15020), &all).await, ("agent", None));
    }
    // Within the host, as by IPv4. The address from which the proxy hands connections on was given with the rules.
    let handing = From { source: Some(INBOUND_PASSTHROUGH_V6.into()), ..MARKED };
    let itself = SocketAddr::from((Ipv6Addr::LOCALHOST, 8080));
    assert_eq!(arrives(&mesh.b, PLAIN, to(8080), &all).await, ("app", None));
    assert_eq!(arrives(&mesh.b, PLAIN, itself, &all).await, ("app", None));
    assert_eq!(arrives(&mesh.b, MARKED, itself, &all).await, ("app", None));
    assert_eq!(arrives(&mesh.b, handing, to(8080), &all).await, ("app", None));
    assert_eq!(arrives(&mesh.b, MARKED, to(8080), &all).await, ("proxy", Some(to(8080))));
    println!("ok: inbound capture of IPv6");

    drop((proxy, agent));
    let beside = "fd00::/64".parse().unwrap();
    let dns = Some(Dns { port: 15053, servers: None });
    mesh.a.capture(&Plan::new(&Settings { dns, ..Settings::default() })).await.unwrap();
    mesh.b.capture(&Plan::default()).await.unwrap();
    let proxy = listen(&mesh.a, any(15001)).await;
    let agent = listen(&mesh.a, (Ipv6Addr::LOCALHOST, 15053)).await;
    let all = [("proxy", &proxy), ("app", &app), ("agent", &agent)];
    for address in [b, "fd00::9".parse().unwrap(), "2001:2::10".parse().unwrap()] {
        let to = SocketAddr::from((address, 80));
        assert_eq!(arrives(&mesh.a, PLAIN, to, &all).await, ("proxy", Some(to)));
    }
    assert_eq!(arrives(&mesh.a, MARKED, to(8080), &all).await, ("app", None), "the proxy's own");
    assert_eq!(arrives(&mesh.a, PLAIN, to(53), &all).await, ("agent", Some(to(53))), "a question for a name");
    mesh.a.capture(&Plan::new(&Settings { exclude_ranges: vec![beside], ..Settings::default() })).await.unwrap();
    assert_eq!(arrives(&mesh.a, PLAIN, to(8080), &all).await, ("app", None), "an excluded range");
    mesh.a.capture(&Plan::new(&Settings { include_ranges: Ranges::Only(vec![beside]), ..Settings::default() })).await.unwrap();
    assert_eq!(arrives(&mesh.a, PLAIN, to(8080), &all).await, ("proxy", Some(to(8080))), "an included range");
    let own = SocketAddr::from((a, 15053));
    assert_eq!(connect(&mesh.a, PLAIN, own).await.unwrap_err().kind(), ErrorKind::ConnectionRefused, "what is called at itself");
    println!("ok: outbound capture of IPv6");
}

/// In a pod the proxy is known by its user or group, and questions for names go to the agent.
async fn captured_by_user(mesh: &Mesh) {
    let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
    let server = Ipv4Addr::new(10, 96, 0, 10);
    let dns = Some(Dns { port: 15053, servers: Some(vec![server.into()]) });
    let plan = |uid, gid| Plan::new(&Settings { owner: Owner::User { uid, gid }, dns: dns.clone(), ..Settings::default() });
    let proxy = listen(&mesh.a, ([0, 0, 0, 0], 15001)).await;
    let remote = listen(&mesh.b, (B, 8080)).await;
    let agent = listen(&mesh.a, ([127, 0, 0, 1], 15053)).await;
    let all = [("proxy", &proxy), ("remote", &remote), ("agent", &agent)];
    let to = SocketAddr::from((B, 8080));
    mesh.a.capture(&plan(uid + 1, gid + 1)).await.unwrap();
    assert_eq!(arrives(&mesh.a, PLAIN, to, &all).await, ("proxy", Some(to)), "somebody else's");
    assert_eq!(arrives(&mesh.a, PLAIN, (server, 53), &all).await, ("agent", Some((server, 53).into())));
    assert_eq!(arrives(&mesh.a, PLAIN, ([10, 96, 0, 11], 53), &all).await, ("proxy", Some(([10, 96, 0, 11], 53).into())));
    let asked = mesh.a.run(move || -> io::Result<Vec<u8>> {
        let (agent, client) = (UdpSocket::bind("127.0.0.1:15053")?, UdpSocket::bind("0.0.0.0:0")?);
        client.connect((server, 53))?;
        client.send(b"a name")?;
        let mut buffer = [0; 64];
        let (length, from) = agent.recv_from(&mut buffer)?;
        agent.send_to(&buffer[..length], from)?;
        let length = client.recv(&mut buffer)?;
        Ok(buffer[..length].to_vec())
    });
    assert_eq!(asked.await.unwrap().unwrap(), b"a name", "the answer comes from whom was asked");
    for (uid, gid) in [(uid, gid + 1), (uid + 1, gid)] {
        mesh.a.capture(&plan(uid, gid)).await.unwrap();
        assert_eq!(arrives(&mesh.a, PLAIN, to, &all).await, ("remote", None), "the proxy's own, by {uid}:{gid}");
    }
    println!("ok: capture by user");
}

async fn udp(host: &Host, address: impl Into<SocketAddr>) -> UdpSocket {
    let address = address.into();
    let socket = host.run(move || UdpSocket::bind(address)).await.unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket
}

/// Asks a server; somebody has to be asked, and the answer has to come from the server.
fn ask(client: &UdpSocket, server: SocketAddr, asked: &UdpSocket, who: &str) {
    client.send_to(b"a name", server).unwrap();
    let mut buffer = [0; 64];
    let (length, from) = asked.recv_from(&mut buffer).unwrap_or_else(|error| panic!("{who} is not asked: {error}"));
    asked.send_to(&buffer[..length], from).unwrap();
    let (length, from) = client.recv_from(&mut buffer).unwrap_or_else(|error| panic!("{who} is not heard: {error}"));
    assert_eq!((&buffer[..length], from), (&b"a name"[..], server), "{who}");
}

/// The agent asks the server that a program has asked, from the port that the program had: the kernel knows both questions by the same addresses and ports,
/// and has sent the program's to the agent.
async fn questions_of_two(mesh: &Mesh) {
    let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
    let to = SocketAddr::from((B, 53));
    let (server, agent) = (udp(&mesh.b, to).await, udp(&mesh.a, ([127, 0, 0, 1], 15053)).await);
    for servers in [None, Some(vec![B.into()])] {
        let dns = Some(Dns { port: 15053, servers });
        let plan = |uid| Plan::new(&Settings { owner: Owner::User { uid, gid: gid + 1 }, dns: dns.clone(), ..Settings::default() });
        for _ in 0..2 {
            mesh.a.capture(&plan(uid + 1)).await.unwrap();
            ask(&udp(&mesh.a, (A, 40_053)).await, to, &agent, "the agent");
            mesh.a.capture(&plan(uid)).await.unwrap();
            ask(&udp(&mesh.a, (A, 40_053)).await, to, &server, "the server");
        }
    }
    println!("ok: questions of the agent and of others");
}

/// A file below `/proc/sys/net/netfilter` of a host.
async fn conntrack(host: &Host, state: &str, set: Option<u64>) -> u64 {
    let path = format!("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{state}");
    let job = move || {
        if let Some(seconds) = set {
            std::fs::write(&path, seconds.to_string())?;
        }
        std::fs::read_to_string(&path)
    };
    host.run(job).await.unwrap().unwrap().trim().parse().unwrap()
}

/// A redirect is remembered while one direction is shut: in hosts with rules, and in the router.
async fn half_closed(mesh: &Mesh) {
    for state in ["close_wait", "fin_wait"] {
        for (before, want) in [(60, 86_400), (2, 86_400), (100_000, 100_000)] {
            conntrack(&mesh.a, state, Some(before)).await;
            mesh.a.capture(&Plan::new(&Settings::default())).await.unwrap();
            assert_eq!(conntrack(&mesh.a, state, None).await, want, "{state} of {before}");
        }
        let router = std::fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{state}")).unwrap();
        assert_eq!(router.trim(), "86400", "{state}");
    }
    println!("ok: half-closed connections are not forgotten");
}

/// A host that went can come again, and rules go as they came.
async fn again(mesh: &Mesh) {
    let address = Ipv4Addr::new(10, 244, 1, 3);
    for _ in 0..3 {
        let host = Host::create(&mesh.router, address).await.unwrap();
        let server = listen(&host, (address, 80)).await;
        assert_eq!(arrives(&mesh.b, PLAIN, (address, 80), &[("server", &server)]).await.0, "server");
        host.delete(&mesh.router).await.unwrap();
    }
    println!("ok: hosts come and go");
}
