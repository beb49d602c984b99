//! The discovery service: one task per proxy, which sends what its proxy should have.
//!
//! A connection holds no queue of changes: it is told which of its resources may differ, and looks at them when it can. A proxy that reads slowly gets
//! fewer, larger changes.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use mizzen_model::ProxyView;
use mizzen_pki::UnixTime;
use mizzen_protos::envoy::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
};
use mizzen_types::SpiffeId;
use mizzen_xds::{
    server::{Heard, ProtocolError, Response as Sent, Session, Verdict},
    types,
};
use tokio::{
    sync::{
        mpsc::{self, error::SendTimeoutError},
        watch,
    },
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::{
    admission::Admission,
    authn::{Authenticator, Proved},
    connection::{Connection, Connections, Registered},
    listener::Caller,
    memo::Memo,
    metrics::Metrics,
    node,
    requests::Requests,
    wire::{Outgoing, PIECE, Variant},
};

/// What every stream needs.
#[derive(Clone)]
pub(crate) struct Discovery {
    pub(crate) authenticator: Authenticator,
    pub(crate) stopping: watch::Receiver<bool>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) memo: Arc<Memo>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) admission: Arc<Admission>,
    /// As which control plane responses are signed.
    pub(crate) identifier: Arc<str>,
}

/// A stream on which nothing is asked for so long is closed: who opens one and says nothing shall not hold it for ever.
const FIRST_REQUEST: Duration = Duration::from_secs(60);

/// A proxy that takes no response for so long is given up: it may open another stream when it reads again.
const TAKE_WITHIN: Duration = Duration::from_secs(60);
/// So many requests at most are heard before they are answered.
const TOGETHER: usize = 32;
/// How long the reason for a stream's end waits to be taken.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// First syncs are over when none has begun for so long.
const CALM: Duration = Duration::from_secs(2);

/// What goes out on a stream: some responses at a time.
pub(crate) type Responses = ReceiverStream<Result<Vec<Outgoing>, Status>>;
type Out<T> = mpsc::Sender<Result<T, Status>>;

/// What a client sends: a request of one of the two variants.
pub(crate) trait Question: prost::Message + Default + 'static {
    /// Which of them.
    const VARIANT: Variant;
    /// Who asks.
    fn node(&self) -> Option<&Node>;
    /// Tells the session.
    fn ask(self, session: &mut Session) -> Result<Heard, ProtocolError>;
}

impl Question for DeltaDiscoveryRequest {
    const VARIANT: Variant = Variant::Delta;

    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    fn ask(self, session: &mut Session) -> Result<Heard, ProtocolError> {
        session.request(self)
    }
}

impl Question for DiscoveryRequest {
    const VARIANT: Variant = Variant::Sotw;

    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    fn ask(self, session: &mut Session) -> Result<Heard, ProtocolError> {
        if self.type_url == types::INDEX {
            // Who has an answer fetches on demand, which this variant cannot say: one list of names takes the place of another.
            return Ok(Heard { type_url: types::INDEX.into(), verdict: None, subscription: false });
        }
        session.request_sotw(self)
    }
}

