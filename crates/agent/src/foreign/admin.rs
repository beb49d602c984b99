//! The proxy's admin interface on localhost, where the workload is too: questions pass, orders do not.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{Method, StatusCode, header};
use tokio::net::TcpListener;
use tracing::warn;

/// How long an answer may take: a large dump takes a while.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    mizzen_net::listen(address, &mizzen_net::ListenOptions::default()).and_then(TcpListener::from_std)
}

/// Serves it, for ever, from the proxy's Unix socket.
pub(crate) async fn serve(listener: TcpListener, socket: PathBuf) {
    let router = Router::new().fallback(pass).with_state(Arc::new(socket));
    if let Err(error) = axum::serve(listener, router).await {
        warn!(%error, "admin port");
    }
}

/// An Envoy changes something only by POST.
async fn pass(State(socket): State<Arc<PathBuf>>, request: Request) -> Response {
    if request.method() != Method::GET {
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET")], "this port only reads\n").into_response();
    }
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    match mizzen_net::fetch_unix(&socket, Method::GET, target, "", ANSWER_WITHIN).await {
        Ok(reply) => {
            let kind = reply.headers.get(header::CONTENT_TYPE).cloned();
            (reply.status, kind.map(|kind| [(header::CONTENT_TYPE, kind)]), reply.body).into_response()
        }
        Err(error) => (StatusCode::BAD_GATEWAY, format!("the proxy: {error}\n")).into_response(),
    }
}
