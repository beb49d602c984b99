//! Inbound connections as they are (TPROXY), and the proxy's to its program from their clients' addresses.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use mizzen_capture::{Mode, Plan, Ports, Settings, Tproxy};
use mizzen_host::Host;
use mizzen_types::ports::PROXY_MARK;
use nlink::netlink::{Connection, Route, rule::RuleBuilder};
use socket2::{Domain, Socket, Type};

use crate::network::{A, B, Mesh, listen};

/// Another mark than that of all connections of a proxy on a host.
const BY: Tproxy = Tproxy { mark: 7, table: 300 };
/// Longer than a packet takes within one machine.
const A_WHILE: Duration = Duration::from_millis(300);

pub(crate) async fn checks(mesh: &Mesh) {
    let settings = Settings { mode: Mode::Tproxy(BY), exclude_inbound: vec![9000], ..Settings::default() };
    match mesh.b.capture(&Plan::new(&settings)).await {
        Ok(()) => {}
        // ENOENT: there is no such expression; EOPNOTSUPP: there are no tables of routes.
        Err(error) if [2, 95].iter().any(|code| chain(&error).contains(&format!("errno {code})"))) => {
            assert!(std::env::var_os("MIZZEN_REQUIRE_PEERS").is_none(), "{}", chain(&error));
            return println!("SKIPPED: THIS KERNEL HAS NO TPROXY: {}", chain(&error));
        }
        Err(error) => panic!("{}", chain(&error)),
    }
    // Clients call from the other host as they are: nothing of theirs is captured.
    mesh.a.capture(&Plan::default()).await.unwrap();
    let to = |port| SocketAddr::from((B, port));
    let options = mizzen_net::ListenOptions { transparent: true, ..mizzen_net::ListenOptions::default() };
    let proxy = mesh.b.run(move || mizzen_net::listen(([0, 0, 0, 0], 15006).into(), &options)).await.unwrap().unwrap();
    let app = listen(&mesh.b, ([0, 0, 0, 0], 8080)).await;
    let excluded = listen(&mesh.b, ([0, 0, 0, 0], 9000)).await;
    let all = [("proxy", &proxy), ("app", &app), ("excluded", &excluded)];
    // From outside, as the client sends them.
    for port in [8080, 1] {
        let client = connect(&mesh.a, From::default(), to(port)).await.unwrap();
        let (who, mut stream, peer) = accept(&all);
        assert_eq!((who, stream.local_addr().unwrap(), peer), ("proxy", to(port), client.local_addr().unwrap()));
        assert_eq!(mizzen_net::original_dst(&stream), None);
        talk(client, &mut stream);
    }
    let client = connect(&mesh.a, From::default(), to(9000)).await.unwrap();
    assert_eq!(accept(&all).0, "excluded");
    drop(client);
    // The proxy goes on to the program.
    let handing = From { mark: BY.mark, source: Some(A.into()), ..From::default() };
    for destination in [to(8080), SocketAddr::from((B, 8080))] {
        let upstream = connect(&mesh.b, handing, destination).await.unwrap();
        let (who, mut stream, peer) = accept(&all);
        assert_eq!((who, peer), ("app", upstream.local_addr().unwrap()));
        assert_eq!(peer.ip(), A);
        talk(upstream, &mut stream);
    }
    let nobody = connect(&mesh.b, handing, to(8081)).await.unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::ConnectionRefused, "that nobody listens comes back, too");
    // Within the host: the program by itself, the proxy by 127.0.0.6, and the proxy that has picked its own host, which is redirected.
    let own = From { mark: PROXY_MARK, ..From::default() };
    let passing = From { source: Some(Ipv4Addr::new(127, 0, 0, 6).into()), ..own };
    for (from, want) in [(From::default(), "app"), (passing, "app"), (own, "proxy")] {
        let _client = connect(&mesh.b, from, to(8080)).await.unwrap();
        let (who, stream, _) = accept(&all);
        assert_eq!((who, mizzen_net::original_dst(&stream)), (want, (want == "proxy").then_some(to(8080))));
    }
    // What is opened in the host goes where it went: answers to it are no inbound connections.
    let remote = listen(&mesh.a, (A, 8082)).await;
    let client = connect(&mesh.b, own, (A, 8082)).await.unwrap();
    let (_, mut stream, peer) = accept(&[("remote", &remote)]);
    assert_eq!(peer.ip(), B);
    talk(client, &mut stream);
    without_proxy(mesh, proxy, &app).await;
    v6(mesh).await;
    removed(mesh, &settings).await;
    println!("ok: transparent capture");
}

