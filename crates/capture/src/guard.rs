//! A second layer: who may open connections to whom through a router, by addresses and ports alone.
//!
//! A [`Guard`] is plain data. In the kernel it is a table of its own beside others: [`Guarding::set`] builds a new one and puts it in the place of
//! the one before in a transaction, so that there is no moment without the one or the other. Connections that are open stay open: only what opens
//! one is looked at. What is refused is answered at once, by a reset or as unreachable, and counted by who called whom, at which port.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use mizzen_types::IpRange;
use nlink::netlink::{
    Connection, Nftables,
    nftables::{
        BaseChain, Chain, ChainName, CmpOp, CtState, DynsetExpr, DynsetOp, Expr, Family, FilterHook, IcmpxCode, MetaKey, Object,
        ObjectState, PacketField, PayloadBase, Policy, Priority, Register, Rule, Set, SetElement, SetKeyType, TcpFlags, Transaction,
    },
};

use crate::Addresses;

/// Why a guard could not be set or asked.
#[derive(Debug, thiserror::Error)]
#[error("guard: cannot {what}: {source}")]
pub struct GuardError {
    what: &'static str,
    #[source]
    source: nlink::Error,
}

/// What its tables are called, with a number behind it.
pub const GUARD_TABLE: &str = "mizzen-guard-";

/// Of more different attempts than this the sum alone is known.
pub const MAX_ATTEMPTS: u32 = 16_384;

/// So many messages are sent at a time: more may not fit into a socket's buffer.
const BATCH: usize = 128;
/// After the kernel knows to which connection a packet belongs, and before it is redirected.
const PRIORITY: Priority = Priority::Mangle;
const ICMP: u8 = 1;
const TCP: u8 = 6;
/// The kernel's number of IPv4.
const NFPROTO_IPV4: u8 = 2;

/// Who may open connections to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Destinations that nobody is kept from but by `inbound`.
    pub inside: Vec<IpRange>,
    /// To these only what is admitted. No address is in two.
    pub inbound: Vec<Side>,
    /// From these to the outside only what is admitted. No address is in two.
    pub outbound: Vec<Side>,
}

/// Hosts for which the same holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// The hosts.
    pub of: Addresses,
    /// What is admitted; nothing else is.
    pub admits: BTreeSet<Admit>,
}

/// Connections that may be opened.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Admit {
    /// From or to these; `None`: anybody.
    pub peers: Option<Addresses>,
    /// To one of these; none: to all.
    pub ports: BTreeSet<PortRange>,
}

/// Ports of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// IANA's number of the protocol, of one whose headers start with two ports.
    pub protocol: u8,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

/// Somebody who tried to open a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt {
    /// Who.
    pub from: Ipv4Addr,
    /// To whom.
    pub to: Ipv4Addr,
    /// The port.
    pub port: u16,
}

/// What a table has refused since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// All of it: connections of TCP, packets of others.
    pub total: u64,
    /// By attempt, up to [`MAX_ATTEMPTS`] of them.
    pub by: BTreeMap<Attempt, u64>,
}

impl Guard {
    /// Whether it refuses nothing.
    pub fn is_open(&self) -> bool {
        self.inbound.is_empty() && self.outbound.is_empty()
    }
}

/// A [`Guard`] that is in force in a network namespace.
#[derive(Debug, Default)]
pub struct Guarding {
    number: u64,
    is_set: bool,
}

impl Guarding {
    fn table(&self) -> String {
        format!("{GUARD_TABLE}{}", self.number)
    }

    /// Puts a guard in the place of the one that is in force in the calling thread's network namespace, and returns what that one has refused. Inside a
    /// tokio runtime with IO.
    ///
    /// # Errors
    /// If the kernel refuses a step: then what was in force stays.
    pub async fn set(&mut self, guard: &Guard) -> Result<Refused, GuardError> {
        let connection = open()?;
        let next = Guarding { number: self.number + 1, is_set: true };
        let table = next.table();
        // What is left of an attempt that was broken off.
        let removed = connection.del_table_if_exists(table.as_str(), Family::Inet).await;
        removed.map_err(|source| GuardError { what: "remove an old guard", source })?;
        let made = self.exchange(&connection, &table, guard).await;
        if let Err(source) = made {
            let _ = connection.del_table_if_exists(table.as_str(), Family::Inet).await;
            return Err(GuardError { what: "set a guard", source });
        }
        // Nothing leads to the old one any more: what it has counted is final.
        let refused = if self.is_set { self.refused_by(&connection).await } else { Ok(Refused::default()) };
        let removed = if self.is_set { connection.del_table_if_exists(self.table(), Family::Inet).await } else { Ok(true) };
        *self = next;
        removed.map_err(|source| GuardError { what: "remove the guard before", source })?;
        refused
    }

