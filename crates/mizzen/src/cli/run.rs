//! `mizzen run`: one more program in the running mesh, with a sidecar and an identity of its own.

use std::{ffi::OsString, io, os::fd::AsFd, process::ExitCode};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    signal::unix::{SignalKind, signal},
};

use super::find::Mesh;
use crate::up::requests::{Answer, Run, While};

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The namespace; it is in the mesh's folder.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The service account, and so the identity; it is in the mesh's folder.
    #[arg(short, long, default_value = "default")]
    service_account: String,
    /// Labels. Policies select the program by them, and so do Services: one that selects it sends it traffic.
    #[arg(short, long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    labels: Vec<(String, String)>,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not of the form KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(crate) async fn run(mesh: Option<&str>, args: RunArgs) -> Result<ExitCode> {
    let mesh = Mesh::find(mesh)?;
    let request = Run {
        namespace: args.namespace,
        labels: args.labels.into_iter().collect(),
        service_account: args.service_account,
        command: args.command,
        env: environment(),
        cwd: std::env::current_dir().context("cannot find the current folder")?,
    };
    let stream = UnixStream::connect(mesh.dir.join("control.sock")).await.context("the mesh does not answer")?;
    send(&stream, &format!("{}\n", serde_json::to_string(&request)?)).await?;
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    loop {
        let number = tokio::select! {
            line = lines.next_line() => match serde_json::from_str(&line?.context("the mesh has ended")?)? {
                Answer::Exit(code) => return Ok(ExitCode::from(code)),
                Answer::Error { text, code } => {
                    eprintln!("mizzen: {text}");
                    return Ok(ExitCode::from(code));
                }
            },
            _ = term.recv() => SignalKind::terminate(),
            _ = int.recv() => SignalKind::interrupt(),
        };
        let line = serde_json::to_string(&While::Signal(number.as_raw_value()))?;
        write.write_all(format!("{line}\n").as_bytes()).await?;
    }
}

/// The environment, without what the request, which is JSON, cannot carry.
fn environment() -> Vec<(String, String)> {
    let text = |(name, value): (OsString, OsString)| match (name.into_string(), value.into_string()) {
        (Ok(name), Ok(value)) => Some((name, value)),
        (name, _) => {
            let name = name.unwrap_or_else(|name| name.to_string_lossy().into_owned());
            eprintln!("warning: the environment variable {name} is not UTF-8 and is left out");
            None
        }
    };
    std::env::vars_os().filter_map(text).collect()
}

/// Sends the request, its first bytes with this process' standard streams.
async fn send(stream: &UnixStream, text: &str) -> Result<()> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let fds = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        stream.writable().await?;
        let with = if rest.len() == text.len() { &fds[..] } else { &[] };
        match stream.try_io(tokio::io::Interest::WRITABLE, || mizzen_net::send_with_fds(stream.as_fd(), rest, with)) {
            Ok(sent) => rest = &rest[sent..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
