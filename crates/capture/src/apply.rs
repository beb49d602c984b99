//! A plan into the kernel and out of it.

use nlink::netlink::{
    Connection, Nftables,
    nftables::{
        BaseChain, Chain, CmpOp, CtDirection, Expr, Family, Field, FilterHook, Match as NftMatch, MetaKey, NatHook, Policy, Priority,
        Register, Rule as NftRule, Stmt, Transaction,
    },
};

use crate::{
    loopback,
    plan::{Match, Plan, Rule, Verdict},
    routing,
};

/// The name of the table that holds the rules.
pub const TABLE: &str = "mizzen-capture";

/// What the names of the chains begin with that say zones.
pub(crate) const ZONES: &str = "zones-";
/// The chains where inbound connections are not redirected.
pub(crate) const DIVERTED: &str = "tproxy-prerouting";
pub(crate) const RETURNED: &str = "tproxy-output";

/// Why the rules could not be set or removed.
#[derive(Debug, thiserror::Error)]
#[error("capture rules: cannot {what}: {source}")]
pub struct ApplyError {
    pub(crate) what: &'static str,
    #[source]
    pub(crate) source: nlink::Error,
}

/// Puts the rules into the calling thread's network namespace, in one transaction; rules of an earlier
/// plan are replaced by it. Routes are there before the rules that need them, and gone after those. Rules for IPv6 need an address on the loopback interface,
/// which it gets before them. To be called on a thread of that namespace, inside a tokio runtime with IO.
///
/// # Errors
/// If netlink cannot be opened or the kernel refuses (no CAP_NET_ADMIN, no nf_tables, for TPROXY no nft_tproxy or no tables of routes).
pub async fn apply(plan: &Plan) -> Result<(), ApplyError> {
    if plan.hands_ipv6() {
        loopback::give_address().await?;
    }
    if let Some(by) = plan.routing {
        routing::set(by).await?;
    }
    let (connection, transaction) = begin().await?;
    let mut transaction = transaction.add_table(TABLE, Family::Inet);
    let nat = |hook| BaseChain::nat(hook, Priority::DstNat);
    let zones = |hook| BaseChain::filter(hook, Priority::Raw);
    for (name, kind, rules) in [
        ("prerouting".to_owned(), nat(NatHook::Prerouting), &plan.inbound),
        ("output".to_owned(), nat(NatHook::Output), &plan.outbound),
        (format!("{ZONES}prerouting"), zones(FilterHook::Prerouting), &plan.inbound_zones),
        (format!("{ZONES}output"), zones(FilterHook::Output), &plan.outbound_zones),
        (DIVERTED.to_owned(), BaseChain::filter(FilterHook::Prerouting, Priority::Mangle), &plan.diverted),
        (RETURNED.to_owned(), BaseChain::route(Priority::Mangle), &plan.returned),
    ] {
        // Where names are not captured, there are no zones; what is inbound has one chain of two.
        if rules.is_empty() && (plan.routing.is_some() || !["prerouting", "output"].contains(&name.as_str())) {
            continue;
        }
        let chain = Chain::new(TABLE, name.as_str()).map_err(|source| ApplyError { what: "name a chain", source })?;
        transaction = transaction.add_chain(chain.family(Family::Inet).base(kind.policy(Policy::Accept)));
        for rule in rules {
            transaction = transaction.add_rule(lower(&name, rule));
        }
    }
    transaction.commit(&connection).await.map_err(|source| ApplyError { what: "set them", source })?;
    routing::remove_others(plan.routing).await
}

/// Removes what [`apply`] has set; nothing set is no error.
///
/// # Errors
/// As [`apply`].
pub async fn cleanup() -> Result<(), ApplyError> {
    let (connection, transaction) = begin().await?;
    transaction.commit(&connection).await.map_err(|source| ApplyError { what: "remove them", source })?;
    routing::remove_others(None).await
}

