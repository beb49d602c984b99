//! The outer half of what leaves the mesh.
//!
//! The sockets were opened in the router's network namespace and stay there; the dialling is done here, in
//! the machine's. So that the mesh cannot reach what the machine keeps to itself, only addresses that any
//! other machine could mean are dialled.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use mizzen_types::IpRange;
use tokio::{net::TcpStream, sync::Semaphore, task::JoinSet, time::timeout};

/// Who may be reached from inside the mesh. The machine itself, loopback, link-local and multicast
/// addresses are refused unless allowed here.
#[derive(Clone, Debug, Default)]
pub struct RelayPolicy {
    /// Ranges to allow although they would be refused, such as one of the machine's own addresses.
    pub allow: Vec<IpRange>,
    /// Addresses that stand for others.
    pub aliases: Vec<Alias>,
    /// Who answers the mesh's DNS queries; empty, those of the machine's `/etc/resolv.conf`.
    pub nameservers: Vec<SocketAddr>,
}

/// An address as the mesh sees it, and what is dialled for it: a way to offer one port of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    /// What a workload connects to; outside the mesh's own ranges.
    pub from: SocketAddr,
    /// What the outer process dials: may be on loopback.
    pub to: SocketAddr,
}

/// Connections at a time; a further one waits in the kernel's queue.
const CONNECTIONS: usize = 4096;
/// DNS queries at a time; a further one is dropped, and its sender will ask again.
const QUERIES: usize = 512;
const DIAL: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(2);

/// Takes over the three sockets of the router, in the order of [`Ask::Relay`](crate::inner::Ask).
pub(crate) fn start(fds: Vec<OwnedFd>, mesh: Vec<String>, policy: RelayPolicy, tasks: &mut JoinSet<()>) -> io::Result<()> {
    let Ok([tcp, dns_udp, dns_tcp]) = <[OwnedFd; 3]>::try_from(fds) else {
        return Err(io::Error::other("three sockets are needed"));
    };
    let mesh = mesh.iter().map(|range| range.parse()).collect::<Result<_, _>>().map_err(io::Error::other)?;
    let tcp = tokio::net::TcpListener::from_std(TcpListener::from(tcp))?;
    let dns_udp = tokio::net::UdpSocket::from_std(UdpSocket::from(dns_udp))?;
    let dns_tcp = tokio::net::TcpListener::from_std(TcpListener::from(dns_tcp))?;
    let rules = Arc::new(Rules { mesh, policy });
    let same = rules.clone();
    tasks.spawn(accept(dns_tcp, move |stream| dns_stream(stream, same.clone())));
    tasks.spawn(dns_datagrams(Arc::new(dns_udp), rules.clone()));
    tasks.spawn(accept(tcp, move |stream| relay(stream, rules.clone())));
    Ok(())
}

struct Rules {
    mesh: Vec<IpRange>,
    policy: RelayPolicy,
}

impl Rules {
    /// What to dial for a destination, or why not.
    fn target(&self, destination: SocketAddr, own: &[IpAddr]) -> Result<SocketAddr, &'static str> {
        if let Some(alias) = self.policy.aliases.iter().find(|alias| alias.from == destination) {
            return Ok(alias.to);
        }
        let ip = destination.ip().to_canonical();
        if self.mesh.iter().any(|range| range.contains(ip)) {
            return Err("an address of the mesh");
        }
        if self.policy.allow.iter().any(|range| range.contains(ip)) {
            return Ok(destination);
        }
        let special = match ip {
            IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_multicast() || ip.is_broadcast() || ip.octets()[0] == 0,
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_multicast() || ip.is_unspecified(),
        };
        if special {
            return Err("a loopback, link-local or group address");
        }
        if own.contains(&ip) { Err("an address of this machine") } else { Ok(destination) }
    }
}

fn own_addresses() -> Vec<IpAddr> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    all.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    })
    .collect()
}

async fn accept<F: Future<Output = ()> + Send + 'static>(listener: tokio::net::TcpListener, serve: impl Fn(TcpStream) -> F) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let work = serve(stream);
                tokio::spawn(async move {
                    work.await;
                    drop(permit);
                });
            }
            // No descriptors: those in use will end.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn relay(mut down: TcpStream, rules: Arc<Rules>) {
    let Some(destination) = mizzen_net::original_dst(&down) else { return reset(&down) };
    let target = match rules.target(destination, &own_addresses()) {
        Ok(target) => target,
        Err(reason) => {
            tracing::info!(%destination, reason, "not dialled for the mesh");
            return reset(&down);
        }
    };
    let mut up = match timeout(DIAL, TcpStream::connect(target)).await {
        Ok(Ok(up)) => up,
        Ok(Err(_)) | Err(_) => return reset(&down),
    };
    let _ = (down.set_nodelay(true), up.set_nodelay(true));
    if tokio::io::copy_bidirectional(&mut down, &mut up).await.is_err() {
        reset(&down);
        reset(&up);
    }
}

