//! `kube build`: Kubernetes, etcd, CoreDNS, Helm, who enforces NetworkPolicies, and Prometheus' parser from their Go modules, at the versions that
//! `tests/kube` names, and the images of the tests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::digest::{Context as Digest, SHA256};
use mizzen_testkit::kube::image::{Content, Image};

/// A Go module of `tests/kube`: its folder, the packages that are built (none: those that it names as tools), and what comes of it.
struct Module {
    folder: &'static str,
    packages: &'static [&'static str],
    makes: &'static [&'static str],
}

/// Smaller ones first, so that something of a build that is broken off is there.
const MODULES: [Module; 7] = [
    Module { folder: "images", packages: &["./pause", "./echo"], makes: &["pause", "echo"] },
    Module { folder: "promql", packages: &["."], makes: &["promql"] },
    Module { folder: "helm", packages: &["helm.sh/helm/v3/cmd/helm"], makes: &["helm"] },
    Module { folder: "etcd", packages: &["go.etcd.io/etcd/server/v3"], makes: &["etcd"] },
    Module {
        folder: "kubernetes",
        packages: &["tool"],
        makes: &["kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"],
    },
    Module { folder: "coredns", packages: &["."], makes: &["coredns"] },
    Module { folder: "netpol", packages: &["sigs.k8s.io/kube-network-policies/cmd"], makes: &["kube-network-policies"] },
];
/// Programs of which an image is made, `mizzen.test/NAME:1`.
const IMAGES: [&str; 4] = ["pause", "echo", "coredns", "kube-network-policies"];

/// Builds what has changed since it was built.
pub(super) fn build() -> Result<()> {
    let target = mizzen_testkit::kube::target_dir().context("the target folder is not known: run it by `cargo xtask`")?.join("kube");
    let (bin, stamps) = (target.join("bin"), target.join("stamps"));
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(&stamps)?;
    let go = go_version()?;
    let mut built = false;
    for module in MODULES {
        let folder = crate::root().join("tests/kube").join(module.folder);
        let stamp = stamp(&folder, &go)?;
        let file = stamps.join(module.folder);
        let there = module.makes.iter().all(|name| bin.join(name).is_file());
        if there && fs::read_to_string(&file).is_ok_and(|text| text == stamp) {
            continue;
        }
        println!("building {}", module.makes.join(", "));
        compile(&module, &folder, &bin)?;
        fs::write(file, stamp)?;
        built = true;
    }
    for name in IMAGES {
        let archive = bin.join(format!("{name}.tar"));
        if built || !archive.is_file() {
            image(name, &bin)?.write(&archive).map_err(anyhow::Error::msg)?;
        }
    }
    println!("{}", bin.display());
    Ok(())
}

fn image(name: &str, bin: &Path) -> Result<Image> {
    Ok(Image {
        names: vec![format!("mizzen.test/{name}:1")],
        entrypoint: vec![format!("/usr/local/bin/{name}")],
        env: Vec::new(),
        user: None,
        files: vec![(format!("/usr/local/bin/{name}"), Content::Program(bin.join(name)))],
    })
}

fn go_version() -> Result<String> {
    let output = Command::new("go").arg("version").output();
    let output =
        output.context("go is not installed: `apt-get install golang-go`, 1.21 or later, which fetches the version that is asked for")?;
    ensure!(output.status.success(), "`go version` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What decides how a module's programs come out.
fn stamp(folder: &Path, go: &str) -> Result<String> {
    let mut files = Vec::new();
    sources(folder, &mut files)?;
    files.sort();
    let mut digest = Digest::new(&SHA256);
    digest.update(go.as_bytes());
    digest.update(include_bytes!("build.rs"));
    for file in files {
        digest.update(&fs::read(&file).with_context(|| file.display().to_string())?);
    }
    Ok(digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn sources(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        match path.is_dir() {
            true => sources(&path, files)?,
            false => files.push(path),
        }
    }
    Ok(())
}

fn compile(module: &Module, folder: &Path, bin: &Path) -> Result<()> {
    let mut flags = "-s -w".to_owned();
    if module.folder == "kubernetes" {
        flags += &version_flags(folder)?;
    }
    let mut command = go(folder);
    command.args(["build", "-trimpath", "-ldflags", &flags]);
    // One package is named for itself; the main package of etcd would be called `v3`.
    let out = if let [one] = module.makes { bin.join(one) } else { PathBuf::from(format!("{}/", bin.display())) };
    let status = command.arg("-o").arg(out).args(module.packages).status().context("cannot run go")?;
    if !status.success() {
        bail!("the build of {} failed; modules are fetched as `go env GOPROXY` says", module.folder);
    }
    Ok(())
}

fn go(folder: &Path) -> Command {
    let mut command = Command::new("go");
    // Static programs: the images hold nothing else.
    command.current_dir(folder).env("CGO_ENABLED", "0").env("GOFLAGS", "-buildvcs=false -mod=readonly");
    command
}

/// The version that Kubernetes' programs say of themselves, and by which they choose their defaults. Without it they are v0.0.0.
fn version_flags(folder: &Path) -> Result<String> {
    let output = go(folder).args(["list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes"]).output().context("cannot run go")?;
    ensure!(output.status.success(), "`go list` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let minor = version.split('.').nth(1).with_context(|| format!("{version} is no version of Kubernetes"))?;
    let mut flags = String::new();
    for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        let facts = [
            ("gitVersion", &*version),
            ("gitMajor", "1"),
            ("gitMinor", minor),
            ("gitCommit", "none"),
            ("gitTreeState", "clean"),
            ("buildDate", "1970-01-01T00:00:00Z"),
        ];
        for (name, value) in facts {
            flags += &format!(" -X {package}.{name}={value}");
        }
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_of_every_file() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        fs::create_dir(dir.path().join("echo")).unwrap();
        write("go.mod", "a");
        write("echo/main.go", "b");
        let first = stamp(dir.path(), "1").unwrap();
        assert_eq!(stamp(dir.path(), "1").unwrap(), first);
        assert_ne!(stamp(dir.path(), "2").unwrap(), first);
        write("echo/main.go", "c");
        assert_ne!(stamp(dir.path(), "1").unwrap(), first);
    }

    #[test]
    fn every_module_is_there() {
        for module in MODULES {
            assert!(crate::root().join("tests/kube").join(module.folder).join("go.mod").is_file(), "{}", module.folder);
        }
    }
}