    async fn exchange(&self, connection: &Connection<Nftables>, table: &str, guard: &Guard) -> Result<(), nlink::Error> {
        let mut steps = Table { name: table, steps: Vec::new(), sets: BTreeMap::new() }.build(guard)?;
        while !steps.is_empty() {
            let rest = steps.split_off(BATCH.min(steps.len()));
            steps.into_iter().fold(connection.transaction(), |transaction, step| step.add(transaction)).commit(connection).await?;
            steps = rest;
        }
        let base = BaseChain::filter(FilterHook::Prerouting, PRIORITY).policy(Policy::Accept);
        let mut exchange = connection
            .transaction()
            .add_chain(Chain::new(table, "prerouting")?.family(Family::Inet).base(base))
            .add_rule(Rule::new(table, "prerouting").family(Family::Inet).jump(ChainName::new("main")?));
        if self.is_set {
            exchange = exchange.flush_chain(&self.table(), "prerouting", Family::Inet).del_chain(&self.table(), "prerouting", Family::Inet);
        }
        exchange.commit(connection).await
    }

    /// What the guard that is in force has refused so far.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub async fn refused(&self) -> Result<Refused, GuardError> {
        if self.is_set { self.refused_by(&open()?).await } else { Ok(Refused::default()) }
    }

    async fn refused_by(&self, connection: &Connection<Nftables>) -> Result<Refused, GuardError> {
        let unread = |source| GuardError { what: "read what was refused", source };
        // First the parts, so that they are not more than the whole.
        let elements = connection.list_set_elements(&self.table(), REFUSED, Family::Inet).await.map_err(unread)?;
        let objects = connection.list_objects_in(&self.table(), Family::Inet).await.map_err(unread)?;
        let total = objects.iter().find_map(|object| match object.state {
            ObjectState::Counter { packets, .. } if object.name == REFUSED => Some(packets),
            _ => None,
        });
        let by = elements.iter().filter_map(|element| Some((attempt(element.key())?, element.counter()?.0))).collect();
        Ok(Refused { total: total.unwrap_or_default(), by })
    }
}

fn open() -> Result<Connection<Nftables>, GuardError> {
    Connection::<Nftables>::new().map_err(|source| GuardError { what: "open netlink", source })
}

/// The name of the set of attempts, and of the counter of all.
const REFUSED: &str = "refused";
/// The chain that ends what is not admitted.
const REFUSE: &str = "refuse";

/// Two addresses and a port, each in words of four bytes.
fn attempt(key: &[u8]) -> Option<Attempt> {
    let (from, rest) = key.split_first_chunk::<4>()?;
    let (to, rest) = rest.split_first_chunk::<4>()?;
    let (port, _) = rest.split_first_chunk::<2>()?;
    Some(Attempt { from: Ipv4Addr::from(*from), to: Ipv4Addr::from(*to), port: u16::from_be_bytes(*port) })
}

/// One message.
enum Step {
    Table(String),
    Counter(Object),
    Set(Set),
    Elements(Set, Vec<SetElement>),
    Chain(Chain),
    Rule(Box<Rule>),
}

impl Step {
    fn add(self, transaction: Transaction) -> Transaction {
        match self {
            Step::Table(name) => transaction.add_table(&name, Family::Inet),
            Step::Counter(counter) => transaction.add_object(&counter),
            Step::Set(set) => transaction.add_set(set),
            Step::Elements(set, elements) => transaction.add_set_elements(&set, &elements),
            Step::Chain(chain) => transaction.add_chain(chain),
            Step::Rule(rule) => transaction.add_rule(*rule),
        }
    }
}

/// A table that is being made: chains come after those to which they lead.
struct Table<'t> {
    name: &'t str,
    steps: Vec<Step>,
    /// The names of sets, by what is in them.
    sets: BTreeMap<Addresses, String>,
}

