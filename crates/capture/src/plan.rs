//! The rules, as data.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use mizzen_types::{IpRange, ports};

use crate::settings::{Dns, Mode, Owner, Ports, Ranges, Settings, Tproxy};

/// The ports of the proxy and its agent: never captured inbound where everything else is.
const OWN_INBOUND: [u16; 4] = [ports::HBONE, ports::METRICS, ports::READINESS, ports::AGENT];

/// Where servers answer questions for names.
const DNS: u16 = 53;

/// Where the kernel looks for the connections of questions that the agent itself asks, and of those that it is asked. All others are in zone 0.
const AGENTS: u16 = 1;
const ASKED: u16 = 2;

/// What a rule looks at. All parts of a rule must agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// The packet carries this mark.
    Mark(u32),
    /// The packet does not carry this mark.
    NotMark(u32),
    /// The packet's connection carries this mark.
    ConnectionMark(u32),
    /// The packet goes to whoever opened its connection.
    Answer,
    /// The packet's socket is this user's.
    User(u32),
    /// The packet's socket is another user's.
    NotUser(u32),
    /// The packet's socket is this group's.
    Group(u32),
    /// The packet's socket is another group's.
    NotGroup(u32),
    /// UDP to this port.
    UdpPort(u16),
    /// UDP from this port.
    UdpFrom(u16),
    /// The packet leaves through the loopback interface.
    OutLoopback,
    /// The packet has come through the loopback interface.
    InLoopback,
    /// TCP, whatever the port.
    Tcp,
    /// TCP to this port.
    Port(u16),
    /// TCP to any other port.
    NotPort(u16),
    /// The source lies in this range.
    Source(IpRange),
    /// The destination lies in this range.
    Destination(IpRange),
    /// The destination lies outside this range, in the same address family.
    NotDestination(IpRange),
}

/// What becomes of a connection or a packet that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Leave it alone.
    Return,
    /// To this local port; the original destination stays readable from the socket.
    Redirect(u16),
    /// The kernel looks for the packet's connection in this zone, unless it has found it already.
    Zone(u16),
    /// As it is to the transparent socket that has its connection, or else listens on this port, with a mark. Where there is none, the rule does
    /// not match.
    Tproxy(u16, u32),
    /// It goes nowhere.
    Drop,
    /// The packet gets this mark, and a route by it.
    SetMark(u32),
    /// The connection gets this mark.
    MarkConnection(u32),
}

/// One rule: the first that matches a connection decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// All of these must hold.
    pub matches: Vec<Match>,
    /// Then this.
    pub verdict: Verdict,
}

/// Chains of rules, and routes. `Display` writes them as `nft -f` reads them, the routes as a comment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// For connections that arrive from outside the namespace (hook prerouting).
    pub inbound: Vec<Rule>,
    /// For connections that are opened in the namespace (hook output).
    pub outbound: Vec<Rule>,
    /// Zones of packets that arrive, before the kernel looks for their connections.
    pub inbound_zones: Vec<Rule>,
    /// The same of packets that leave.
    pub outbound_zones: Vec<Rule>,
    /// For packets that arrive, where inbound connections are not redirected; else none.
    pub diverted: Vec<Rule>,
    /// For packets that leave, likewise: those of the program's answers have to find the proxy, which came from its client's address.
    pub returned: Vec<Rule>,
    /// The routes that this takes where inbound connections are not redirected: by its table what carries its mark stays in the namespace.
    pub routing: Option<Tproxy>,
}

impl Plan {
    /// The rules for these settings.
    pub fn new(settings: &Settings) -> Plan {
        let (inbound_zones, outbound_zones) = zones(settings);
        let plan = Plan { outbound: outbound(settings), inbound_zones, outbound_zones, ..Plan::default() };
        match settings.mode {
            Mode::Redirect => Plan { inbound: inbound(settings, &[Verdict::Redirect(settings.inbound_port)]), ..plan },
            Mode::Tproxy(by) => Plan { diverted: diverted(settings, by), returned: returned(by), routing: Some(by), ..plan },
        }
    }

    /// Whether connections of IPv6 are known by the address from which they are handed to the workload.
    pub(crate) fn hands_ipv6(&self) -> bool {
        let handed = Match::Source(IpAddr::from(ports::INBOUND_PASSTHROUGH_V6).into());
        self.outbound.iter().any(|rule| rule.matches.contains(&handed))
    }
}