/// Has the close that follows say that something went wrong.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

impl Rules {
    /// The machine's name servers, as glibc reads them; read each time, since they change with the network.
    fn nameservers(&self) -> Vec<SocketAddr> {
        if !self.policy.nameservers.is_empty() {
            return self.policy.nameservers.clone();
        }
        parse_nameservers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
    }
}

fn parse_nameservers(text: &str) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            if words.next() != Some("nameserver") {
                return None;
            }
            let ip: IpAddr = words.next()?.parse().ok()?;
            Some(SocketAddr::new(ip, 53))
        })
        .take(3)
        .collect();
    if found.is_empty() {
        found.push(SocketAddr::from(([127, 0, 0, 1], 53)));
    }
    found
}

async fn dns_stream(mut down: TcpStream, rules: Arc<Rules>) {
    for server in rules.nameservers() {
        if let Ok(Ok(mut up)) = timeout(ANSWER, TcpStream::connect(server)).await {
            let _ = tokio::io::copy_bidirectional(&mut down, &mut up).await;
            return;
        }
    }
    reset(&down);
}

async fn dns_datagrams(socket: Arc<tokio::net::UdpSocket>, rules: Arc<Rules>) {
    let room = Arc::new(Semaphore::new(QUERIES));
    let mut buffer = vec![0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Some(query) = buffer.get(..length).map(<[u8]>::to_vec) else { continue };
        let Ok(permit) = room.clone().try_acquire_owned() else { continue };
        let (socket, servers) = (socket.clone(), rules.nameservers());
        tokio::spawn(async move {
            if let Some(answer) = resolve(&query, &servers).await {
                let _ = socket.send_to(&answer, from).await;
            }
            drop(permit);
        });
    }
}

/// Asks one server after the other, twice.
async fn resolve(query: &[u8], servers: &[SocketAddr]) -> Option<Vec<u8>> {
    for server in servers.iter().chain(servers) {
        if let Ok(Ok(answer)) = timeout(ANSWER, ask(*server, query)).await {
            return Some(answer);
        }
    }
    None
}

async fn ask(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let socket = tokio::net::UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 65_535];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // The same identifier, or it is the late answer to something else.
        if length >= 12 && buffer.get(..2) == query.get(..2) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let policy = RelayPolicy {
            allow: vec!["192.168.7.7".parse().unwrap(), "10.244.0.0/16".parse().unwrap()],
            aliases: vec![Alias { from: "192.0.2.1:80".parse().unwrap(), to: "127.0.0.1:8000".parse().unwrap() }],
            nameservers: Vec::new(),
        };
        let rules = Rules { mesh: vec!["10.244.0.0/16".parse().unwrap(), "10.96.0.0/16".parse().unwrap()], policy };
        let own = ["192.168.7.7", "192.168.7.8", "2001:db8::1"].map(|ip| ip.parse().unwrap());
        let check = |destination: &str, want: Result<&str, &str>| {
            let got = rules.target(destination.parse().unwrap(), &own);
            let got = got.map(|target| target.to_string());
            assert_eq!(got.as_deref().map_err(|reason| *reason), want, "{destination}");
        };
        check("93.184.216.34:443", Ok("93.184.216.34:443"));
        check("192.0.2.1:80", Ok("127.0.0.1:8000"));
        check("192.0.2.1:81", Ok("192.0.2.1:81"));
        check("192.168.7.7:22", Ok("192.168.7.7:22"));
        check("192.168.7.8:22", Err("an address of this machine"));
        check("[2001:db8::1]:22", Err("an address of this machine"));
        check("[::ffff:192.168.7.8]:22", Err("an address of this machine"));
        for destination in ["127.0.0.1:80", "127.9.9.9:80", "169.254.169.254:80", "224.0.0.1:80", "0.0.0.0:80", "[::1]:80", "[fe80::1]:80"]
        {
            check(destination, Err("a loopback, link-local or group address"));
        }
        check("10.244.3.3:80", Err("an address of the mesh"));
        check("10.96.0.9:80", Err("an address of the mesh"));
    }

    #[test]
    fn name_servers() {
        let check = |text: &str, want: &[&str]| {
            let got: Vec<String> = parse_nameservers(text).iter().map(ToString::to_string).collect();
            assert_eq!(got, want, "{text}");
        };
        check("# x\nsearch a\nnameserver 10.0.0.2\nnameserver  fe::1 # y\n", &["10.0.0.2:53", "[fe::1]:53"]);
        check("options ndots:5\n#nameserver 1.1.1.1\n", &["127.0.0.1:53"]);
    }
}
