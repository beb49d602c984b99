//! The floor: as many bytes, in as many messages, to as many clients, by rustls and the `h2` crate out of ready buffers of 64 KB. A server process of
//! its own, so that its CPU time is counted alone.

use std::{
    io::{BufRead, BufReader, Write},
    net::Ipv4Addr,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::{BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::Response;
use mizzen_net::{ListenOptions, TlsAcceptor, listen};
use mizzen_pki::{
    Ca, CaLimits, SanMatch, UnixTime, client_verifier,
    tls::{TlsOptions, server_config},
};
use mizzen_types::{SpiffeId, TrustDomain};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, BufReader as AsyncReader},
    net::TcpListener,
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
};

use super::{
    fleet::{AT_ONCE, Meter},
    grpc::{self, Stream, Target},
    plane::Process,
    wire::{Counter, PREFIX},
};

const BUFFER: usize = 64 << 10;
/// What a client answers to each message, prefix included: about as much as an ACK.
const ACK: usize = 100;
const NAME: &str = "floor";
const HANDSHAKE: Duration = Duration::from_secs(60);
const DONE: Duration = Duration::from_secs(300);
const HOUR: Duration = Duration::from_secs(3600);

/// What is to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Push {
    /// To so many clients,
    pub(super) clients: usize,
    /// so many messages each,
    pub(super) messages: usize,
    /// of so many bytes together.
    pub(super) bytes: usize,
}

/// What the floor has cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    pub(super) cpu: Duration,
    pub(super) time: Duration,
}

/// The server's process, and the clients that are connected to it.
pub(super) struct Floor {
    process: Process,
    target: Target,
    ca: Ca,
    clients: JoinSet<()>,
    meter: Arc<Meter>,
}

impl Floor {
    /// Starts the server.
    pub(super) fn start(clients: u32) -> Result<Floor> {
        let ca = Ca::self_signed(&TrustDomain::default(), UnixTime::now(), CaLimits::default())?;
        let mut process = Process::start(&std::env::current_exe()?, |command| {
            command.args(["bench", "floor"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        })?;
        let key = serde_json::to_string(ca.to_pem().expose())?;
        writeln!(process.child().stdin.as_mut().context("the floor's input")?, "{key}")?;
        let mut floor = Floor { process, target: Target::new(0, NAME), ca, clients: JoinSet::new(), meter: Arc::new(Meter::new(clients)) };
        let port = floor.line()?.parse().context("the floor's port")?;
        floor.target.address.set_port(port);
        Ok(floor)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        // Nothing is read ahead: one line answers each command.
        BufReader::with_capacity(1, self.process.child().stdout.as_mut().context("the floor's output")?).read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Dials with so many clients; each gets this as soon as it is there.
    pub(super) async fn connect(&mut self, clients: u32, push: Push) -> Result<Cost> {
        let id: SpiffeId = "spiffe://cluster.local/ns/bench/sa/client".parse()?;
        let svids = (0..clients).map(|_| self.ca.issue(&id, HOUR, UnixTime::now()));
        let configs = svids.map(|svid| grpc::tls(Some(&svid?), self.ca.roots())).collect::<Result<Vec<_>>>()?;
        let before = self.process.cpu()?;
        let begun = Instant::now();
        self.command(push)?;
        let first = Arc::new(Semaphore::new(AT_ONCE));
        for (number, tls) in configs.into_iter().enumerate() {
            let (target, meter, first) = (self.target.from(number), self.meter.clone(), first.clone());
            self.clients.spawn(async move {
                let permit = first.acquire().await;
                let mut messages = push.messages;
                let mut permit = Some(permit);
                let answered = || {
                    messages = messages.saturating_sub(1);
                    permit.take_if(|_| messages == 0);
                };
                let ended = client(&target, tls, &meter, number, answered).await;
                meter.fail(format!("client {number} of the floor: {:#}", ended.err().unwrap_or_else(|| anyhow::anyhow!("it has ended"))));
            });
        }
        self.wait(before, begun).await
    }

    /// Sends to clients that are connected.
    pub(super) async fn push(&mut self, push: Push) -> Result<Cost> {
        let before = self.process.cpu()?;
        let begun = Instant::now();
        self.command(push)?;
        self.wait(before, begun).await
    }

    fn command(&mut self, push: Push) -> Result<()> {
        self.meter.clear();
        let command = serde_json::to_string(&push)?;
        Ok(writeln!(self.process.child().stdin.as_mut().context("the floor's input")?, "{command}")?)
    }

    async fn wait(&mut self, before: Duration, begun: Instant) -> Result<Cost> {
        let mut stdout = self.process.child().stdout.take().context("the floor's output")?;
        // A thread that waits, so that the clients go on meanwhile.
        let read = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::with_capacity(1, &mut stdout).read_line(&mut line).map(|_| (line, stdout))
        });
        let watch = async {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if let Err(error) = self.meter.check() {
                    return error;
                }
            }
        };
        let (line, stdout) = tokio::select! {
            read = read => read??,
            error = watch => return Err(error),
            () = tokio::time::sleep(DONE) => bail!("the floor has not done its work within {} s", DONE.as_secs()),
        };
        self.process.child().stdout = Some(stdout);
        if line.trim() != "done" {
            bail!("the floor's server has ended");
        }
        Ok(Cost { cpu: self.process.cpu()?.saturating_sub(before), time: begun.elapsed() })
    }
}

