//! The routes of packets with a mark: into the kernel and out of it.
//!
//! A rule of routes leads what carries the mark to a table of its own, which has one route: everything is an address of this namespace. Both carry our
//! number, by which they are found again.

use nlink::netlink::{
    Connection, Route,
    route::{Ipv4Route, Ipv6Route},
    rule::RuleBuilder,
    types::route::{RouteProtocol, RouteScope, RouteType},
};

use crate::{apply::ApplyError, settings::Tproxy};

/// Who has set a rule or a route, in the kernel's word its protocol: a number that nobody else has in iproute2's list.
const OURS: u8 = 133;

/// The loopback interface has this number in each network namespace.
const LOOPBACK: u32 = 1;

/// One rule that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct There {
    by: Tproxy,
    ipv6: bool,
}

/// Sets them for both families, unless they are there.
///
/// # Errors
/// If the kernel refuses.
pub(crate) async fn set(by: Tproxy) -> Result<(), ApplyError> {
    let connection = open()?;
    // The kernel takes a rule twice.
    let there = ours(&connection).await?;
    for ipv6 in [false, true] {
        let one = There { by, ipv6 };
        let route = if ipv6 { connection.add_route(v6(one)).await } else { connection.add_route(v4(one)).await };
        allow_existing("add a route", route)?;
        if !there.contains(&one) {
            allow_existing("add a rule of routes", connection.add_rule(rule(one)).await)?;
        }
    }
    Ok(())
}

/// Whether rules are there.
///
/// # Errors
/// If the kernel does not tell.
pub(crate) async fn is_set() -> Result<bool, ApplyError> {
    Ok(!ours(&open()?).await?.is_empty())
}

/// Removes what an earlier plan has set, and this one does not want.
///
/// # Errors
/// If the kernel refuses.
pub(crate) async fn remove_others(wanted: Option<Tproxy>) -> Result<(), ApplyError> {
    let connection = open()?;
    for one in ours(&connection).await? {
        if wanted == Some(one.by) {
            continue;
        }
        connection.del_rule_if_exists(rule(one)).await.map_err(|source| ApplyError { what: "remove a rule of routes", source })?;
        let removed = if one.ipv6 { connection.del_route_if_exists(v6(one)).await } else { connection.del_route_if_exists(v4(one)).await };
        removed.map_err(|source| ApplyError { what: "remove a route", source })?;
    }
    Ok(())
}

fn open() -> Result<Connection<Route>, ApplyError> {
    Connection::<Route>::new().map_err(|source| ApplyError { what: "open netlink", source })
}

fn allow_existing(what: &'static str, done: Result<(), nlink::Error>) -> Result<(), ApplyError> {
    match done {
        Err(error) if error.is_already_exists() => Ok(()),
        done => done.map_err(|source| ApplyError { what, source }),
    }
}

/// Those that we have set, now or earlier.
async fn ours(connection: &Connection<Route>) -> Result<Vec<There>, ApplyError> {
    let rules = connection.get_rules().await.map_err(|source| ApplyError { what: "list the rules of routes", source })?;
    let found = rules
        .iter()
        .filter(|rule| rule.protocol() == Some(OURS))
        .filter_map(|rule| Some(There { by: Tproxy { mark: rule.fwmark()?, table: rule.table_id() }, ipv6: rule.is_ipv6() }));
    Ok(found.collect())
}

fn rule(one: There) -> RuleBuilder {
    let rule = if one.ipv6 { RuleBuilder::v6() } else { RuleBuilder::v4() };
    rule.fwmark(one.by.mark).table(one.by.table).protocol(OURS)
}

fn v4(one: There) -> Ipv4Route {
    let route = Ipv4Route::default_route().route_type(RouteType::Local).scope(RouteScope::Host);
    route.dev_index(LOOPBACK).table(one.by.table).protocol(RouteProtocol::Other(OURS))
}

fn v6(one: There) -> Ipv6Route {
    let route = Ipv6Route::default_route().route_type(RouteType::Local);
    route.dev_index(LOOPBACK).table(one.by.table).protocol(RouteProtocol::Other(OURS))
}