impl Discovery {
    /// Opens a stream.
    pub(crate) async fn open<Q: Question>(&self, request: Request<Requests<Q>>) -> Result<Response<Responses>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let refuse = |status: &Status| {
            self.metrics.xds_refused.inc();
            tracing::warn!(peer = ?caller.as_ref().map(|c| c.address), reason = status.message(), "proxy refused");
        };
        let proved = self.authenticator.authenticate(caller.as_ref(), request.metadata()).await.inspect_err(refuse)?;
        let peer = caller.ok_or_else(|| Status::internal("a connection without an address"))?.address;
        let (out, responses) = mpsc::channel(1);
        let discovery = self.clone();
        tokio::spawn(async move {
            if let Err(status) = discovery.serve(request.into_inner(), proved, peer, &out).await {
                // Who reads nothing does not read this either.
                let _ = out.send_timeout(Err(status), LAST_WORDS).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

/// Why a wait has ended.
enum Event<Q> {
    Request(Box<Q>),
    Changed,
    /// The client has closed its side.
    Closed,
    /// The stream must end, and be opened anew.
    End(&'static str),
}

impl Discovery {
    async fn serve<Q: Question>(
        mut self,
        mut requests: Requests<Q>,
        proved: Proved,
        peer: SocketAddr,
        out: &Out<Vec<Outgoing>>,
    ) -> Result<(), Status> {
        let first = tokio::time::timeout(FIRST_REQUEST, requests.message()).await;
        let first = first.map_err(|_| {
            tracing::info!(identity = %proved.identity, %peer, "a stream on which nothing was asked is closed");
            Status::deadline_exceeded(format!("nothing was asked within {} s", FIRST_REQUEST.as_secs()))
        })?;
        let Some(first) = first? else { return Ok(()) };
        let registered = self.register(first.node(), proved.identity, peer)?;
        let connection = &registered.connection;
        let left =
            proved.until.map_or(Duration::MAX, |until| Duration::from_secs(until.as_secs().saturating_sub(UnixTime::now().as_secs())));
        let expiry = tokio::time::sleep(left.min(Duration::from_secs(365 * 24 * 3600)));
        tokio::pin!(expiry);
        let mut is_open = self.hear(connection, &mut requests, first)?;
        loop {
            if !is_open {
                tracing::info!(proxy = connection.proxy(), connection = connection.number, "disconnected");
                return Ok(());
            }
            if !self.push(connection, Q::VARIANT, out).await? {
                return Ok(());
            }
            let event = tokio::select! {
                biased;
                _ = self.stopping.wait_for(|stopping| *stopping) => Event::End("the control plane is stopping"),
                () = &mut expiry => Event::End("the client's certificate or token has expired"),
                message = requests.message() => match message {
                    Ok(Some(request)) => Event::Request(Box::new(request)),
                    Ok(None) | Err(_) => Event::Closed,
                },
                () = connection.asker.wake.notified() => Event::Changed,
            };
            match event {
                Event::Request(request) => is_open = self.hear(connection, &mut requests, *request)?,
                Event::Changed => {}
                Event::Closed => is_open = false,
                Event::End(reason) => return Err(Status::unavailable(reason)),
            }
        }
    }

    /// The first request tells who the proxy is.
    fn register(&self, node: Option<&Node>, identity: SpiffeId, peer: SocketAddr) -> Result<Registered, Status> {
        let refuse = |error: node::NodeError| {
            self.metrics.xds_refused.inc();
            tracing::warn!(%identity, %peer, reason = %error, "proxy refused");
            let denied = matches!(error, node::NodeError::Identity { .. });
            if denied { Status::permission_denied(error.to_string()) } else { Status::invalid_argument(error.to_string()) }
        };
        let node = node.ok_or_else(|| refuse(node::NodeError::Missing))?;
        let mut facts = node::facts(node, &identity).map_err(refuse)?;
        node::place(&mut facts, self.memo.read().snapshot());
        let registered = self.connections.register(ProxyView::from(facts), identity, peer, node::version(node));
        let connection = &registered.connection;
        tracing::info!(proxy = connection.proxy(), connection = connection.number, %peer, "connected");
        Ok(registered)
    }

    /// Takes a request, and those that have come already behind it: they are answered together. False if the client has closed its side.
    fn hear<Q: Question>(&self, connection: &Connection, requests: &mut Requests<Q>, first: Q) -> Result<bool, Status> {
        self.request(connection, first)?;
        for _ in 0..TOGETHER {
            match requests.message().now_or_never() {
                Some(Ok(Some(request))) => self.request(connection, request)?,
                Some(Ok(None) | Err(_)) => return Ok(false),
                None => break,
            }
        }
        Ok(true)
    }

    fn request<Q: Question>(&self, connection: &Connection, request: Q) -> Result<(), Status> {
        let (heard, settled, refuses) = {
            let mut progress = connection.progress();
            let heard = request.ask(&mut progress.session).map_err(|e| Status::invalid_argument(e.to_string()))?;
            progress.answered(&heard, SystemTime::now());
            let refuses = progress.refuses || matches!(heard.verdict, Some(Verdict::Nack { .. }));
            // All that it has is looked through only where something was refused.
            progress.refuses = refuses && progress.session.has_rejections();
            (heard, progress.settle(), refuses)
        };
        if refuses {
            self.connections.refusals_changed();
        }
        if let Some(since) = settled {
            self.metrics.converged(since.elapsed());
        }
        let Heard { type_url, verdict, .. } = heard;
        match verdict {
            Some(Verdict::Nack { message, rejected }) => {
                self.metrics.rejected(label(&type_url));
                let names: Vec<&str> = rejected.iter().map(|(name, _)| &**name).collect();
                tracing::warn!(proxy = connection.proxy(), kind = types::short(&type_url), ?names, message, "rejected");
            }
            Some(Verdict::Unknown) => self.metrics.stale_nonces.inc(),
            Some(Verdict::Ack) | None => {}
        }
        Ok(())
    }

    /// Sends what is due. False if the client is gone; an error if it takes nothing.
    async fn push(&self, connection: &Arc<Connection>, variant: Variant, out: &Out<Vec<Outgoing>>) -> Result<bool, Status> {
        if !connection.progress().session.is_due() && connection.asker.due_since().is_none() {
            return Ok(true);
        }
        let whole = connection.progress().session.is_whole_due();
        let turn = if whole { Some(self.admission.turn(connection.number).await?) } else { None };
        let begun = Instant::now();
        // A state of the world is much, however little of it has changed.
        let at_once = if whole || variant == Variant::Sotw { None } else { connection.push_at_once(&self.memo) };
        let push = match at_once {
            Some(push) => push,
            None => {
                let (due, memo) = (connection.clone(), self.memo.clone());
                // What is missing is built on a thread of its own, not in the task that serves the stream.
                let push = tokio::task::spawn_blocking(move || due.push(&memo)).await;
                push.map_err(|error| Status::internal(format!("the configuration could not be made: {error}")))?
            }
        };
        if turn.is_some() && self.admission.ends() {
            tokio::spawn(calm(self.admission.clone()));
        }
        drop(turn);
        if let Some(waited) = push.waited {
            self.metrics.queued(waited);
        }
        if let Some(since) = push.settled {
            self.metrics.converged(since.elapsed());
        }
        for responses in together(push.responses) {
            let sizes: Vec<(&str, usize)> = responses.iter().map(|response| (label(&response.type_url), response.len())).collect();
            sizes.iter().for_each(|(label, _)| self.metrics.pushes.with_label_values(&[label]).inc());
            let outgoing = |response: Sent| {
                let version = match variant {
                    Variant::Delta => push.version.to_string(),
                    Variant::Sotw => response.version().to_string(),
                };
                Outgoing { response, variant, version, identifier: self.identifier.clone() }
            };
            let sending = Instant::now();
            let taken = send(out, responses.into_iter().map(outgoing).collect()).await.inspect_err(|_| {
                self.metrics.write_timeouts.inc();
                tracing::info!(proxy = connection.proxy(), connection = connection.number, "a proxy that takes no responses is given up");
            });
            if !taken? {
                return Ok(false);
            }
            sizes.iter().for_each(|(label, size)| self.metrics.sent(label, *size, begun.elapsed(), sending.elapsed()));
        }
        Ok(true)
    }
}

/// In the order in which they are sent: those that are small with what is beside them, others by themselves, so that each of them has its time.
fn together(responses: Vec<Sent>) -> Vec<Vec<Sent>> {
    let mut all: Vec<(usize, Vec<Sent>)> = Vec::new();
    for response in responses {
        let size = response.len();
        match all.last_mut() {
            Some((sum, some)) if *sum + size <= PIECE => {
                *sum += size;
                some.push(response);
            }
            _ => all.push((size, vec![response])),
        }
    }
    all.into_iter().map(|(_, some)| some).collect()
}

/// Gives back what many first syncs needed for a moment, once no more come.
async fn calm(admission: Arc<Admission>) {
    loop {
        let turns = admission.turns();
        tokio::time::sleep(CALM).await;
        if admission.turns() == turns && admission.waiting() == 0 {
            break;
        }
    }
    admission.begin_anew();
    // A failure to do so costs memory and nothing else.
    let _ = tokio::task::spawn_blocking(mizzen_net::release_memory).await;
}

/// Hands a response over. False if the client is gone.
async fn send<T>(out: &Out<T>, response: T) -> Result<bool, Status> {
    match out.send_timeout(Ok(response), TAKE_WITHIN).await {
        Ok(()) => Ok(true),
        Err(SendTimeoutError::Closed(_)) => Ok(false),
        Err(SendTimeoutError::Timeout(_)) => {
            Err(Status::deadline_exceeded(format!("no response was taken within {} s", TAKE_WITHIN.as_secs())))
        }
    }
}

/// Istio's short names of the types in its metrics.
fn label(type_url: &str) -> &'static str {
    match type_url {
        types::CLUSTER => "cds",
        types::ENDPOINT => "eds",
        types::LISTENER => "lds",
        types::ROUTE => "rds",
        types::SECRET => "sds",
        types::EXTENSION => "ecds",
        types::NAME_TABLE => "nds",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_given_up() {
        let (out, mut responses) = mpsc::channel(1);
        let begun = Instant::now();
        assert!(send(&out, ()).await.unwrap());
        assert_eq!(begun.elapsed(), Duration::ZERO, "there is room for one");
        // A slow reader is waited for,
        let (late, sent) = tokio::join!(
            async {
                tokio::time::sleep(TAKE_WITHIN - Duration::from_secs(1)).await;
                responses.recv().await
            },
            send(&out, ()),
        );
        assert!(late.is_some() && sent.unwrap());
        // and one that never reads is not.
        let begun = Instant::now();
        assert_eq!(send(&out, ()).await.unwrap_err().code(), tonic::Code::DeadlineExceeded);
        assert_eq!(begun.elapsed(), TAKE_WITHIN);
        drop(responses);
        assert!(!send(&out, ()).await.unwrap());
    }
}