/// Whether rules of [`apply`] are in the calling thread's network namespace, with the routes that they need.
///
/// # Errors
/// As [`apply`].
pub async fn is_set() -> Result<bool, ApplyError> {
    let connection = Connection::<Nftables>::new().map_err(|source| ApplyError { what: "open netlink", source })?;
    let tables = connection.list_tables_in(Family::Inet).await.map_err(|source| ApplyError { what: "list the tables", source })?;
    if !tables.iter().any(|table| table.name == TABLE) {
        return Ok(false);
    }
    let chains = connection.list_chains_in(TABLE, Family::Inet).await.map_err(|source| ApplyError { what: "list the chains", source })?;
    Ok(!chains.iter().any(|chain| chain.name == DIVERTED) || routing::is_set().await?)
}

/// A transaction that starts with the removal of the table, if there is one.
async fn begin() -> Result<(Connection<Nftables>, Transaction), ApplyError> {
    let connection = Connection::<Nftables>::new().map_err(|source| ApplyError { what: "open netlink", source })?;
    let tables = connection.list_tables_in(Family::Inet).await.map_err(|source| ApplyError { what: "list the tables", source })?;
    let mut transaction = connection.transaction();
    if tables.iter().any(|table| table.name == TABLE) {
        transaction = transaction.del_table(TABLE, Family::Inet);
    }
    Ok((connection, transaction))
}

fn lower(chain: &str, rule: &Rule) -> NftRule {
    const TCP: u8 = 6;
    let mut out = NftRule::new(TABLE, chain).family(Family::Inet);
    for part in &rule.matches {
        out = match part {
            Match::Mark(mark) => out.match_mark(*mark),
            Match::NotMark(mark) => out.match_mark_not(*mark),
            Match::User(user) => meta(out, MetaKey::SkUid, CmpOp::Eq, &user.to_ne_bytes()),
            Match::NotUser(user) => meta(out, MetaKey::SkUid, CmpOp::Neq, &user.to_ne_bytes()),
            Match::Group(group) => meta(out, MetaKey::SkGid, CmpOp::Eq, &group.to_ne_bytes()),
            Match::NotGroup(group) => meta(out, MetaKey::SkGid, CmpOp::Neq, &group.to_ne_bytes()),
            Match::UdpPort(port) => out.match_udp_dport(*port),
            Match::UdpFrom(port) => out.then(NftMatch::eq(Field::UdpSport, *port)),
            Match::ConnectionMark(mark) => out.then(NftMatch::eq(Field::CtMark, *mark)),
            Match::Answer => out.then(NftMatch::eq(Field::CtDirection, CtDirection::Reply)),
            Match::OutLoopback => out.match_oif("lo"),
            Match::InLoopback => out.match_iif("lo"),
            Match::Tcp => out.match_l4proto(TCP),
            Match::Port(port) => out.match_tcp_dport(*port),
            Match::NotPort(port) => out.match_tcp_dport_not(*port),
            Match::Source(range) => out.match_saddr(range.address(), range.prefix()),
            Match::Destination(range) => out.match_daddr(range.address(), range.prefix()),
            Match::NotDestination(range) => out.match_daddr_not(range.address(), range.prefix()),
        };
    }
    match rule.verdict {
        // At the end of a base chain with policy accept, returning is accepting.
        Verdict::Return => out.accept(),
        Verdict::Redirect(port) => out.redirect(Some(port)),
        Verdict::Zone(zone) => out.then(Stmt::SetCtZone(zone)),
        Verdict::Tproxy(port, mark) => out.tproxy(Family::Inet, None, Some(port)).then(Stmt::SetMark(mark)).accept(),
        Verdict::Drop => out.drop(),
        Verdict::SetMark(mark) => out.then(Stmt::SetMark(mark)),
        Verdict::MarkConnection(mark) => out.then(Stmt::SetCtMark(mark)),
    }
}

/// Compares what is known of a packet, which is in the machine's own byte order.
fn meta(rule: NftRule, key: MetaKey, op: CmpOp, value: &[u8]) -> NftRule {
    rule.expr(Expr::Meta { dreg: Register::R0, key }).expr(Expr::Cmp { sreg: Register::R0, op, data: value.to_vec() })
}
