//! `cargo xtask image`: the images of the mesh and of its sample, without a container engine.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Error, Result, bail, ensure};
use clap::Args;
use mizzen_testkit::kube::{image, target_dir};

/// The most that an image may take of a node's disk, in bytes.
const MOST: [(&str, u64); 3] = [("proxyv2", 25_000_000), ("pilot", 40_000_000), ("install-cni", 25_000_000)];
/// Where programs are built that need nothing of a machine.
const TARGET: &str = if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" };
/// Nothing of a machine is needed; what relocates the program is packed; equal code is there once.
const FLAGS: &str = "-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs -C link-arg=-Wl,--icf=all";

/// Arguments of `image`.
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    /// The folder for proxyv2.tar, pilot.tar, install-cni.tar and bookshop.tar, by default `images` (with --debug: `images/debug`) in the target folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Of the binary that tests use, with the libraries that it needs: soon made, and as large as that.
    #[arg(long)]
    debug: bool,
    /// The hub in the images' names.
    #[arg(long, value_name = "HUB", default_value = "mizzen")]
    hub: String,
    /// Their tag.
    #[arg(long, value_name = "TAG", default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
    /// A bundle of authorities in PEM, such as this machine's /etc/ssl/certs/ca-certificates.crt, for proxyv2, where it is the system's: what verifies
    /// foreign servers without caCertificates. By default the image has none, and nobody is believed so.
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
}

pub(crate) fn image(args: &ImageArgs) -> Result<()> {
    let target = target_dir().context("the target folder is not known: run it by `cargo xtask`")?;
    let default = if args.debug { "images/debug" } else { "images" };
    let out = args.out.clone().unwrap_or_else(|| target.join(default));
    let programs = if args.debug { debug(&target)? } else { release(&target)? };
    let from = if args.debug { image::Source::MultiCall(&programs) } else { image::Source::Static(&programs) };
    let roots = args.roots.as_deref().map(roots).transpose()?;
    let written = image::mesh(&from, roots.as_deref(), &args.hub, &args.tag, &out).map_err(Error::msg)?;
    if roots.is_none() {
        println!(
            "proxyv2 has no authorities of its own: a DestinationRule with TLS needs caCertificates or a credentialName (--roots FILE puts some in)"
        );
    }
    let mut large = Vec::new();
    for image in &written {
        println!("{:11} {:6.1} MB  {}", image.name, image.size as f64 / 1e6, image.archive.display());
        let most = MOST.iter().find(|(name, most)| *name == image.name && image.size > *most).filter(|_| !args.debug);
        large.extend(most.map(|(name, most)| format!("{name} has {} bytes, and may have {most}", image.size)));
    }
    ensure!(large.is_empty(), "{}", large.join("; "));
    Ok(())
}

/// A bundle that holds a certificate.
fn roots(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    ensure!(text.contains("-----BEGIN CERTIFICATE-----"), "{}: it holds no certificate in PEM", path.display());
    Ok(text)
}

/// Builds static programs, and returns their folder.
fn release(target: &Path) -> Result<PathBuf> {
    let mut command = cargo(target);
    // With a target named, what runs in the build itself (macros, build scripts) is not static.
    let flags = format!("CARGO_TARGET_{}_RUSTFLAGS", TARGET.to_uppercase().replace('-', "_"));
    command.args(["build", "--profile", "image", "--target", TARGET, "--package", "mizzen-slim"]).env(flags, FLAGS);
    run(command)?;
    Ok(target.join(TARGET).join("image"))
}

/// Builds the binary of the tests, and returns it without what only a debugger reads.
fn debug(target: &Path) -> Result<PathBuf> {
    let mut command = cargo(target);
    command.args(["build", "--package", "mizzen"]);
    run(command)?;
    image::without_debug(&target.join("debug/mizzen"), &target.join("images/debug")).map_err(Error::msg)
}

fn cargo(target: &Path) -> Command {
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    command.current_dir(crate::root()).env("CARGO_TARGET_DIR", target);
    command
}

fn run(mut command: Command) -> Result<()> {
    let status = command.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("the build failed");
    }
    Ok(())
}
