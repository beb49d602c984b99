//! Which system calls a workload's program is refused: those that reach what no namespace holds.
//!
//! A network namespace holds UNIX, IPv4, IPv6 and route netlink sockets. Of other families some know no namespaces (VSOCK, ALG), some are
//! for configuring the machine, and all would carry data past the proxy or give a program more of the kernel than it needs. io_uring makes
//! sockets without a call that a filter sees, and keyrings are shared by all programs of a user.
//!
//! The filters are lists of what is refused; all else is as the kernel has it. A program built for another instruction set (32-bit ones
//! on a 64-bit machine) is killed by SIGSYS at its first call, since its calls have other numbers.

use std::{collections::BTreeMap, io};

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

use super::{Failed, Step};

/// The families that a network namespace holds.
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// From linux/net.h: the flags beside a socket's type start above these bits.
const TYPE_MASK: u64 = 0xf;

/// From linux/net.h: the type of packet sockets before they had a family.
const OLD_PACKET: u64 = 10;

/// On x86-64 the same kernel takes calls of the x32 ABI too: the number with this bit. Elsewhere no call has such a number.
const X32: i64 = 0x4000_0000;

/// Refuses the calls, to this process and all that it becomes or starts. The process must have one thread and be set to gain no privileges.
pub(super) fn confine() -> Result<(), Failed> {
    for program in programs().step("prepare the filter of system calls")? {
        apply_filter(&program).map_err(io::Error::other).step("set the filter of system calls")?;
    }
    Ok(())
}

/// One filter for each error, since a filter has one: with what a kernel says that was built without the feature.
fn programs() -> io::Result<[BpfProgram; 3]> {
    let unknown = [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register].into_iter().chain([
        libc::SYS_add_key,
        libc::SYS_keyctl,
        libc::SYS_request_key,
    ]);
    Ok([
        program(libc::EAFNOSUPPORT, [libc::SYS_socket, libc::SYS_socketpair].map(|call| (call, families())))?,
        program(libc::EPROTONOSUPPORT, [(libc::SYS_socket, vec![netlink()])])?,
        program(libc::ENOSYS, unknown.map(|call| (call, Vec::new())))?,
    ])
}

fn program(error: libc::c_int, calls: impl IntoIterator<Item = (i64, Vec<Vec<Condition>>)>) -> io::Result<BpfProgram> {
    let architecture: TargetArch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let mut rules = BTreeMap::new();
    for (call, alternatives) in calls {
        let alternatives: Result<Vec<SeccompRule>, seccompiler::BackendError> = alternatives.iter().map(|all| rule(all)).collect();
        let alternatives = alternatives.map_err(io::Error::other)?;
        rules.insert(call | X32, alternatives.clone());
        rules.insert(call, alternatives);
    }
    let refused = SeccompAction::Errno(u32::try_from(error).map_err(io::Error::other)?);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, architecture).map_err(io::Error::other)?;
    filter.try_into().map_err(io::Error::other)
}

/// What an argument, by its number from 0, must be. The kernel takes all that are looked at here as 32-bit numbers, whatever the rest of the
/// register holds.
type Condition = (u8, SeccompCmpOp, u64);

fn rule(all: &[Condition]) -> Result<SeccompRule, seccompiler::BackendError> {
    let conditions =
        all.iter().map(|(argument, operator, value)| SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, operator.clone(), *value));
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}

/// A family that is not on the list, or one that is and stands for another: the kernel takes an IPv4 socket of the old type for a packet
/// socket.
fn families() -> Vec<Vec<Condition>> {
    let other = FAMILIES.map(|family| (0, SeccompCmpOp::Ne, number(family)));
    vec![other.into(), vec![(1, SeccompCmpOp::MaskedEq(TYPE_MASK), OLD_PACKET)]]
}

/// Netlink of any other protocol than ROUTE.
fn netlink() -> Vec<Condition> {
    vec![(0, SeccompCmpOp::Eq, number(libc::AF_NETLINK)), (2, SeccompCmpOp::Ne, number(libc::NETLINK_ROUTE))]
}

fn number(value: libc::c_int) -> u64 {
    u64::from(value.unsigned_abs())
}
