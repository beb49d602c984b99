//! Unix sockets in the file system.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use tokio::net::UnixListener;

/// A path that the kernel does not take as a socket's address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {length} bytes, but a Unix socket's path has at most 107; choose a shorter folder")]
pub struct UnixPathError {
    path: String,
    length: usize,
}

/// Checks the length of a socket's path: better now and in words than later as EINVAL.
///
/// # Errors
/// If it is 108 bytes or longer.
pub fn unix_path(path: &Path) -> Result<&Path, UnixPathError> {
    let length = path.as_os_str().len();
    if length < 108 { Ok(path) } else { Err(UnixPathError { path: path.display().to_string(), length }) }
}

/// Listens on a path for the owner only. A socket that an earlier process left there is removed; any other file is not.
///
/// # Errors
/// If the path is too long, or what the kernel says. Must be called within a runtime.
pub fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    let path = unix_path(path).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(|e| io::Error::new(e.kind(), format!("listen on {}: {e}", path.display())))?;
    // The folder, 0700, is the real guard; between bind and chmod the umask decides.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stale_sockets_are_replaced_and_files_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(listen_unix(&path).unwrap());
        let again = listen_unix(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(again);
        let file = folder.path().join("f");
        std::fs::write(&file, "kept").unwrap();
        assert!(listen_unix(&file).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
        assert!(listen_unix(&folder.path().join("x".repeat(108))).is_err());
    }
}