impl Table<'_> {
    fn build(mut self, guard: &Guard) -> Result<Vec<Step>, nlink::Error> {
        self.steps.push(Step::Table(self.name.to_owned()));
        self.refuse()?;
        let inbound = self.sides("in", &guard.inbound, PacketField::Ip4Saddr)?;
        let outbound = self.sides("out", &guard.outbound, PacketField::Ip4Daddr)?;
        self.chain("main")?;
        // Replies, and what belongs to nothing: neither opens a connection.
        let known = CtState::ESTABLISHED | CtState::RELATED | CtState::INVALID | CtState::UNTRACKED;
        self.rule("main", |rule| rule.match_ct_state(known).accept());
        self.rule("main", |rule| rule.match_l4proto(ICMP).accept());
        for (side, chain) in guard.inbound.iter().zip(inbound) {
            let of = self.set(&side.of);
            self.rule("main", |rule| rule.match_daddr_in_set(&of).goto(chain));
        }
        for range in &guard.inside {
            self.rule("main", |rule| rule.match_daddr(range.address(), range.prefix()).accept());
        }
        for (side, chain) in guard.outbound.iter().zip(outbound) {
            let of = self.set(&side.of);
            self.rule("main", |rule| rule.match_saddr_in_set(&of).goto(chain));
        }
        Ok(self.steps)
    }

    fn rule(&mut self, chain: &str, make: impl FnOnce(Rule) -> Rule) {
        self.steps.push(Step::Rule(Box::new(make(Rule::new(self.name, chain).family(Family::Inet)))));
    }

    fn chain(&mut self, name: &str) -> Result<ChainName, nlink::Error> {
        self.steps.push(Step::Chain(Chain::new(self.name, name)?.family(Family::Inet)));
        ChainName::new(name)
    }

    /// The name of a set of these addresses.
    fn set(&mut self, addresses: &Addresses) -> String {
        if let Some(name) = self.sets.get(addresses) {
            return name.clone();
        }
        let name = format!("a{}", self.sets.len());
        let set = Set::new(self.name, &name).family(Family::Inet).key_type(SetKeyType::Ipv4Addr).interval();
        self.steps.push(Step::Set(set.clone()));
        for ranges in addresses.ranges().chunks(BATCH) {
            let elements = ranges.iter().map(|(first, last)| SetElement::ipv4_range(*first, *last)).collect();
            self.steps.push(Step::Elements(set.clone(), elements));
        }
        self.sets.insert(addresses.clone(), name.clone());
        name
    }

    fn refuse(&mut self) -> Result<(), nlink::Error> {
        self.steps.push(Step::Counter(Object::counter(self.name, REFUSED).family(Family::Inet)));
        let key = SetKeyType::Concat(vec![SetKeyType::Ipv4Addr, SetKeyType::Ipv4Addr, SetKeyType::InetService]);
        let attempts = Set::new(self.name, REFUSED).family(Family::Inet).key_type(key).dynamic().size(MAX_ATTEMPTS);
        self.steps.push(Step::Set(attempts));
        let counted = self.chain("counted")?;
        self.rule("counted", |rule| {
            let load = |dreg, base, offset, len| Expr::Payload { dreg, base, offset, len };
            let rule = rule.expr(Expr::Meta { dreg: Register::R0, key: MetaKey::NfProto });
            let rule = rule.expr(Expr::Cmp { sreg: Register::R0, op: CmpOp::Eq, data: vec![NFPROTO_IPV4] });
            // Both addresses in the first two words, the port in the third.
            let rule = rule.expr(load(Register::R0, PayloadBase::Network, 12, 8));
            let rule = rule.expr(load(Register::Reg32_02, PayloadBase::Transport, 2, 2));
            rule.expr(DynsetExpr::new(DynsetOp::Add, REFUSED, Register::R0).counter())
        });
        // Apart from that, which ends its rule when the set is full.
        self.rule("counted", |rule| rule.counter_named(REFUSED));
        self.rule("counted", |rule| rule.reject_tcp_reset());
        self.rule("counted", |rule| rule.reject_icmpx(IcmpxCode::PortUnreachable));
        self.chain(REFUSE)?;
        // What opens no connection is late, of one that the kernel has forgotten.
        let opening = TcpFlags::SYN | TcpFlags::ACK | TcpFlags::RST | TcpFlags::FIN;
        let to = counted.clone();
        self.rule(REFUSE, |rule| rule.match_tcp_flags(TcpFlags::SYN, opening).goto(to));
        self.rule(REFUSE, |rule| rule.match_l4proto(TCP).accept());
        self.rule(REFUSE, |rule| rule.goto(counted));
        Ok(())
    }

    /// A chain for each side, with its name.
    fn sides(&mut self, kind: &str, sides: &[Side], peer: PacketField) -> Result<Vec<ChainName>, nlink::Error> {
        let mut chains = Vec::new();
        for (number, side) in sides.iter().enumerate() {
            let name = format!("{kind}-{number}");
            let peers: Vec<Option<String>> = side.admits.iter().map(|admit| admit.peers.as_ref().map(|peers| self.set(peers))).collect();
            chains.push(self.chain(&name)?);
            for (admit, peers) in side.admits.iter().zip(peers) {
                let from = |rule: Rule| match &peers {
                    Some(set) => rule.match_in_set(peer, set),
                    None => rule,
                };
                if admit.ports.is_empty() {
                    self.rule(&name, |rule| from(rule).accept());
                }
                for ports in &admit.ports {
                    self.rule(&name, |rule| to_ports(from(rule), *ports).accept());
                }
            }
            let refuse = ChainName::new(REFUSE)?;
            self.rule(&name, |rule| rule.goto(refuse));
        }
        Ok(chains)
    }
}

/// To one of these ports: in all protocols that have any the destination's stands in bytes 2 and 3.
fn to_ports(rule: Rule, ports: PortRange) -> Rule {
    let is = |op, port: u16| Expr::Cmp { sreg: Register::R0, op, data: port.to_be_bytes().to_vec() };
    rule.match_l4proto(ports.protocol)
        .expr(Expr::Payload { dreg: Register::R0, base: PayloadBase::Transport, offset: 2, len: 2 })
        .expr(is(CmpOp::Gte, ports.first))
        .expr(is(CmpOp::Lte, ports.last))
}

#[cfg(test)]
mod tests;
