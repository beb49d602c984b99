//! Which proxy a mesh is made of.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use nix::unistd::AccessFlags;
use serde::{Deserialize, Serialize};

/// A proxy's make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DataPlane {
    /// Mizzen's own.
    #[default]
    Mizzen,
    /// An Envoy, by the path of its program.
    Envoy(PathBuf),
}

/// `mizzen` or `envoy=PATH`.
pub(crate) fn parse(text: &str) -> Result<DataPlane, String> {
    match text.split_once('=') {
        None if text == "mizzen" => Ok(DataPlane::Mizzen),
        Some(("envoy", path)) if !path.is_empty() => Ok(DataPlane::Envoy(path.into())),
        _ => Err(format!("`{text}` is neither `mizzen` nor of the form envoy=PATH")),
    }
}

impl DataPlane {
    /// With the program's whole path, and that it can be run.
    pub(crate) fn find(&self) -> Result<DataPlane> {
        let DataPlane::Envoy(path) = self else { return Ok(self.clone()) };
        let found = path.canonicalize().with_context(|| path.display().to_string())?;
        if !found.is_file() {
            bail!("{}: is not a file", path.display());
        }
        nix::unistd::access(&found, AccessFlags::X_OK).with_context(|| format!("{}: cannot be run", path.display()))?;
        // What travels to the programs is text.
        if found.to_str().is_none() {
            bail!("{}: the path is not UTF-8", found.display());
        }
        Ok(DataPlane::Envoy(found))
    }

    /// The program of somebody else.
    pub(crate) fn foreign(&self) -> Option<&Path> {
        match self {
            DataPlane::Mizzen => None,
            DataPlane::Envoy(path) => Some(path),
        }
    }
}

impl fmt::Display for DataPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DataPlane::Mizzen => f.write_str("mizzen"),
            DataPlane::Envoy(path) => write!(f, "envoy={}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        assert_eq!(parse("mizzen"), Ok(DataPlane::Mizzen));
        assert_eq!(parse("envoy=/opt/envoy"), Ok(DataPlane::Envoy("/opt/envoy".into())));
        for text in ["", "envoy", "envoy=", "nginx=/x", "mizzen=/x", "Envoy=/x"] {
            assert!(parse(text).is_err_and(|e| e.starts_with(&format!("`{text}` is neither"))), "{text}");
        }
        assert_eq!(DataPlane::default().to_string(), "mizzen");
    }

    #[test]
    fn programs_are_checked() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("envoy");
        let said = || DataPlane::Envoy(file.clone()).find().map_err(|e| format!("{e:#}"));
        assert!(said().is_err_and(|e| e.contains("envoy: No such file")));
        std::fs::write(&file, "").expect("a file");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        // Root may do everything but run what nobody may run.
        assert!(said().is_err_and(|e| e.contains("cannot be run")));
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
        let whole = file.canonicalize().expect("a path");
        assert_eq!(DataPlane::Envoy(link).find().expect("found"), DataPlane::Envoy(whole));
        assert!(DataPlane::Envoy(folder.path().into()).find().is_err_and(|e| e.to_string().contains("not a file")));
    }
}
