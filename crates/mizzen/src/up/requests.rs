//! `control.sock`: what the CLI asks of a running mesh. One connection for each request, a line of JSON each way.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use mizzen_api::{Key, Kind, core::PodSpec};
use mizzen_host::{Exit, HostError, Io};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
};

use super::{
    desired::Wanted,
    mesh::{Mesh, is_set},
    pod::Place,
    proxy::Role,
    say, workload,
};

/// A request's line is at most this long: an environment can be large.
pub(crate) const MAX_REQUEST: usize = 1 << 20;

/// How long a program gets whose caller has gone away, and one in a mesh that ends.
const GRACE: Duration = Duration::from_secs(30);
const END_GRACE: Duration = Duration::from_secs(1);

/// A program to be run in the mesh; descriptors 0, 1 and 2 travel with it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Run {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its service account.
    pub(crate) service_account: String,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// The program and its arguments.
    pub(crate) command: Vec<String>,
    /// The caller's environment.
    pub(crate) env: Vec<(String, String)>,
    /// The caller's folder.
    pub(crate) cwd: PathBuf,
}

/// What the caller may say while its program runs.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum While {
    /// Pass this signal on.
    Signal(i32),
}

/// What the mesh answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// The program ended with this code, 128 + N for signal N.
    Exit(u8),
    /// It could not be run: why, and the code to end with, a shell's where the program is to blame.
    Error { text: String, code: u8 },
}

/// Serves the socket until the mesh ends.
pub(crate) async fn serve(mesh: Arc<Mesh>) {
    let listener = match mizzen_net::listen_unix(&mesh.dir("control.sock")) {
        Ok(listener) => listener,
        Err(error) => return say::error(&format!("`mizzen run` will not work: {error}")),
    };
    let mut number = 0_u32;
    while let Ok((stream, _)) = listener.accept().await {
        number += 1;
        let (mesh, number) = (mesh.clone(), number);
        tokio::spawn(async move {
            // A caller that has gone away needs no answer.
            let _ = answer(mesh, stream, number).await;
        });
    }
}

async fn answer(mesh: Arc<Mesh>, stream: UnixStream, number: u32) -> Result<()> {
    let (request, fds) = receive(&stream).await?;
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let (place, result) = match place(&mesh, &request, number).await {
        Ok(mut place) => {
            let result = run(&mesh, request, fds, &mut place, &mut lines).await;
            (Some(place), result)
        }
        Err(error) => (None, Err(error)),
    };
    let answer = match result {
        Ok(code) => Answer::Exit(code),
        Err(error) => Answer::Error { text: format!("{error:#}"), code: failure(&error) },
    };
    // The caller need not wait until its host is taken down.
    let written = write.write_all(format!("{}\n", serde_json::to_string(&answer)?).as_bytes()).await;
    if let Some(place) = place {
        place.remove().await;
    }
    Ok(written?)
}

/// The request's line, with the descriptors that came with its first byte.
async fn receive(stream: &UnixStream) -> Result<(Run, Vec<OwnedFd>)> {
    let (mut text, mut fds) = (Vec::new(), Vec::new());
    while text.last() != Some(&b'\n') {
        stream.readable().await?;
        match stream.try_io(tokio::io::Interest::READABLE, || mizzen_net::recv_with_fds(stream.as_fd(), MAX_REQUEST)) {
            Ok(Some((bytes, more))) => {
                text.extend(bytes);
                fds.extend(more);
            }
            Ok(None) => bail!("the request broke off"),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if text.len() > MAX_REQUEST {
            bail!("the request is too long");
        }
    }
    Ok((serde_json::from_slice(&text)?, fds))
}

type Lines = tokio::io::Lines<BufReader<tokio::net::unix::OwnedReadHalf>>;

/// Makes a host with a proxy for the program.
async fn place(mesh: &Arc<Mesh>, request: &Run, number: u32) -> Result<Place> {
    let objects = mesh.objects.borrow().clone();
    let known = |kind: Kind, namespace: &str, name: &str| objects.contains_key(&Key::new(kind, namespace, name));
    let (namespace, account) = (&request.namespace, &request.service_account);
    if !known(Kind::Namespace, "", namespace) {
        bail!("there is no Namespace {namespace}: add it to the folder");
    }
    if account != "default" && !known(Kind::ServiceAccount, namespace, account) {
        bail!("there is no ServiceAccount {namespace}/{account}: add it to the folder");
    }
    let pod = Arc::new(Wanted {
        name: format!("{account}-run-{number}"),
        namespace: namespace.clone(),
        workload: account.clone(),
        labels: request.labels.clone(),
        annotations: BTreeMap::new(),
        spec: PodSpec { service_account: account.clone(), ..PodSpec::default() },
        is_gateway: false,
    });
    Place::make(mesh, &pod, Role::Sidecar, None).await
}

async fn run(mesh: &Arc<Mesh>, request: Run, fds: Vec<OwnedFd>, place: &mut Place, lines: &mut Lines) -> Result<u8> {
    let [stdin, stdout, stderr]: [OwnedFd; 3] = fds.try_into().ok().context("the request has no standard streams")?;
    tokio::select! {
        () = place.proxy.is_ready() => {}
        _ = lines.next_line() => bail!("interrupted"),
    }
    place.tell(true);
    let spec = workload::run_spec(mesh, &place.pod, place.address, request.command, request.env, request.cwd);
    let io = Io { stdin: Some(stdin), stdout: Some(stdout), stderr: Some(stderr), others: Vec::new() };
    let process = mesh.supervisor.spawn(&place.host, &spec, io).await?;
    let mut ending = mesh.ending.subscribe();
    loop {
        tokio::select! {
            ended = process.wait() => return Ok(code(ended)),
            line = lines.next_line() => match line?.map(|l| serde_json::from_str(&l)).transpose()? {
                Some(While::Signal(number)) => process.signal(Signal::try_from(number)?)?,
                None => return Ok(code(process.stop(GRACE).await)),
            },
            () = is_set(&mut ending) => return Ok(code(process.stop(END_GRACE).await)),
        }
    }
}

fn code(exit: Exit) -> u8 {
    match exit {
        Exit::Code(code) => u8::try_from(code).unwrap_or(255),
        Exit::Signal(signal) => u8::try_from(128 + signal).unwrap_or(255),
    }
}

/// As shells have it: 127 for a program that does not exist, 126 for one that cannot be run.
fn failure(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        // The step in which the program is looked for and executed; its account crosses processes as text.
        Some(HostError::Spawn { reason, .. }) if reason.starts_with("run ") => {
            let missing = ["not found on PATH", "No such file or directory"].iter().any(|text| reason.contains(text));
            if missing { 127 } else { 126 }
        }
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_shells() {
        for (reason, expected) in [
            ("run `x`: not found on PATH=/bin", 127),
            ("run /x: No such file or directory (os error 2)", 127),
            ("run /etc/passwd: Permission denied (os error 13)", 126),
            ("run /x: Exec format error (os error 8)", 126),
            ("mount proc: No such file or directory (os error 2)", 1),
        ] {
            assert_eq!(failure(&HostError::Spawn { name: "a/b".into(), reason: reason.into() }.into()), expected, "{reason}");
        }
    }
}