fn rule<const N: usize>(matches: [Match; N], verdict: Verdict) -> Rule {
    Rule { matches: matches.into(), verdict }
}

/// What becomes of connections from outside: these verdicts, one after the other.
fn inbound(settings: &Settings, verdicts: &[Verdict]) -> Vec<Rule> {
    let captured = |of: Match| verdicts.iter().map(move |verdict| rule([of.clone()], *verdict));
    match &settings.include_inbound {
        Ports::All => {
            let mut excluded = OWN_INBOUND.to_vec();
            // Who excludes them by name says what is so anyway.
            excluded.extend(settings.exclude_inbound.iter().filter(|port| !OWN_INBOUND.contains(port)));
            excluded.into_iter().map(|port| rule([Match::Port(port)], Verdict::Return)).chain(captured(Match::Tcp)).collect()
        }
        Ports::Only(ports) => ports.iter().flat_map(|port| captured(Match::Port(*port))).collect(),
    }
}

/// Packets of inbound connections go to the proxy's sockets. Where it has none yet, or none any more, they go nowhere: the program would take them, and
/// nobody would have asked for mutual TLS.
fn diverted(settings: &Settings, by: Tproxy) -> Vec<Rule> {
    // What is within the namespace, and what comes back to it, is no inbound connection.
    let others = [Match::InLoopback, Match::Answer].map(|of| rule([of], Verdict::Return));
    let captured = inbound(settings, &[Verdict::Tproxy(settings.inbound_port, by.mark), Verdict::Drop]);
    others.into_iter().chain(captured).collect()
}

/// The proxy goes on to the program from its client's address, on a socket with the mark. The program's answers to that address stay in the namespace by the
/// same mark, which their connection remembers.
fn returned(by: Tproxy) -> Vec<Rule> {
    vec![
        rule([Match::Tcp, Match::Mark(by.mark)], Verdict::MarkConnection(by.mark)),
        rule([Match::Tcp, Match::Answer, Match::ConnectionMark(by.mark)], Verdict::SetMark(by.mark)),
    ]
}

/// What is the proxy's own if one of these holds, and what is not if all of those hold.
fn own(owner: Owner) -> (Vec<Match>, Vec<Match>) {
    match owner {
        Owner::Mark(mark) => (vec![Match::Mark(mark)], vec![Match::NotMark(mark)]),
        Owner::User { uid, gid } => (vec![Match::User(uid), Match::Group(gid)], vec![Match::NotUser(uid), Match::NotGroup(gid)]),
    }
}

fn outbound(settings: &Settings) -> Vec<Rule> {
    let (own, others) = own(settings.owner);
    let to_inbound = Verdict::Redirect(settings.inbound_port);
    let to_outbound = Verdict::Redirect(settings.outbound_port);
    let loopbacks = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let mut rules = Vec::new();
    if let Mode::Tproxy(by) = settings.mode {
        // From the inbound proxy to its own workload, by the client's address.
        rules.push(rule([Match::Mark(by.mark)], Verdict::Return));
    }
    for port in &settings.exclude_outbound {
        rules.push(rule([Match::Port(*port)], Verdict::Return));
    }
    // The inbound proxy hands a connection to its own workload from this address; so do probes.
    for from in [IpAddr::from(ports::INBOUND_PASSTHROUGH_V4), IpAddr::from(ports::INBOUND_PASSTHROUGH_V6)] {
        rules.push(rule([Match::OutLoopback, Match::Tcp, Match::Source(from.into())], Verdict::Return));
    }
    // A workload that calls its own service: its proxy picked this very host, so the call has to come in
    // through the inbound side, as it would from anywhere else.
    for own in &own {
        for loopback in loopbacks {
            let matches = [own.clone(), Match::OutLoopback, Match::NotDestination(loopback.into()), Match::NotPort(ports::HBONE)];
            rules.push(rule(matches, to_inbound));
        }
    }
    rules.extend(questions(settings, &others));
    // A workload that talks to itself by loopback or by its own address.
    let mut to_itself = vec![Match::OutLoopback, Match::Tcp];
    to_itself.extend(others);
    rules.push(Rule { matches: to_itself, verdict: Verdict::Return });
    rules.extend(own.into_iter().map(|own| rule([own], Verdict::Return)));
    for loopback in loopbacks {
        rules.push(rule([Match::Tcp, Match::Destination(loopback.into())], Verdict::Return));
    }
    for range in &settings.exclude_ranges {
        rules.push(rule([Match::Tcp, Match::Destination(*range)], Verdict::Return));
    }
    for port in &settings.include_outbound {
        rules.push(rule([Match::Port(*port)], to_outbound));
    }
    match &settings.include_ranges {
        Ranges::All => rules.push(rule([Match::Tcp], to_outbound)),
        Ranges::Only(ranges) => {
            for range in ranges {
                rules.push(rule([Match::Tcp, Match::Destination(*range)], to_outbound));
            }
        }
    }
    rules
}

