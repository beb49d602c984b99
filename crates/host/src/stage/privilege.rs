//! Capabilities: what a process keeps, and that it can never get more.

use std::{io, os::fd::RawFd};

use caps::{CapSet, Capability, CapsHashSet};
use nix::libc;

use super::{Failed, Step};

/// What a proxy may do in its host's network namespace.
pub(crate) const PROXY: [Capability; 3] = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW, Capability::CAP_NET_BIND_SERVICE];

/// From linux/securebits.h: root's number means nothing, changing it means nothing, and both for ever.
const SECUREBITS: libc::c_ulong = 0b1111;

/// Lets all capabilities that the process has survive an exec, whatever its user is.
pub(crate) fn keep_over_exec() -> Result<(), Failed> {
    let have = caps::read(None, CapSet::Permitted).map_err(other).step("read the capabilities")?;
    for set in [CapSet::Inheritable, CapSet::Ambient] {
        caps::set(None, set, &have).map_err(other).step("make the capabilities inheritable")?;
    }
    Ok(())
}

/// Reduces the process to these capabilities, for itself and all that it becomes, and changes the user, if
/// asked to. Without capabilities it can get none back by any program (`no_new_privs`).
pub(crate) fn reduce(keep: &[Capability], uid: Option<u32>, gid: Option<u32>) -> Result<(), Failed> {
    let keep: CapsHashSet = keep.iter().copied().collect();
    for capability in caps::runtime::thread_all_supported() {
        if !keep.contains(&capability) {
            caps::drop(None, CapSet::Bounding, capability).map_err(other).step(format!("drop {capability} for good"))?;
        }
    }
    prctl_securebits().step("set the secure bits")?;
    change_user(uid, gid)?;
    caps::clear(None, CapSet::Ambient).map_err(other).step("clear the ambient capabilities")?;
    // Ambient capabilities must be permitted and inheritable.
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &keep).map_err(other).step("reduce the capabilities")?;
    }
    if keep.is_empty() {
        nix::sys::prctl::set_no_new_privs().step("set no_new_privs")?;
    } else {
        caps::set(None, CapSet::Ambient, &keep).map_err(other).step("set the ambient capabilities")?;
    }
    Ok(())
}

fn change_user(uid: Option<u32>, gid: Option<u32>) -> Result<(), Failed> {
    use nix::unistd::{Gid, Uid, getegid, geteuid, setgroups, setresgid, setresuid};
    let uid = uid.map(Uid::from_raw).filter(|uid| *uid != geteuid());
    let gid = gid.map(Gid::from_raw).filter(|gid| *gid != getegid());
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    let group = gid.unwrap_or_else(getegid);
    setgroups(&[group]).step("set the groups (only a mesh that runs as root can change the user)")?;
    setresgid(group, group, group).step(format!("become group {group}"))?;
    if let Some(uid) = uid {
        setresuid(uid, uid, uid).step(format!("become user {uid}"))?;
    }
    Ok(())
}

fn prctl_securebits() -> io::Result<()> {
    // SAFETY: prctl with integer arguments only, touches no memory of ours.
    #[allow(unsafe_code)]
    let result = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECUREBITS, 0, 0, 0) };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// Closes every descriptor from 3 on but these: what a shell, a test runner or a careless library left open
/// is not for the mesh. Only in a process that has opened nothing itself.
pub(crate) fn close_strangers(except: &[RawFd]) -> io::Result<()> {
    let mut except: Vec<libc::c_uint> = except.iter().filter_map(|fd| libc::c_uint::try_from(*fd).ok()).collect();
    except.sort_unstable();
    let mut first: libc::c_uint = 3;
    for last in except.into_iter().map(|fd| fd.saturating_sub(1)).chain([libc::c_uint::MAX]) {
        if first <= last {
            // SAFETY: no value in this process owns any of these descriptors.
            #[allow(unsafe_code)]
            let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
            nix::errno::Errno::result(result)?;
        }
        first = first.max(last.saturating_add(2));
    }
    Ok(())
}

fn other(error: caps::errors::CapsError) -> io::Error {
    io::Error::other(error.to_string())
}
