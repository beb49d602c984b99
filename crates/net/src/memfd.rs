//! Files that exist in memory only.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A file in memory with these contents, closed on exec. Sealed, it can never be changed again; unsealed, it is state for [`rewrite_fd`].
///
/// # Errors
/// What the kernel says.
pub fn memfd(name: &str, contents: &[u8], sealed: bool) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    rewrite_fd(&fd, contents)?;
    if sealed {
        let all = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
        fcntl(fd.as_fd(), FcntlArg::F_ADD_SEALS(all))?;
    }
    Ok(fd)
}

/// All that a file holds, at most `max` bytes, wherever its position is.
///
/// # Errors
/// What the kernel says, or `InvalidData` if it is longer.
pub fn read_fd(fd: &impl AsFd, max: usize) -> io::Result<Vec<u8>> {
    let file = File::from(fd.as_fd().try_clone_to_owned()?);
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if length > max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{length} bytes, at most {max} are read")));
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Replaces all that a file holds.
///
/// # Errors
/// What the kernel says.
pub fn rewrite_fd(fd: &impl AsFd, contents: &[u8]) -> io::Result<()> {
    let file = File::from(fd.as_fd().try_clone_to_owned()?);
    file.set_len(0)?;
    file.write_all_at(contents, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_rewritten() {
        let fd = memfd("state", b"first, longer", false).unwrap();
        rewrite_fd(&fd, b"second").unwrap();
        assert_eq!(read_fd(&fd, 100).unwrap(), b"second");
        assert_eq!(read_fd(&fd, 3).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