/// The servers to which questions are captured; `None`: whatever server.
fn servers(dns: &Dns) -> Vec<Option<IpAddr>> {
    match &dns.servers {
        None => vec![None],
        Some(servers) => servers.iter().copied().map(Some).collect(),
    }
}

/// The kernel remembers for half a minute that a question was redirected, by its addresses and ports. The agent asks the same server, and may get the same
/// port in that time: its own question would come back to it. So its questions and those of others have zones of their own, packets that come and go.
fn zones(settings: &Settings) -> (Vec<Rule>, Vec<Rule>) {
    let Some(dns) = &settings.dns else { return (Vec::new(), Vec::new()) };
    let (own, others) = own(settings.owner);
    let (mut inbound, mut outbound) = (Vec::new(), Vec::new());
    for server in servers(dns) {
        let to = |by: Vec<Match>| by.into_iter().chain([Match::UdpPort(DNS)]).chain(server.map(|server| Match::Destination(server.into())));
        outbound.extend(own.iter().map(|own| Rule { matches: to(vec![own.clone()]).collect(), verdict: Verdict::Zone(AGENTS) }));
        outbound.push(Rule { matches: to(others.clone()).collect(), verdict: Verdict::Zone(ASKED) });
        let from = [Match::UdpFrom(DNS)].into_iter().chain(server.map(|server| Match::Source(server.into())));
        inbound.push(Rule { matches: from.collect(), verdict: Verdict::Zone(AGENTS) });
    }
    outbound.push(rule([Match::UdpFrom(dns.port)], Verdict::Zone(ASKED)));
    (inbound, outbound)
}

/// Questions for names by others than the proxy go to the agent, also those to a server on this host.
fn questions(settings: &Settings, others: &[Match]) -> Vec<Rule> {
    let Some(dns) = &settings.dns else { return Vec::new() };
    let mut rules = Vec::new();
    for server in servers(dns) {
        for by in [Match::UdpPort(DNS), Match::Port(DNS)] {
            let to = server.map(|server| Match::Destination(server.into()));
            let matches = others.iter().cloned().chain([by]).chain(to).collect();
            rules.push(Rule { matches, verdict: Verdict::Redirect(dns.port) });
        }
    }
    rules
}

fn family(range: &IpRange) -> &'static str {
    if range.address().is_ipv4() { "ip" } else { "ip6" }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Match::Mark(mark) => write!(f, "meta mark {mark}"),
            Match::NotMark(mark) => write!(f, "meta mark != {mark}"),
            Match::ConnectionMark(mark) => write!(f, "ct mark {mark}"),
            Match::Answer => f.write_str("ct direction reply"),
            Match::User(user) => write!(f, "meta skuid {user}"),
            Match::NotUser(user) => write!(f, "meta skuid != {user}"),
            Match::Group(group) => write!(f, "meta skgid {group}"),
            Match::NotGroup(group) => write!(f, "meta skgid != {group}"),
            Match::UdpPort(port) => write!(f, "udp dport {port}"),
            Match::UdpFrom(port) => write!(f, "udp sport {port}"),
            Match::OutLoopback => f.write_str("oifname \"lo\""),
            Match::InLoopback => f.write_str("iifname \"lo\""),
            Match::Tcp => f.write_str("meta l4proto tcp"),
            Match::Port(port) => write!(f, "tcp dport {port}"),
            Match::NotPort(port) => write!(f, "tcp dport != {port}"),
            Match::Source(range) => write!(f, "{} saddr {range}", family(range)),
            Match::Destination(range) => write!(f, "{} daddr {range}", family(range)),
            Match::NotDestination(range) => write!(f, "{} daddr != {range}", family(range)),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.matches {
            write!(f, "{part} ")?;
        }
        match self.verdict {
            Verdict::Return => f.write_str("return"),
            Verdict::Redirect(port) => write!(f, "redirect to :{port}"),
            Verdict::Zone(zone) => write!(f, "ct zone set {zone}"),
            Verdict::Tproxy(port, mark) => write!(f, "tproxy to :{port} meta mark set {mark} accept"),
            Verdict::Drop => f.write_str("drop"),
            Verdict::SetMark(mark) => write!(f, "meta mark set {mark}"),
            Verdict::MarkConnection(mark) => write!(f, "ct mark set {mark}"),
        }
    }
}