/// One client: answers each message.
async fn client(target: &Target, tls: Arc<rustls::ClientConfig>, meter: &Meter, number: usize, mut answered: impl FnMut()) -> Result<()> {
    let mut stream = Stream::open(target, tls, "/floor", Vec::new()).await?;
    let ack = Bytes::from(vec![0; ACK]);
    let mut counter = Counter::default();
    loop {
        let data = stream.data().await?;
        meter.arrived(data.len());
        for _ in 0..counter.feed(&data) {
            stream.send.send_data(ack.clone(), false)?;
            meter.acknowledged(number, 1);
            answered();
        }
    }
}

/// The server: its CA's key in the first line, a [`Push`] in each other one.
pub(crate) fn serve() -> Result<()> {
    // As many threads as the control plane has.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut lines = AsyncReader::new(tokio::io::stdin()).lines();
        let key: String = serde_json::from_str(&lines.next_line().await?.context("no key")?)?;
        let ca = Ca::from_pem(&key, CaLimits::default())?;
        let svid = ca.server_certificate(&[NAME], HOUR, UnixTime::now())?;
        let verifier = client_verifier(ca.roots(), vec![SanMatch::uri_prefix("spiffe://")], true)?;
        let options = TlsOptions { alpn: vec![b"h2".to_vec()], ..TlsOptions::default() };
        let acceptor = Arc::new(TlsAcceptor::new(server_config(&svid, Some(verifier), &options)?, HANDSHAKE));
        let listener = TcpListener::from_std(listen((Ipv4Addr::LOCALHOST, 0).into(), &ListenOptions::default())?)?;
        println!("{}", listener.local_addr()?.port());
        let (sender, work) = watch::channel(Arc::new(Work::default()));
        tokio::spawn(accept(listener, acceptor, work));
        let mut number = 0;
        while let Some(line) = lines.next_line().await? {
            number += 1;
            let work = Arc::new(Work::new(number, serde_json::from_str(&line)?));
            sender.send_replace(work.clone());
            if work.push.clients > 0 {
                work.done.notified().await;
            }
            println!("done");
        }
        Ok(())
    })
}

/// One command, and what is left of it.
#[derive(Default)]
struct Work {
    number: u64,
    push: Push,
    /// Clients that are to be served, and those that have not answered everything.
    left: AtomicUsize,
    open: AtomicUsize,
    done: Notify,
    /// The head of each message with what follows it, and ready bytes for the rest.
    first: Bytes,
    rest: Bytes,
    length: usize,
}

impl Work {
    fn new(number: u64, push: Push) -> Work {
        let length = (push.bytes / push.messages.max(1)).max(PREFIX);
        let mut first = BytesMut::zeroed(length.min(BUFFER));
        (&mut first[1..PREFIX]).put_u32(u32::try_from(length - PREFIX).unwrap_or(u32::MAX));
        Work {
            number,
            push,
            left: push.clients.into(),
            open: push.clients.into(),
            done: Notify::new(),
            first: first.freeze(),
            rest: Bytes::from(vec![0; BUFFER]),
            length,
        }
    }

    /// Whether one more client is to be served.
    fn take(&self) -> bool {
        self.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}

async fn accept(listener: TcpListener, acceptor: Arc<TlsAcceptor>, work: watch::Receiver<Arc<Work>>) {
    while let Ok((socket, _)) = listener.accept().await {
        let (acceptor, work) = (acceptor.clone(), work.clone());
        // A client that breaks off says so itself.
        tokio::spawn(async move {
            socket.set_nodelay(true)?;
            let mut connection = h2::server::handshake(acceptor.accept(socket).await?).await?;
            while let Some(call) = connection.accept().await {
                let (request, mut respond) = call?;
                let response = Response::builder().header("content-type", "application/grpc").body(())?;
                let send = respond.send_response(response, false)?;
                tokio::spawn(answer(send, request.into_body(), work.clone()));
            }
            Ok::<(), anyhow::Error>(())
        });
    }
}

/// Sends what each command wants, and waits for what the client answers.
async fn answer(mut send: SendStream<Bytes>, mut receive: RecvStream, mut work: watch::Receiver<Arc<Work>>) -> Result<()> {
    let mut done = 0;
    loop {
        let now = work.wait_for(|work| work.number > done).await?.clone();
        done = now.number;
        if !now.take() {
            continue;
        }
        for _ in 0..now.push.messages {
            write(&mut send, now.first.clone()).await?;
            let mut left = now.length - now.first.len();
            while left > 0 {
                let part = now.rest.slice(..left.min(BUFFER));
                left -= part.len();
                write(&mut send, part).await?;
            }
        }
        let mut awaited = now.push.messages * ACK;
        while awaited > 0 {
            let data = receive.data().await.context("the client has ended")??;
            receive.flow_control().release_capacity(data.len())?;
            awaited = awaited.saturating_sub(data.len());
        }
        if now.open.fetch_sub(1, SeqCst) == 1 {
            now.done.notify_one();
        }
    }
}

/// Sends as the windows allow.
async fn write(send: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<()> {
    while !bytes.is_empty() {
        send.reserve_capacity(bytes.len());
        let room = std::future::poll_fn(|context| send.poll_capacity(context)).await.context("the client has ended")??;
        send.send_data(bytes.split_to(room.min(bytes.len())), false)?;
    }
    Ok(())
}