/// Without its proxy nobody reaches the program.
async fn without_proxy(mesh: &Mesh, proxy: TcpListener, app: &TcpListener) {
    drop(proxy);
    let brief = From { within: Some(A_WHILE), ..From::default() };
    assert_eq!(connect(&mesh.a, brief, (B, 8080)).await.unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(app.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    let one = Settings { mode: Mode::Tproxy(BY), include_inbound: Ports::Only(vec![80]), ..Settings::default() };
    mesh.b.capture(&Plan::new(&one)).await.unwrap();
    let _client = connect(&mesh.a, brief, (B, 8080)).await.unwrap();
    assert_eq!(accept(&[("app", app)]).0, "app", "a port that is not captured");
    assert_eq!(connect(&mesh.a, brief, (B, 80)).await.unwrap_err().kind(), ErrorKind::TimedOut);
}

/// The same way to the program by IPv6.
async fn v6(mesh: &Mesh) {
    let [own, client]: [Ipv6Addr; 2] = ["fd00:7::2", "fd00:7::99"].map(|address| address.parse().unwrap());
    let made = in_namespace(&mesh.b, move |links| async move {
        std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0").ok()?;
        links.add_address_by_name("eth0", own.into(), 64).await.ok()
    });
    if made.await.is_none() {
        return println!("SKIPPED: transparent capture of IPv6, since this kernel has no IPv6");
    }
    while mesh.b.run(move || UdpSocket::bind((own, 0)).is_err()).await.unwrap() {}
    let app = listen(&mesh.b, (own, 8080)).await;
    let upstream = connect(&mesh.b, From { mark: BY.mark, source: Some(client.into()), within: None }, (own, 8080)).await.unwrap();
    let (_, mut stream, peer) = accept(&[("app", &app)]);
    assert_eq!(peer.ip(), client);
    talk(upstream, &mut stream);
}

/// The rules go, and the routes with them; others take their place.
async fn removed(mesh: &Mesh, settings: &Settings) {
    let rules = async |table: u32| {
        let of = move |links: Connection<Route>| async move {
            links.get_rules().await.unwrap().iter().filter(|rule| rule.table_id() == table).count()
        };
        in_namespace(&mesh.b, of).await
    };
    assert_eq!(rules(BY.table).await, 2, "one for each family, however often they were set");
    let other = Tproxy { mark: 8, table: 301 };
    let plan = Plan::new(&Settings { mode: Mode::Tproxy(other), ..settings.clone() });
    mesh.b.capture(&plan).await.unwrap();
    assert_eq!((rules(BY.table).await, rules(301).await), (0, 2));
    let is_set = async || in_namespace(&mesh.b, |_| mizzen_capture::is_set()).await.unwrap();
    assert!(is_set().await);
    // Whoever removes the routes has removed the capture.
    let remove = |links: Connection<Route>| async move {
        for rule in [RuleBuilder::v4(), RuleBuilder::v6()] {
            links.del_rule(rule.fwmark(8).table(301)).await.unwrap();
        }
    };
    in_namespace(&mesh.b, remove).await;
    assert!(!is_set().await);
    mesh.b.capture(&plan).await.unwrap();
    assert!(is_set().await);
    mesh.b.capture(&Plan::new(&Settings::default())).await.unwrap();
    assert_eq!((rules(301).await, is_set().await), (0, true));
    mesh.b.capture(&plan).await.unwrap();
    in_namespace(&mesh.b, |_| mizzen_capture::cleanup()).await.unwrap();
    assert_eq!((rules(301).await, is_set().await), (0, false));
}

/// Does something in a host's namespace, which a connection to the kernel is opened in.
async fn in_namespace<T: Send + 'static, F: Future<Output = T>>(
    host: &Host,
    job: impl FnOnce(Connection<Route>) -> F + Send + 'static,
) -> T {
    let inside = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { job(Connection::<Route>::new().unwrap()).await })
    };
    host.run(inside).await.unwrap()
}

/// How a connection is opened: with a mark other than 0, from an address of whomever, and no longer than this.
#[derive(Clone, Copy, Default)]
struct From {
    mark: u32,
    source: Option<IpAddr>,
    within: Option<Duration>,
}

async fn connect(host: &Host, from: From, to: impl Into<SocketAddr>) -> io::Result<TcpStream> {
    let to = to.into();
    let open = move || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        if from.mark != 0 {
            socket.set_mark(from.mark)?;
        }
        if let Some(source) = from.source {
            if source.is_ipv6() {
                socket.set_ip_transparent_v6(true)?
            } else {
                socket.set_ip_transparent_v4(true)?
            }
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        match from.within {
            Some(within) => socket.connect_timeout(&to.into(), within)?,
            None => socket.connect(&to.into())?,
        }
        Ok(socket.into())
    };
    host.run(open).await.unwrap()
}

/// The one of the listeners that has a connection, and the connection.
fn accept(listeners: &[(&'static str, &TcpListener)]) -> (&'static str, TcpStream, SocketAddr) {
    for _ in 0..1_000_000 {
        for (name, listener) in listeners {
            listener.set_nonblocking(true).unwrap();
            match listener.accept() {
                Ok((stream, peer)) => {
                    stream.set_nonblocking(false).unwrap();
                    return (name, stream, peer);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    }
    panic!("it arrived nowhere")
}

/// Bytes go both ways, many packets of them, and so does the end.
fn talk(mut client: TcpStream, server: &mut TcpStream) {
    let text = vec![7; 100_000];
    let sent = text.clone();
    let asked = std::thread::spawn(move || {
        client.write_all(&sent).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut back = Vec::new();
        client.read_to_end(&mut back).unwrap();
        back
    });
    let mut heard = Vec::new();
    server.read_to_end(&mut heard).unwrap();
    server.write_all(&heard).unwrap();
    server.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(asked.join().unwrap() == text);
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