fn chain(f: &mut fmt::Formatter<'_>, name: &str, kind: &str, rules: &[Rule]) -> fmt::Result {
    writeln!(f, "  chain {name} {{")?;
    writeln!(f, "    type {kind}; policy accept;")?;
    for rule in rules {
        writeln!(f, "    {rule}")?;
    }
    writeln!(f, "  }}")
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {} {{", crate::TABLE)?;
        for (hook, rules) in [("prerouting", &self.inbound), ("output", &self.outbound)] {
            if hook == "prerouting" && self.routing.is_some() {
                continue;
            }
            // -100 is what `dstnat` stands for, a word that nft knows on the hook prerouting alone.
            chain(f, hook, &format!("nat hook {hook} priority -100"), rules)?;
        }
        for (hook, rules) in [("prerouting", &self.inbound_zones), ("output", &self.outbound_zones)] {
            if !rules.is_empty() {
                chain(f, &format!("{}{hook}", crate::apply::ZONES), &format!("filter hook {hook} priority -300"), rules)?;
            }
        }
        if self.routing.is_some() {
            chain(f, crate::apply::DIVERTED, "filter hook prerouting priority -150", &self.diverted)?;
            chain(f, crate::apply::RETURNED, "route hook output priority -150", &self.returned)?;
        }
        writeln!(f, "}}")?;
        let Some(Tproxy { mark, table }) = self.routing else { return Ok(()) };
        for ip in ["ip", "ip -6"] {
            writeln!(f, "# {ip} rule add fwmark {mark} lookup {table}")?;
            writeln!(f, "# {ip} route add local default dev lo table {table}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use super::*;

    fn check(settings: Settings, want: &str) {
        let text = Plan::new(&settings).to_string();
        let got: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with("table") && !line.starts_with("type") && *line != "}")
            .collect();
        let want: Vec<&str> = want.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        assert_eq!(got, want);
        nft_reads(&text);
    }

    /// Asks nft whether it would take the rules, in namespaces of its own: nothing is changed, and an ordinary user may ask.
    fn nft_reads(text: &str) {
        let Some(nft) = mizzen_testkit::peer("nft", "nftables") else { return };
        let run = |program: &[&std::ffi::OsStr], input: &str| {
            let mut child =
                Command::new("unshare").args(["-r", "-n"]).args(program).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
            child.stdin.take().unwrap().write_all(input.as_bytes())?;
            child.wait_with_output()
        };
        let possible = run(&["true".as_ref()], "").is_ok_and(|output| output.status.success());
        if !possible && !mizzen_testkit::require_peers() {
            return mizzen_testkit::skip("this kernel refuses namespaces, in which nft would be asked");
        }
        let output = run(&[nft.as_os_str(), "-c".as_ref(), "-f".as_ref(), "-".as_ref()], text).unwrap();
        assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn everything_but_the_proxys_own() {
        check(
            Settings::default(),
            r#"
            chain prerouting {
            tcp dport 15008 return
            tcp dport 15090 return
            tcp dport 15021 return
            tcp dport 15020 return
            meta l4proto tcp redirect to :15006
            chain output {
            oifname "lo" meta l4proto tcp ip saddr 127.0.0.6/32 return
            oifname "lo" meta l4proto tcp ip6 saddr ::6/128 return
            meta mark 1337 oifname "lo" ip daddr != 127.0.0.1/32 tcp dport != 15008 redirect to :15006
            meta mark 1337 oifname "lo" ip6 daddr != ::1/128 tcp dport != 15008 redirect to :15006
            oifname "lo" meta l4proto tcp meta mark != 1337 return
            meta mark 1337 return
            meta l4proto tcp ip daddr 127.0.0.1/32 return
            meta l4proto tcp ip6 daddr ::1/128 return
            meta l4proto tcp redirect to :15001
            "#,
        );
    }

    #[test]
    fn chosen_parts() {
        check(
            Settings {
                include_inbound: Ports::Only(vec![8080]),
                exclude_inbound: vec![22], // not read beside a list
                include_outbound: vec![443],
                exclude_outbound: vec![3306],
                include_ranges: Ranges::Only(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]),
                exclude_ranges: vec!["10.1.0.0/16".parse().unwrap()],
                ..Settings::default()
            },
            r#"
            chain prerouting {
            tcp dport 8080 redirect to :15006
            chain output {
            tcp dport 3306 return
            oifname "lo" meta l4proto tcp ip saddr 127.0.0.6/32 return
            oifname "lo" meta l4proto tcp ip6 saddr ::6/128 return
            meta mark 1337 oifname "lo" ip daddr != 127.0.0.1/32 tcp dport != 15008 redirect to :15006
            meta mark 1337 oifname "lo" ip6 daddr != ::1/128 tcp dport != 15008 redirect to :15006
            oifname "lo" meta l4proto tcp meta mark != 1337 return
            meta mark 1337 return
            meta l4proto tcp ip daddr 127.0.0.1/32 return
            meta l4proto tcp ip6 daddr ::1/128 return
            meta l4proto tcp ip daddr 10.1.0.0/16 return
            tcp dport 443 redirect to :15001
            meta l4proto tcp ip daddr 10.0.0.0/8 redirect to :15001
            meta l4proto tcp ip6 daddr fd00::/8 redirect to :15001
            "#,
        );
    }

    /// In a pod: the proxy known by its user, and names asked of the agent, whatever the family of the server.
    #[test]
    fn in_a_pod() {
        check(
            Settings {
                owner: Owner::User { uid: 1337, gid: 1337 },
                dns: Some(Dns { port: 15053, servers: Some(vec!["10.96.0.10".parse().unwrap(), "fd00::a".parse().unwrap()]) }),
                exclude_inbound: vec![15090, 15021, 15020, 22],
                exclude_ranges: vec!["fd00::/8".parse().unwrap()],
                ..Settings::default()
            },
            r#"
            chain prerouting {
            tcp dport 15008 return
            tcp dport 15090 return
            tcp dport 15021 return
            tcp dport 15020 return
            tcp dport 22 return
            meta l4proto tcp redirect to :15006
            chain output {
            oifname "lo" meta l4proto tcp ip saddr 127.0.0.6/32 return
            oifname "lo" meta l4proto tcp ip6 saddr ::6/128 return
            meta skuid 1337 oifname "lo" ip daddr != 127.0.0.1/32 tcp dport != 15008 redirect to :15006
            meta skuid 1337 oifname "lo" ip6 daddr != ::1/128 tcp dport != 15008 redirect to :15006
            meta skgid 1337 oifname "lo" ip daddr != 127.0.0.1/32 tcp dport != 15008 redirect to :15006
            meta skgid 1337 oifname "lo" ip6 daddr != ::1/128 tcp dport != 15008 redirect to :15006
            meta skuid != 1337 meta skgid != 1337 udp dport 53 ip daddr 10.96.0.10/32 redirect to :15053
            meta skuid != 1337 meta skgid != 1337 tcp dport 53 ip daddr 10.96.0.10/32 redirect to :15053
            meta skuid != 1337 meta skgid != 1337 udp dport 53 ip6 daddr fd00::a/128 redirect to :15053
            meta skuid != 1337 meta skgid != 1337 tcp dport 53 ip6 daddr fd00::a/128 redirect to :15053
            oifname "lo" meta l4proto tcp meta skuid != 1337 meta skgid != 1337 return
            meta skuid 1337 return
            meta skgid 1337 return
            meta l4proto tcp ip daddr 127.0.0.1/32 return
            meta l4proto tcp ip6 daddr ::1/128 return
            meta l4proto tcp ip6 daddr fd00::/8 return
            meta l4proto tcp redirect to :15001
            chain zones-prerouting {
            udp sport 53 ip saddr 10.96.0.10/32 ct zone set 1
            udp sport 53 ip6 saddr fd00::a/128 ct zone set 1
            chain zones-output {
            meta skuid 1337 udp dport 53 ip daddr 10.96.0.10/32 ct zone set 1
            meta skgid 1337 udp dport 53 ip daddr 10.96.0.10/32 ct zone set 1
            meta skuid != 1337 meta skgid != 1337 udp dport 53 ip daddr 10.96.0.10/32 ct zone set 2
            meta skuid 1337 udp dport 53 ip6 daddr fd00::a/128 ct zone set 1
            meta skgid 1337 udp dport 53 ip6 daddr fd00::a/128 ct zone set 1
            meta skuid != 1337 meta skgid != 1337 udp dport 53 ip6 daddr fd00::a/128 ct zone set 2
            udp sport 15053 ct zone set 2
            "#,
        );
    }

    /// With TPROXY nothing inbound is redirected, and the program's answers come back to the proxy.
    #[test]
    fn transparent() {
        let mode = Mode::Tproxy(Tproxy::default());
        let pod = Settings { owner: Owner::User { uid: 1337, gid: 1337 }, mode, ..Settings::default() };
        check(
            Settings { exclude_inbound: vec![22], ..pod.clone() },
            r#"
            chain output {
            meta mark 1337 return
            oifname "lo" meta l4proto tcp ip saddr 127.0.0.6/32 return
            oifname "lo" meta l4proto tcp ip6 saddr ::6/128 return
            meta skuid 1337 oifname "lo" ip daddr != 127.0.0.1/32 tcp dport != 15008 redirect to :15006
            meta skuid 1337 oifname "lo" ip6 daddr != ::1/128 tcp dport != 15008 redirect to :15006
            meta skgid 1337 oifname "lo" ip daddr != 127.0.0.1/32 tcp dport != 15008 redirect to :15006
            meta skgid 1337 oifname "lo" ip6 daddr != ::1/128 tcp dport != 15008 redirect to :15006
            oifname "lo" meta l4proto tcp meta skuid != 1337 meta skgid != 1337 return
            meta skuid 1337 return
            meta skgid 1337 return
            meta l4proto tcp ip daddr 127.0.0.1/32 return
            meta l4proto tcp ip6 daddr ::1/128 return
            meta l4proto tcp redirect to :15001
            chain tproxy-prerouting {
            iifname "lo" return
            ct direction reply return
            tcp dport 15008 return
            tcp dport 15090 return
            tcp dport 15021 return
            tcp dport 15020 return
            tcp dport 22 return
            meta l4proto tcp tproxy to :15006 meta mark set 1337 accept
            meta l4proto tcp drop
            chain tproxy-output {
            meta l4proto tcp meta mark 1337 ct mark set 1337
            meta l4proto tcp ct direction reply ct mark 1337 meta mark set 1337
            # ip rule add fwmark 1337 lookup 133
            # ip route add local default dev lo table 133
            # ip -6 rule add fwmark 1337 lookup 133
            # ip -6 route add local default dev lo table 133
            "#,
        );
        let mode = Mode::Tproxy(Tproxy { mark: 7, table: 300 });
        let some = Settings { include_inbound: Ports::Only(vec![80, 443]), mode, inbound_port: 25006, ..pod };
        let text = Plan::new(&some).to_string();
        let inbound = r#"    iifname "lo" return
    ct direction reply return
    tcp dport 80 tproxy to :25006 meta mark set 7 accept
    tcp dport 80 drop
    tcp dport 443 tproxy to :25006 meta mark set 7 accept
    tcp dport 443 drop
  }
"#;
        assert!(text.contains(inbound), "{text}");
        assert!(text.ends_with("# ip -6 rule add fwmark 7 lookup 300\n# ip -6 route add local default dev lo table 300\n"), "{text}");
        nft_reads(&text);
        // Nothing is captured: then nothing is dropped.
        let none = Plan::new(&Settings { include_inbound: Ports::Only(vec![]), ..some });
        assert!(!none.to_string().contains("drop"), "{none}");
    }

    #[test]
    fn all_questions() {
        let dns = Some(Dns { port: 15053, servers: None });
        let text = Plan::new(&Settings { dns, ..Settings::default() }).to_string();
        assert!(
            text.contains("    meta mark != 1337 udp dport 53 redirect to :15053\n    meta mark != 1337 tcp dport 53 redirect to :15053\n"),
            "{text}"
        );
        for rule in
            ["udp sport 53 ct zone set 1", "meta mark 1337 udp dport 53 ct zone set 1", "meta mark != 1337 udp dport 53 ct zone set 2"]
        {
            assert!(text.contains(&format!("    {rule}\n")), "{text}");
        }
        nft_reads(&text);
    }
}
