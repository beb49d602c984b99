//! Traffic capture: which of a workload's TCP connections go through its proxy.
//!
//! [`Settings`] say what to capture, in the words of Istio's annotations; [`Plan::new`] turns them into
//! ordered lists of rules, plain data that prints as nft text; [`apply`] puts a plan into the
//! network namespace of the calling thread over netlink, in one transaction, and [`cleanup`] takes it
//! out again, with the routes that it needs. [`remember_half_closed`] keeps the kernel from forgetting redirects too early. One `inet` table holds the rules
//! for IPv4 and IPv6. Both are always captured, also where there is no address of IPv6 yet: what is not captured would reach the program past its proxy.
//!
//! The proxy's own traffic is told by its socket mark where there is one user for everything, and by its
//! user and group in a pod, where it has no capability ([`Owner`]). Questions for names have zones of their own for the
//! kernel's memory of connections. Inbound connections are redirected, or handed to the proxy as they are ([`Mode`]): then the program is called from
//! its clients' own addresses, and its answers find the proxy by a mark and a table of routes ([`Tproxy`]). Absent on purpose: UDP but for questions
//! for names, ICMP (both left alone), and programs such as `nft`, `ip` or `iptables`.
//!
//! A [`Guard`] is for a router: which connections may be opened through it, and who has tried to open others.

mod addresses;
mod apply;
mod guard;
mod loopback;
mod plan;
mod routing;
mod settings;
mod tracking;

pub use addresses::Addresses;
pub use apply::{ApplyError, TABLE, apply, cleanup, is_set};
pub use guard::{Admit, Attempt, GUARD_TABLE, Guard, GuardError, Guarding, MAX_ATTEMPTS, PortRange, Refused, Side};
pub use loopback::has_ipv6;
pub use plan::{Match, Plan, Rule, Verdict};
pub use settings::{Dns, Mode, Owner, Ports, Ranges, Settings, SettingsError, Tproxy, port_list, range_list};
pub use tracking::remember_half_closed;
